#include "layers/linear/linear.h"

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "core/context.h"
#include "core/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hwy/highway.h"
#include "hwy/tests/hwy_gtest.h"
#include "tests/testing/assertions.h"
#include "tests/testing/buffers.h"

namespace classicnn {
namespace {

TEST(LinearShapeTest, TextRoundTripAndErrors) {
  EXPECT_EQ(LinearShape::Parse("n64c512k10")->ToString(), "n64c512k10");
  for (const char* text : {"", "n64c512", "n64c512k", "n64c512k10x", "n0c512k10", "n64c512k-1",
                           "c512k10", "n2147483647c2147483647k2147483647"}) {
    const auto shape = LinearShape::Parse(text);
    ASSERT_FALSE(shape.ok()) << text;
    EXPECT_THAT(std::string(shape.status().message()), ::testing::HasSubstr(text));
  }
}

// All three passes of one problem, rows `gap` elements further apart than their length.
template <typename T>
struct LinearCase {
  LinearCase(const LinearShape& s, int64_t row_gap)
      : shape(s),
        gap(row_gap),
        x({s.n, 1, 1, s.in_features}, s.in_features + row_gap),
        y({s.n, 1, 1, s.out_features}, s.out_features + row_gap),
        dx({s.n, 1, 1, s.in_features}, s.in_features + row_gap),
        dy({s.n, 1, 1, s.out_features}, s.out_features + row_gap),
        w(s.weight_count()),
        dw(s.weight_count()),
        bias(s.out_features),
        dbias(s.out_features) {}

  void Fill(bool integers, bool accumulate) {
    const auto fill = [&](GuardedTensor<T>& t, const char* name) {
      integers ? t.FillIntegers(RandomStream(1, name)) : t.FillNormal(RandomStream(1, name));
    };
    fill(x, "x");
    fill(dy, "dy");
    fill(w, "w");
    fill(bias, "bias");
    accumulate ? fill(dx, "dx") : dx.FillNan();
    y.FillNan();
    dw.FillNan();
    dbias.FillNan();
  }
  LinearForwardArgs<T> forward(Workspace workspace = {}) {
    return {shape,       x.data(), shape.in_features + gap,  w.data(),
            bias.data(), y.data(), shape.out_features + gap, workspace};
  }
  LinearBackwardDataArgs<T> backward_data(bool accumulate, Workspace workspace = {}) {
    return {shape,      dy.data(), shape.out_features + gap,
            w.data(),   dx.data(), shape.in_features + gap,
            accumulate, workspace};
  }
  LinearBackwardWeightsArgs<T> backward_weights(Workspace workspace = {}) {
    return {shape,
            x.data(),
            shape.in_features + gap,
            dy.data(),
            shape.out_features + gap,
            dw.data(),
            dbias.data(),
            workspace};
  }
  void RunNaive(bool accumulate) {
    LinearForwardNaive(forward());
    LinearBackwardDataNaive(backward_data(accumulate));
    LinearBackwardWeightsNaive(backward_weights());
  }
  void RunOptimized(bool accumulate, Context& ctx) {
    const auto scratch = [&](LinearPass pass) {
      return GuardedWorkspace(LinearWorkspaceBytes(shape, pass, ctx.num_threads()));
    };
    const GuardedWorkspace f = scratch(LinearPass::kForward);
    const GuardedWorkspace d = scratch(LinearPass::kBackwardData);
    const GuardedWorkspace b = scratch(LinearPass::kBackwardWeights);
    LinearForward(forward(f.get()), ctx);
    LinearBackwardData(backward_data(accumulate, d.get()), ctx);
    LinearBackwardWeights(backward_weights(b.get()), ctx);
    for (const auto* s : {&f, &d, &b}) EXPECT_TRUE(GuardsIntact(*s));
    for (const auto* t : {&x, &y, &dx, &dy}) EXPECT_TRUE(GuardsIntact(*t));
    for (const auto* t : {&w, &dw, &bias, &dbias}) EXPECT_TRUE(GuardsIntact(*t));
  }

  LinearShape shape;
  int64_t gap;
  GuardedTensor<T> x, y, dx, dy;
  GuardedArray<T> w, dw, bias, dbias;
};

class LinearTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(LinearTest);

const LinearShape kShapes[] = {{1, 1, 1},     {1, 5, 3},    {2, 512, 10}, {64, 512, 10},
                               {3, 33, 17},   {15, 16, 48}, {37, 70, 64}, {5, 100, 33},
                               {200, 24, 31}, {700, 8, 9}};

TEST_P(LinearTest, IntegersAreExact) {
  Context ctx(1);
  for (const LinearShape& shape : kShapes) {
    for (const bool accumulate : {false, true}) {
      SCOPED_TRACE(shape.ToString());
      LinearCase<float> optimized(shape, accumulate ? 5 : 0);
      LinearCase<double> naive(shape, 0);
      optimized.Fill(/*integers=*/true, accumulate);
      naive.Fill(/*integers=*/true, accumulate);
      optimized.RunOptimized(accumulate, ctx);
      naive.RunNaive(accumulate);
      EXPECT_TRUE(Equal(optimized.y, naive.y));
      EXPECT_TRUE(Equal(optimized.dx, naive.dx));
      EXPECT_TRUE(Equal(optimized.dw, naive.dw));
      EXPECT_TRUE(Equal(optimized.dbias, naive.dbias));
    }
  }
}

TEST_P(LinearTest, RealsAreCloseAndTheSameOnAnyNumberOfThreads) {
  for (const LinearShape& shape : kShapes) {
    SCOPED_TRACE(shape.ToString());
    LinearCase<double> naive(shape, 0);
    LinearCase<float> first(shape, 0);
    naive.Fill(/*integers=*/false, false);
    first.Fill(/*integers=*/false, false);
    // The same inputs: what float holds.
    naive.x.CopyFrom(first.x.cview());
    naive.dy.CopyFrom(first.dy.cview());
    naive.w.CopyFrom(first.w.cview());
    naive.bias.CopyFrom(first.bias.cview());
    naive.RunNaive(false);
    Context one(1);
    first.RunOptimized(false, one);
    EXPECT_TRUE(Close(first.y, naive.y, Tolerance::ForSum(shape.in_features)));
    EXPECT_TRUE(Close(first.dx, naive.dx, Tolerance::ForSum(shape.out_features)));
    EXPECT_TRUE(Close(first.dw, naive.dw, Tolerance::ForSum(shape.n)));
    EXPECT_TRUE(Close(first.dbias, naive.dbias, Tolerance::ForSum(shape.n)));
    for (const int threads : {2, 3, 4, 5, 8}) {
      Context ctx(threads);
      LinearCase<float> again(shape, 0);
      again.Fill(/*integers=*/false, false);
      again.RunOptimized(false, ctx);
      EXPECT_TRUE(Equal(again.y, first.y));
      EXPECT_TRUE(Equal(again.dx, first.dx));
      EXPECT_TRUE(Equal(again.dw, first.dw));
      EXPECT_TRUE(Equal(again.dbias, first.dbias));
    }
  }
}

// As many panels of weights as threads, of which the last is narrow but is packed where any may be.
// What is written beyond its room is only used now and then: many turns.
TEST_P(LinearTest, NarrowPanelsHaveRoom) {
  const struct {
    LinearShape shape;
    int threads;
  } cases[] = {{{8, 80, 64}, 3}, {{8, 112, 64}, 4}, {{8, 144, 64}, 5}, {{8, 240, 64}, 8}};
  for (const auto& [shape, threads] : cases) {
    SCOPED_TRACE(shape.ToString());
    LinearCase<float> once(shape, 0), again(shape, 0);
    once.Fill(/*integers=*/false, false);
    again.Fill(/*integers=*/false, false);
    Context one(1), ctx(threads);
    once.RunOptimized(false, one);
    const GuardedWorkspace scratch(LinearWorkspaceBytes(shape, LinearPass::kBackwardData, threads));
    for (int turn = 0; turn < 2000; ++turn) {
      again.dx.FillNan();
      LinearBackwardData(again.backward_data(false, scratch.get()), ctx);
      ASSERT_TRUE(Equal(again.dx, once.dx)) << "turn " << turn;
    }
    EXPECT_TRUE(GuardsIntact(scratch));
  }
}

TEST(LinearNaiveTest, GradientsMatchFiniteDifferences) {
  for (const LinearShape& shape : {LinearShape{3, 4, 5}, LinearShape{1, 7, 2}}) {
    LinearCase<double> c(shape, 2);
    c.Fill(/*integers=*/false, false);
    const auto differences = [&](GuardedTensor<double>& input) {
      GuardedTensor<double> gradient(input.view().shape());
      const auto loss = [&] {
        LinearForwardNaive(c.forward());
        double sum = 0;
        for (int64_t n = 0; n < shape.n; ++n) {
          for (int64_t k = 0; k < shape.out_features; ++k) {
            sum += c.y.view().Pixel(n)[k] * c.dy.view().Pixel(n)[k];
          }
        }
        return sum;
      };
      gradient.ForEach([&](int64_t i) {
        double& value = input.view().Pixel(i / input.view().c)[i % input.view().c];
        const double before = value;
        value = before + 0.5;
        const double above = loss();
        value = before - 0.5;
        const double below = loss();
        value = before;
        return above - below;
      });
      return gradient;
    };
    c.RunNaive(false);
    EXPECT_TRUE(Close(c.dx, differences(c.x), {1e-11}));
    EXPECT_TRUE(Close(c.dw, differences(c.w), {1e-11}));
    EXPECT_TRUE(Close(c.dbias, differences(c.bias), {1e-11}));
  }
}

}  // namespace
}  // namespace classicnn
