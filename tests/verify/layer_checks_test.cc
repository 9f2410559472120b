#include "tests/verify/layer_checks.h"

#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace classicnn::verify {
namespace {

using testing::HasSubstr;

LayerShape Parse(LayerKind kind, const char* text) { return *LayerShape::Parse(kind, text); }

std::string Failures(const std::vector<Row>& rows) {
  std::string text;
  for (const Row& row : rows) {
    if (row.verdict != Verdict::kPass) text += FormatTable({row});
  }
  return text;
}

class EveryLayerTest : public testing::TestWithParam<std::string> {
 protected:
  LayerKind kind() const { return *ParseLayerKind(GetParam()); }
  OptimizedThreads threads_{2};
};
INSTANTIATE_TEST_SUITE_P(All, EveryLayerTest, testing::ValuesIn(LayerKindNames()),
                         [](const auto& instance) { return instance.param; });

TEST_P(EveryLayerTest, TinyShapesPass) {
  for (const LayerShape& shape : TinyShapes(kind())) {
    const std::vector<Row> rows = CheckLayer(shape, 3, {}, threads_);
    EXPECT_GE(rows.size(), LayerPasses(kind()).size());
    EXPECT_EQ(Failures(rows), "");
    for (const Row& row : rows) EXPECT_GE(row.comparisons, 2) << row.what;
  }
}

TEST_P(EveryLayerTest, ReferenceAgreesWithFiniteDifferences) {
  for (const LayerShape& shape : TinyShapes(kind())) {
    ASSERT_LE(DifferencesInputs(shape), kMaxDifferencesInputs);
    const std::vector<Row> rows = CheckFiniteDifferences(shape, 5, {});
    ASSERT_EQ(rows.size(), 1u);
    EXPECT_EQ(Failures(rows), "");
    EXPECT_GE(rows[0].comparisons, 1);
    // Differences are never exact: the check does compare two computations.
    EXPECT_GT(rows[0].error, 0);
    Bounds tight;
    tight.replacement = 1e-15;
    EXPECT_EQ(CheckFiniteDifferences(shape, 5, tight)[0].verdict, Verdict::kFail);
  }
}

TEST_P(EveryLayerTest, OddShapesAreValidAndTheSeedsOwn) {
  std::set<std::string> texts;
  for (const LayerShape& shape : OddShapes(kind(), 7)) {
    const std::string text = shape.ToString();
    EXPECT_TRUE(texts.insert(text).second) << text << " twice";
    EXPECT_TRUE(LayerShape::Parse(kind(), text).ok()) << text;
  }
  std::set<std::string> again, others;
  for (const LayerShape& shape : OddShapes(kind(), 7)) again.insert(shape.ToString());
  for (const LayerShape& shape : OddShapes(kind(), 8)) others.insert(shape.ToString());
  EXPECT_EQ(texts, again);
  EXPECT_NE(texts, others);
}

TEST(CheckLayerTest, FailsWhereTheBoundIsNotMet) {
  OptimizedThreads threads(1);
  Bounds tight;
  tight.replacement = 1e-12;
  const LayerShape shape = Parse(LayerKind::kConv2d, "n1c9h5w6k7r3s1p1");
  const std::vector<Row> rows = CheckLayer(shape, 1, tight, threads);
  for (const Row& row : rows) {
    EXPECT_EQ(row.verdict, Verdict::kFail) << row.what << " " << row.impl;
    EXPECT_EQ(row.command, "cnn-verify --layers=conv2d --shapes=n1c9h5w6k7r3s1p1 --seed=1");
    EXPECT_THAT(row.detail, HasSubstr("expected"));
  }
}

TEST(CheckLayerTest, EveryConvolutionAlgorithmHasItsRows) {
  OptimizedThreads threads(1);
  const LayerShape shape = Parse(LayerKind::kConv2d, "n1c16h8w8k16r3s1p1");
  const std::vector<Row> rows = CheckLayer(shape, 1, {}, threads);
  size_t expected = 0;
  for (const LayerPass pass : LayerPasses(LayerKind::kConv2d)) {
    for (const Implementation& impl : OptimizedImplementations(shape, pass)) {
      ++expected;
      EXPECT_EQ(impl.bound,
                impl.name.find("winograd") != std::string::npos ? kWinogradBound : kLayerBound);
    }
  }
  EXPECT_EQ(rows.size(), expected);
  EXPECT_EQ(Failures(rows), "");
}

TEST(CheckOptimizersTest, PassAndFail) {
  OptimizedThreads threads(2);
  for (const int64_t count : {1, 33}) {
    const std::vector<Row> rows = CheckOptimizers(count, 1, {}, threads);
    EXPECT_EQ(rows.size(), 3u);
    EXPECT_EQ(Failures(rows), "");
  }
  Bounds tight;
  tight.replacement = 1e-15;
  for (const Row& row : CheckOptimizers(33, 1, tight, threads)) {
    EXPECT_EQ(row.verdict, Verdict::kFail) << row.what;
  }
}

// The runs share their operands' layout: what a run does must not depend on it.
TEST(RunTest, StridedAndAccumulatingRunsGiveTheSame) {
  OptimizedThreads threads(2);
  const LayerProblem problem =
      MakeProblem(Parse(LayerKind::kConv2d, "n2c5h6w7k9r3s2p1"), {}, /*seed=*/4);
  for (const LayerPass pass : LayerPasses(LayerKind::kConv2d)) {
    LayerRun plain;
    plain.pass = pass;
    LayerRun strided = plain;
    strided.strided = true;
    strided.accumulate = pass == LayerPass::kBackwardData;
    std::string violation;
    Arrays a, b;
    threads.Run([&](Context& ctx) {
      a = RunOptimized(problem, plain, ctx, &violation);
      b = RunOptimized(problem, strided, ctx, &violation);
    });
    EXPECT_EQ(violation, "");
    ASSERT_EQ(a.size(), b.size());
    for (const auto& [name, array] : a) {
      Row row;
      Judge(name, b.at(name), array, 1e-6, &row);
      EXPECT_EQ(row.verdict, Verdict::kPass) << name << ": " << row.detail;
    }
  }
}

TEST(MakeProblemTest, DataDependsOnSeedAndNameAlone) {
  const LayerShape shape = Parse(LayerKind::kConv2d, "n1c4h3w3k4r3s1p1");
  const LayerProblem a = MakeProblem(shape, {}, 1), b = MakeProblem(shape, {}, 1),
                     other = MakeProblem(shape, {}, 2);
  for (const auto& [name, array] : a.tensors) {
    EXPECT_EQ(array.values, b.tensors.at(name).values) << name;
    EXPECT_NE(array.values, other.tensors.at(name).values) << name;
  }
  ProblemOptions integers;
  integers.data = Data::kIntegers;
  for (const auto& [name, array] : MakeProblem(shape, integers, 1).tensors) {
    for (const double v : array.values) {
      EXPECT_EQ(v, static_cast<int>(v)) << name;
      EXPECT_LE(std::abs(v), 3) << name;
    }
  }
}

}  // namespace
}  // namespace classicnn::verify
