#include "core/probe.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "core/memory.h"
#include "core/trace.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/probe.cc"
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// `rounds` times twelve chains a = a * x + y. Two FMA units of latency four or five need eight to
// ten chains in flight; twelve and the two operands fit AVX2's sixteen registers. Returns the FLOPs
// done; *sink keeps them from being optimized away.
double FmaChains(int64_t rounds, float x_value, float y_value, float* sink) {
  const hn::ScalableTag<float> d;
  const auto x = hn::Set(d, x_value);
  const auto y = hn::Set(d, y_value);
  auto a0 = hn::Set(d, 0.1f);
  auto a1 = hn::Set(d, 0.2f);
  auto a2 = hn::Set(d, 0.3f);
  auto a3 = hn::Set(d, 0.4f);
  auto a4 = hn::Set(d, 0.5f);
  auto a5 = hn::Set(d, 0.6f);
  auto a6 = hn::Set(d, 0.7f);
  auto a7 = hn::Set(d, 0.8f);
  auto a8 = hn::Set(d, 0.9f);
  auto a9 = hn::Set(d, 1.1f);
  auto a10 = hn::Set(d, 1.2f);
  auto a11 = hn::Set(d, 1.3f);
  for (int64_t i = 0; i < rounds; ++i) {
    a0 = hn::MulAdd(a0, x, y);
    a1 = hn::MulAdd(a1, x, y);
    a2 = hn::MulAdd(a2, x, y);
    a3 = hn::MulAdd(a3, x, y);
    a4 = hn::MulAdd(a4, x, y);
    a5 = hn::MulAdd(a5, x, y);
    a6 = hn::MulAdd(a6, x, y);
    a7 = hn::MulAdd(a7, x, y);
    a8 = hn::MulAdd(a8, x, y);
    a9 = hn::MulAdd(a9, x, y);
    a10 = hn::MulAdd(a10, x, y);
    a11 = hn::MulAdd(a11, x, y);
  }
  const auto low = hn::Add(hn::Add(hn::Add(a0, a1), hn::Add(a2, a3)), hn::Add(a4, a5));
  const auto high = hn::Add(hn::Add(hn::Add(a6, a7), hn::Add(a8, a9)), hn::Add(a10, a11));
  *sink += hn::GetLane(hn::Add(low, high));
  return 2.0 * 12.0 * static_cast<double>(hn::Lanes(d)) * static_cast<double>(rounds);
}

// Copies whole vectors; `count` is a multiple of 64, both pointers 64-byte aligned.
void CopyOrdinary(const float* HWY_RESTRICT from, float* HWY_RESTRICT to, int64_t count) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < count; i += lanes) hn::Store(hn::Load(d, from + i), d, to + i);
}
void CopyStreaming(const float* HWY_RESTRICT from, float* HWY_RESTRICT to, int64_t count) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < count; i += lanes) hn::Stream(hn::Load(d, from + i), d, to + i);
  hwy::FlushStream();
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
namespace {

HWY_EXPORT(FmaChains);
HWY_EXPORT(CopyOrdinary);
HWY_EXPORT(CopyStreaming);

// Each kind of measurement ends after this, on a machine too busy for all its windows.
constexpr int64_t kBudgetNanos = 1'000'000'000;

// Just below one and just above zero: the chains' values stay normal numbers of size one for ever.
constexpr float kFactor = 0.9999f;
constexpr float kAddend = 0.0001f;

// Plain threads and a spinning barrier, not Context: this also runs in a forked child, where the
// workers of a TBB that was already running are gone.
class Team {
 public:
  explicit Team(int size) : size_(size), begin_ns_(Size()), end_ns_(Size()) {}

  // Runs body(thread) once on each thread at the same time; seconds from the first begin to the
  // last end.
  template <typename Body>
  double Time(int thread, const Body& body) {
    Wait();
    const auto i = static_cast<size_t>(thread);
    begin_ns_[i] = NowNanos();
    body();
    end_ns_[i] = NowNanos();
    Wait();
    return static_cast<double>(*std::max_element(end_ns_.begin(), end_ns_.end()) -
                               *std::min_element(begin_ns_.begin(), begin_ns_.end())) *
           1e-9;
  }

  template <typename Body>
  void Run(const Body& body) {
    std::vector<std::thread> threads;
    for (int t = 1; t < size_; ++t) threads.emplace_back([&body, t] { body(t); });
    body(0);
    for (std::thread& t : threads) t.join();
  }

 private:
  size_t Size() const { return static_cast<size_t>(size_); }

  void Wait() {
    const int64_t ticket = arrived_.fetch_add(1);
    const int64_t target = (ticket / size_ + 1) * size_;
    // A spinning thread keeps its core, so that all start within a microsecond; but not for ever,
    // or with more threads than cores those that are missing could never come.
    const int64_t patience_ns = NowNanos() + 3'000'000;
    while (arrived_.load() < target) {
      if (NowNanos() > patience_ns) std::this_thread::yield();
    }
  }

  int size_;
  std::vector<int64_t> begin_ns_;
  std::vector<int64_t> end_ns_;
  std::atomic<int64_t> arrived_{0};
};

// Rounds of FmaChains that take about one window: a multiple of what three runs in a row confirm,
// so that a thread that was put to sleep once does not pass for a slow one.
int64_t RoundsOfOneWindow(int64_t window_ns) {
  float kept = 0;
  for (int64_t rounds = 1000;; rounds *= 2) {
    int64_t least_ns = INT64_MAX;
    for (int run = 0; run < 3; ++run) {
      const int64_t start_ns = NowNanos();
      HWY_DYNAMIC_DISPATCH(FmaChains)(rounds, kFactor, kAddend, &kept);
      least_ns = std::min(least_ns, NowNanos() - start_ns);
    }
    // The sum is looked at, or a compiler that sees through the call could drop it.
    if (least_ns >= window_ns || !(kept < 1e30f)) return rounds;
  }
}

double BestFmaRate(Team& team, int num_threads) {
  constexpr int64_t kWindowNanos = 500'000;  // reached by doubling: 0.5 to 1 ms
  constexpr int kWindows = 500;
  const int64_t rounds = RoundsOfOneWindow(kWindowNanos);
  const int64_t deadline_ns = NowNanos() + kBudgetNanos;
  double best = 0;
  std::atomic<float> sink{0};
  std::atomic<bool> late{false};
  team.Run([&](int thread) {
    float kept = 0;
    double flops = 0;
    for (int window = 0; window < kWindows && !late; ++window) {
      const double seconds = team.Time(thread, [&] {
        flops = HWY_DYNAMIC_DISPATCH(FmaChains)(rounds, kFactor, kAddend, &kept);
        // Inside, so that all threads see the same at the end of the same window.
        if (thread == 0 && NowNanos() > deadline_ns) late = true;
      });
      if (thread == 0) best = std::max(best, flops * num_threads / seconds);
    }
    sink = kept;
  });
  return best;
}

// Copies proceed through the buffers window by window; a window is timed on all threads together,
// and by the time the pass comes round to it again it has long left the caches.
void BestCopyRates(Team& team, int num_threads, int64_t copy_bytes, ProbeRates* rates) {
  constexpr int64_t kWindowBytes = int64_t{16} << 20;
  constexpr int kPasses = 6;
  constexpr int64_t kGrain = 256;  // bytes: a multiple of any vector
  const int64_t windows = std::max<int64_t>(1, copy_bytes / kWindowBytes);
  const int64_t slice = std::max(kGrain, copy_bytes / windows / num_threads / kGrain * kGrain);
  const int64_t total = slice * windows * num_threads;
  BytesByCategory bytes{};
  At(bytes, MemoryCategory::kData) = total;
  auto from = Arena::Create(bytes, nullptr);
  auto to = Arena::Create(bytes, nullptr);
  if (!from.ok() || !to.ok()) return;
  // One for each kind, never taken back: a thread may still have to read that of the first kind
  // when another has begun with the second.
  std::atomic<bool> lates[2] = {{false}, {false}};
  team.Run([&](int thread) {
    const int64_t floats = slice / static_cast<int64_t>(sizeof(float));
    const auto part = [&](Arena& arena, int64_t window) {
      return reinterpret_cast<float*>(arena.data() + (window * num_threads + thread) * slice);
    };
    for (int64_t w = 0; w < windows; ++w) {  // touches the pages, from the thread that uses them
      std::fill_n(part(**from, w), floats, 1.0f);
      std::fill_n(part(**to, w), floats, 2.0f);
    }
    for (const bool streaming : {false, true}) {
      double best = 0;
      std::atomic<bool>& late = lates[streaming ? 1 : 0];
      const int64_t deadline_ns = NowNanos() + kBudgetNanos;
      for (int64_t i = 0; i < kPasses * windows && !(late && i > windows); ++i) {
        const int64_t w = i % windows;
        const double seconds = team.Time(thread, [&] {
          if (streaming) {
            HWY_DYNAMIC_DISPATCH(CopyStreaming)(part(**from, w), part(**to, w), floats);
          } else {
            HWY_DYNAMIC_DISPATCH(CopyOrdinary)(part(**from, w), part(**to, w), floats);
          }
          if (thread == 0 && NowNanos() > deadline_ns) late = true;
        });
        // The first pass finds the other kind's lines in the caches.
        if (i >= windows) {
          best = std::max(best, 2.0 * static_cast<double>(slice * num_threads) / seconds);
        }
      }
      if (thread == 0) (streaming ? rates->streaming_copy : rates->ordinary_copy) = best;
    }
  });
}

}  // namespace

ProbeRates RunProbe(int num_threads, int64_t copy_bytes) {
  Team team(num_threads);
  ProbeRates rates;
  rates.fma_flops = BestFmaRate(team, num_threads);
  BestCopyRates(team, num_threads, copy_bytes, &rates);
  return rates;
}

}  // namespace classicnn
#endif  // HWY_ONCE
