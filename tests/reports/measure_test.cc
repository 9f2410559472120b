#include "reports/measure.h"

#include <algorithm>

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

// The headline figures, by arithmetic on times that are given.
TEST_F(ModelBenchTest, FiguresOfAPassFollowFromItsTimes) {
  constexpr int64_t kMacs = 46354432;  // of one image, as documented
  MachinePeaks peaks;
  peaks.fma_flops = 1e11;
  peaks.copy_bytes_per_second = 1e10;
  MeasuredPass pass = Visit(0);
  pass.seconds = {0.5};
  pass.nanos[0].clear();
  double forward = 0, backward = 0, update = 0;
  int64_t updates = 0;
  for (size_t i = 0; i < pass.plan.steps.size(); ++i) {
    const Step& step = pass.plan.steps[i];
    pass.nanos[0].push_back(static_cast<int64_t>(1000 * (i + 1)));
    const bool updates_a_parameter = step.kind == StepKind::kUpdateParameter;
    updates += updates_a_parameter;
    (updates_a_parameter              ? update
     : step.phase == Phase::kBackward ? backward
                                      : forward) += 1e-6 * static_cast<double>(i + 1);
  }
  ASSERT_GT(updates, 20) << "though they are fused into backward";
  const PassResult train = SummarizePass(bench_->graph(), pass, peaks);
  EXPECT_DOUBLE_EQ(train.images_per_second, 16);
  EXPECT_DOUBLE_EQ(train.flops_per_second, 2.0 * 3 * 8 * kMacs / 0.5);
  EXPECT_DOUBLE_EQ(train.peak_fraction, train.flops_per_second / 1e11);
  EXPECT_DOUBLE_EQ(train.executed_flops_per_second,
                   2 * static_cast<double>(pass.plan.executed_macs()) / 0.5);
  EXPECT_NEAR(train.forward.median(), forward, 1e-12);
  EXPECT_NEAR(train.backward.median(), backward, 1e-12);
  EXPECT_NEAR(train.update.median(), update, 1e-12);
  ASSERT_EQ(train.bounds.size(), 3u);
  for (const BoundResult& b : train.bounds) {
    const double arithmetic = 2 * static_cast<double>(b.executed_macs) / peaks.fma_flops;
    const double memory = static_cast<double>(b.bytes) / peaks.copy_bytes_per_second;
    if (b.bound == "memory") {
      EXPECT_GT(memory, arithmetic);
    } else if (b.bound == "arithmetic") {
      EXPECT_GT(arithmetic, memory);
    } else {
      EXPECT_LT(b.roof_seconds, 5e-6 * static_cast<double>(b.steps));
    }
  }
  pass.train = false;
  EXPECT_DOUBLE_EQ(SummarizePass(bench_->graph(), pass, peaks).flops_per_second,
                   2.0 * 8 * kMacs / 0.5);
}

TEST_F(ModelBenchTest, LayersShareTheTimesOfAllSteps) {
  const MeasuredPass pass = Visit(0);
  double all = 0, layers = 0;
  for (const int64_t nanos : pass.nanos[0]) all += 1e-9 * static_cast<double>(nanos);
  int64_t macs = 0, parameters = 0;
  for (const LayerResult& layer : SummarizeLayers(bench_->graph(), pass)) {
    for (const Timing* t : {&layer.forward, &layer.backward, &layer.update}) {
      if (!t->empty()) layers += t->median();
    }
    macs += layer.macs;
    parameters += layer.parameters;
    EXPECT_EQ(layer.algorithms.empty(), layer.type.rfind("conv2d", 0) != 0) << layer.name;
  }
  EXPECT_NEAR(layers, all, 1e-9);
  EXPECT_EQ(macs, 46354432);
  EXPECT_EQ(parameters, 3217226);
}

TEST_F(ModelBenchTest, PartsOfTheMemoryAreTheWhole) {
  const MeasuredPass pass = Visit(0);
  const MemoryResult m = SummarizeMemory(bench_->graph(), pass);
  const int64_t state = Total(ModelState::Bytes(bench_->graph(), Optimizer::kSgd));
  EXPECT_EQ(m.weights + m.gradients + m.optimizer + m.activations + m.workspace,
            pass.plan.arena_bytes + state);
  EXPECT_GE(m.weights, 4 * 3217226);
  EXPECT_GE(m.optimizer, 4 * 3217226) << "momentum";
  EXPECT_LE(m.least_bytes, m.arena_bytes + state);
  EXPECT_GE(m.peak_bytes, m.arena_bytes);
  int64_t fullest = 0;
  for (const MemoryPoint& p : m.timeline) {
    fullest =
        std::max(fullest, p.weights + p.gradients + p.optimizer + p.activations + p.workspace);
  }
  EXPECT_LE(fullest, m.arena_bytes + state);
  EXPECT_GE(fullest, m.least_bytes * 95 / 100);
}

TEST_F(ModelBenchTest, SizesAreThoseOfTheArchitecture) {
  const ModelResult m = DescribeModel(bench_->graph());
  EXPECT_EQ(m.parameters, 3217226);
  EXPECT_EQ(m.weight_bytes, 4 * 3217226);
  EXPECT_EQ(m.conv_parameters, 3185088);
  EXPECT_EQ(m.norm_parameters, 21888);
  EXPECT_EQ(m.linear_parameters, 10250);
  EXPECT_EQ(m.parameter_tensors, 83);
  EXPECT_EQ(m.convolutions, 27);
  EXPECT_EQ(m.linear_layers, 1);
  EXPECT_EQ(m.macs, 46354432);
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
