#include "layers/conv2d/conv2d_depthwise.h"

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "core/context.h"
#include "core/isa.h"
#include "gtest/gtest.h"
#include "layers/conv2d/conv2d.h"
#include "tests/testing/assertions.h"
#include "tests/testing/buffers.h"

namespace classicnn {
namespace {

Conv2dShape Depthwise(int64_t n, int64_t c, int64_t h, int64_t w, int64_t kernel, int64_t stride,
                      int64_t padding) {
  return {n, c, h, w, c, kernel, stride, padding, c};
}

// Channel counts around the vector widths; images that leave remainders in rows and columns, down
// to one pixel; every stride and padding that has its own path, and some of the general one.
std::vector<Conv2dShape> Shapes() {
  std::vector<Conv2dShape> shapes;
  for (const int64_t stride : {1, 2}) {
    for (const int64_t padding : {0, 1, 2}) {
      shapes.push_back(Depthwise(2, 33, 7, 11, 3, stride, padding));
      shapes.push_back(Depthwise(3, 16, 8, 6, 3, stride, padding));
      shapes.push_back(Depthwise(1, 5, 5, 4, 3, stride, padding));
      shapes.push_back(Depthwise(2, 9, 3, 13, 3, stride, padding));
    }
    shapes.push_back(Depthwise(5, 70, 1, 1, 3, stride, 1));
    shapes.push_back(Depthwise(9, 300, 2, 2, 3, stride, 1));
    shapes.push_back(Depthwise(2, 24, 2, 3, 3, stride, 2));
  }
  shapes.push_back(Depthwise(2, 17, 9, 7, 3, 3, 1));
  shapes.push_back(Depthwise(2, 10, 9, 8, 5, 1, 2));
  shapes.push_back(Depthwise(2, 31, 10, 9, 5, 2, 4));
  shapes.push_back(Depthwise(2, 8, 12, 10, 7, 2, 3));
  shapes.push_back(Depthwise(1, 18, 11, 12, 9, 2, 5));  // more taps than one table holds
  shapes.push_back(Depthwise(3, 12, 5, 6, 1, 1, 0));
  shapes.push_back(Depthwise(3, 12, 5, 6, 1, 2, 0));
  shapes.push_back(Depthwise(2, 20, 6, 5, 2, 2, 0));
  shapes.push_back(Depthwise(2, 20, 6, 5, 2, 1, 1));
  return shapes;
}

constexpr auto kAlgorithm = Conv2dAlgorithm::kDepthwise;

struct Operands {
  // `extra` elements between the channels of two pixels, a different number for each tensor.
  Operands(const Conv2dShape& s, int64_t extra, bool integers)
      : x(s.input(), s.in_channels + extra),
        y(s.output(), s.out_channels + 2 * extra),
        weights(s.weight_count()),
        bias(s.out_channels) {
    const auto fill = [&](GuardedTensor<float>& t, const char* name) {
      const RandomStream random(7, name);
      integers ? t.FillIntegers(random) : t.FillNormal(random);
    };
    fill(x, "x");
    fill(y, "y");
    fill(weights, "weights");
    fill(bias, "bias");
  }

  GuardedTensor<float> x;
  GuardedTensor<float> y;  // or dy
  GuardedArray<float> weights;
  GuardedArray<float> bias;
};

GuardedTensor<float> Forward(const Conv2dShape& s, const Operands& o, bool bias, int threads,
                             bool naive = false) {
  GuardedTensor<float> y(s.output(), s.out_channels + 3);
  GuardedWorkspace workspace(Conv2dWorkspaceBytes(s, Conv2dPass::kForward, kAlgorithm, threads));
  const Conv2dForwardArgs<float> args{
      s,        kAlgorithm,     o.x.cview(), o.weights.data(), bias ? o.bias.data() : nullptr,
      y.view(), workspace.get()};
  if (naive) {
    Conv2dForwardNaive(args);
  } else {
    Context ctx(threads);
    Conv2dForward(args, ctx);
  }
  EXPECT_TRUE(GuardsIntact(y));
  EXPECT_TRUE(GuardsIntact(workspace));
  return y;
}

GuardedTensor<float> BackwardData(const Conv2dShape& s, const Operands& o, bool accumulate,
                                  int threads, bool naive = false) {
  GuardedTensor<float> dx(s.input(), s.in_channels + 5);
  if (accumulate) dx.CopyFrom(o.x.cview());
  GuardedWorkspace workspace(
      Conv2dWorkspaceBytes(s, Conv2dPass::kBackwardData, kAlgorithm, threads));
  const Conv2dBackwardDataArgs<float> args{s,         kAlgorithm, o.y.cview(),    o.weights.data(),
                                           dx.view(), accumulate, workspace.get()};
  if (naive) {
    Conv2dBackwardDataNaive(args);
  } else {
    Context ctx(threads);
    Conv2dBackwardData(args, ctx);
  }
  EXPECT_TRUE(GuardsIntact(dx));
  EXPECT_TRUE(GuardsIntact(workspace));
  return dx;
}

GuardedArray<float> BackwardWeights(const Conv2dShape& s, const Operands& o, int threads,
                                    bool naive = false) {
  GuardedArray<float> dw(s.weight_count());
  GuardedWorkspace workspace(
      Conv2dWorkspaceBytes(s, Conv2dPass::kBackwardWeights, kAlgorithm, threads));
  const Conv2dBackwardWeightsArgs<float> args{s,         kAlgorithm, o.x.cview(),    o.y.cview(),
                                              dw.data(), nullptr,    workspace.get()};
  if (naive) {
    Conv2dBackwardWeightsNaive(args);
  } else {
    Context ctx(threads);
    Conv2dBackwardWeights(args, ctx);
  }
  EXPECT_TRUE(GuardsIntact(dw));
  EXPECT_TRUE(GuardsIntact(workspace));
  return dw;
}

// Same bits in every element.
::testing::AssertionResult SameBits(const GuardedTensor<float>& a, const GuardedTensor<float>& b) {
  for (int64_t p = 0; p < a.cview().pixels(); ++p) {
    if (std::memcmp(a.cview().Pixel(p), b.cview().Pixel(p),
                    static_cast<size_t>(a.cview().c) * sizeof(float)) != 0) {
      return ::testing::AssertionFailure() << "pixel " << p << " differs";
    }
  }
  return ::testing::AssertionSuccess();
}

class Conv2dDepthwise : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(SetTarget(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(SetTarget("best").ok()); }
};
INSTANTIATE_TEST_SUITE_P(Targets, Conv2dDepthwise, ::testing::ValuesIn(UsableTargets()),
                         [](const auto& target) { return target.param; });

TEST_P(Conv2dDepthwise, IsExactOnIntegers) {
  for (const Conv2dShape& s : Shapes()) {
    for (const int64_t extra : {0, 3}) {
      SCOPED_TRACE(s.ToString() + " extra " + std::to_string(extra));
      ASSERT_TRUE(s.Validate().ok());
      const Operands o(s, extra, true);
      for (const bool flag : {false, true}) {
        EXPECT_TRUE(Equal(Forward(s, o, flag, 2), Forward(s, o, flag, 1, true)));
        EXPECT_TRUE(Equal(BackwardData(s, o, flag, 2), BackwardData(s, o, flag, 1, true)));
      }
      EXPECT_TRUE(Equal(BackwardWeights(s, o, 2), BackwardWeights(s, o, 1, true)));
    }
  }
}

TEST_P(Conv2dDepthwise, MatchesNaiveOnNormalData) {
  for (const Conv2dShape& s : Shapes()) {
    SCOPED_TRACE(s.ToString());
    const Operands o(s, 0, false);
    const Tolerance taps = Tolerance::ForSum(s.kernel * s.kernel);
    EXPECT_TRUE(Close(Forward(s, o, true, 1), Forward(s, o, true, 1, true), taps));
    EXPECT_TRUE(Close(BackwardData(s, o, true, 1), BackwardData(s, o, true, 1, true), taps));
    EXPECT_TRUE(Close(BackwardWeights(s, o, 1), BackwardWeights(s, o, 1, true),
                      Tolerance::ForSum(s.output().pixels())));
  }
}

TEST_P(Conv2dDepthwise, SameBitsOnAnyNumberOfThreads) {
  for (const Conv2dShape& s : {Depthwise(6, 40, 19, 17, 3, 1, 1), Depthwise(37, 264, 4, 4, 3, 2, 1),
                               Depthwise(3, 20, 14, 15, 5, 1, 2)}) {
    SCOPED_TRACE(s.ToString());
    const Operands o(s, 1, false);
    const auto y = Forward(s, o, true, 1);
    const auto dx = BackwardData(s, o, true, 1);
    const auto dw = BackwardWeights(s, o, 1);
    for (const int threads : {2, 3, 8, 60}) {
      SCOPED_TRACE(threads);
      EXPECT_TRUE(SameBits(Forward(s, o, true, threads), y));
      EXPECT_TRUE(SameBits(BackwardData(s, o, true, threads), dx));
      EXPECT_TRUE(SameBits(BackwardWeights(s, o, threads), dw));
    }
  }
}

TEST(Conv2dDepthwiseWorkspace, PartialGradientsStayBelowEightMegabytes) {
  for (const Conv2dShape& s :
       {Depthwise(256, 1024, 2, 2, 3, 1, 1), Depthwise(256, 32, 32, 32, 3, 1, 1),
        Depthwise(1024, 1024, 32, 32, 7, 1, 3)}) {
    EXPECT_LE(kConv2dDepthwiseOps.workspace_bytes(s, Conv2dPass::kBackwardWeights, 64, {}),
              (size_t{8} << 20) + 8192)
        << s.ToString();
  }
}

}  // namespace
}  // namespace classicnn
