#include "layers/outer_product.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "core/random.h"
#include "gtest/gtest.h"
#include "hwy/highway.h"
#include "hwy/tests/hwy_gtest.h"
#include "layers/narrow_product.h"
#include "tests/testing/buffers.h"

namespace classicnn {
namespace {

class OuterProductTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(OuterProductTest);

struct Case {
  int64_t rows, columns, pixels, block_pixels;
};
const Case kCases[] = {{1, 1, 1, 1},      {3, 10, 5, 4},     {14, 32, 64, 16},   {15, 33, 70, 32},
                       {40, 70, 129, 48}, {100, 17, 37, 37}, {128, 64, 128, 64}, {6, 16, 33, 32}};

// Small whole numbers: all sums are exact.
void Check(const Case& c, bool activation, bool relu, bool gradient) {
  SCOPED_TRACE(std::to_string(c.rows) + " x " + std::to_string(c.columns) + ", " +
               std::to_string(c.pixels) + " pixels by " + std::to_string(c.block_pixels) +
               (activation ? ", activation" : "") + (relu ? ", relu" : "") +
               (gradient ? ", gradient" : ""));
  GuardedTensor<float> a({1, 1, c.pixels, c.rows}, c.rows + 3);
  GuardedTensor<float> b({1, 1, c.pixels, c.columns}, c.columns + 1);
  GuardedTensor<float> x({1, 1, c.pixels, c.columns}, c.columns + 2);
  GuardedTensor<float> out({1, 1, c.rows, c.columns}, c.columns + 5);
  std::vector<GuardedArray<float>> per_channel;
  for (int i = 0; i < 5; ++i) {
    per_channel.emplace_back(i < 2 ? c.rows : c.columns);
    per_channel.back().FillIntegers(RandomStream(2, std::to_string(i)), 2);
  }
  a.FillIntegers(RandomStream(1, "a"));
  b.FillIntegers(RandomStream(1, "b"));
  x.FillIntegers(RandomStream(1, "x"));

  ActivationPrologue<float> activate{per_channel[0].data(), per_channel[1].data(), relu};
  GradientPrologue<float> derive{x.cview(), per_channel[2].data(), per_channel[3].data(),
                                 per_channel[4].data()};
  OuterReduction r;
  r.a = {a.data(), c.rows + 3, c.rows, 0};
  r.b = {b.data(), c.columns + 1, c.columns, 0};
  if (activation) r.activation = &activate;
  if (gradient) {
    r.gradient = &derive;
    r.x = x.data();
  }
  r.pixels = c.pixels;
  r.block_pixels = c.block_pixels;
  const auto expected = [&](int64_t i, int64_t j) {
    double sum = 0;
    for (int64_t p = 0; p < c.pixels; ++p) {
      double u = a.data()[p * (c.rows + 3) + i];
      if (activation) u = u * activate.scale[i] + activate.shift[i];
      if (activation && relu) u = std::max(u, 0.0);
      double v = b.data()[p * (c.columns + 1) + j];
      if (gradient) {
        v = v * derive.gain[j] + x.data()[p * (c.columns + 2) + j] * derive.slope[j] +
            derive.offset[j];
      }
      sum += u * v;
    }
    return sum;
  };

  GuardedArray<float> packed_a(OuterLayout::Rows(c.rows, c.block_pixels).floats());
  GuardedArray<float> packed_b(OuterLayout::Columns(c.columns, c.block_pixels).floats());
  r.packed_a = packed_a.data();
  r.packed_b = packed_b.data();
  r.out = out.data();
  r.out_stride = c.columns + 5;
  ReduceOuter(r, &r);
  for (int64_t i = 0; i < c.rows; ++i) {
    for (int64_t j = 0; j < c.columns; ++j) {
      ASSERT_EQ(out.data()[i * (c.columns + 5) + j], expected(i, j)) << i << ", " << j;
    }
  }
  EXPECT_EQ(out.BrokenGuard(), "");
  EXPECT_EQ(packed_a.BrokenGuard(), "");
  EXPECT_EQ(packed_b.BrokenGuard(), "");

  // Either operand may be the narrow one; any number of channels is right.
  for (const bool narrow_b : {false, true}) {
    const int64_t narrow = narrow_b ? c.columns : c.rows;
    const int64_t wide = narrow_b ? c.rows : c.columns;
    GuardedTensor<float> narrow_out({1, 1, narrow, wide}, wide + 5);
    // What is there before must not matter.
    GuardedArray<float> packed(NarrowPackedFloats(narrow, c.block_pixels));
    std::fill_n(packed.data(), NarrowPackedFloats(narrow, c.block_pixels), std::nanf(""));
    NarrowReduction n{r, narrow_b};
    n.operands.packed_a = packed.data();
    n.operands.packed_b = nullptr;
    n.operands.out = narrow_out.data();
    n.operands.out_stride = wide + 5;
    ReduceNarrow(n, narrow_b ? &n : nullptr);
    for (int64_t i = 0; i < c.rows; ++i) {
      for (int64_t j = 0; j < c.columns; ++j) {
        const int64_t at = narrow_b ? j * (wide + 5) + i : i * (wide + 5) + j;
        ASSERT_EQ(narrow_out.data()[at], expected(i, j)) << i << ", " << j << ", " << narrow_b;
      }
    }
    EXPECT_EQ(narrow_out.BrokenGuard(), "");
    EXPECT_EQ(packed.BrokenGuard(), "");
  }
}

TEST_P(OuterProductTest, IntegersAreExact) {
  for (const Case& c : kCases) {
    Check(c, false, false, false);
    Check(c, true, false, false);
    Check(c, true, true, true);
    Check(c, false, false, true);
  }
}

}  // namespace
}  // namespace classicnn
