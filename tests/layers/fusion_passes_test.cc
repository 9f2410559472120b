// The passes of layers/fusion_passes.h against their naive references; and, with the formulas of
// layers/batch_norm2d/batch_norm2d_fused.h between them, against batch normalization itself.
#include "layers/fusion_passes.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "layers/batch_norm2d/batch_norm2d.h"
#include "layers/batch_norm2d/batch_norm2d_fused.h"
#include "tests/layers/fusion_cases.h"
#include "tests/layers/layer_cases.h"

namespace classicnn {
namespace {

class FusionPassesTest : public EveryTarget {};
INSTANTIATE_ON_EVERY_TARGET(FusionPassesTest);

GuardedTensor<float> Integers(const TensorCase& t, int64_t gap, const char* name) {
  GuardedTensor<float> x(t.shape, t.shape.c + gap);
  x.FillIntegers(RandomStream(1, name));
  return x;
}

GuardedTensor<double> InDouble(const GuardedTensor<float>& t) {
  GuardedTensor<double> d(t.view().shape());
  d.CopyFrom(t.cview());
  return d;
}

TEST_P(FusionPassesTest, ActivationEqualsNaive) {
  Context ctx(2);
  for (const TensorCase& t : TensorCases()) {
    const IntegerChannels channels(t.shape.c, "in");
    for (const bool relu : {false, true}) {
      SCOPED_TRACE(t.ToString() + (relu ? " relu" : ""));
      GuardedTensor<float> x = Integers(t, t.gap, "x");
      GuardedTensor<float> y(t.shape, t.shape.c + t.gap / 2), expected(t.shape);
      const auto activation = channels.activation(relu);
      ActivationPassNaive(activation, x.cview(), expected.view());
      ActivationPass(activation, x.view(), y.view(), ctx);
      ExpectSameValues(y, expected);
      ActivationPass(activation, x.view(), x.view(), ctx);
      ExpectSameValues(x, expected);
    }
  }
}

TEST_P(FusionPassesTest, GradientEqualsNaive) {
  Context ctx(2);
  for (const TensorCase& t : TensorCases()) {
    SCOPED_TRACE(t.ToString());
    const IntegerChannels channels(t.shape.c, "out");
    const GuardedTensor<float> x = Integers(t, t.gap / 2, "x");
    GuardedTensor<float> dy = Integers(t, t.gap, "dy");
    GuardedTensor<float> to(t.shape, t.shape.c + t.gap / 3), expected(t.shape);
    const auto gradient = channels.gradient(x.cview());
    GradientPassNaive(gradient, dy.cview(), expected.view());
    GradientPass(gradient, dy.view(), to.view(), ctx);
    ExpectSameValues(to, expected);
    GradientPass(gradient, dy.view(), dy.view(), ctx);
    ExpectSameValues(dy, expected);
  }
}

TEST_P(FusionPassesTest, GradientEpilogueEqualsNaive) {
  Context ctx(2);
  for (const TensorCase& t : TensorCases()) {
    const IntegerChannels channels(t.shape.c, "in");
    const GuardedTensor<float> x = Integers(t, t.gap / 2, "x");
    const GuardedTensor<float> before = Integers(t, 0, "before");
    const GuardedWorkspace workspace(GradientEpiloguePassWorkspaceBytes(t.shape));
    for (const Store store : {Store::kPlain, Store::kGained, Store::kAdded}) {
      for (const bool relu : {false, true}) {
        SCOPED_TRACE(t.ToString() + " store " + std::to_string(static_cast<int>(store)) +
                     (relu ? " relu" : ""));
        GuardedTensor<float> da = Integers(t, t.gap, "da");
        GuardedTensor<float> dx(t.shape, t.shape.c + t.gap / 3), expected(t.shape);
        dx.CopyFrom(before.cview());
        expected.CopyFrom(before.cview());
        GradientSums sums(t.shape.c), expected_sums(t.shape.c);
        GradientEpiloguePassNaive(channels.epilogue(x.cview(), relu, store, expected_sums.g.data(),
                                                    expected_sums.gx.data()),
                                  da.cview(), expected.view());
        const auto epilogue =
            channels.epilogue(x.cview(), relu, store, sums.g.data(), sums.gx.data());
        GradientEpiloguePass(epilogue, da.view(), dx.view(), workspace.get(), ctx);
        ExpectSameValues(dx, expected);
        ExpectSameValues(sums, expected_sums);
        EXPECT_TRUE(GuardsIntact(workspace));
        if (store == Store::kAdded) continue;
        GradientEpiloguePass(epilogue, da.view(), da.view(), workspace.get(), ctx);
        ExpectSameValues(da, expected);
        ExpectSameValues(sums, expected_sums);
      }
    }
  }
}

// What normalization starts from: around zero, and far from it.
struct Distribution {
  double mean;
  double deviation;
};
constexpr Distribution kDistributions[] = {{0, 1}, {1000, 30}};

void Fill(const Distribution& distribution, GuardedTensor<float>* x) {
  const RandomStream random(1, "x");
  x->ForEach([&](int64_t i) {
    return static_cast<float>(distribution.mean +
                              distribution.deviation * random.Normal(static_cast<uint64_t>(i)));
  });
}

// Enough values for deviations of the order of the values, so that float can be held to double.
std::vector<TensorCase> ManyValues() {
  std::vector<TensorCase> cases;
  for (const TensorCase& t : TensorCases()) {
    if (t.shape.pixels() >= 6) cases.push_back(t);
  }
  return cases;
}
Tolerance ToleranceOf(const TensorCase& t) {
  return Tolerance::ForSum(std::max<int64_t>(1000, t.shape.pixels()));
}

TEST_P(FusionPassesTest, StatisticsMatchNaive) {
  Context ctx(2);
  for (const TensorCase& t : ManyValues()) {
    for (const Distribution& distribution : kDistributions) {
      SCOPED_TRACE(t.ToString() + " mean " + std::to_string(distribution.mean));
      const int64_t c = t.shape.c;
      GuardedTensor<float> x(t.shape, c + t.gap);
      Fill(distribution, &x);
      GuardedArray<float> mean(c), var(c);
      GuardedArray<double> expected_mean(c), expected_var(c);
      const GuardedWorkspace workspace(StatisticsPassWorkspaceBytes(t.shape));
      StatisticsPassNaive<double>({expected_mean.data(), expected_var.data()}, InDouble(x).cview());
      StatisticsPass({mean.data(), var.data()}, x.view(), workspace.get(), ctx);
      EXPECT_TRUE(Close(mean, expected_mean, ToleranceOf(t)));
      EXPECT_TRUE(Close(var, expected_var, ToleranceOf(t)));
      EXPECT_TRUE(GuardsIntact(mean));
      EXPECT_TRUE(GuardsIntact(var));
      EXPECT_TRUE(GuardsIntact(workspace));
    }
  }
}

// One batch norm (and ReLU) of a tensor, done by passes and folds.
struct FusedNorm {
  FusedNorm(int64_t c, uint64_t index)
      : gamma(c),
        beta(c),
        running_mean(c),
        running_var(c),
        mean(c),
        var(c),
        scale(c),
        shift(c),
        sum_g(c),
        sum_gx(c),
        dgamma(c),
        dbeta(c),
        gain(c),
        slope(c),
        offset(c) {
    const RandomStream random(3, "norm", index);
    const auto uniform = [&](int64_t i, uint64_t which) {
      return static_cast<float>(random.Uniform(4 * static_cast<uint64_t>(i) + which));
    };
    gamma.ForEach([&](int64_t i) { return uniform(i, 0) + 0.5f; });
    beta.ForEach([&](int64_t i) { return uniform(i, 1) - 0.5f; });
    running_mean.ForEach([&](int64_t i) { return uniform(i, 2) - 0.25f; });
    running_var.ForEach([&](int64_t i) { return uniform(i, 3) + 0.5f; });
  }

  void Forward(const GuardedTensor<float>& x, const Tensor& y, bool relu, Context& ctx) {
    const Shape4 shape = x.view().shape();
    const GuardedWorkspace workspace(StatisticsPassWorkspaceBytes(shape));
    StatisticsPass({mean.data(), var.data()}, x.cview(), workspace.get(), ctx);
    BatchNorm2dFoldForwardArgs fold;
    fold.channels = shape.c;
    fold.pixels = shape.pixels();
    fold.mean = mean.data();
    fold.var = var.data();
    fold.gamma = gamma.data();
    fold.beta = beta.data();
    fold.momentum = 0.25;
    fold.running_mean = running_mean.data();
    fold.running_var = running_var.data();
    fold.scale = scale.data();
    fold.shift = shift.data();
    BatchNorm2dFoldForward(fold);
    ActivationPass({scale.data(), shift.data(), relu}, x.cview(), y, ctx);
  }

  GradientEpilogue<float> Epilogue(const GuardedTensor<float>& x, bool relu) const {
    GradientEpilogue<float> e;
    e.x = x.cview();
    e.scale = scale.data();
    e.shift = shift.data();
    e.relu = relu;
    e.mean = mean.data();
    e.sum_g = sum_g.data();
    e.sum_gx = sum_gx.data();
    return e;
  }
  BatchNorm2dFoldBackwardArgs Fold(int64_t channels, int64_t pixels) const {
    BatchNorm2dFoldBackwardArgs fold;
    fold.channels = channels;
    fold.pixels = pixels;
    fold.mean = mean.data();
    fold.var = var.data();
    fold.gamma = gamma.data();
    fold.sum_g = sum_g.data();
    fold.sum_gx = sum_gx.data();
    fold.dgamma = dgamma.data();
    fold.dbeta = dbeta.data();
    return fold;
  }

  GuardedArray<float> gamma, beta, running_mean, running_var, mean, var, scale, shift;
  GuardedArray<float> sum_g, sum_gx, dgamma, dbeta, gain, slope, offset;
};

// The layer in double, with the same parameters.
struct ReferenceNorm {
  ReferenceNorm(const FusedNorm& norm, const GuardedTensor<float>& input)
      : x(InDouble(input)),
        y(input.view().shape()),
        gamma(InDouble(norm.gamma)),
        beta(InDouble(norm.beta)),
        running_mean(InDouble(norm.running_mean)),
        running_var(InDouble(norm.running_var)),
        mean(input.view().c),
        inv_std(input.view().c),
        dgamma(input.view().c),
        dbeta(input.view().c) {}

  void Forward(bool relu) {
    BatchNorm2dForwardArgs<double> args;
    args.x = x.cview();
    args.gamma = gamma.data();
    args.beta = beta.data();
    args.y = y.view();
    args.relu = relu;
    args.momentum = 0.25;
    args.running_mean = running_mean.data();
    args.running_var = running_var.data();
    args.mean = mean.data();
    args.inv_std = inv_std.data();
    BatchNorm2dForwardNaive(args);
  }
  // Without ReLU: the gradient comes masked.
  void Backward(const GuardedTensor<double>& dy, GuardedTensor<double>* dx, bool accumulate) {
    BatchNorm2dBackwardArgs<double> args;
    args.x = x.cview();
    args.dy = dy.cview();
    args.gamma = gamma.data();
    args.mean = mean.data();
    args.inv_std = inv_std.data();
    args.dx = dx->view();
    args.accumulate = accumulate;
    args.dgamma = dgamma.data();
    args.dbeta = dbeta.data();
    BatchNorm2dBackwardNaive(args);
  }

  GuardedTensor<double> x, y, gamma, beta, running_mean, running_var;
  GuardedArray<double> mean, inv_std, dgamma, dbeta;
};

// dy where y > 0. Where rounding may put a value on either side of zero, the mask of the reference
// in double says nothing: it is given that of the values that forward wrote.
GuardedTensor<double> Masked(const GuardedTensor<float>& dy, const GuardedTensor<float>& y) {
  GuardedTensor<double> g(dy.view().shape());
  const int64_t c = dy.view().c;
  g.ForEach([&](int64_t i) {
    return y.view().Pixel(i / c)[i % c] > 0 ? dy.view().Pixel(i / c)[i % c] : 0.0;
  });
  return g;
}

TEST_P(FusionPassesTest, ForwardIsBatchNormalization) {
  Context ctx(2);
  for (const TensorCase& t : ManyValues()) {
    for (const Distribution& distribution : kDistributions) {
      for (const bool relu : {false, true}) {
        SCOPED_TRACE(t.ToString() + " mean " + std::to_string(distribution.mean) +
                     (relu ? " relu" : ""));
        GuardedTensor<float> x(t.shape, t.shape.c + t.gap), y(t.shape, t.shape.c + t.gap / 2);
        Fill(distribution, &x);
        FusedNorm norm(t.shape.c, 0);
        ReferenceNorm reference(norm, x);
        norm.Forward(x, y.view(), relu, ctx);
        reference.Forward(relu);
        EXPECT_TRUE(Close(y, reference.y, ToleranceOf(t)));
        EXPECT_TRUE(Close(norm.running_mean, reference.running_mean, ToleranceOf(t)));
        EXPECT_TRUE(Close(norm.running_var, reference.running_var, ToleranceOf(t)));
        for (const auto* array :
             {&norm.running_mean, &norm.running_var, &norm.scale, &norm.shift}) {
          EXPECT_TRUE(GuardsIntact(*array));
        }
        EXPECT_TRUE(GuardsIntact(y));
      }
    }
  }
}

TEST_P(FusionPassesTest, BackwardIsThatOfBatchNormalization) {
  Context ctx(2);
  for (const TensorCase& t : ManyValues()) {
    const int64_t c = t.shape.c;
    for (const Distribution& distribution : kDistributions) {
      for (const bool relu : {false, true}) {
        SCOPED_TRACE(t.ToString() + " mean " + std::to_string(distribution.mean) +
                     (relu ? " relu" : ""));
        GuardedTensor<float> x(t.shape, c + t.gap), y(t.shape), dy(t.shape, c + t.gap / 3);
        GuardedTensor<float> g(t.shape, c + t.gap);
        GuardedTensor<double> dx(t.shape);
        Fill(distribution, &x);
        dy.FillNormal(RandomStream(1, "dy"));
        FusedNorm norm(c, 0);
        ReferenceNorm reference(norm, x);
        norm.Forward(x, y.view(), relu, ctx);
        reference.Forward(relu);
        reference.Backward(relu ? Masked(dy, y) : InDouble(dy), &dx, false);

        const GuardedWorkspace workspace(GradientEpiloguePassWorkspaceBytes(t.shape));
        GradientEpiloguePass(norm.Epilogue(x, relu), dy.cview(), g.view(), workspace.get(), ctx);
        BatchNorm2dFoldBackwardArgs fold = norm.Fold(c, t.shape.pixels());
        fold.gain = norm.gain.data();
        fold.slope = norm.slope.data();
        fold.offset = norm.offset.data();
        BatchNorm2dFoldBackward(fold);
        GradientPass({x.cview(), norm.gain.data(), norm.slope.data(), norm.offset.data()},
                     g.cview(), g.view(), ctx);
        EXPECT_TRUE(Close(g, dx, ToleranceOf(t)));
        EXPECT_TRUE(Close(norm.dgamma, reference.dgamma, ToleranceOf(t)));
        EXPECT_TRUE(Close(norm.dbeta, reference.dbeta, ToleranceOf(t)));
        EXPECT_TRUE(GuardsIntact(g));
        for (const auto* array :
             {&norm.dgamma, &norm.dbeta, &norm.gain, &norm.slope, &norm.offset}) {
          EXPECT_TRUE(GuardsIntact(*array));
        }
      }
    }
  }
}

// As in a dense block: three batch norms with ReLU read one tensor. Each adds its gained g to one
// gradient; slopes and offsets add up beside it.
TEST_P(FusionPassesTest, GradientsOfSeveralReadersAddUp) {
  Context ctx(2);
  for (const TensorCase& t : ManyValues()) {
    const int64_t c = t.shape.c;
    for (const Distribution& distribution : kDistributions) {
      SCOPED_TRACE(t.ToString() + " mean " + std::to_string(distribution.mean));
      GuardedTensor<float> x(t.shape, c + t.gap), gradient(t.shape, c + t.gap / 2);
      GuardedTensor<double> dx(t.shape);
      GuardedArray<float> ones(c), slope(c), offset(c);
      Fill(distribution, &x);
      ones.ForEach([](int64_t) { return 1.0f; });
      const GuardedWorkspace workspace(GradientEpiloguePassWorkspaceBytes(t.shape));
      for (uint64_t reader = 0; reader < 3; ++reader) {
        GuardedTensor<float> y(t.shape), dy(t.shape);
        dy.FillNormal(RandomStream(1, "dy", reader));
        FusedNorm norm(c, reader);
        ReferenceNorm reference(norm, x);
        norm.Forward(x, y.view(), /*relu=*/true, ctx);
        reference.Forward(/*relu=*/true);
        reference.Backward(Masked(dy, y), &dx, /*accumulate=*/reader > 0);

        GradientEpilogue<float> epilogue = norm.Epilogue(x, /*relu=*/true);
        epilogue.gain = norm.scale.data();  // gamma * inv_std
        epilogue.add = reader > 0;
        GradientEpiloguePass(epilogue, dy.cview(), gradient.view(), workspace.get(), ctx);
        BatchNorm2dFoldBackwardArgs fold = norm.Fold(c, t.shape.pixels());
        fold.accumulate = reader > 0;
        fold.slope = slope.data();
        fold.offset = offset.data();
        BatchNorm2dFoldBackward(fold);
        EXPECT_TRUE(Close(norm.dgamma, reference.dgamma, ToleranceOf(t)));
        EXPECT_TRUE(Close(norm.dbeta, reference.dbeta, ToleranceOf(t)));
      }
      GradientPass({x.cview(), ones.data(), slope.data(), offset.data()}, gradient.cview(),
                   gradient.view(), ctx);
      EXPECT_TRUE(Close(gradient, dx, ToleranceOf(t)));
      EXPECT_TRUE(GuardsIntact(gradient));
    }
  }
}

// A rerun of a forward pass must not move the running statistics a second time.
TEST(BatchNorm2dFoldTest, LeavesRunningStatisticsAloneWhereThereAreNone) {
  constexpr int64_t kChannels = 5;
  FusedNorm norm(kChannels, 0);
  for (auto* array : {&norm.mean, &norm.var}) array->ForEach([](int64_t) { return 2.0f; });
  BatchNorm2dFoldForwardArgs fold;
  fold.channels = kChannels;
  fold.pixels = 4;
  fold.mean = norm.mean.data();
  fold.var = norm.var.data();
  fold.gamma = norm.gamma.data();
  fold.beta = norm.beta.data();
  fold.running_mean = norm.running_mean.data();
  fold.running_var = norm.running_var.data();
  fold.scale = norm.scale.data();
  fold.shift = norm.shift.data();
  BatchNorm2dFoldForward(fold);
  const std::vector<float> scale = Values(norm.scale), shift = Values(norm.shift);
  const std::vector<float> moved = Values(norm.running_mean);
  fold.running_mean = nullptr;
  fold.running_var = nullptr;
  BatchNorm2dFoldForward(fold);
  EXPECT_EQ(Values(norm.scale), scale);
  EXPECT_EQ(Values(norm.shift), shift);
  EXPECT_EQ(Values(norm.running_mean), moved);
}

TEST_P(FusionPassesTest, SameBitsOnAnyThreads) {
  const Shape4 shape = {8, 17, 16, 130};
  GuardedTensor<float> x(shape), dy(shape);
  Fill(kDistributions[1], &x);
  dy.FillNormal(RandomStream(1, "dy"));
  const GuardedWorkspace workspace(GradientEpiloguePassWorkspaceBytes(shape));
  ExpectSameOnAnyThreads([&](Context& ctx) {
    GuardedTensor<float> y(shape), g(shape);
    FusedNorm norm(shape.c, 0);
    norm.Forward(x, y.view(), /*relu=*/true, ctx);
    GradientEpiloguePass(norm.Epilogue(x, /*relu=*/true), dy.cview(), g.view(), workspace.get(),
                         ctx);
    std::string bits = Bits(y) + Bits(g);
    for (const auto* array : {&norm.mean, &norm.var, &norm.sum_g, &norm.sum_gx}) {
      bits += Bits(*array);
    }
    return bits;
  });
}

}  // namespace
}  // namespace classicnn
