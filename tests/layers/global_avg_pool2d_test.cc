#include "layers/global_avg_pool2d/global_avg_pool2d.h"

#include "tests/layers/layer_cases.h"

namespace classicnn {
namespace {

class GlobalAvgPool2dTest : public EveryTarget {};
INSTANTIATE_ON_EVERY_TARGET(GlobalAvgPool2dTest);

TEST_P(GlobalAvgPool2dTest, MatchesNaive) {
  Context ctx(2);
  for (const TensorCase& t : TensorCases()) {
    SCOPED_TRACE(t.ToString());
    const Shape4 pooled = {t.shape.n, 1, 1, t.shape.c};
    GuardedTensor<float> x(t.shape, t.shape.c + t.gap), y(pooled, t.shape.c + t.gap / 2);
    GuardedTensor<float> expected(pooled);
    x.FillIntegers(RandomStream(1, "x"));
    x.view().data[0] = 40;
    GlobalAvgPool2dForwardNaive<float>(x.view(), expected.view());
    GlobalAvgPool2dForward(x.view(), y.view(), ctx);
    EXPECT_TRUE(Close(y, expected, Tolerance{2e-7}));  // exact sums, one rounding
    EXPECT_TRUE(GuardsIntact(y));

    GuardedTensor<float> dx(t.shape, t.shape.c + t.gap), expected_dx(t.shape);
    for (const bool accumulate : {false, true}) {  // the second run adds to the first
      GlobalAvgPool2dBackwardNaive<float>(y.cview(), expected_dx.view(), accumulate);
      GlobalAvgPool2dBackward(y.cview(), dx.view(), accumulate, ctx);
      EXPECT_TRUE(Equal(dx, expected_dx));
      EXPECT_TRUE(GuardsIntact(dx));
    }
  }
}

TEST_P(GlobalAvgPool2dTest, SameBitsOnAnyThreads) {
  const Shape4 shape = {5, 16, 16, 200};
  GuardedTensor<float> x(shape);
  x.FillNormal(RandomStream(1, "x"));
  ExpectSameOnAnyThreads([&](Context& ctx) {
    GuardedTensor<float> y({5, 1, 1, 200}), dx(shape);
    GlobalAvgPool2dForward(x.view(), y.view(), ctx);
    GlobalAvgPool2dBackward(y.view(), dx.view(), false, ctx);
    return Bits(y) + Bits(dx);
  });
}

TEST(GlobalAvgPool2dNaiveTest, GradientIsThatOfForward) {
  GuardedTensor<double> x({2, 3, 2, 3}), y({2, 1, 1, 3}), dy({2, 1, 1, 3}), dx({2, 3, 2, 3});
  x.FillNormal(RandomStream(1, "x"));
  dy.FillNormal(RandomStream(1, "dy"));
  GlobalAvgPool2dBackwardNaive<double>(dy.view(), dx.view(), false);
  ExpectGradient(x, dx, [&] {
    GlobalAvgPool2dForwardNaive<double>(x.view(), y.view());
    return Dot(y, dy);
  });
}

}  // namespace
}  // namespace classicnn
