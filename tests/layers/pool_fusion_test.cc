// Prologues and epilogues of the pooling layers, against the naive references one after the other.
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "layers/avg_pool2d/avg_pool2d.h"
#include "layers/fusion_passes.h"
#include "layers/global_avg_pool2d/global_avg_pool2d.h"
#include "layers/max_pool2d/max_pool2d.h"
#include "tests/layers/fusion_cases.h"
#include "tests/layers/layer_cases.h"
#include "tests/layers/pooling_cases.h"

namespace classicnn {
namespace {

class PoolFusionTest : public EveryTarget {};
INSTANTIATE_ON_EVERY_TARGET(PoolFusionTest);

std::string Name(const Pool2dShape& shape, int64_t gap) {
  return shape.ToString() + " gap " + std::to_string(gap);
}

TEST_P(PoolFusionTest, MaxForwardPoolsTheActivated) {
  Context ctx(2);
  for (const Pool2dShape& shape : PoolingCases()) {
    for (const int64_t gap : {0, 5}) {
      for (const bool relu : {false, true}) {
        SCOPED_TRACE(Name(shape, gap) + (relu ? " relu" : ""));
        const Shape4 in = shape.input, out = shape.output();
        const IntegerChannels channels(in.c, "in");
        GuardedTensor<float> x(in, in.c + gap), a(in), y(out, out.c + gap), expected(out);
        x.FillIntegers(RandomStream(1, "x"), 2);
        std::vector<uint8_t> argmax(static_cast<size_t>(out.size()) + 64, 0xEE);
        std::vector<uint8_t> expected_argmax = argmax;
        ActivationPassNaive(channels.activation(relu), x.cview(), a.view());
        MaxPool2dForwardNaive<float>(shape.params, a.cview(), expected.view(),
                                     expected_argmax.data());
        MaxPool2dForward(shape.params, x.cview(), y.view(), argmax.data(), ctx,
                         channels.activation(relu));
        ExpectSameValues(y, expected);
        EXPECT_EQ(argmax, expected_argmax);
        y.FillNan();
        MaxPool2dForward(shape.params, x.cview(), y.view(), nullptr, ctx,
                         channels.activation(relu));
        ExpectSameValues(y, expected);
      }
    }
  }
}

// Values for which activating and comparing do not commute, or compare as no numbers do.
TEST_P(PoolFusionTest, MaxForwardPoolsActivatedNans) {
  Context ctx(2);
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const Shape4 shape{3, 9, 6, 37};
  const Pool2dParams params{3, 1, 1};
  const IntegerChannels channels(shape.c, "in");
  for (const bool relu : {false, true}) {
    // Of few, so that there are strips of an image with and without.
    for (const uint64_t one_in : {20u, 4000u}) {
      for (const float bad : {kNan, -kNan, kInf, -kInf}) {
        GuardedTensor<float> x(shape), a(shape), y(shape), expected(shape);
        const RandomStream random(1, "bad"), integers(1, "x");
        x.ForEach([&](int64_t i) {
          const auto index = static_cast<uint64_t>(i);
          return random.Below(index, one_in) == 0
                     ? bad
                     : static_cast<float>(integers.Below(index, 5)) - 2;
        });
        ActivationPassNaive(channels.activation(relu), x.cview(), a.view());
        std::vector<uint8_t> argmax(static_cast<size_t>(shape.size()) + 64, 0xEE);
        std::vector<uint8_t> expected_argmax = argmax;
        MaxPool2dForwardNaive<float>(params, a.cview(), expected.view(), expected_argmax.data());
        for (const bool winners : {true, false}) {
          y.FillNan();
          MaxPool2dForward(params, x.cview(), y.view(), winners ? argmax.data() : nullptr, ctx,
                           channels.activation(relu));
          for (int64_t i = 0; i < shape.size(); ++i) {
            const float e = expected.data()[i], v = y.data()[i];
            ASSERT_TRUE(std::isnan(e) ? std::isnan(v) : v == e) << i << ": " << v << ", not " << e;
          }
        }
        EXPECT_EQ(argmax, expected_argmax);
      }
    }
  }
}

TEST_P(PoolFusionTest, MaxBackwardHasTheEpilogue) {
  Context ctx(2);
  std::vector<Pool2dShape> cases = PoolingCases();
  cases.push_back({{1, 6, 40, 300}, {2, 2, 0}});  // more channels and pixels than go together
  cases.push_back({{1, 5, 37, 300}, {3, 1, 1}});
  for (const Pool2dShape& shape : cases) {
    const Shape4 in = shape.input, out = shape.output();
    const IntegerChannels channels(in.c, "in");
    for (const int64_t gap : {0, 5}) {
      GuardedTensor<float> x(in, in.c + gap), a(in), y(out), dy(out, out.c + gap), before(in);
      x.FillIntegers(RandomStream(1, "x"), 2);
      dy.FillIntegers(RandomStream(1, "dy"));
      before.FillIntegers(RandomStream(1, "before"));
      std::vector<uint8_t> argmax(static_cast<size_t>(out.size()));
      ActivationPassNaive(channels.activation(true), x.cview(), a.view());
      MaxPool2dForwardNaive<float>(shape.params, a.cview(), y.view(), argmax.data());
      for (const Store store : kAllStores) {
        for (const bool relu : {true, false}) {
          SCOPED_TRACE(Name(shape, gap) + " store " + std::to_string(static_cast<int>(store)) +
                       (relu ? " relu" : ""));
          const bool accumulate = store == Store::kAccumulated;
          GuardedTensor<float> da(in), expected(in), dx(in, in.c + 2 * gap);
          for (auto* t : {&da, &expected, &dx}) t->CopyFrom(before.cview());
          GradientSums sums(in.c), expected_sums(in.c);
          MaxPool2dBackwardNaive<float>(shape.params, dy.cview(), argmax.data(), da.view(),
                                        accumulate);
          GradientEpiloguePassNaive(
              channels.epilogue(x.cview(), relu, store, expected_sums.g.data(),
                                expected_sums.gx.data()),
              da.cview(), expected.view());
          const GuardedWorkspace workspace(MaxPool2dBackwardWorkspaceBytes(shape.params, in));
          MaxPool2dBackward(
              {shape.params, dy.cview(), argmax.data(), dx.view(), accumulate,
               channels.epilogue(x.cview(), relu, store, sums.g.data(), sums.gx.data()),
               workspace.get()},
              ctx);
          ExpectSameValues(dx, expected);
          ExpectSameValues(sums, expected_sums);
          EXPECT_TRUE(GuardsIntact(workspace));
        }
      }
    }
  }
}

// Far from zero, where a sum of squares would lose the variance.
TEST_P(PoolFusionTest, AvgForwardGathersStatistics) {
  Context ctx(2);
  for (const Pool2dShape& shape : PoolingCases()) {
    for (const int64_t gap : {0, 5}) {
      SCOPED_TRACE(Name(shape, gap));
      const Shape4 in = shape.input, out = shape.output();
      GuardedTensor<float> x(in, in.c + gap), y(out, out.c + gap), plain(out);
      const RandomStream random(1, "x");
      x.ForEach([&](int64_t i) {
        return static_cast<float>(1000 + 30 * random.Normal(static_cast<uint64_t>(i)));
      });
      const GuardedWorkspace workspace(AvgPool2dForwardWorkspaceBytes(shape.params, in));
      GuardedArray<float> mean(out.c), var(out.c), expected_mean(out.c), expected_var(out.c);
      AvgPool2dForward(shape.params, x.cview(), plain.view(), ctx);
      AvgPool2dForward(shape.params, x.cview(), y.view(), ctx, {mean.data(), var.data()},
                       workspace.get());
      ExpectSameValues(y, plain);
      EXPECT_TRUE(GuardsIntact(workspace));
      StatisticsPassNaive<float>({expected_mean.data(), expected_var.data()}, y.cview());
      EXPECT_TRUE(Close(mean, expected_mean, Tolerance{1e-6}));
      EXPECT_TRUE(GuardsIntact(mean));
      EXPECT_TRUE(GuardsIntact(var));
      if (out.pixels() == 1) {
        EXPECT_EQ(Values(var), Values(expected_var));  // zeros
      } else {
        EXPECT_TRUE(Close(var, expected_var, Tolerance{1e-4}));
      }
    }
  }
}

TEST_P(PoolFusionTest, AvgBackwardSpreadsTheGradient) {
  Context ctx(2);
  for (const Pool2dShape& shape : PoolingCases()) {
    for (const int64_t gap : {0, 5}) {
      SCOPED_TRACE(Name(shape, gap));
      const Shape4 in = shape.input, out = shape.output();
      const IntegerChannels channels(out.c, "out");
      const int64_t area = shape.params.kernel * shape.params.kernel;
      GuardedTensor<float> g(out, out.c + gap), y(out, out.c + 2 * gap), dy(out);
      GuardedTensor<float> dx(in, in.c + gap), expected(in);
      g.FillIntegers(RandomStream(1, "g"));
      y.FillIntegers(RandomStream(1, "y"));
      GradientPassNaive(channels.gradient(y.cview()), g.cview(), dy.view());
      for (const bool accumulate : {false, true}) {  // the second run adds to the first
        AvgPool2dBackwardNaive<float>(shape.params, dy.cview(), expected.view(), accumulate);
        AvgPool2dBackward(shape.params, g.cview(), dx.view(), accumulate, ctx,
                          channels.gradient(y.cview()));
        EXPECT_TRUE(Close(dx, expected, area == 4 ? Tolerance::Exact() : Tolerance::ForSum(area)));
        EXPECT_TRUE(GuardsIntact(dx));
      }
    }
  }
}

TEST_P(PoolFusionTest, GlobalAvgForwardAveragesTheActivated) {
  Context ctx(2);
  for (const TensorCase& t : TensorCases()) {
    for (const bool relu : {false, true}) {
      SCOPED_TRACE(t.ToString() + (relu ? " relu" : ""));
      const Shape4 pooled = {t.shape.n, 1, 1, t.shape.c};
      const IntegerChannels channels(t.shape.c, "in");
      GuardedTensor<float> x(t.shape, t.shape.c + t.gap), a(t.shape);
      GuardedTensor<float> y(pooled, t.shape.c + t.gap / 2), expected(pooled);
      x.FillIntegers(RandomStream(1, "x"));
      const float sign = channels.activation(relu).scale[0] < 0 ? -1 : 1;
      x.view().data[0] = 40 * sign;  // passes
      ActivationPassNaive(channels.activation(relu), x.cview(), a.view());
      GlobalAvgPool2dForwardNaive<float>(a.cview(), expected.view());
      GlobalAvgPool2dForward(x.cview(), y.view(), ctx, channels.activation(relu));
      EXPECT_TRUE(Close(y, expected, Tolerance{2e-7}));  // exact sums, one rounding
      EXPECT_TRUE(GuardsIntact(y));
    }
  }
}

TEST_P(PoolFusionTest, GlobalAvgBackwardHasTheEpilogue) {
  Context ctx(2);
  for (const TensorCase& t : TensorCases()) {
    const Shape4 pooled = {t.shape.n, 1, 1, t.shape.c};
    const IntegerChannels channels(t.shape.c, "in");
    GuardedTensor<float> x(t.shape, t.shape.c + t.gap), dy(pooled, t.shape.c + t.gap / 2);
    GuardedTensor<float> before(t.shape);
    x.FillIntegers(RandomStream(1, "x"));
    before.FillIntegers(RandomStream(1, "before"));
    dy.FillIntegers(RandomStream(1, "dy"));
    const auto area = static_cast<float>(t.shape.h * t.shape.w);
    dy.ForEach([&](int64_t i) { return area * dy.view().Pixel(i / pooled.c)[i % pooled.c]; });
    for (const Store store : kAllStores) {
      for (const bool relu : {true, false}) {
        SCOPED_TRACE(t.ToString() + " store " + std::to_string(static_cast<int>(store)) +
                     (relu ? " relu" : ""));
        const bool accumulate = store == Store::kAccumulated;
        GuardedTensor<float> da(t.shape), expected(t.shape), dx(t.shape, t.shape.c + t.gap / 3);
        for (auto* tensor : {&da, &expected, &dx}) tensor->CopyFrom(before.cview());
        GradientSums sums(t.shape.c), expected_sums(t.shape.c);
        GlobalAvgPool2dBackwardNaive<float>(dy.cview(), da.view(), accumulate);
        GradientEpiloguePassNaive(channels.epilogue(x.cview(), relu, store, expected_sums.g.data(),
                                                    expected_sums.gx.data()),
                                  da.cview(), expected.view());
        const GuardedWorkspace workspace(GlobalAvgPool2dBackwardWorkspaceBytes(t.shape));
        GlobalAvgPool2dBackward(
            dy.cview(), dx.view(), accumulate, ctx,
            channels.epilogue(x.cview(), relu, store, sums.g.data(), sums.gx.data()),
            workspace.get());
        ExpectSameValues(dx, expected);
        ExpectSameValues(sums, expected_sums);
        EXPECT_TRUE(GuardsIntact(workspace));
      }
    }
  }
}

TEST_P(PoolFusionTest, SameBitsOnAnyThreads) {
  for (const Pool2dShape& shape :
       {Pool2dShape{{4, 32, 32, 64}, {2, 2, 0}}, Pool2dShape{{4, 16, 16, 80}, {3, 1, 1}},
        Pool2dShape{{4, 32, 31, 48}, {3, 2, 1}}, Pool2dShape{{8, 16, 16, 1000}, {3, 2, 1}}}) {
    SCOPED_TRACE(shape.ToString());
    const Shape4 in = shape.input, out = shape.output();
    const Shape4 pooled = {in.n, 1, 1, in.c};
    const IntegerChannels channels(in.c, "in");
    GuardedTensor<float> x(in), dy(out), g(out), global_dy(pooled);
    x.FillNormal(RandomStream(1, "x"));
    dy.FillNormal(RandomStream(1, "dy"));
    g.FillNormal(RandomStream(1, "g"));
    global_dy.FillNormal(RandomStream(1, "global"));
    const auto activation = channels.activation(true);
    const GuardedWorkspace max_workspace(MaxPool2dBackwardWorkspaceBytes(shape.params, in));
    const GuardedWorkspace avg_workspace(AvgPool2dForwardWorkspaceBytes(shape.params, in));
    const GuardedWorkspace global_workspace(GlobalAvgPool2dBackwardWorkspaceBytes(in));
    ExpectSameOnAnyThreads([&](Context& ctx) {
      GuardedTensor<float> y(out), dx(in), avg(out), avg_dx(in), global(pooled), global_dx(in);
      GuardedArray<float> mean(in.c), var(in.c);
      GradientSums sums(in.c), global_sums(in.c);
      std::vector<uint8_t> argmax(static_cast<size_t>(out.size()));
      MaxPool2dForward(shape.params, x.cview(), y.view(), argmax.data(), ctx, activation);
      const auto e =
          channels.epilogue(x.cview(), true, Store::kPlain, sums.g.data(), sums.gx.data());
      MaxPool2dBackward({shape.params, dy.cview(), argmax.data(), dx.view(), /*accumulate=*/false,
                         e, max_workspace.get()},
                        ctx);
      AvgPool2dForward(shape.params, x.cview(), avg.view(), ctx, {mean.data(), var.data()},
                       avg_workspace.get());
      AvgPool2dBackward(shape.params, g.cview(), avg_dx.view(), false, ctx,
                        channels.gradient(avg.cview()));
      GlobalAvgPool2dForward(x.cview(), global.view(), ctx, activation);
      GlobalAvgPool2dBackward(global_dy.cview(), global_dx.view(), false, ctx,
                              channels.epilogue(x.cview(), true, Store::kPlain,
                                                global_sums.g.data(), global_sums.gx.data()),
                              global_workspace.get());
      std::string bits(argmax.begin(), argmax.end());
      for (const auto* t : {&y, &dx, &avg, &avg_dx, &global, &global_dx}) bits += Bits(*t);
      for (const auto* a : {&mean, &var, &sums.g, &sums.gx, &global_sums.g, &global_sums.gx}) {
        bits += Bits(*a);
      }
      return bits;
    });
  }
}

}  // namespace
}  // namespace classicnn
