#include <cstdint>
#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "layers/conv2d/conv2d.h"

namespace classicnn {
namespace {

using ::testing::HasSubstr;

TEST(Conv2dShapeTest, TextRoundTrip) {
  for (const char* text : {"n64c64h32w32k64r3s1p1", "n1c3h5w7k10r2s2p0", "n2c64h8w9k64r3s2p1g64"}) {
    const auto shape = Conv2dShape::Parse(text);
    ASSERT_TRUE(shape.ok()) << shape.status();
    EXPECT_EQ(shape->ToString(), text);
  }
  const Conv2dShape shape = *Conv2dShape::Parse("n2c4h8w9k6r3s2p1g2");
  EXPECT_EQ(shape.input(), (Shape4{2, 8, 9, 4}));
  EXPECT_EQ(shape.output(), (Shape4{2, 4, 5, 6}));
  EXPECT_EQ(shape.weight_count(), 3 * 3 * 2 * 6);
  EXPECT_EQ(shape.macs(), 2 * 4 * 5 * 6 * 3 * 3 * 2);
}

TEST(Conv2dShapeTest, BadTextIsAnErrorThatNamesIt) {
  for (const char* text :
       {"", "n", "n64", "c64h32w32k64r3s1p1", "n64c64h32w32k64r3s1", "n64c64h32w32k64r3s1p1x",
        "n64c64h32w32k64r3s1p1g", "n-1c64h32w32k64r3s1p1", "n 1c64h32w32k64r3s1p1",
        "n99999999999999999999c64h32w32k64r3s1p1", "n4294967296c1h1w1k1r1s1p0"}) {
    const auto shape = Conv2dShape::Parse(text);
    ASSERT_FALSE(shape.ok()) << text;
    EXPECT_EQ(shape.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(shape.status().message()), HasSubstr(text));
  }
}

TEST(Conv2dShapeTest, ValidateRefusesImpossibleShapes) {
  const Conv2dShape good = *Conv2dShape::Parse("n2c4h8w9k6r3s2p1g2");
  EXPECT_TRUE(good.Validate().ok());
  const auto refused = [&](int64_t Conv2dShape::*field, int64_t value) {
    Conv2dShape shape = good;
    shape.*field = value;
    return shape.Validate().code() == absl::StatusCode::kInvalidArgument;
  };
  for (const int64_t bad : {int64_t{0}, int64_t{-1}, std::numeric_limits<int64_t>::max()}) {
    EXPECT_TRUE(refused(&Conv2dShape::n, bad));
    EXPECT_TRUE(refused(&Conv2dShape::in_channels, bad));
    EXPECT_TRUE(refused(&Conv2dShape::h, bad));
    EXPECT_TRUE(refused(&Conv2dShape::w, bad));
    EXPECT_TRUE(refused(&Conv2dShape::out_channels, bad));
    EXPECT_TRUE(refused(&Conv2dShape::kernel, bad));
    EXPECT_TRUE(refused(&Conv2dShape::stride, bad));
    EXPECT_TRUE(refused(&Conv2dShape::groups, bad));
  }
  EXPECT_TRUE(refused(&Conv2dShape::padding, -1));
  EXPECT_TRUE(refused(&Conv2dShape::padding, 3));
  EXPECT_TRUE(refused(&Conv2dShape::groups, 4));  // divides 4 but not 6
  EXPECT_TRUE(refused(&Conv2dShape::kernel, 11));
  EXPECT_TRUE(refused(&Conv2dShape::n, (int64_t{1} << 31) - 1) ==
              false);  // large, but every product fits
  Conv2dShape huge = good;
  huge.n = huge.h = huge.w = (int64_t{1} << 31) - 1;
  EXPECT_FALSE(huge.Validate().ok());
}

TEST(Conv2dShapeTest, AlgorithmNames) {
  for (const auto algorithm :
       {Conv2dAlgorithm::kPointwise, Conv2dAlgorithm::kDirect, Conv2dAlgorithm::kDepthwise,
        Conv2dAlgorithm::kWinograd4, Conv2dAlgorithm::kWinograd2, Conv2dAlgorithm::kWinograd2x5,
        Conv2dAlgorithm::kWinograd4x5, Conv2dAlgorithm::kStem, Conv2dAlgorithm::kFewPixels}) {
    const auto parsed = ParseConv2dAlgorithm(Conv2dAlgorithmName(algorithm));
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(*parsed, algorithm);
  }
  const auto unknown = ParseConv2dAlgorithm("fft");
  EXPECT_THAT(std::string(unknown.status().message()), HasSubstr("'fft'"));
  EXPECT_THAT(std::string(unknown.status().message()), HasSubstr("pointwise"));
}

TEST(Conv2dShapeTest, EveryValidShapeHasAnAlgorithm) {
  for (const char* text :
       {"n1c1h1w1k1r1s1p0", "n2c8h4w4k8r3s1p1g8", "n2c8h4w4k16r3s1p1g4", "n1c2h9w9k2r7s3p6",
        "n64c512h2w2k512r3s1p1", "n64c32h8w8k64r5s1p2", "n64c64h32w32k64r1s2p0"}) {
    const Conv2dShape shape = *Conv2dShape::Parse(text);
    for (const Conv2dPass pass : kAllConv2dPasses) {
      for (const bool winograd : {false, true}) {
        const auto algorithms = Conv2dAlgorithms(shape, pass, winograd);
        ASSERT_FALSE(algorithms.empty()) << text;
        for (const Conv2dAlgorithm a : algorithms) {
          EXPECT_TRUE(winograd || !IsWinograd(a));
          EXPECT_GT(Conv2dExecutedMacs(shape, pass, a), 0);
        }
      }
    }
  }
}

TEST(Conv2dShapeTest, BothBackwardsInOneSweepWhereMemoryBindsThem) {
  const auto prefers = [](const char* text, Conv2dAlgorithm algorithm) {
    return Conv2dPrefersBackward(*Conv2dShape::Parse(text), algorithm);
  };
  constexpr auto kPointwise = Conv2dAlgorithm::kPointwise;
  for (const char* text : {"n64c32h32w32k64r1s1p0", "n64c128h32w32k128r1s1p0"}) {
    EXPECT_TRUE(prefers(text, kPointwise)) << text;
  }
  // Few pixels, partial sums as large as the tensors, large weights, an input much larger than the
  // output.
  for (const char* text : {"n1c32h32w32k64r1s1p0", "n64c128h8w8k128r1s1p0",
                           "n64c256h32w32k256r1s1p0", "n64c192h32w32k16r1s1p0"}) {
    EXPECT_FALSE(prefers(text, kPointwise)) << text;
    EXPECT_TRUE(Conv2dHasBackward(*Conv2dShape::Parse(text), kPointwise)) << text;
  }
  EXPECT_TRUE(prefers("n2c8h4w4k8r3s1p1g8", Conv2dAlgorithm::kDepthwise));
  EXPECT_FALSE(prefers("n2c8h4w4k8r5s1p2g8", Conv2dAlgorithm::kDepthwise));
  EXPECT_FALSE(prefers("n64c64h32w32k64r3s1p1", Conv2dAlgorithm::kDirect));
  EXPECT_FALSE(prefers("n64c64h32w32k64r3s1p1", kPointwise));
}

}  // namespace
}  // namespace classicnn
