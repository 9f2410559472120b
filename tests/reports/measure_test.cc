#include "reports/measure.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/model.h"
#include "models/model_state.h"
#include "reports/layer_types.h"
#include "reports/model_bench.h"

namespace classicnn {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(ChooseMemoryLimitsTest, EvenlyDownToTheLeast) {
  EXPECT_THAT(ChooseMemoryLimits(1000, 500, 0, 5), ElementsAre(900, 800, 700, 600, 500));
  // Half and a quarter of 800 bytes of activations leave 600 and 400 of them.
  EXPECT_THAT(ChooseMemoryLimits(1000, 300, 800, 2), ElementsAre(650, 600, 400, 300));
  // Here a quarter would be below the least, and half is a limit in any case.
  EXPECT_THAT(ChooseMemoryLimits(1000, 500, 800, 5), ElementsAre(900, 800, 700, 600, 500));
}

TEST(ChooseMemoryLimitsTest, NothingBetween) {
  EXPECT_THAT(ChooseMemoryLimits(1000, 1000, 800, 5), IsEmpty());
  EXPECT_THAT(ChooseMemoryLimits(1000, 2000, 800, 5), IsEmpty());
  EXPECT_THAT(ChooseMemoryLimits(1000, 500, 800, 0), IsEmpty());
  EXPECT_THAT(ChooseMemoryLimits(12, 10, 0, 5), ElementsAre(11, 10));
}

class ModelBenchTest : public testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<Graph> graph = BuildModel("mobilenetv1");
    ASSERT_TRUE(graph.ok());
    auto bench = ModelBench::Create(*std::move(graph));
    ASSERT_TRUE(bench.ok());
    bench_ = *std::move(bench);
  }

  MeasuredPass Visit(int64_t memory_limit) {
    MeasuredPass pass;
    pass.batch = 8;
    pass.threads = 1;
    pass.memory_limit = memory_limit;
    EXPECT_TRUE(bench_->Visit({0, 1, 1}, &pass).ok());
    return pass;
  }

  std::unique_ptr<ModelBench> bench_;
};

TEST_F(ModelBenchTest, ALimitIsMetAndCostsRecomputation) {
  const auto range = bench_->TrainMemory(8, 1);
  ASSERT_TRUE(range.ok());
  ASSERT_LT(range->least, range->unlimited);
  const MemoryLimitResult free = SummarizeMemoryLimit(bench_->graph(), Visit(0));
  EXPECT_EQ(free.limit_bytes, 0);
  EXPECT_EQ(free.plan_bytes, range->unlimited);
  EXPECT_EQ(free.activation_bytes, range->activations);
  EXPECT_EQ(free.recomputed_macs, 0);
  const MemoryLimitResult least = SummarizeMemoryLimit(bench_->graph(), Visit(range->least));
  EXPECT_LE(least.plan_bytes, range->least);
  EXPECT_LE(least.peak_bytes, range->least);
  EXPECT_LT(least.activation_bytes, free.activation_bytes);
  EXPECT_GT(least.recomputed_steps, 0);
  EXPECT_GT(least.recomputed_macs, 0);
  EXPECT_EQ(least.executed_macs, free.executed_macs + least.recomputed_macs);
  EXPECT_EQ(least.seconds.samples.size(), 1u);
  MeasuredPass too_little;
  too_little.batch = 8;
  too_little.threads = 1;
  too_little.memory_limit = range->least - 1;
  EXPECT_TRUE(absl::IsResourceExhausted(bench_->Visit({0, 1, 1}, &too_little)));
}

TEST_F(ModelBenchTest, EveryStepIsInOneTypeAndUnderOneBound) {
  const auto range = bench_->TrainMemory(8, 1);
  ASSERT_TRUE(range.ok());
  MachinePeaks peaks;
  peaks.fma_flops = 1e11;
  peaks.copy_bytes_per_second = 1e10;
  for (const int64_t limit : {int64_t{0}, range->least}) {
    const MeasuredPass pass = Visit(limit);
    const PassResult r = SummarizePass(bench_->graph(), pass, peaks);
    int64_t by_type = 0, by_bound = 0, bytes = 0, type_bytes = 0, macs = 0, again = 0;
    double seconds = 0, type_seconds = 0, bound_seconds = 0, roof = 0, least_roof = 0;
    for (const TypeResult& t : r.types) {
      by_type += t.steps;
      type_bytes += t.bytes;
      type_seconds += t.seconds.median();
      if (t.pass == "recompute") again += t.steps;
    }
    for (const BoundResult& b : r.bounds) {
      by_bound += b.steps;
      bytes += b.bytes;
      macs += b.executed_macs;
      bound_seconds += b.seconds.median();
      roof += b.roof_seconds;
    }
    for (const int64_t nanos : pass.nanos[0]) seconds += 1e-9 * static_cast<double>(nanos);
    EXPECT_EQ(by_type, static_cast<int64_t>(pass.plan.steps.size()));
    EXPECT_EQ(by_bound, by_type);
    EXPECT_EQ(bytes, type_bytes);
    EXPECT_EQ(macs, pass.plan.executed_macs());
    EXPECT_EQ(again, SummarizeMemoryLimit(bench_->graph(), pass).recomputed_steps);
    EXPECT_EQ(again > 0, limit > 0);
    EXPECT_NEAR(type_seconds, seconds, 1e-9);
    EXPECT_NEAR(bound_seconds, seconds, 1e-9);
    // No faster than all its arithmetic, or all its traffic, at the peaks.
    least_roof = std::max(2.0 * static_cast<double>(macs) / peaks.fma_flops,
                          static_cast<double>(bytes) / peaks.copy_bytes_per_second);
    EXPECT_GE(roof, 0.999 * least_roof);
  }
  EXPECT_TRUE(SummarizePass(bench_->graph(), Visit(0), MachinePeaks()).bounds.empty());
}

// What is left of batch normalization in a fused plan reads and writes next to nothing.
TEST_F(ModelBenchTest, FusedBatchNormsHaveNoPasses) {
  const PassResult r = SummarizePass(bench_->graph(), Visit(0), MachinePeaks());
  int64_t norms = 0, all = 0;
  for (const TypeResult& t : r.types) {
    all += t.bytes;
    if (t.type == "batch_norm2d") norms += t.bytes;
  }
  EXPECT_GT(norms, 0);
  EXPECT_LT(norms, all / 100);
}

}  // namespace
}  // namespace classicnn
