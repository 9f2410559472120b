#include "layers/conv2d/conv2d_winograd.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/context.h"
#include "core/isa.h"
#include "core/random.h"
#include "gtest/gtest.h"
#include "layers/conv2d/conv2d.h"
#include "layers/conv2d/conv2d_winograd_correlation.h"
#include "layers/conv2d/conv2d_winograd_gradient.h"
#include "layers/conv2d/conv2d_winograd_kernels.h"
#include "tests/testing/assertions.h"
#include "tests/testing/buffers.h"

namespace classicnn {
namespace {

std::vector<Conv2dAlgorithm> AlgorithmsFor(const Conv2dShape& shape) {
  if (shape.kernel == 5) return {Conv2dAlgorithm::kWinograd2x5, Conv2dAlgorithm::kWinograd4x5};
  return {Conv2dAlgorithm::kWinograd4, Conv2dAlgorithm::kWinograd2};
}

Conv2dShape Winograd(int64_t n, int64_t c, int64_t h, int64_t w, int64_t k, int64_t padding) {
  return {n, c, h, w, k, 3, 1, padding, 1};
}
Conv2dShape Winograd5(int64_t n, int64_t c, int64_t h, int64_t w, int64_t k, int64_t padding) {
  return {n, c, h, w, k, 5, 1, padding, 1};
}

// Tiles of 8 x 8 inputs have larger coefficients.
double Coarser(Conv2dAlgorithm algorithm, double bound) {
  return algorithm == Conv2dAlgorithm::kWinograd4x5 ? 2.5 * bound : bound;
}

// One problem, its results in float and what they should be in double. Tensors have pixel strides
// that exceed their channels by different numbers where `extra` is not 0.
struct Problem {
  Problem(const Conv2dShape& s, int64_t extra)
      : shape(s),
        x(s.input(), s.in_channels + extra),
        dy(s.output(), s.out_channels + 2 * extra),
        weights(s.weight_count()),
        bias(s.out_channels),
        dx_before(s.input()),
        y(s.output(), s.out_channels + 3 * extra),
        dx(s.input(), s.in_channels + 4 * extra),
        dweights(s.weight_count()) {
    const uint64_t seed = 11;
    x.FillNormal(RandomStream(seed, "x"));
    dy.FillNormal(RandomStream(seed, "dy"));
    weights.FillNormal(RandomStream(seed, "weights"));
    bias.FillNormal(RandomStream(seed, "bias"));
    dx_before.FillNormal(RandomStream(seed, "dx"));
  }

  void Run(Conv2dPass pass, Conv2dAlgorithm algorithm, bool accumulate, int threads) {
    Context ctx(threads);
    const GuardedWorkspace workspace(Conv2dWorkspaceBytes(shape, pass, algorithm, threads));
    switch (pass) {
      case Conv2dPass::kForward:
        y.FillNan();
        Conv2dForward(
            {shape, algorithm, x.cview(), weights.data(), bias.data(), y.view(), workspace.get()},
            ctx);
        break;
      case Conv2dPass::kBackwardData:
        accumulate ? dx.CopyFrom(dx_before.cview()) : dx.FillNan();
        Conv2dBackwardData(
            {shape, algorithm, dy.cview(), weights.data(), dx.view(), accumulate, workspace.get()},
            ctx);
        break;
      case Conv2dPass::kBackwardWeights:
        dweights.FillNan();
        Conv2dBackwardWeights(
            {shape, algorithm, x.cview(), dy.cview(), dweights.data(), nullptr, workspace.get()},
            ctx);
        break;
    }
    EXPECT_TRUE(GuardsIntact(workspace));
    EXPECT_TRUE(GuardsIntact(Result(pass)));
  }

  const GuardedTensor<float>& Result(Conv2dPass pass) const {
    return pass == Conv2dPass::kForward ? y : pass == Conv2dPass::kBackwardData ? dx : dweights;
  }

  // The reference in double.
  GuardedTensor<double> Expected(Conv2dPass pass, bool accumulate) const {
    GuardedTensor<double> x64(shape.input()), dy64(shape.output());
    GuardedArray<double> weights64(shape.weight_count()), bias64(shape.out_channels);
    x64.CopyFrom(x.cview());
    dy64.CopyFrom(dy.cview());
    weights64.CopyFrom(weights.cview());
    bias64.CopyFrom(bias.cview());
    const auto any = Conv2dAlgorithm::kDirect;
    GuardedTensor<double> result(pass == Conv2dPass::kForward        ? shape.output()
                                 : pass == Conv2dPass::kBackwardData ? shape.input()
                                                                     : dweights.cview().shape());
    if (pass == Conv2dPass::kForward) {
      Conv2dForwardNaive<double>(
          {shape, any, x64.cview(), weights64.data(), bias64.data(), result.view(), {}});
    } else if (pass == Conv2dPass::kBackwardData) {
      result.CopyFrom(dx_before.cview());
      Conv2dBackwardDataNaive<double>(
          {shape, any, dy64.cview(), weights64.data(), result.view(), accumulate, {}});
    } else {
      Conv2dBackwardWeightsNaive<double>(
          {shape, any, x64.cview(), dy64.cview(), result.data(), nullptr, {}});
    }
    return result;
  }

  Conv2dShape shape;
  GuardedTensor<float> x, dy;
  GuardedArray<float> weights, bias;
  GuardedTensor<float> dx_before;
  GuardedTensor<float> y, dx;
  GuardedArray<float> dweights;
};

// The largest error in units of the expectation's standard deviation (its mean is about 0).
double LargestError(const GuardedTensor<float>& actual, const GuardedTensor<double>& expected) {
  double largest = 0;
  double squares = 0;
  const View<const double> e = expected.cview();
  for (int64_t p = 0; p < e.pixels(); ++p) {
    for (int64_t c = 0; c < e.c; ++c) {
      const double error =
          std::fabs(static_cast<double>(actual.cview().Pixel(p)[c]) - e.Pixel(p)[c]);
      largest = std::isfinite(error) ? std::max(largest, error) : HUGE_VAL;
      if (largest == HUGE_VAL) return largest;
      squares += e.Pixel(p)[c] * e.Pixel(p)[c];
    }
  }
  return largest / std::sqrt(squares / static_cast<double>(e.size()));
}

class Conv2dWinograd : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(SetTarget(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(SetTarget("best").ok()); }

  static void ExpectClose(const Conv2dShape& shape, double bound) {
    for (const int64_t extra : {0, 3}) {
      const bool accumulate = extra != 0;
      Problem problem(shape, extra);
      for (const Conv2dPass pass : kAllConv2dPasses) {
        const GuardedTensor<double> expected = problem.Expected(pass, accumulate);
        for (const Conv2dAlgorithm algorithm : AlgorithmsFor(shape)) {
          SCOPED_TRACE(absl::StrCat(shape.ToString(), " ", Conv2dPassName(pass), " ",
                                    Conv2dAlgorithmName(algorithm), " extra ", extra));
          problem.Run(pass, algorithm, accumulate, 2);
          EXPECT_LT(LargestError(problem.Result(pass), expected), Coarser(algorithm, bound));
        }
      }
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Targets, Conv2dWinograd, ::testing::ValuesIn(UsableTargets()),
                         [](const auto& target) { return target.param; });

// Images of whole tiles, with ragged edges, below a tile and of one pixel; channels around the
// vectors' and the register blocks' sizes.
TEST_P(Conv2dWinograd, MatchesNaive) {
  for (const int64_t padding : {0, 1, 2}) {
    ExpectClose(Winograd(2, 16, 8, 12, 32, padding), 2e-5);
    ExpectClose(Winograd(3, 33, 7, 9, 17, padding), 2e-5);
    ExpectClose(Winograd(2, 5, 5, 18, 70, padding), 2e-5);
    ExpectClose(Winograd(5, 48, 3, 4, 49, padding), 2e-5);
  }
  ExpectClose(Winograd(3, 20, 1, 1, 31, 1), 2e-5);
  ExpectClose(Winograd(1, 1, 2, 2, 1, 2), 2e-5);
  ExpectClose(Winograd(4, 40, 2, 3, 24, 1), 2e-5);
}

TEST_P(Conv2dWinograd, MatchesNaiveFor5x5) {
  for (const int64_t padding : {0, 1, 2, 3, 4}) {
    ExpectClose(Winograd5(2, 16, 8, 12, 32, padding), 2e-5);
    ExpectClose(Winograd5(3, 33, 7, 9, 17, padding), 2e-5);
    ExpectClose(Winograd5(2, 5, 5, 18, 70, padding), 2e-5);
  }
  ExpectClose(Winograd5(5, 48, 4, 4, 49, 2), 2e-5);
  ExpectClose(Winograd5(4, 40, 2, 3, 24, 2), 2e-5);
  ExpectClose(Winograd5(3, 20, 1, 1, 31, 2), 5e-5);  // all but one tap are zero
  ExpectClose(Winograd5(1, 1, 1, 2, 1, 3), 2e-5);
}

TEST_P(Conv2dWinograd, MatchesNaiveOnRandomShapes) {
  const RandomStream random(3, "shapes");
  for (uint64_t i = 0; i < 20; ++i) {
    const auto pick = [&](uint64_t what, int64_t low, int64_t high) {
      return low + static_cast<int64_t>(
                       random.Below(8 * i + what, static_cast<uint64_t>(high - low + 1)));
    };
    const int64_t padding = pick(0, 0, 2);
    const int64_t least = std::max<int64_t>(1, 3 - 2 * padding);
    ExpectClose(Winograd(pick(1, 1, 3), pick(2, 1, 40), pick(3, least, 11), pick(4, least, 11),
                         pick(5, 1, 70), padding),
                2e-5);
  }
}

// Every way to cut the work, with the sizes of real layers.
std::vector<Conv2dShape> LargeShapes() {
  return {
      Winograd(1, 64, 32, 32, 64, 1),   // by tiles; the gradient by channels
      Winograd(5, 128, 4, 4, 256, 1),   // by panels
      Winograd(33, 6, 8, 8, 256, 1),    // by panels, more than one span of tiles
      Winograd(2, 512, 4, 4, 256, 1),   // many channels: long sums
      Winograd(35, 17, 16, 16, 19, 1),  // the gradient by images, the last group smaller
      Winograd5(1, 64, 32, 32, 64, 2), Winograd5(5, 128, 4, 4, 256, 2),  // by panels
      Winograd5(35, 16, 8, 8, 19, 2),
  };
}

TEST_P(Conv2dWinograd, StaysAccurateInLargeLayers) {
  for (const Conv2dShape& shape : LargeShapes()) {
    Problem problem(shape, 0);
    for (const Conv2dPass pass : kAllConv2dPasses) {
      const GuardedTensor<double> expected = problem.Expected(pass, false);
      for (const Conv2dAlgorithm algorithm : AlgorithmsFor(shape)) {
        SCOPED_TRACE(absl::StrCat(shape.ToString(), " ", Conv2dPassName(pass), " ",
                                  Conv2dAlgorithmName(algorithm)));
        problem.Run(pass, algorithm, false, 1);
        EXPECT_LT(LargestError(problem.Result(pass), expected), Coarser(algorithm, 5e-5));
      }
    }
  }
}

TEST_P(Conv2dWinograd, SameBitsOnAnyNumberOfThreads) {
  for (const Conv2dShape& shape : LargeShapes()) {
    Problem one(shape, 0), many(shape, 0);
    for (const Conv2dPass pass : kAllConv2dPasses) {
      for (const Conv2dAlgorithm algorithm : AlgorithmsFor(shape)) {
        one.Run(pass, algorithm, true, 1);
        for (const int threads : {2, 3, 8, 40}) {  // fewer than pieces, and more
          SCOPED_TRACE(absl::StrCat(shape.ToString(), " ", Conv2dPassName(pass), " ",
                                    Conv2dAlgorithmName(algorithm), " ", threads, " threads"));
          many.Run(pass, algorithm, true, threads);
          EXPECT_TRUE(Equal(many.Result(pass), one.Result(pass)));
        }
      }
    }
  }
}

// Scratch of megabytes each is not reserved for threads that find no piece.
TEST(Conv2dWinogradWorkspace, GrowsNoFurtherThanThePieces) {
  for (const Conv2dShape& shape :
       {Winograd(64, 128, 16, 16, 128, 1), Winograd(64, 512, 4, 4, 512, 1)}) {
    for (const Conv2dPass pass : kAllConv2dPasses) {
      const auto bytes = [&](int threads) {
        return Conv2dWorkspaceBytes(shape, pass, Conv2dAlgorithm::kWinograd4, threads, {});
      };
      EXPECT_LE(bytes(1), bytes(2));
      EXPECT_LT(bytes(300), size_t{128} << 20) << shape.ToString() << " " << Conv2dPassName(pass);
      EXPECT_EQ(bytes(2000), bytes(3000)) << shape.ToString() << " " << Conv2dPassName(pass);
    }
  }
}

// Of the loop with the products.
int64_t Pieces(const Conv2dShape& shape, Conv2dPass pass, int threads) {
  const WinogradKernels& k = GetWinogradKernels(4, shape.kernel);
  switch (pass) {
    case Conv2dPass::kForward:
      return WinogradCorrelatePieces(k, shape.output(), shape.in_channels, threads);
    case Conv2dPass::kBackwardData:
      return WinogradCorrelatePieces(k, shape.input(), shape.out_channels, threads);
    default:
      return WinogradGradientPieces(4, shape, threads);
  }
}

TEST(Conv2dWinogradPieces, ManyThreadsFindWork) {
  for (const Conv2dPass pass : kAllConv2dPasses) {
    for (const Conv2dShape& shape :
         {Winograd(64, 512, 4, 4, 512, 1), Winograd(64, 256, 8, 8, 256, 1),
          Winograd(64, 128, 16, 16, 128, 1), Winograd(64, 64, 32, 32, 64, 1),
          Winograd(64, 96, 16, 16, 208, 1), Winograd5(64, 32, 32, 32, 96, 2)}) {
      EXPECT_GE(Pieces(shape, pass, 64), 48) << shape.ToString() << " " << Conv2dPassName(pass);
    }
    for (const Conv2dShape& shape :
         {Winograd(1, 64, 32, 32, 64, 1), Winograd(1, 128, 16, 16, 128, 1),
          Winograd(1, 256, 8, 8, 256, 1), Winograd(2, 224, 8, 8, 208, 1)}) {
      EXPECT_GE(Pieces(shape, pass, 7), 7) << shape.ToString() << " " << Conv2dPassName(pass);
    }
  }
}

TEST(Conv2dWinogradExecutedMacs, CountsTheProducts) {
  const Conv2dShape whole = Winograd(2, 32, 8, 8, 64, 1);
  const int64_t pairs = 32 * 64;
  EXPECT_EQ(Conv2dExecutedMacs(whole, Conv2dPass::kForward, Conv2dAlgorithm::kWinograd4),
            2 * 4 * 36 * pairs);
  EXPECT_EQ(Conv2dExecutedMacs(whole, Conv2dPass::kForward, Conv2dAlgorithm::kWinograd2),
            2 * 16 * 16 * pairs);
  EXPECT_EQ(Conv2dExecutedMacs(Winograd5(2, 32, 8, 8, 64, 2), Conv2dPass::kForward,
                               Conv2dAlgorithm::kWinograd2x5),
            2 * 16 * 36 * pairs);
  EXPECT_EQ(Conv2dExecutedMacs(Winograd5(2, 32, 8, 8, 64, 2), Conv2dPass::kForward,
                               Conv2dAlgorithm::kWinograd4x5),
            2 * 4 * 64 * pairs);
  // Backward data covers the input, 10 x 10 here.
  EXPECT_EQ(Conv2dExecutedMacs(Winograd(2, 32, 10, 10, 64, 0), Conv2dPass::kBackwardData,
                               Conv2dAlgorithm::kWinograd4),
            2 * 9 * 36 * pairs);
}

TEST(Conv2dWinogradChoice, IsMadeByShape) {
  const auto first = [](const Conv2dShape& s) {
    return Conv2dAlgorithms(s, Conv2dPass::kForward).front();
  };
  EXPECT_EQ(first(Winograd(64, 64, 32, 32, 64, 1)), Conv2dAlgorithm::kWinograd4);
  EXPECT_EQ(first(Winograd(64, 64, 6, 6, 64, 1)), Conv2dAlgorithm::kWinograd2);
  EXPECT_EQ(first(Winograd(64, 3, 32, 32, 64, 1)), Conv2dAlgorithm::kStem);
  EXPECT_EQ(first(Winograd(64, 3, 32, 32, 60, 1)), Conv2dAlgorithm::kDirect);
  EXPECT_EQ(first(Winograd(64, 512, 2, 2, 512, 1)), Conv2dAlgorithm::kDirect);
  EXPECT_EQ(first(Winograd5(64, 32, 8, 8, 64, 2)), Conv2dAlgorithm::kWinograd4x5);
  EXPECT_EQ(first(Winograd5(64, 32, 4, 4, 64, 2)), Conv2dAlgorithm::kWinograd4x5);
  EXPECT_EQ(first(Winograd5(64, 32, 2, 2, 64, 2)), Conv2dAlgorithm::kDirect);
  EXPECT_EQ(first(Winograd5(1, 48, 8, 8, 128, 2)), Conv2dAlgorithm::kDirect);
  // Few images of many channels are not worth transformed weights.
  EXPECT_EQ(first(Winograd(1, 512, 4, 4, 512, 1)), Conv2dAlgorithm::kFewPixels);
  EXPECT_EQ(first(Winograd(4, 512, 4, 4, 512, 1)), Conv2dAlgorithm::kFewPixels);
  EXPECT_NE(first(Winograd(1, 64, 8, 8, 64, 1)), Conv2dAlgorithm::kFewPixels);
  EXPECT_EQ(first(Winograd(16, 512, 4, 4, 512, 1)), Conv2dAlgorithm::kWinograd4);
  // Gradients of 3 x 3 and 5 x 5 convolutions take the same ones where the choice is clear.
  const std::pair<Conv2dShape, Conv2dAlgorithm> clear[] = {
      {Winograd(64, 64, 32, 32, 64, 1), Conv2dAlgorithm::kWinograd4},
      {Winograd(16, 256, 8, 8, 256, 1), Conv2dAlgorithm::kWinograd4},
      {Winograd(64, 512, 4, 4, 512, 1), Conv2dAlgorithm::kWinograd4},
      {Winograd(64, 64, 6, 6, 64, 1), Conv2dAlgorithm::kWinograd2},
      {Winograd(64, 512, 2, 2, 512, 1), Conv2dAlgorithm::kDirect},
      {Winograd(64, 16, 8, 8, 8, 1), Conv2dAlgorithm::kDirect},
      {Winograd(1, 64, 8, 8, 64, 1), Conv2dAlgorithm::kDirect},
      {Winograd(1, 512, 4, 4, 512, 1), Conv2dAlgorithm::kFewPixels},
      {Winograd5(64, 32, 8, 8, 64, 2), Conv2dAlgorithm::kWinograd4x5},
      {Winograd5(64, 32, 2, 2, 64, 2), Conv2dAlgorithm::kDirect},
  };
  for (const auto& [shape, expected] : clear) {
    for (const Conv2dPass pass : {Conv2dPass::kBackwardData, Conv2dPass::kBackwardWeights}) {
      EXPECT_EQ(Conv2dAlgorithms(shape, pass).front(), expected)
          << shape.in_channels << " to " << shape.out_channels << " at " << shape.h;
    }
  }
  for (const Conv2dAlgorithm a :
       Conv2dAlgorithms(Winograd(64, 64, 32, 32, 64, 1), Conv2dPass::kForward,
                        /*allow_winograd=*/false)) {
    EXPECT_FALSE(IsWinograd(a));
  }
}

}  // namespace
}  // namespace classicnn
