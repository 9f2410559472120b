#include "core/context.h"

#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>

#include "core/check.h"
#include "core/trace.h"
#include "oneapi/tbb/blocked_range.h"
#include "oneapi/tbb/global_control.h"
#include "oneapi/tbb/parallel_for.h"
#include "oneapi/tbb/partitioner.h"
#include "oneapi/tbb/task_arena.h"
#include "oneapi/tbb/task_scheduler_observer.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace classicnn {
namespace {

// CPUs' worth of run time that the cgroup's quota allows; 0 where there is no quota.
double CgroupCpus() {
  double quota_us = 0;
  double period_us = 0;
  // Version 2: "max 100000" or "150000 100000", for this process's own group and each above it. The
  // group's path is relative to a mount that containers usually make their own root.
  std::string group;
  std::ifstream self("/proc/self/cgroup");
  for (std::string line; std::getline(self, line);) {
    if (line.rfind("0::", 0) == 0) group = line.substr(3);
  }
  double cpus = 0;
  const auto limit_to = [&cpus](double limit) {
    if (limit > 0) cpus = cpus == 0 ? limit : std::min(cpus, limit);
  };
  for (;;) {
    std::ifstream f("/sys/fs/cgroup" + group + "/cpu.max");
    std::string quota;
    if (f >> quota >> period_us && quota != "max" && period_us > 0) {
      limit_to(std::atof(quota.c_str()) / period_us);
    }
    if (group.empty() || group == "/") break;
    group.resize(group.rfind('/'));
  }
  // Version 1: quota -1 means none.
  std::ifstream quota_file("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  std::ifstream period_file("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  if (quota_file >> quota_us && period_file >> period_us && quota_us > 0 && period_us > 0) {
    limit_to(quota_us / period_us);
  }
  return cpus;
}

uint64_t ReadFpControl() {
#if defined(__x86_64__)
  return _mm_getcsr();
#elif defined(__aarch64__)
  uint64_t fpcr;
  asm volatile("mrs %0, fpcr" : "=r"(fpcr));
  return fpcr;
#else
  return 0;
#endif
}

void WriteFpControl(uint64_t value) {
#if defined(__x86_64__)
  _mm_setcsr(static_cast<unsigned>(value));
#elif defined(__aarch64__)
  asm volatile("msr fpcr, %0" ::"r"(value));
#else
  (void)value;
#endif
}

#if defined(__x86_64__)
constexpr uint64_t kFlushBits = 0x8040;  // FTZ | DAZ
#else
constexpr uint64_t kFlushBits = uint64_t{1} << 24;  // FPCR.FZ
#endif

}  // namespace

int AvailableThreads() {
  int cpus = 1;
  // The kernel may have more CPUs configured than cpu_set_t holds: grow until it fits.
  for (int size = 1024; size <= (1 << 20); size *= 2) {
    cpu_set_t* set = CPU_ALLOC(size);
    const size_t bytes = CPU_ALLOC_SIZE(size);
    const bool ok = sched_getaffinity(0, bytes, set) == 0;
    if (ok) cpus = std::max(1, CPU_COUNT_S(bytes, set));
    CPU_FREE(set);
    if (ok) break;
  }
  const double quota = CgroupCpus();
  if (quota > 0) cpus = std::min(cpus, std::max(1, static_cast<int>(quota + 0.999)));
  return cpus;
}

FlushDenormals::FlushDenormals() : saved_(ReadFpControl()) { WriteFpControl(saved_ | kFlushBits); }
FlushDenormals::~FlushDenormals() { WriteFpControl(saved_); }

struct Context::Threads {
  // Every thread that joins the arena flushes denormals, for as long as it stays.
  class Observer : public tbb::task_scheduler_observer {
   public:
    explicit Observer(tbb::task_arena& arena) : tbb::task_scheduler_observer(arena) {
      observe(true);
    }
    ~Observer() override { observe(false); }
    void on_scheduler_entry(bool /*is_worker*/) override {
      WriteFpControl(ReadFpControl() | kFlushBits);
    }
  };

  explicit Threads(int num_threads)
      : parallelism(tbb::global_control::max_allowed_parallelism,
                    static_cast<size_t>(num_threads)),
        arena(num_threads),
        observer(arena) {}

  tbb::global_control parallelism;  // more threads than cores need to be allowed
  tbb::task_arena arena;
  Observer observer;
};

Context::Context(int num_threads)
    : num_threads_(num_threads == 0 ? AvailableThreads() : num_threads) {
  CNN_CHECK(num_threads_ >= 1, num_threads_, " threads");
  if (num_threads_ > 1) threads_ = std::make_unique<Threads>(num_threads_);
}

Context::~Context() = default;

void Context::ParallelFor(const char* zone, int64_t count,
                          absl::FunctionRef<void(int64_t piece, int worker)> body) {
  if (count <= 0) return;
  const FlushDenormals flush;
  Tracer* const tracer = tracer_;
  const auto run = [&](int64_t begin, int64_t end, int worker) {
    const int64_t start_ns = tracer != nullptr ? NowNanos() : 0;
    for (int64_t piece = begin; piece < end; ++piece) body(piece, worker);
    if (tracer != nullptr) tracer->Span(zone, "pieces", worker, start_ns, NowNanos());
  };
  if (threads_ == nullptr || count == 1) {
    run(0, count, 0);
    return;
  }
  threads_->arena.execute([&] {
    tbb::parallel_for(
        tbb::blocked_range<int64_t>(0, count),
        [&](const tbb::blocked_range<int64_t>& range) {
          run(range.begin(), range.end(), tbb::this_task_arena::current_thread_index());
        },
        tbb::simple_partitioner());
  });
}

}  // namespace classicnn
