#include "layers/max_pool2d/max_pool2d.h"

#include <cmath>
#include <limits>

#include "tests/layers/layer_cases.h"
#include "tests/layers/pooling_cases.h"

namespace classicnn {
namespace {

class MaxPool2dTest : public EveryTarget {};
INSTANTIATE_ON_EVERY_TARGET(MaxPool2dTest);

// A byte for each output, with a guard behind the last.
std::vector<uint8_t> MakeArgmax(const Shape4& shape) {
  return std::vector<uint8_t>(static_cast<size_t>(shape.size()) + 64, 0xEE);
}

TEST_P(MaxPool2dTest, EqualsNaive) {
  Context ctx(2);
  for (const Pool2dShape& shape : PoolingCases()) {
    for (const int64_t gap : {0, 5}) {
      SCOPED_TRACE(shape.ToString() + " gap " + std::to_string(gap));
      const Shape4 in = shape.input;
      const Shape4 out = shape.output();
      GuardedTensor<float> x(in, in.c + gap), y(out, out.c + gap), expected(out);
      // Few values: ties in most windows.
      x.FillIntegers(RandomStream(1, "x"), 2);
      x.view().data[0] = 2;
      auto argmax = MakeArgmax(out);
      auto expected_argmax = MakeArgmax(out);
      MaxPool2dForwardNaive<float>(shape.params, x.view(), expected.view(), expected_argmax.data());
      MaxPool2dForward(shape.params, x.view(), y.view(), argmax.data(), ctx);
      EXPECT_TRUE(Equal(y, expected));
      EXPECT_TRUE(GuardsIntact(y));
      EXPECT_EQ(argmax, expected_argmax);
      y.FillNan();
      MaxPool2dForward(shape.params, x.view(), y.view(), nullptr, ctx);
      EXPECT_TRUE(Equal(y, expected));

      GuardedTensor<float> dy(out, out.c + gap), dx(in, in.c + gap), expected_dx(in);
      dy.FillIntegers(RandomStream(1, "dy"));
      dy.view().data[0] = 2;
      for (const bool accumulate : {false, true}) {  // the second run adds to the first
        MaxPool2dBackwardNaive<float>(shape.params, dy.view(), argmax.data(), expected_dx.view(),
                                      accumulate);
        MaxPool2dBackward(shape.params, dy.view(), argmax.data(), dx.view(), accumulate, ctx);
        EXPECT_TRUE(Equal(dx, expected_dx)) << accumulate;
        EXPECT_TRUE(GuardsIntact(dx));
      }
    }
  }
}

TEST_P(MaxPool2dTest, PaddingNeverWins) {
  Context ctx(1);
  const Pool2dParams params = {3, 2, 1};
  GuardedTensor<float> x({1, 4, 4, 18}), y({1, 2, 2, 18});
  for (const float value : {-5.0f, -std::numeric_limits<float>::infinity()}) {
    x.ForEach([&](int64_t) { return value; });
    auto argmax = MakeArgmax({1, 2, 2, 18});
    MaxPool2dForward(params, x.view(), y.view(), argmax.data(), ctx);
    for (size_t i = 0; i < 4 * 18; ++i) {
      EXPECT_EQ(y.data()[i], value);
      // The first tap inside the image.
      EXPECT_EQ(argmax[i], std::vector<uint8_t>({4, 3, 1, 0})[i / 18]) << i;
    }
  }
}

TEST_P(MaxPool2dTest, NanWins) {
  Context ctx(1);
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const Pool2dParams& params :
       {Pool2dParams{3, 1, 1}, Pool2dParams{3, 2, 0}, Pool2dParams{2, 2, 0}}) {
    GuardedTensor<float> x({2, 6, 6, 21});
    const Shape4 out = params.Output({2, 6, 6, 21});
    GuardedTensor<float> y(out), expected(out);
    x.FillIntegers(RandomStream(1, "x"));
    const RandomStream random(1, "nan");
    x.ForEach([&](int64_t i) {
      const uint64_t draw = random.Below(static_cast<uint64_t>(i), 12);
      return draw == 0 ? kNan : draw == 1 ? kInf : draw == 2 ? -kNan : static_cast<float>(draw);
    });
    auto argmax = MakeArgmax(out);
    auto expected_argmax = MakeArgmax(out);
    MaxPool2dForwardNaive<float>(params, x.view(), expected.view(), expected_argmax.data());
    MaxPool2dForward(params, x.view(), y.view(), argmax.data(), ctx);
    EXPECT_EQ(argmax, expected_argmax);
    int nans = 0;
    for (int64_t i = 0; i < out.size(); ++i) {
      ASSERT_EQ(std::isnan(y.data()[i]), std::isnan(expected.data()[i])) << i;
      if (std::isnan(y.data()[i])) {
        ++nans;
      } else {
        ASSERT_EQ(y.data()[i], expected.data()[i]) << i;
      }
    }
    EXPECT_GT(nans, 0);
  }
}

TEST_P(MaxPool2dTest, SameBitsOnAnyThreads) {
  const Pool2dParams params = {3, 1, 1};
  const Shape4 shape = {4, 16, 16, 80};
  GuardedTensor<float> x(shape), dy(shape);
  x.FillNormal(RandomStream(1, "x"));
  dy.FillNormal(RandomStream(1, "dy"));
  ExpectSameOnAnyThreads([&](Context& ctx) {
    GuardedTensor<float> y(shape), dx(shape);
    auto argmax = MakeArgmax(shape);
    MaxPool2dForward(params, x.view(), y.view(), argmax.data(), ctx);
    MaxPool2dBackward(params, dy.view(), argmax.data(), dx.view(), false, ctx);
    return Bits(y) + Bits(dx) + std::string(argmax.begin(), argmax.end());
  });
}

TEST(MaxPool2dNaiveTest, GradientIsThatOfForward) {
  for (const Pool2dParams& params :
       {Pool2dParams{2, 2, 0}, Pool2dParams{3, 1, 1}, Pool2dParams{3, 2, 1}}) {
    const Shape4 in = {2, 4, 5, 2};
    const Shape4 out = params.Output(in);
    GuardedTensor<double> x(in), y(out), dy(out), dx(in);
    x.FillNormal(RandomStream(1, "x"));
    dy.FillNormal(RandomStream(1, "dy"));
    auto argmax = MakeArgmax(out);
    const auto loss = [&] {
      MaxPool2dForwardNaive<double>(params, x.view(), y.view(), argmax.data());
      return Dot(y, dy);
    };
    loss();
    MaxPool2dBackwardNaive<double>(params, dy.view(), argmax.data(), dx.view(), false);
    ExpectGradient(x, dx, loss);
  }
}

}  // namespace
}  // namespace classicnn
