#include "layers/tree_sum.h"

#include <cstdint>
#include <string>
#include <vector>

#include "core/random.h"
#include "gtest/gtest.h"
#include "hwy/highway.h"
#include "hwy/tests/hwy_gtest.h"
#include "tests/testing/buffers.h"

namespace classicnn {
namespace {

class TreeSumTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(TreeSumTest);

// Pairs of neighbours, then pairs of those; one that has no partner waits.
float Tree(std::vector<float> sums) {
  while (sums.size() > 1) {
    const size_t half = (sums.size() + 1) / 2;
    for (size_t g = 0; g < half; ++g) {
      sums[g] = 2 * g + 1 < sums.size() ? sums[2 * g] + sums[2 * g + 1] : sums[2 * g];
    }
    sums.resize(half);
  }
  return sums[0];
}

TEST_P(TreeSumTest, AddsInTheOrderOfATree) {
  for (const int64_t leaves : {2, 4, 8, 16, 32, 64}) {
    for (const int64_t size : {1, 16, 37}) {
      SCOPED_TRACE(std::to_string(leaves) + " leaves of " + std::to_string(size));
      const int64_t stride = size + 3;
      GuardedArray<float> partials((leaves - 1) * stride);
      GuardedArray<float> out(size);
      partials.FillNormal(RandomStream(3, "partials"));
      out.FillNormal(RandomStream(3, "out"));
      std::vector<float> expected;
      for (int64_t i = 0; i < size; ++i) {
        std::vector<float> sums{out.data()[i]};
        for (int64_t g = 1; g < leaves; ++g) sums.push_back(partials.data()[(g - 1) * stride + i]);
        expected.push_back(Tree(sums));
      }
      SumTree(partials.data(), stride, leaves - 1, size, out.data());
      EXPECT_EQ(std::vector<float>(out.data(), out.data() + size), expected);
      EXPECT_EQ(out.BrokenGuard(), "");
    }
  }
}

TEST_P(TreeSumTest, AddsAnyNumberInPlace) {
  for (const int64_t count : {1, 2, 3, 5, 6, 7, 16, 23}) {
    for (const int64_t size : {1, 16, 37}) {
      SCOPED_TRACE(std::to_string(count) + " partials of " + std::to_string(size));
      const int64_t stride = size + 3;
      GuardedArray<float> partials(count * stride);
      partials.FillNormal(RandomStream(4, "partials"));
      std::vector<float> expected;
      for (int64_t i = 0; i < size; ++i) {
        std::vector<float> sums;
        for (int64_t g = 0; g < count; ++g) sums.push_back(partials.data()[g * stride + i]);
        expected.push_back(Tree(sums));
      }
      SumTreeInPlace(partials.data(), stride, count, size);
      EXPECT_EQ(std::vector<float>(partials.data(), partials.data() + size), expected);
      EXPECT_EQ(partials.BrokenGuard(), "");
    }
  }
}

}  // namespace
}  // namespace classicnn
