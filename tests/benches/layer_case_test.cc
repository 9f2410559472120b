#include "benches/layer_case.h"

#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/isa.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace classicnn {
namespace {

using ::testing::HasSubstr;

LayerShape Shape(LayerKind kind, const char* text) {
  auto shape = LayerShape::Parse(kind, text);
  EXPECT_TRUE(shape.ok()) << shape.status();
  return shape.value_or(LayerShape());
}

// Odd sizes of every layer.
std::vector<LayerShape> SmallShapes() {
  return {Shape(LayerKind::kConv2d, "n2c3h9w7k5r3s2p1"),
          Shape(LayerKind::kConv2d, "n2c16h8w8k24r3s1p1"),
          Shape(LayerKind::kConv2d, "n2c16h4w4k20r1s1p0"),
          Shape(LayerKind::kConv2d, "n1c12h6w6k12r3s1p1g12"),
          Shape(LayerKind::kLinear, "n3c33k10"),
          Shape(LayerKind::kBatchNorm2d, "n2c19h5w3m1"),
          Shape(LayerKind::kBatchNorm2d, "n2c19h5w3m0"),
          Shape(LayerKind::kRelu, "n2c5h3w7"),
          Shape(LayerKind::kMaxPool2d, "n2c17h9w7r3s2p1"),
          Shape(LayerKind::kAvgPool2d, "n2c17h8w6r2s2p0"),
          Shape(LayerKind::kGlobalAvgPool2d, "n2c17h4w4"),
          Shape(LayerKind::kDropout, "n2c64h1w3"),
          Shape(LayerKind::kCrossEntropy, "n5c10"),
          Shape(LayerKind::kAdd, "n2c5h3w7"),
          Shape(LayerKind::kConcat, "n2c5+16+3h3w4")};
}

TEST(LayerCase, OptimizedAgreesWithTheReferenceForEveryLayerPassAndThreadCount) {
  for (const int threads : {1, 3}) {
    Context ctx(threads);
    for (const LayerShape& shape : SmallShapes()) {
      for (const LayerPass pass : LayerPasses(shape.kind)) {
        SCOPED_TRACE(std::string(LayerKindName(shape.kind)) + "_" + LayerPassName(pass) + " " +
                     shape.ToString());
        auto layer = LayerCase::Create(shape, pass, {}, ctx);
        ASSERT_TRUE(layer.ok()) << layer.status();
        double error = -1;
        const absl::Status status = (*layer)->Check(&error);
        EXPECT_TRUE(status.ok()) << status;
        EXPECT_GE(error, 0);
        EXPECT_LE(error, (*layer)->error_bound());
        EXPECT_EQ((*layer)->macs(), shape.macs());
        EXPECT_EQ((*layer)->bytes(), 4 * shape.traffic(pass));
        EXPECT_EQ((*layer)->algorithm().empty(), shape.kind != LayerKind::kConv2d);
        EXPECT_GT(LayerCase::BytesNeeded(shape, pass, {}), 0);
        // A second check gives the same: what a run updates is brought back.
        double again = -1;
        EXPECT_TRUE((*layer)->Check(&again).ok());
        EXPECT_EQ(again, error);
      }
    }
    EXPECT_EQ(ctx.memory().current(), 0);
  }
}

// A layer whose optimized side is off by a factor.
class OffBy : public LayerCase {
 public:
  OffBy(float factor, Context& ctx)
      : LayerCase(Shape(LayerKind::kRelu, "n1c8h1w2"), LayerPass::kForward, ctx), factor_(factor) {
    Request("x", &x_, 16, MemoryCategory::kActivations);
    RequestOutput("y", &y_, 16, MemoryCategory::kActivations);
    EXPECT_TRUE(Allocate().ok());
    OffBy::Fill();
  }
  void RunOptimized() override { Write(factor_); }
  void RunNaive() override { Write(1); }

 private:
  void Fill() override { FillRandom("x", x_, 16); }
  void Write(float factor) {
    for (int i = 0; i < 16; ++i) y_[i] = factor * x_[i];
  }

  float factor_;
  float* x_ = nullptr;
  float* y_ = nullptr;
};

TEST(LayerCase, AWrongResultFailsItsCheck) {
  Context ctx(1);
  EXPECT_TRUE(OffBy(1.00005f, ctx).Check().ok());
  for (const float factor : {1.0002f, 0.99f, -1.0f, 0.0f, std::nanf("")}) {
    OffBy layer(factor, ctx);
    const absl::Status status = layer.Check();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << factor << ": " << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(std::isnan(factor) ? "y" : "y differs from the reference"))
        << factor;
  }
}

TEST(LayerCase, EveryUsableAlgorithmAgrees) {
  Context ctx(2);
  const LayerShape shape = Shape(LayerKind::kConv2d, "n2c32h8w8k32r3s1p1");
  for (const LayerPass pass : LayerPasses(shape.kind)) {
    for (const Conv2dAlgorithm algorithm : Conv2dAlgorithms(shape.conv2d, Conv2dPassOf(pass))) {
      auto layer = LayerCase::Create(shape, pass, {algorithm}, ctx);
      ASSERT_TRUE(layer.ok()) << layer.status();
      EXPECT_EQ((*layer)->algorithm(), Conv2dAlgorithmName(algorithm));
      const absl::Status status = (*layer)->Check();
      EXPECT_TRUE(status.ok()) << status;
    }
  }
  const auto unsupported =
      LayerCase::Create(shape, LayerPass::kForward, {Conv2dAlgorithm::kDepthwise}, ctx);
  ASSERT_FALSE(unsupported.ok());
  EXPECT_THAT(std::string(unsupported.status().message()),
              HasSubstr("depthwise does not do forward of n2c32h8w8k32r3s1p1; there are"));
}

std::vector<float> Output(const LayerCase& layer, const char* name) {
  for (const LayerCase::TensorRef& t : layer.tensors()) {
    if (t.name == name) return {t.data, t.data + t.count};
  }
  ADD_FAILURE() << name;
  return {};
}

// What fused cases compute is held against the references of the convolution and of each prologue
// and epilogue, and is not what plain ones compute.
TEST(LayerCase, FusedConvolutionsAgreeInEveryAlgorithm) {
  for (const int threads : {1, 3}) {
    Context ctx(threads);
    for (const char* text : {"n2c3h9w7k5r3s2p1", "n2c16h8w8k24r3s1p1", "n2c16h4w4k20r1s1p0",
                             "n2c16h6w6k12r1s2p0", "n1c12h6w6k12r3s1p1g12", "n2c12h7w6k12r3s2p1g12",
                             "n2c12h6w6k8r3s1p1g2", "n2c16h8w8k16r5s1p2", "n1c5h1w1k7r1s1p0"}) {
      const LayerShape shape = Shape(LayerKind::kConv2d, text);
      for (const LayerPass pass : LayerPasses(shape.kind)) {
        for (const Conv2dAlgorithm algorithm : Conv2dAlgorithms(shape.conv2d, Conv2dPassOf(pass))) {
          SCOPED_TRACE(std::string(text) + " " + LayerPassName(pass) + " " +
                       Conv2dAlgorithmName(algorithm));
          auto fused = LayerCase::Create(shape, pass, {algorithm, true}, ctx);
          auto plain = LayerCase::Create(shape, pass, {algorithm, false}, ctx);
          ASSERT_TRUE(fused.ok() && plain.ok());
          EXPECT_TRUE((*fused)->fused());
          const absl::Status status = (*fused)->Check();
          EXPECT_TRUE(status.ok()) << status;

          const int64_t x = shape.conv2d.input().size();
          const int64_t y = shape.conv2d.output().size();
          const bool forward = pass == LayerPass::kForward;
          const bool data = pass == LayerPass::kBackwardData;
          EXPECT_EQ((*fused)->bytes() - (*plain)->bytes(), 4 * (forward ? 0 : data ? x + y : y));
          EXPECT_EQ((*fused)->executed_macs(), (*plain)->executed_macs());
          const char* output = forward ? "y" : data ? "dx" : "dweights";
          (*fused)->RunOptimized();
          (*plain)->RunOptimized();
          const std::vector<float> with = Output(**fused, output);
          const std::vector<float> without = Output(**plain, output);
          ASSERT_EQ(with.size(), without.size());
          const auto difference =
              RelativeError(with.data(), without.data(), static_cast<int64_t>(with.size()));
          ASSERT_TRUE(difference.ok()) << difference.status();
          EXPECT_GT(*difference, 0.1);
        }
      }
    }
  }
}

TEST(LayerCase, EveryFusedOutputDependsOnThePrologue) {
  Context ctx(2);
  const LayerShape shape = Shape(LayerKind::kConv2d, "n2c16h8w8k24r3s1p1");
  struct Wrong {
    LayerPass pass;
    const char* output;
  };
  for (const Wrong& wrong :
       {Wrong{LayerPass::kForward, "y"}, Wrong{LayerPass::kForward, "mean"},
        Wrong{LayerPass::kForward, "var"}, Wrong{LayerPass::kBackwardData, "sum_g"},
        Wrong{LayerPass::kBackwardData, "sum_gx"},
        Wrong{LayerPass::kBackwardWeights, "dweights"}}) {
    auto layer = LayerCase::Create(shape, wrong.pass, {std::nullopt, true}, ctx);
    ASSERT_TRUE(layer.ok()) << layer.status();
    ASSERT_TRUE((*layer)->Check().ok());
    // The reference's results stay in the outputs after a check.
    const std::vector<float> right = Output(**layer, wrong.output);
    (*layer)->RunOptimized();
    const std::vector<float> ours = Output(**layer, wrong.output);
    const auto error = RelativeError(ours.data(), right.data(), static_cast<int64_t>(ours.size()));
    ASSERT_TRUE(error.ok());
    EXPECT_LE(*error, (*layer)->error_bound());
    // The same call with another input is another result.
    float* input = (*layer)->tensor(wrong.pass == LayerPass::kForward ? "shift" : "offset");
    input[0] += 1;
    (*layer)->RunOptimized();
    const std::vector<float> changed = Output(**layer, wrong.output);
    const auto difference =
        RelativeError(changed.data(), right.data(), static_cast<int64_t>(changed.size()));
    ASSERT_TRUE(difference.ok());
    EXPECT_GT(*difference, 10 * (*layer)->error_bound()) << wrong.output;
  }
}

TEST(LayerCase, LabelsSayWhatHasAPassOfItsOwn) {
  Context ctx(1);
  const LayerShape grouped = Shape(LayerKind::kConv2d, "n2c12h6w6k8r3s1p1g2");
  auto layer =
      LayerCase::Create(grouped, LayerPass::kForward, {Conv2dAlgorithm::kDirect, true}, ctx);
  ASSERT_TRUE(layer.ok());
  std::string label = std::string("direct ") + ActiveTarget();
  const std::vector<std::string> unfused = (*layer)->unfused();
  for (size_t i = 0; i < unfused.size(); ++i) label += (i == 0 ? " apart:" : ",") + unfused[i];
  EXPECT_EQ(LayerCaseLabel(**layer), label);
  auto relu = LayerCase::Create(Shape(LayerKind::kRelu, "n2c5h3w7"), LayerPass::kForward, {}, ctx);
  ASSERT_TRUE(relu.ok());
  EXPECT_EQ(LayerCaseLabel(**relu), ActiveTarget());
}

TEST(LayerCase, RelativeErrorRejectsWhatIsVacuousOrNotFinite) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> expected = {3, 4};
  const std::vector<float> close = {3, 4.5};
  const std::vector<float> zeros = {0, 0};
  const std::vector<float> unwritten = {3, nan};
  const auto error = RelativeError(close.data(), expected.data(), 2);
  ASSERT_TRUE(error.ok());
  EXPECT_NEAR(*error, 0.1, 1e-12);
  EXPECT_FALSE(RelativeError(zeros.data(), zeros.data(), 2).ok());
  EXPECT_FALSE(RelativeError(expected.data(), expected.data(), 0).ok());
  EXPECT_FALSE(RelativeError(unwritten.data(), expected.data(), 2).ok());
  EXPECT_FALSE(RelativeError(expected.data(), unwritten.data(), 2).ok());
}

}  // namespace
}  // namespace classicnn
