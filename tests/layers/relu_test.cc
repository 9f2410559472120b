#include "layers/relu/relu.h"

#include <cmath>
#include <limits>

#include "tests/layers/layer_cases.h"

namespace classicnn {
namespace {

class ReluTest : public EveryTarget {};
INSTANTIATE_ON_EVERY_TARGET(ReluTest);

TEST_P(ReluTest, ForwardEqualsNaive) {
  Context ctx(2);
  for (const TensorCase& t : TensorCases()) {
    SCOPED_TRACE(t.ToString());
    GuardedTensor<float> x(t.shape, t.shape.c + t.gap), y(t.shape, t.shape.c + t.gap / 2);
    GuardedTensor<float> expected(t.shape);
    x.FillNormal(RandomStream(1, "x"));
    x.view().data[0] = 1.5f;
    ReluForwardNaive<float>(x.view(), expected.view());
    ReluForward(x.view(), y.view(), ctx);
    EXPECT_TRUE(Equal(y, expected));
    ReluForward(x.view(), x.view(), ctx);
    EXPECT_TRUE(Equal(x, expected));
    EXPECT_TRUE(GuardsIntact(x));
    EXPECT_TRUE(GuardsIntact(y));
  }
}

TEST_P(ReluTest, BackwardEqualsNaive) {
  Context ctx(2);
  for (const TensorCase& t : TensorCases()) {
    for (const bool accumulate : {false, true}) {
      SCOPED_TRACE(t.ToString() + (accumulate ? " accumulate" : ""));
      GuardedTensor<float> y(t.shape, t.shape.c + t.gap), dy(t.shape),
          dx(t.shape, t.shape.c + t.gap);
      GuardedTensor<float> expected(t.shape);
      y.FillIntegers(RandomStream(1, "y"));
      dy.FillIntegers(RandomStream(1, "dy"));
      y.view().data[0] = dy.view().data[0] = 2;
      if (accumulate) {
        dx.FillIntegers(RandomStream(1, "dx"), 20);
        expected.CopyFrom(dx.cview());
        expected.view().data[0] = dx.view().data[0] = 3;
      }
      ReluBackwardNaive<float>(y.view(), dy.view(), expected.view(), accumulate);
      ReluBackward(y.view(), dy.view(), dx.view(), accumulate, ctx);
      EXPECT_TRUE(Equal(dx, expected));
      EXPECT_TRUE(GuardsIntact(dx));
      if (!accumulate) {
        ReluBackward(y.view(), dy.view(), dy.view(), false, ctx);
        EXPECT_TRUE(Equal(dy, expected));
      }
    }
  }
}

TEST_P(ReluTest, BackwardIntoY) {
  Context ctx(1);
  GuardedTensor<float> y({2, 3, 3, 21}), dy({2, 3, 3, 21}), expected({2, 3, 3, 21});
  y.FillIntegers(RandomStream(1, "y"));
  dy.FillIntegers(RandomStream(1, "dy"));
  ReluBackwardNaive<float>(y.view(), dy.view(), expected.view(), false);
  ReluBackward(y.view(), dy.view(), y.view(), false, ctx);
  EXPECT_TRUE(Equal(y, expected));
}

TEST_P(ReluTest, NanStaysNan) {
  Context ctx(1);
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  GuardedTensor<float> x({1, 1, 1, 35}), y({1, 1, 1, 35});
  x.ForEach([](int64_t i) { return i % 3 == 0 ? kNan : -1.0f; });
  ReluForward(x.view(), y.view(), ctx);
  for (int64_t c = 0; c < 35; ++c) {
    if (c % 3 == 0) {
      EXPECT_TRUE(std::isnan(y.data()[c])) << c;
    } else {
      EXPECT_EQ(y.data()[c], 0.0f) << c;
    }
  }
}

TEST(ReluNaiveTest, GradientIsThatOfForward) {
  GuardedTensor<double> x({2, 3, 2, 3}), y({2, 3, 2, 3}), dy({2, 3, 2, 3}), dx({2, 3, 2, 3});
  x.FillNormal(RandomStream(1, "x"));
  dy.FillNormal(RandomStream(1, "dy"));
  const auto loss = [&] {
    ReluForwardNaive<double>(x.view(), y.view());
    return Dot(y, dy);
  };
  loss();
  ReluBackwardNaive<double>(y.view(), dy.view(), dx.view(), false);
  ExpectGradient(x, dx, loss);
}

}  // namespace
}  // namespace classicnn
