#include "core/context.h"

#include <sched.h>

#include <algorithm>
#include <mutex>

#include "core/cgroup.h"
#include "core/check.h"
#include "core/trace.h"
#include "oneapi/tbb/blocked_range.h"
#include "oneapi/tbb/global_control.h"
#include "oneapi/tbb/info.h"
#include "oneapi/tbb/parallel_for.h"
#include "oneapi/tbb/partitioner.h"
#include "oneapi/tbb/task_arena.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace classicnn {
namespace {

// Tells ThreadSanitizer what a distribution's uninstrumented oneTBB cannot: everything before
// Release() of one thread happens before what follows Acquire() of another. Nothing otherwise.
class HappensBefore {
 public:
#if defined(__SANITIZE_THREAD__)
  void Release() { __tsan_release(this); }
  void Acquire() { __tsan_acquire(this); }

 private:
  char address_ = 0;
#else
  void Release() {}
  void Acquire() {}
#endif
};

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

namespace {

// TBB runs at most as many threads as there are cores unless a global_control allows more, and of
// several controls the smallest counts. So there is one for the whole process, which grows to what
// all Contexts that lived at a time asked for; each Context's own arena keeps it to its number. It
// takes nothing from whoever else uses TBB here: below TBB's own number there is none.
void AllowThreads(int more) {
  static std::mutex mutex;
  static int wanted = 0;  // by the Contexts that live
  static int allowed = tbb::info::default_concurrency();
  static tbb::global_control* control = nullptr;  // never freed: threads may outlive main()
  const std::lock_guard<std::mutex> lock(mutex);
  wanted += more;
  if (wanted <= allowed) return;
  allowed = wanted;
  delete control;
  control = new tbb::global_control(tbb::global_control::max_allowed_parallelism,
                                    static_cast<size_t>(allowed));
}

}  // namespace

struct Context::Threads {
  explicit Threads(int num_threads) : arena(num_threads) {}
  tbb::task_arena arena;
};

Context::Context(int num_threads)
    : num_threads_(num_threads == 0 ? AvailableThreads() : num_threads) {
  CNN_CHECK(num_threads_ >= 1, num_threads_, " threads");
  if (num_threads_ > 1) {
    AllowThreads(num_threads_);
    threads_ = std::make_unique<Threads>(num_threads_);
  }
}

Context::~Context() {
  if (threads_ != nullptr) AllowThreads(-num_threads_);
}

void Context::ParallelFor(const char* zone, int64_t count,
                          absl::FunctionRef<void(int64_t piece, int worker)> body) {
  if (count <= 0) return;
  Tracer* const tracer = tracer_;
  const auto run = [&](int64_t begin, int64_t end, int worker) {
    // Here, not once per thread: TBB gives each task the floating-point control word that the
    // arena's creator had.
    const FlushDenormals flush;
    const int64_t start_ns = tracer != nullptr ? NowNanos() : 0;
    for (int64_t piece = begin; piece < end; ++piece) body(piece, worker);
    if (tracer != nullptr) tracer->Span(zone, "pieces", worker, start_ns, NowNanos());
  };
  if (threads_ == nullptr || count == 1) {
    run(0, count, 0);
    return;
  }
  HappensBefore started;
  HappensBefore finished;
  started.Release();
  threads_->arena.execute([&] {
    tbb::parallel_for(
        tbb::blocked_range<int64_t>(0, count),
        [&](const tbb::blocked_range<int64_t>& range) {
          started.Acquire();
          run(range.begin(), range.end(), tbb::this_task_arena::current_thread_index());
          finished.Release();
        },
        tbb::simple_partitioner());
  });
  finished.Acquire();
}

}  // namespace classicnn
