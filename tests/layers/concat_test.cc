#include "layers/concat/concat.h"

#include "tests/layers/layer_cases.h"

namespace classicnn {
namespace {

class ConcatTest : public EveryTarget {};
INSTANTIATE_ON_EVERY_TARGET(ConcatTest);

std::vector<ConcatShape> Shapes() {
  return {{1, 1, 1, {1}},
          {2, 3, 3, {5, 1, 17}},
          {2, 4, 5, {16, 32}},
          {3, 7, 7, {3, 24, 64, 9}},
          {4, 16, 16, {64, 48}}};
}

TEST_P(ConcatTest, ForwardAndBackwardEqualNaive) {
  Context ctx(2);
  for (const ConcatShape& shape : Shapes()) {
    for (const int64_t gap : {0, 7}) {
      SCOPED_TRACE(shape.ToString() + " gap " + std::to_string(gap));
      std::vector<GuardedTensor<float>> x, dx, expected_dx;
      std::vector<ConstTensor> x_views;
      std::vector<Tensor> dx_views, expected_views;
      for (size_t i = 0; i < shape.channels.size(); ++i) {
        x.emplace_back(shape.input(i), shape.channels[i] + gap);
        x.back().FillNormal(RandomStream(1, "x", i));
        dx.emplace_back(shape.input(i), shape.channels[i] + gap);
        expected_dx.emplace_back(shape.input(i));
      }
      for (size_t i = 0; i < x.size(); ++i) {
        x_views.push_back(x[i].cview());
        dx_views.push_back(dx[i].view());
        expected_views.push_back(expected_dx[i].view());
      }
      GuardedTensor<float> y(shape.output(), shape.output().c + gap), expected(shape.output());
      ConcatForwardNaive<float>(x_views, expected.view());
      ConcatForward(x_views, y.view(), ctx);
      EXPECT_TRUE(Equal(y, expected));
      EXPECT_TRUE(GuardsIntact(y));
      for (const bool accumulate : {false, true}) {  // the second run adds to the first
        ConcatBackwardNaive<float>(y.cview(), expected_views, accumulate);
        ConcatBackward(y.cview(), dx_views, accumulate, ctx);
        for (size_t i = 0; i < dx.size(); ++i) {
          EXPECT_TRUE(Equal(dx[i], expected_dx[i])) << "input " << i;
          EXPECT_TRUE(GuardsIntact(dx[i])) << "input " << i;
        }
      }
    }
  }
}

TEST(ConcatNaiveTest, GradientIsThatOfForward) {
  GuardedTensor<double> a({2, 2, 2, 3}), b({2, 2, 2, 2}), y({2, 2, 2, 5}), dy({2, 2, 2, 5});
  GuardedTensor<double> da({2, 2, 2, 3}), db({2, 2, 2, 2});
  a.FillNormal(RandomStream(1, "a"));
  b.FillNormal(RandomStream(1, "b"));
  dy.FillNormal(RandomStream(1, "dy"));
  const auto loss = [&] {
    ConcatForwardNaive<double>({a.view(), b.view()}, y.view());
    return Dot(y, dy);
  };
  ConcatBackwardNaive<double>(dy.view(), {da.view(), db.view()}, false);
  ExpectGradient(a, da, loss);
  ExpectGradient(b, db, loss);
}

TEST(ConcatShapeTest, TextThereAndBack) {
  for (const ConcatShape& shape : Shapes()) {
    const auto parsed = ConcatShape::Parse(shape.ToString());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->ToString(), shape.ToString());
    EXPECT_EQ(parsed->channels, shape.channels);
  }
  EXPECT_EQ(ConcatShape({64, 32, 16, {64, 128, 32}}).ToString(), "n64c64+128+32h32w16");
  EXPECT_EQ(ConcatShape({64, 32, 16, {64, 128, 32}}).output(), (Shape4{64, 32, 16, 224}));
}

TEST(ConcatShapeTest, RejectsOtherText) {
  for (const char* text :
       {"", "n1", "n1c", "n1c2", "n1ch1w1", "n1c2+h1w1", "n1c+2h1w1", "n1c2++3h1w1", "n1c2h1",
        "c2h1w1", "n1c2h1w1x", "n0c2h1w1", "n1c0h1w1", "n1c2+0h1w1", "n1c-2h1w1", "n1c2h1w1r3",
        "n2147483647c2147483647h2147483647w2147483647", "n1c99999999999999999999h1w1"}) {
    EXPECT_EQ(ConcatShape::Parse(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace classicnn
