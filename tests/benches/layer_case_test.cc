#include "benches/layer_case.h"

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

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

TEST(LayerCase, EveryUsableAlgorithmAgrees) {
  Context ctx(2);
  const LayerShape shape = Shape(LayerKind::kConv2d, "n2c32h8w8k32r3s1p1");
  for (const LayerPass pass : LayerPasses(shape.kind)) {
    const Conv2dPass conv_pass = pass == LayerPass::kForward        ? Conv2dPass::kForward
                                 : pass == LayerPass::kBackwardData ? Conv2dPass::kBackwardData
                                                                    : Conv2dPass::kBackwardWeights;
    for (const Conv2dAlgorithm algorithm : Conv2dAlgorithms(shape.conv2d, conv_pass)) {
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
