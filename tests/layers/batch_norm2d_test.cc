#include "layers/batch_norm2d/batch_norm2d.h"

#include <cmath>

#include "tests/layers/layer_cases.h"

namespace classicnn {
namespace {

class BatchNorm2dTest : public EveryTarget {};
INSTANTIATE_ON_EVERY_TARGET(BatchNorm2dTest);

// All operands of one layer but the tensors.
template <typename T>
struct Parameters {
  explicit Parameters(int64_t c)
      : gamma(c),
        beta(c),
        running_mean(c),
        running_var(c),
        mean(c),
        inv_std(c),
        dgamma(c),
        dbeta(c) {
    const RandomStream random(3, "parameters");
    const auto uniform = [&](uint64_t i) { return static_cast<T>(random.Uniform(i)); };
    gamma.ForEach([&](int64_t i) { return uniform(static_cast<uint64_t>(4 * i)) + T{0.5}; });
    beta.ForEach([&](int64_t i) { return uniform(static_cast<uint64_t>(4 * i + 1)) - T{0.5}; });
    running_mean.ForEach(
        [&](int64_t i) { return uniform(static_cast<uint64_t>(4 * i + 2)) - T{0.25}; });
    running_var.ForEach(
        [&](int64_t i) { return uniform(static_cast<uint64_t>(4 * i + 3)) + T{0.5}; });
  }

  BatchNorm2dForwardArgs<T> Forward(View<const T> x, View<T> y, bool training, bool relu) {
    BatchNorm2dForwardArgs<T> args;
    args.x = x;
    args.gamma = gamma.data();
    args.beta = beta.data();
    args.y = y;
    args.training = training;
    args.relu = relu;
    args.momentum = 0.25;
    args.running_mean = running_mean.data();
    args.running_var = running_var.data();
    args.mean = mean.data();
    args.inv_std = inv_std.data();
    return args;
  }
  BatchNorm2dBackwardArgs<T> Backward(View<const T> x, View<const T> dy, View<T> dx, bool training,
                                      bool relu) {
    BatchNorm2dBackwardArgs<T> args;
    args.x = x;
    args.dy = dy;
    args.gamma = gamma.data();
    args.beta = relu ? beta.data() : nullptr;
    args.mean = mean.data();
    args.inv_std = inv_std.data();
    args.training = training;
    args.relu = relu;
    args.dx = dx;
    args.dgamma = dgamma.data();
    args.dbeta = dbeta.data();
    return args;
  }

  GuardedArray<T> gamma, beta, running_mean, running_var, mean, inv_std, dgamma, dbeta;
};

void ExpectClose(const Parameters<float>& actual, const Parameters<float>& expected,
                 int64_t terms) {
  const Tolerance tolerance = Tolerance::ForSum(terms);
  EXPECT_TRUE(Close(actual.mean, expected.mean, tolerance));
  EXPECT_TRUE(Close(actual.inv_std, expected.inv_std, tolerance));
  EXPECT_TRUE(Close(actual.running_mean, expected.running_mean, tolerance));
  EXPECT_TRUE(Close(actual.running_var, expected.running_var, tolerance));
  for (const auto* array :
       {&actual.mean, &actual.inv_std, &actual.running_mean, &actual.running_var}) {
    EXPECT_TRUE(GuardsIntact(*array));
  }
}

// A layer without ReLU, forward and backward; M = 1 is another test's (its variance is all zeros).
TEST_P(BatchNorm2dTest, MatchesNaive) {
  Context ctx(2);
  for (const TensorCase& t : TensorCases()) {
    const int64_t m = t.shape.pixels();
    if (m == 1) continue;
    for (const bool training : {true, false}) {
      SCOPED_TRACE(t.ToString() + (training ? " training" : " inference"));
      const int64_t c = t.shape.c;
      GuardedTensor<float> x(t.shape, c + t.gap), y(t.shape, c + t.gap / 2), expected(t.shape);
      x.FillNormal(RandomStream(1, "x"));
      Parameters<float> p(c), reference(c);
      GuardedWorkspace workspace(BatchNorm2dWorkspaceBytes(t.shape, 2));
      auto forward = p.Forward(x.view(), y.view(), training, false);
      forward.workspace = workspace.get();
      BatchNorm2dForwardNaive<float>(reference.Forward(x.view(), expected.view(), training, false));
      BatchNorm2dForward(forward, ctx);
      // With few values a deviation can be far smaller than the values it is the difference of.
      const Tolerance tolerance = Tolerance::ForSum(m < 20 ? 1000 : m);
      EXPECT_TRUE(Close(y, expected, tolerance));
      EXPECT_TRUE(GuardsIntact(y));
      EXPECT_TRUE(GuardsIntact(workspace));
      ExpectClose(p, reference, m < 20 ? 1000 : m);

      GuardedTensor<float> dy(t.shape, c + t.gap / 3), dx(t.shape, c + t.gap), expected_dx(t.shape);
      dy.FillNormal(RandomStream(1, "dy"));
      for (const bool accumulate : {false, true}) {  // the second run adds to the first
        auto backward = p.Backward(x.view(), dy.view(), dx.view(), training, false);
        backward.workspace = workspace.get();
        auto naive = reference.Backward(x.view(), dy.view(), expected_dx.view(), training, false);
        backward.accumulate = naive.accumulate = accumulate;
        BatchNorm2dBackwardNaive<float>(naive);
        BatchNorm2dBackward(backward, ctx);
        if (m > 2 || !training) {
          EXPECT_TRUE(Close(dx, expected_dx, tolerance));
        }
        EXPECT_TRUE(Close(p.dgamma, reference.dgamma, tolerance));
        EXPECT_TRUE(Close(p.dbeta, reference.dbeta, tolerance));
        for (const auto* array : {&p.dgamma, &p.dbeta}) EXPECT_TRUE(GuardsIntact(*array));
        EXPECT_TRUE(GuardsIntact(dx));
        EXPECT_TRUE(GuardsIntact(workspace));
      }
      auto in_place = p.Backward(x.view(), dy.view(), dy.view(), training, false);
      in_place.workspace = workspace.get();
      BatchNorm2dBackwardNaive<float>(
          reference.Backward(x.view(), dy.view(), expected_dx.view(), training, false));
      BatchNorm2dBackward(in_place, ctx);
      if (m > 2 || !training) {
        EXPECT_TRUE(Close(dy, expected_dx, tolerance));
      }
      forward.y = x.view();
      BatchNorm2dForward(forward, ctx);
      if (training) {
        EXPECT_TRUE(Close(x, expected, tolerance));
      }
      EXPECT_TRUE(GuardsIntact(x));
      EXPECT_TRUE(GuardsIntact(dy));
    }
  }
}

// Where rounding may put a value on either side of zero, the naive mask says nothing: the gradients
// are compared with those of the layer without ReLU, given dy masked by the y that forward wrote.
TEST_P(BatchNorm2dTest, ReluMaskIsThatOfForward) {
  Context ctx(2);
  for (const TensorCase& t : TensorCases()) {
    const int64_t c = t.shape.c;
    for (const bool training : {true, false}) {
      SCOPED_TRACE(t.ToString() + (training ? " training" : " inference"));
      GuardedTensor<float> x(t.shape, c + t.gap), y(t.shape, c + t.gap), plain(t.shape);
      x.FillNormal(RandomStream(1, "x"));
      Parameters<float> p(c), q(c);
      // Every fourth channel passes zero exactly, at its mean.
      for (int64_t i = 0; i < c; i += 4) p.beta.data()[i] = q.beta.data()[i] = 0;
      GuardedWorkspace workspace(BatchNorm2dWorkspaceBytes(t.shape, 2));
      auto forward = p.Forward(x.view(), y.view(), training, true);
      auto without = q.Forward(x.view(), plain.view(), training, false);
      forward.workspace = without.workspace = workspace.get();
      BatchNorm2dForward(forward, ctx);
      BatchNorm2dForward(without, ctx);
      plain.ForEach([&](int64_t i) { return std::max(0.0f, plain.data()[i]); });
      EXPECT_EQ(Bits(y), Bits(plain));

      GuardedTensor<float> dy(t.shape, c + t.gap), masked(t.shape), dx(t.shape, c + t.gap);
      GuardedTensor<float> expected_dx(t.shape);
      dy.FillNormal(RandomStream(1, "dy"));
      masked.ForEach([&](int64_t i) {
        return y.view().Pixel(i / c)[i % c] > 0 ? dy.view().Pixel(i / c)[i % c] : 0.0f;
      });
      auto backward = p.Backward(x.view(), dy.view(), dx.view(), training, true);
      auto expected = q.Backward(x.view(), masked.view(), expected_dx.view(), training, false);
      backward.workspace = expected.workspace = workspace.get();
      BatchNorm2dBackward(backward, ctx);
      BatchNorm2dBackward(expected, ctx);
      for (int64_t i = 0; i < t.shape.size(); ++i) {
        const float value = dx.view().Pixel(i / c)[i % c];
        ASSERT_NEAR(value, expected_dx.data()[i], 1e-5 + 1e-5 * std::abs(value)) << i;
      }
      for (int64_t i = 0; i < c; ++i) {
        ASSERT_NEAR(p.dgamma.data()[i], q.dgamma.data()[i], 1e-3) << i;
        ASSERT_NEAR(p.dbeta.data()[i], q.dbeta.data()[i], 1e-3) << i;
      }
      EXPECT_TRUE(GuardsIntact(dx));
    }
  }
}

TEST_P(BatchNorm2dTest, VarianceSurvivesAFarMean) {
  Context ctx(2);
  for (const Shape4& shape : {Shape4{8, 16, 16, 5}, Shape4{16, 32, 32, 16}, Shape4{4, 7, 7, 64}}) {
    for (const bool bad_corner : {false, true}) {
      SCOPED_TRACE(shape.ToString() + (bad_corner ? " with other corners" : ""));
      GuardedTensor<float> x(shape), y(shape), expected(shape);
      const RandomStream random(1, "x");
      x.ForEach([&](int64_t i) {
        const bool corner = bad_corner && i % (shape.h * shape.w * shape.c) < shape.c;
        return corner ? 0.0f : 1000.0f + 30.0f * random.Normal(static_cast<uint64_t>(i));
      });
      Parameters<float> p(shape.c), reference(shape.c);
      GuardedWorkspace workspace(BatchNorm2dWorkspaceBytes(shape, 2));
      auto args = p.Forward(x.view(), y.view(), true, false);
      args.workspace = workspace.get();
      BatchNorm2dForward(args, ctx);
      BatchNorm2dForwardNaive<float>(reference.Forward(x.view(), expected.view(), true, false));
      EXPECT_TRUE(Close(p.mean, reference.mean, Tolerance{1e-7}));
      EXPECT_TRUE(Close(p.inv_std, reference.inv_std, Tolerance{5e-6}));
      EXPECT_TRUE(Close(p.running_var, reference.running_var, Tolerance{1e-5}));
      EXPECT_TRUE(Close(y, expected, Tolerance{1e-5}));
    }
  }
}

TEST_P(BatchNorm2dTest, OneValueAChannel) {
  Context ctx(1);
  const Shape4 shape = {1, 1, 1, 21};
  GuardedTensor<float> x(shape), y(shape), expected(shape);
  x.FillNormal(RandomStream(1, "x"));
  Parameters<float> p(21), reference(21);
  GuardedWorkspace workspace(BatchNorm2dWorkspaceBytes(shape, 1));
  auto args = p.Forward(x.view(), y.view(), true, false);
  args.workspace = workspace.get();
  BatchNorm2dForward(args, ctx);
  BatchNorm2dForwardNaive<float>(reference.Forward(x.view(), expected.view(), true, false));
  EXPECT_TRUE(Close(y, p.beta, Tolerance{1e-4}));  // x - mean is 0
  EXPECT_TRUE(Close(expected, p.beta, Tolerance{1e-6}));
  EXPECT_TRUE(Close(p.running_var, reference.running_var, Tolerance{1e-6}));
}

// Inference makes the gradient along with the sums, run by run of a piece, past the caches.
TEST_P(BatchNorm2dTest, InferenceGradientOfManyPixels) {
  Context ctx(2);
  const Shape4 shape{64, 61, 61, 24};
  GuardedTensor<float> x(shape), dy(shape), dx(shape), expected_dx(shape);
  x.FillNormal(RandomStream(1, "x"));
  dy.FillNormal(RandomStream(1, "dy"));
  Parameters<float> p(shape.c), reference(shape.c);
  GuardedWorkspace workspace(BatchNorm2dWorkspaceBytes(shape, 2));
  auto forward = p.Forward(x.view(), dx.view(), false, false);
  forward.workspace = workspace.get();
  BatchNorm2dForward(forward, ctx);
  BatchNorm2dForwardNaive<float>(reference.Forward(x.view(), expected_dx.view(), false, false));
  auto backward = p.Backward(x.view(), dy.view(), dx.view(), false, false);
  backward.workspace = workspace.get();
  BatchNorm2dBackward(backward, ctx);
  BatchNorm2dBackwardNaive<float>(
      reference.Backward(x.view(), dy.view(), expected_dx.view(), false, false));
  EXPECT_TRUE(Close(dx, expected_dx, Tolerance{1e-5}));
  EXPECT_TRUE(GuardsIntact(dx));
  const Tolerance tolerance = Tolerance::ForSum(shape.pixels());
  EXPECT_TRUE(Close(p.dgamma, reference.dgamma, tolerance));
  EXPECT_TRUE(Close(p.dbeta, reference.dbeta, tolerance));
}

TEST_P(BatchNorm2dTest, SameBitsOnAnyThreads) {
  for (const Shape4& shape : {Shape4{8, 16, 17, 64}, Shape4{8, 16, 16, 24}, Shape4{6, 8, 8, 200}}) {
    GuardedTensor<float> x(shape), dy(shape);
    x.FillNormal(RandomStream(1, "x"));
    dy.FillNormal(RandomStream(1, "dy"));
    ExpectSameOnAnyThreads([&](Context& ctx) {
      GuardedTensor<float> y(shape), dx(shape);
      Parameters<float> p(shape.c);
      GuardedWorkspace workspace(BatchNorm2dWorkspaceBytes(shape, ctx.num_threads()));
      auto forward = p.Forward(x.view(), y.view(), true, true);
      auto backward = p.Backward(x.view(), dy.view(), dx.view(), true, true);
      forward.workspace = backward.workspace = workspace.get();
      BatchNorm2dForward(forward, ctx);
      BatchNorm2dBackward(backward, ctx);
      EXPECT_TRUE(GuardsIntact(workspace));
      return Bits(y) + Bits(dx) + Bits(p.mean) + Bits(p.inv_std) + Bits(p.running_mean) +
             Bits(p.running_var) + Bits(p.dgamma) + Bits(p.dbeta);
    });
  }
}

TEST(BatchNorm2dNaiveTest, GradientsAreThoseOfForward) {
  const Shape4 shape = {3, 2, 3, 4};
  for (const bool training : {true, false}) {
    for (const bool relu : {true, false}) {
      SCOPED_TRACE(std::string(training ? "training" : "inference") + (relu ? " relu" : ""));
      GuardedTensor<double> x(shape), y(shape), dy(shape), dx(shape);
      x.FillNormal(RandomStream(1, "x"));
      dy.FillNormal(RandomStream(1, "dy"));
      Parameters<double> p(shape.c);
      const auto loss = [&] {
        BatchNorm2dForwardNaive<double>(p.Forward(x.view(), y.view(), training, relu));
        return Dot(y, dy);
      };
      loss();
      BatchNorm2dBackwardNaive<double>(p.Backward(x.view(), dy.view(), dx.view(), training, relu));
      ExpectGradient(x, dx, loss);
      ExpectGradient(p.gamma, p.dgamma, loss);
      ExpectGradient(p.beta, p.dbeta, loss);
    }
  }
}

TEST(BatchNorm2dNaiveTest, RunningStatisticsByHand) {
  GuardedTensor<double> x({1, 1, 4, 1}), y({1, 1, 4, 1});
  x.ForEach([](int64_t i) { return std::vector<double>({1, 2, 3, 6})[static_cast<size_t>(i)]; });
  Parameters<double> p(1);
  p.running_mean.data()[0] = 1;
  p.running_var.data()[0] = 2;
  BatchNorm2dForwardNaive<double>(p.Forward(x.view(), y.view(), true, false));
  EXPECT_DOUBLE_EQ(p.mean.data()[0], 3);
  EXPECT_DOUBLE_EQ(p.inv_std.data()[0], 1 / std::sqrt(3.5 + 1e-5));
  EXPECT_DOUBLE_EQ(p.running_mean.data()[0], 0.75 * 1 + 0.25 * 3);
  EXPECT_DOUBLE_EQ(p.running_var.data()[0], 0.75 * 2 + 0.25 * 14.0 / 3);
}

}  // namespace
}  // namespace classicnn
