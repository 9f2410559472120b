#include "tests/verify/model_checks.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace classicnn::verify {
namespace {

using testing::HasSubstr;

// mobilenetv1 is the cheapest for the references.
class ModelChecksTest : public testing::Test {
 protected:
  static constexpr char kModel[] = "mobilenetv1";
  OptimizedThreads threads_{2};
};

TEST_F(ModelChecksTest, PassInBothModes) {
  ModelOptions options;
  options.num_classes = 7;
  for (const bool training : {true, false}) {
    const std::vector<Row> rows = CheckModel(kModel, options, training, 5, {}, threads_);
    ASSERT_EQ(rows.size(), training ? 8u : 6u);
    EXPECT_EQ(CountVerdicts(rows).pass, CountVerdicts(rows).checks()) << FormatTable(rows);
    // Logits, loss, 83 gradients and updates, their median, 54 buffers.
    EXPECT_EQ(rows[0].parts.size(), 2u + 2 * 83 + 1 + 54);
    EXPECT_THAT(rows[0].command, HasSubstr("--models=mobilenetv1 --seed=5 --num_classes=7"));
    EXPECT_GT(rows[4].parts.size(), 83u);
    // Off the kinks more than half of the gradients still say something.
    if (!training) continue;
    EXPECT_GT(rows[6].parts.size(), 2u + 83 + 83 / 2 + 1 + 54);
  }
}

// The last images are 1 x 1 then: with two of them batch normalization would leave signs alone.
TEST_F(ModelChecksTest, SmallImagesComeInLargerBatches) {
  ModelOptions options;
  options.image_h = options.image_w = 16;
  for (const uint64_t seed : {1u, 2u, 4u}) {
    const std::vector<Row> rows = CheckModel(kModel, options, true, seed, {}, threads_);
    EXPECT_EQ(CountVerdicts(rows).pass, CountVerdicts(rows).checks()) << FormatTable(rows);
  }
}

TEST_F(ModelChecksTest, EveryStepFailsATightBound) {
  const absl::StatusOr<ModelCase> c = MakeModelCase(kModel, {}, true, 2, 1);
  ASSERT_TRUE(c.ok());
  ReferenceModel<double> reference(c->graph, c->batch, true);
  RunReferenceModel(*c, &reference);
  PlanOptions plan;
  plan.batch = 2;
  plan.num_threads = threads_.num_threads();
  Bounds tight;
  tight.replacement = 1e-12;
  const Row row = CheckNodeByNode("node by node", *c, reference, plan, tight, "", threads_);
  for (const Row& part : row.parts) {
    EXPECT_EQ(part.verdict, Verdict::kFail) << part.what;
    EXPECT_LT(part.error, 1e-4) << part.what;
  }

  // A wrong value shows in the steps that compute it, read it or follow from it, and in no others:
  // this one's are all of its block.
  const NodeId node = c->graph.nodes()[5].inputs[0];
  reference.value(node).data[3] += 10;
  const Row wrong = CheckNodeByNode("node by node", *c, reference, plan, {}, "", threads_);
  EXPECT_EQ(wrong.verdict, Verdict::kFail);
  int failed = 0;
  for (const Row& part : wrong.parts) {
    if (part.verdict == Verdict::kPass) continue;
    ++failed;
    EXPECT_THAT(part.what, HasSubstr("blocks.0.0.")) << part.detail;
  }
  EXPECT_GE(failed, 1);
  EXPECT_LE(failed, 8) << FormatTable({wrong});
}

TEST_F(ModelChecksTest, ComparisonsSeeEveryTensor) {
  const absl::StatusOr<ModelCase> c = MakeModelCase(kModel, {}, true, 2, 1);
  ASSERT_TRUE(c.ok());
  PlanOptions plan;
  plan.batch = 2;
  plan.num_threads = threads_.num_threads();
  const Arrays results = RunOptimizedModel(*c, plan, threads_);
  Arrays expected = results;
  for (const Parameter& p : c->graph.parameters()) expected.erase("updated." + p.name);
  const auto compare = [&](const Arrays& actual) {
    return CompareModel("model", "optimized", *c, actual, expected, {}, {}, "");
  };
  EXPECT_EQ(compare(results).verdict, Verdict::kPass);
  // All of them wrong at once: each has a row that says so.
  for (const bool nan : {false, true}) {
    Arrays wrong = results;
    for (auto& [name, array] : wrong) {
      // An update is judged by its own gradient, here at half of its size.
      for (double& v : array.values) v *= name.rfind("updated.", 0) == 0 ? 3 : 1.5;
      if (nan) array.values[0] = NAN;
    }
    const Row row = compare(wrong);
    EXPECT_EQ(row.parts.size(), results.size() + 1);
    for (const Row& part : row.parts) EXPECT_NE(part.verdict, Verdict::kPass) << part.tensor;
    EXPECT_EQ(row.verdict, Verdict::kFail);
  }
  Arrays missing = results;
  missing.erase("loss");
  EXPECT_EQ(compare(missing).verdict, Verdict::kFail);

  // Half of the gradients off by less than a gradient may be, but more than the median may.
  Arrays noisy = results;
  for (auto& [name, array] : noisy) {
    if (name.rfind("grad.", 0) != 0) continue;
    for (double& v : array.values) v *= 1.15;
    noisy.erase("updated." + name.substr(5));
  }
  const Row row = compare(noisy);
  EXPECT_EQ(row.verdict, Verdict::kFail);
  EXPECT_THAT(row.tensor, HasSubstr("median"));

  for (double& v : expected["grad.bn1.weight"].values) v = 0;
  EXPECT_EQ(compare(results).verdict, Verdict::kMistrusted);
}

TEST_F(ModelChecksTest, FusionAndUpdateLeaveTheBitsAlone) {
  const absl::StatusOr<ModelCase> c = MakeModelCase(kModel, {}, true, 2, 2);
  ASSERT_TRUE(c.ok());
  PlanOptions plan;
  plan.batch = 2;
  plan.num_threads = threads_.num_threads();
  const Arrays fused = RunOptimizedModel(*c, plan, threads_);
  plan.update = Update::kAfterBackward;
  const Arrays after = RunOptimizedModel(*c, plan, threads_);
  for (const auto& [name, array] : fused) EXPECT_EQ(array.values, after.at(name).values) << name;
}

}  // namespace
}  // namespace classicnn::verify
