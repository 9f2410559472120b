#include "core/context.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <limits>
#include <thread>
#include <vector>

#include "core/trace.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "oneapi/tbb/global_control.h"
#include "oneapi/tbb/info.h"
#include "tests/testing/temp_folder.h"

namespace classicnn {
namespace {

TEST(Context, RunsEveryPieceOnceWithAWorkerInRange) {
  for (const int threads : {1, 2, 3, 8}) {
    Context ctx(threads);
    EXPECT_EQ(ctx.num_threads(), threads);
    for (const int64_t count : {0, 1, 2, 7, 100, 5000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(count));
      std::atomic<int> bad_workers{0};
      ctx.ParallelFor("test", count, [&](int64_t piece, int worker) {
        ++runs[static_cast<size_t>(piece)];
        if (worker < 0 || worker >= threads) ++bad_workers;
      });
      for (const auto& r : runs) ASSERT_EQ(r.load(), 1) << threads << " threads, " << count;
      EXPECT_EQ(bad_workers.load(), 0);
    }
  }
}

TEST(Context, NoTwoPiecesShareAWorkerAtTheSameTime) {
  Context ctx(4);
  std::vector<std::atomic<int>> busy(4);
  std::atomic<int> collisions{0};
  ctx.ParallelFor("test", 400, [&](int64_t, int worker) {
    if (busy[static_cast<size_t>(worker)].fetch_add(1) != 0) ++collisions;
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    busy[static_cast<size_t>(worker)].fetch_sub(1);
  });
  EXPECT_EQ(collisions.load(), 0);
}

// Each piece waits until `threads` pieces run at the same time.
bool RunsOnAllAtOnce(Context& ctx, int threads) {
  std::atomic<int> arrived{0};
  std::atomic<bool> late{false};
  ctx.ParallelFor("test", threads, [&](int64_t, int) {
    ++arrived;
    const int64_t deadline = NowNanos() + int64_t{20'000'000'000};
    while (arrived.load() < threads) {
      if (NowNanos() > deadline) late = true;
      if (late) return;
      std::this_thread::yield();
    }
  });
  return !late;
}

TEST(Context, HasExactlyTheThreadsAskedForEvenMoreThanCores) {
  const int many = static_cast<int>(std::thread::hardware_concurrency()) * 2 + 3;
  Context ctx(many);
  EXPECT_TRUE(RunsOnAllAtOnce(ctx, many));
}

TEST(Context, ASmallContextDoesNotLimitALargeOne) {
  Context large(5);
  Context small(2);
  EXPECT_TRUE(RunsOnAllAtOnce(large, 5));
  EXPECT_TRUE(RunsOnAllAtOnce(small, 2));
}

TEST(Context, TwoAtATimeHaveAllTheirThreads) {
  constexpr int kThreads = 6;
  Context a(kThreads), b(kThreads);
  std::atomic<int> arrived{0};
  const auto run = [&](Context& ctx) {
    ctx.ParallelFor("test", kThreads, [&](int64_t, int) {
      ++arrived;
      const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (arrived.load() < 2 * kThreads && std::chrono::steady_clock::now() < deadline) {
        std::this_thread::yield();
      }
      EXPECT_EQ(arrived.load(), 2 * kThreads);
    });
  };
  std::thread other([&] { run(b); });
  run(a);
  other.join();
}

TEST(Context, LeavesTheProcessItsOwnThreads) {
  const size_t before =
      tbb::global_control::active_value(tbb::global_control::max_allowed_parallelism);
  { const Context small(2); }
  EXPECT_GE(tbb::global_control::active_value(tbb::global_control::max_allowed_parallelism),
            std::min<size_t>(before, static_cast<size_t>(tbb::info::default_concurrency())));
}

TEST(Context, ZeroMeansAvailableThreads) {
  Context ctx;
  EXPECT_EQ(ctx.num_threads(), AvailableThreads());
  EXPECT_GE(AvailableThreads(), 1);
}

TEST(Context, FlushesDenormalsOnEveryWorkerAndNowhereElse) {
  volatile float tiny = std::numeric_limits<float>::min();
  const auto is_zero = [](volatile float& x) {
    volatile float half = x * 0.5f;  // denormal unless flushed
    const float value = half;
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits == 0;
  };
  for (const int threads : {1, 2, 5}) {
    Context ctx(threads);
    std::atomic<int> flushed{0};
    std::atomic<int> arrived{0};
    ctx.ParallelFor("test", threads, [&](int64_t, int) {
      ++arrived;
      while (arrived.load() < threads) std::this_thread::yield();  // so that each thread has one
      if (is_zero(tiny)) ++flushed;
    });
    EXPECT_EQ(flushed.load(), threads);
    EXPECT_FALSE(is_zero(tiny)) << "the caller's own arithmetic must be as before";
  }
}

TEST(Context, TracesPiecesOfAllThreads) {
  Context ctx(3);
  Tracer tracer(1000);
  ctx.set_tracer(&tracer);
  std::atomic<int> runs{0};
  ctx.ParallelFor("zone", 100, [&](int64_t, int) { ++runs; });
  ctx.set_tracer(nullptr);
  EXPECT_EQ(runs.load(), 100);
  EXPECT_EQ(tracer.dropped(), 0);
  TempFolder folder;
  ASSERT_TRUE(tracer.WriteJson(folder / "trace.json").ok());
  const auto trace = nlohmann::json::parse(folder.Read("trace.json"));
  int spans = 0;
  for (const auto& event : trace.at("traceEvents")) {
    if (event.at("ph") != "X") continue;
    ++spans;
    EXPECT_EQ(event.at("name"), "zone");
    EXPECT_GE(event.at("tid").get<int>(), 0);
    EXPECT_LT(event.at("tid").get<int>(), 3);
    EXPECT_GE(event.at("dur").get<double>(), 0);
  }
  EXPECT_GE(spans, 1);
  EXPECT_LE(spans, 100) << "a thread's pieces that follow each other may be one";
}

}  // namespace
}  // namespace classicnn
