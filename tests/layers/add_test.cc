#include "layers/add/add.h"

#include "tests/layers/layer_cases.h"

namespace classicnn {
namespace {

class AddTest : public EveryTarget {};
INSTANTIATE_ON_EVERY_TARGET(AddTest);

TEST_P(AddTest, ForwardEqualsNaive) {
  Context ctx(2);
  for (const TensorCase& t : TensorCases()) {
    for (const size_t count : {2, 3, 5}) {
      for (const bool relu : {false, true}) {
        SCOPED_TRACE(t.ToString() + " inputs " + std::to_string(count) + (relu ? " relu" : ""));
        std::vector<GuardedTensor<float>> x;
        std::vector<ConstTensor> views;
        for (size_t i = 0; i < count; ++i) {
          x.emplace_back(t.shape, t.shape.c + t.gap);
          x.back().FillNormal(RandomStream(1, "x", i));
          x.back().view().data[0] = 1;
        }
        for (const auto& tensor : x) views.push_back(tensor.cview());
        GuardedTensor<float> y(t.shape, t.shape.c + t.gap / 3), expected(t.shape);
        AddForwardNaive<float>(views, expected.view(), relu);
        AddForward(views, y.view(), relu, ctx);
        EXPECT_TRUE(Equal(y, expected));
        EXPECT_TRUE(GuardsIntact(y));
        AddForward(views, x[1].view(), relu, ctx);
        EXPECT_TRUE(Equal(x[1], expected));
        EXPECT_TRUE(GuardsIntact(x[1]));
      }
    }
  }
}

TEST_P(AddTest, BackwardEqualsNaive) {
  Context ctx(2);
  for (const TensorCase& t : TensorCases()) {
    for (const bool accumulate : {false, true}) {
      SCOPED_TRACE(t.ToString() + (accumulate ? " accumulate" : ""));
      GuardedTensor<float> dy(t.shape, t.shape.c + t.gap), dx(t.shape, t.shape.c + t.gap / 2);
      GuardedTensor<float> expected(t.shape);
      dy.FillNormal(RandomStream(1, "dy"));
      if (accumulate) {
        dx.FillNormal(RandomStream(1, "dx"));
        expected.CopyFrom(dx.cview());
      }
      AddBackwardNaive<float>(dy.view(), expected.view(), accumulate);
      AddBackward(dy.view(), dx.view(), accumulate, ctx);
      EXPECT_TRUE(Equal(dx, expected));
      EXPECT_TRUE(GuardsIntact(dx));
    }
  }
}

TEST(AddNaiveTest, GradientIsThatOfForward) {
  GuardedTensor<double> a({2, 2, 2, 3}), b({2, 2, 2, 3}), y({2, 2, 2, 3}), dy({2, 2, 2, 3}),
      da({2, 2, 2, 3});
  a.FillNormal(RandomStream(1, "a"));
  b.FillNormal(RandomStream(1, "b"));
  dy.FillNormal(RandomStream(1, "dy"));
  AddBackwardNaive<double>(dy.view(), da.view(), false);
  ExpectGradient(a, da, [&] {
    AddForwardNaive<double>({a.view(), b.view()}, y.view(), false);
    return Dot(y, dy);
  });
}

}  // namespace
}  // namespace classicnn
