#include "layers/dropout/dropout.h"

#include "tests/layers/layer_cases.h"

namespace classicnn {
namespace {

class DropoutTest : public EveryTarget {};
INSTANTIATE_ON_EVERY_TARGET(DropoutTest);

TEST_P(DropoutTest, EqualsNaive) {
  Context ctx(2);
  for (const TensorCase& t : TensorCases()) {
    for (const float p : {0.0f, 0.2f, 0.5f}) {
      SCOPED_TRACE(t.ToString() + " p " + std::to_string(p));
      const DropoutParams params = {p, 17, 5, 3};
      const int64_t c = t.shape.c;
      GuardedTensor<float> x(t.shape, c + t.gap), y(t.shape, c + t.gap / 2), expected(t.shape);
      x.FillNormal(RandomStream(1, "x"));
      DropoutForwardNaive<float>(params, x.view(), expected.view());
      DropoutForward(params, x.view(), y.view(), ctx);
      if (t.shape.size() > 1) {
        EXPECT_TRUE(Equal(y, expected));
      }
      EXPECT_EQ(Bits(y), Bits(expected));
      EXPECT_TRUE(GuardsIntact(y));

      GuardedTensor<float> dx(t.shape, c + t.gap), expected_dx(t.shape);
      for (const bool accumulate : {false, true}) {  // the second run adds to the first
        DropoutBackwardNaive<float>(params, x.view(), expected_dx.view(), accumulate);
        DropoutBackward(params, x.view(), dx.view(), accumulate, ctx);
        EXPECT_EQ(Bits(dx), Bits(expected_dx));
        EXPECT_TRUE(GuardsIntact(dx));
      }
      DropoutForward(params, x.view(), x.view(), ctx);
      EXPECT_EQ(Bits(x), Bits(expected));
      EXPECT_TRUE(GuardsIntact(x));
    }
  }
}

TEST_P(DropoutTest, KeepsItsShareAndTheMean) {
  Context ctx(2);
  const Shape4 shape = {16, 1, 1, 4096};
  GuardedTensor<float> x(shape), y(shape), other(shape);
  x.ForEach([](int64_t) { return 1.0f; });
  DropoutForward({0.2f, 1, 2, 3}, x.view(), y.view(), ctx);
  DropoutForward({0.2f, 1, 2, 4}, x.view(), other.view(), ctx);
  int64_t kept = 0;
  int64_t differ = 0;
  for (int64_t i = 0; i < shape.size(); ++i) {
    const float v = y.data()[i];
    ASSERT_TRUE(v == 0 || v == 1 / (1 - 0.2f)) << v;
    kept += v != 0;
    differ += (v != 0) != (other.data()[i] != 0);
  }
  const double size = static_cast<double>(shape.size());
  // Five standard deviations.
  EXPECT_NEAR(static_cast<double>(kept) / size, 0.8, 5 * std::sqrt(0.8 * 0.2 / size));
  EXPECT_NEAR(static_cast<double>(differ) / size, 0.32, 5 * std::sqrt(0.32 * 0.68 / size));
}

TEST_P(DropoutTest, SameBitsOnAnyThreads) {
  const Shape4 shape = {8, 8, 8, 33};
  GuardedTensor<float> x(shape);
  x.FillNormal(RandomStream(1, "x"));
  ExpectSameOnAnyThreads([&](Context& ctx) {
    GuardedTensor<float> y(shape);
    DropoutForward({0.4f, 1, 2, 3}, x.view(), y.view(), ctx);
    return Bits(y);
  });
}

TEST(DropoutNaiveTest, GradientIsThatOfForward) {
  const Shape4 shape = {2, 3, 2, 3};
  const DropoutParams params = {0.3f, 1, 2, 3};
  GuardedTensor<double> x(shape), y(shape), dy(shape), dx(shape);
  x.FillNormal(RandomStream(1, "x"));
  dy.FillNormal(RandomStream(1, "dy"));
  DropoutBackwardNaive<double>(params, dy.view(), dx.view(), false);
  ExpectGradient(x, dx, [&] {
    DropoutForwardNaive<double>(params, x.view(), y.view());
    return Dot(y, dy);
  });
}

}  // namespace
}  // namespace classicnn
