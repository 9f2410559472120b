// A sum of activated tensors, and its gradient with the sums that batch norms need, against the
// naive references one after the other.
#include <cstdint>
#include <string>
#include <vector>

#include "layers/add/add.h"
#include "layers/fusion_passes.h"
#include "layers/relu/relu.h"
#include "tests/layers/fusion_cases.h"
#include "tests/layers/layer_cases.h"

namespace classicnn {
namespace {

class AddFusionTest : public EveryTarget {};
INSTANTIATE_ON_EVERY_TARGET(AddFusionTest);

GuardedTensor<float> Integers(const TensorCase& t, int64_t gap, const char* name, size_t index) {
  GuardedTensor<float> x(t.shape, t.shape.c + gap);
  x.FillIntegers(RandomStream(1, name, index));
  return x;
}

// Inputs as they are, with a batch norm's scale and shift, and with ReLU as well: in all pairs, and
// some longer sums.
TEST_P(AddFusionTest, ForwardAddsTheActivated) {
  Context ctx(2);
  std::vector<std::vector<int>> kinds;
  for (const int a : {0, 1, 2}) {
    for (const int b : {0, 1, 2}) kinds.push_back({a, b});
  }
  kinds.push_back({1, 0, 2});
  kinds.push_back({0, 2, 1, 1});
  for (const TensorCase& t : TensorCases()) {
    for (const std::vector<int>& kind : kinds) {
      for (const bool relu : {false, true}) {
        SCOPED_TRACE(t.ToString() + " kinds " + std::to_string(kind[0]) + std::to_string(kind[1]) +
                     (relu ? " relu" : ""));
        std::vector<GuardedTensor<float>> x, activated;
        std::vector<IntegerChannels> channels;
        std::vector<ConstTensor> views, activated_views;
        std::vector<ActivationPrologue<float>> activations;
        for (size_t i = 0; i < kind.size(); ++i) {
          x.push_back(Integers(t, t.gap, "x", i));
          activated.emplace_back(t.shape);
          channels.emplace_back(t.shape.c, i == 0 ? "first" : "other");
          activations.push_back(kind[i] == 0 ? ActivationPrologue<float>()
                                             : channels[i].activation(kind[i] == 2));
          ActivationPassNaive(activations[i], x[i].cview(), activated[i].view());
          views.push_back(x[i].cview());
          activated_views.push_back(activated[i].cview());
        }
        GuardedTensor<float> y(t.shape, t.shape.c + t.gap / 3), expected(t.shape);
        AddForwardNaive<float>(activated_views, expected.view(), relu);
        AddForward(views, y.view(), relu, ctx, activations);
        ExpectSameValues(y, expected);
        AddForward(views, x[1].view(), relu, ctx, activations);
        ExpectSameValues(x[1], expected);
      }
    }
  }
}

TEST_P(AddFusionTest, BackwardGathersTheSums) {
  Context ctx(2);
  for (const TensorCase& t : TensorCases()) {
    const int64_t c = t.shape.c;
    const GuardedTensor<float> y = Integers(t, t.gap / 2, "y", 0);
    const GuardedTensor<float> x[] = {Integers(t, t.gap, "x", 0), Integers(t, t.gap / 3, "x", 1)};
    const IntegerChannels channels[] = {IntegerChannels(c, "first"), IntegerChannels(c, "second")};
    for (const bool relu : {true, false}) {
      for (const int terms : {0, 1, 2, 3}) {  // one bit for each
        for (const bool in_place : {false, true}) {
          SCOPED_TRACE(t.ToString() + " terms " + std::to_string(terms) + (relu ? " relu" : "") +
                       (in_place ? " in place" : ""));
          GuardedTensor<float> dy = Integers(t, t.gap, "dy", 0), g(t.shape, c + t.gap);
          GuardedTensor<float> expected(t.shape), passed(t.shape);
          if (relu) {
            ReluBackwardNaive<float>(y.cview(), dy.cview(), expected.view(), false);
          } else {
            expected.CopyFrom(dy.cview());
          }
          const GuardedWorkspace workspace(AddReluBackwardWorkspaceBytes(t.shape));
          GradientSums sums[] = {GradientSums(c), GradientSums(c)};
          AddReluBackwardArgs args;
          args.dy = dy.cview();
          if (relu) args.y = y.cview();
          args.g = in_place ? dy.view() : g.view();
          if (terms != 0) args.sum_g = sums[0].g.data();
          for (size_t i = 0; i < 2; ++i) {
            if ((terms >> i & 1) == 0) continue;
            args.terms[i] = {x[i].cview(), channels[i].mean(), sums[i].gx.data()};
          }
          args.workspace = workspace.get();
          AddReluBackward(args, ctx);
          ExpectSameValues(in_place ? dy : g, expected);
          EXPECT_TRUE(GuardsIntact(workspace));
          for (size_t i = 0; i < 2; ++i) {
            if ((terms >> i & 1) == 0) continue;
            GradientSums expected_sums(c);
            GradientEpiloguePassNaive(
                channels[i].epilogue(x[i].cview(), /*relu=*/false, Store::kPlain,
                                     expected_sums.g.data(), expected_sums.gx.data()),
                expected.cview(), passed.view());
            ExpectSameValues(sums[0].g, expected_sums.g);
            ExpectSameValues(sums[i].gx, expected_sums.gx);
          }
        }
      }
    }
  }
}

TEST_P(AddFusionTest, SameBitsOnAnyThreads) {
  const Shape4 shape = {8, 17, 16, 130};
  const IntegerChannels channels(shape.c, "in");
  GuardedTensor<float> x0(shape), x1(shape), dy(shape);
  x0.FillNormal(RandomStream(1, "x0"));
  x1.FillNormal(RandomStream(1, "x1"));
  dy.FillNormal(RandomStream(1, "dy"));
  const GuardedWorkspace workspace(AddReluBackwardWorkspaceBytes(shape));
  ExpectSameOnAnyThreads([&](Context& ctx) {
    GuardedTensor<float> y(shape), g(shape);
    GuardedArray<float> sum_g(shape.c), sum_gx0(shape.c), sum_gx1(shape.c);
    AddForward({x0.cview(), x1.cview()}, y.view(), true, ctx,
               {channels.activation(false), channels.activation(true)});
    AddReluBackwardArgs args;
    args.dy = dy.cview();
    args.y = y.cview();
    args.g = g.view();
    args.terms[0] = {x0.cview(), channels.mean(), sum_gx0.data()};
    args.terms[1] = {x1.cview(), channels.mean(), sum_gx1.data()};
    args.sum_g = sum_g.data();
    args.workspace = workspace.get();
    AddReluBackward(args, ctx);
    return Bits(y) + Bits(g) + Bits(sum_g) + Bits(sum_gx0) + Bits(sum_gx1);
  });
}

}  // namespace
}  // namespace classicnn
