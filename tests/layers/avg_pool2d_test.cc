#include "layers/avg_pool2d/avg_pool2d.h"

#include "tests/layers/layer_cases.h"
#include "tests/layers/pooling_cases.h"

namespace classicnn {
namespace {

class AvgPool2dTest : public EveryTarget {};
INSTANTIATE_ON_EVERY_TARGET(AvgPool2dTest);

TEST_P(AvgPool2dTest, MatchesNaive) {
  Context ctx(2);
  for (const Pool2dShape& shape : PoolingCases()) {
    for (const int64_t gap : {0, 5}) {
      SCOPED_TRACE(shape.ToString() + " gap " + std::to_string(gap));
      const Shape4 in = shape.input;
      const Shape4 out = shape.output();
      const int64_t area = shape.params.kernel * shape.params.kernel;
      GuardedTensor<float> x(in, in.c + gap), y(out, out.c + gap), expected(out);
      x.FillIntegers(RandomStream(1, "x"));
      x.view().data[0] = 2;
      AvgPool2dForwardNaive<float>(shape.params, x.view(), expected.view());
      AvgPool2dForward(shape.params, x.view(), y.view(), ctx);
      // Sums are exact; so is a quotient by a power of two, and any other is rounded once.
      EXPECT_TRUE(Close(y, expected, Tolerance{area == 4 ? 0 : 2e-7}));
      EXPECT_TRUE(GuardsIntact(y));

      GuardedTensor<float> dy(out, out.c + gap), dx(in, in.c + gap), expected_dx(in);
      dy.FillIntegers(RandomStream(1, "dy"));
      dy.view().data[0] = 2;
      for (const bool accumulate : {false, true}) {  // the second run adds to the first
        AvgPool2dBackwardNaive<float>(shape.params, dy.view(), expected_dx.view(), accumulate);
        AvgPool2dBackward(shape.params, dy.view(), dx.view(), accumulate, ctx);
        EXPECT_TRUE(
            Close(dx, expected_dx, area == 4 ? Tolerance::Exact() : Tolerance::ForSum(area)));
        EXPECT_TRUE(GuardsIntact(dx));
      }
    }
  }
}

TEST_P(AvgPool2dTest, SameBitsOnAnyThreads) {
  const Pool2dParams params = {3, 1, 1};
  const Shape4 shape = {4, 16, 16, 80};
  GuardedTensor<float> x(shape), dy(shape);
  x.FillNormal(RandomStream(1, "x"));
  dy.FillNormal(RandomStream(1, "dy"));
  ExpectSameOnAnyThreads([&](Context& ctx) {
    GuardedTensor<float> y(shape), dx(shape);
    AvgPool2dForward(params, x.view(), y.view(), ctx);
    AvgPool2dBackward(params, dy.view(), dx.view(), false, ctx);
    return Bits(y) + Bits(dx);
  });
}

TEST(AvgPool2dNaiveTest, GradientIsThatOfForward) {
  for (const Pool2dParams& params :
       {Pool2dParams{2, 2, 0}, Pool2dParams{3, 1, 1}, Pool2dParams{3, 2, 1}}) {
    const Shape4 in = {2, 4, 5, 2};
    const Shape4 out = params.Output(in);
    GuardedTensor<double> x(in), y(out), dy(out), dx(in);
    x.FillNormal(RandomStream(1, "x"));
    dy.FillNormal(RandomStream(1, "dy"));
    AvgPool2dBackwardNaive<double>(params, dy.view(), dx.view(), false);
    ExpectGradient(x, dx, [&] {
      AvgPool2dForwardNaive<double>(params, x.view(), y.view());
      return Dot(y, dy);
    });
  }
}

}  // namespace
}  // namespace classicnn
