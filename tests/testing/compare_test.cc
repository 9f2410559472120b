#include "tests/testing/compare.h"

#include <cmath>
#include <cstdint>
#include <vector>

#include "gtest/gtest.h"
#include "tests/testing/assertions.h"
#include "tests/testing/buffers.h"

namespace classicnn {
namespace {

Comparison CompareVectors(const std::vector<float>& actual, const std::vector<float>& expected,
                          Tolerance tolerance) {
  return Compare(actual.data(), expected.data(), static_cast<int64_t>(expected.size()), tolerance);
}

TEST(CompareTest, AcceptsWhatIsWithinTheBound) {
  EXPECT_TRUE(CompareVectors({1.0f, -2.0f}, {1.0f, -2.0f}, Tolerance::Exact()).ok);
  EXPECT_TRUE(CompareVectors({1.0f, -2.001f}, {1.0f, -2.0f}, {1e-3}).ok);
  EXPECT_TRUE(CompareVectors({1.0f, -0.0f}, {1.0f, 0.0f}, Tolerance::Exact()).ok);
}

TEST(CompareTest, RejectsWhatIsNot) {
  EXPECT_FALSE(CompareVectors({1.0f, -2.1f}, {1.0f, -2.0f}, {1e-3}).ok);
  EXPECT_FALSE(
      CompareVectors({1.0f, std::nextafter(2.0f, 3.0f)}, {1.0f, 2.0f}, Tolerance::Exact()).ok);
  const Comparison zeros = CompareVectors({0.0f, 0.0f}, {1.0f, 2.0f}, Tolerance::ForSum(4096));
  EXPECT_FALSE(zeros.ok);
  EXPECT_NE(zeros.message.find("2 of 2"), std::string::npos) << zeros.message;
}

TEST(CompareTest, RejectsNanAndInfinity) {
  EXPECT_FALSE(CompareVectors({1.0f, NAN}, {1.0f, 2.0f}, {1e9}).ok);
  EXPECT_FALSE(CompareVectors({1.0f, INFINITY}, {1.0f, 2.0f}, {1e9}).ok);
  EXPECT_TRUE(CompareVectors({1.0f, 2.0f}, {1.0f, NAN}, {1e9}).vacuous);
  EXPECT_FALSE(CompareVectors({1.0f, NAN}, {1.0f, NAN}, {1e9}).ok);
}

TEST(CompareTest, RejectsVacuousExpectations) {
  const Comparison zeros = CompareVectors({0.0f, 0.0f}, {0.0f, 0.0f}, {1e9});
  EXPECT_FALSE(zeros.ok);
  EXPECT_TRUE(zeros.vacuous);
  EXPECT_TRUE(CompareVectors({}, {}, {1e9}).vacuous);
}

TEST(CompareTest, RejectsAnotherShape) {
  GuardedTensor<float> a(Shape4{1, 2, 3, 4});
  GuardedTensor<float> b(Shape4{1, 3, 2, 4});
  a.ForEach([](int64_t) { return 1.0f; });
  b.ForEach([](int64_t) { return 1.0f; });
  EXPECT_FALSE(Close(a, b, {1e9}));
  GuardedTensor<double> wide(Shape4{1, 2, 3, 4}, 7);
  wide.ForEach([](int64_t) { return 1.0; });
  EXPECT_TRUE(Equal(a, wide));
}

TEST(GuardedTensorTest, StartsAsNanAndSeesStrayWrites) {
  GuardedTensor<float> t(Shape4{2, 3, 3, 5}, 8);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(t.data()) % 64, 0u);
  EXPECT_TRUE(std::isnan(t.view().At(1, 2, 2, 4)));
  EXPECT_TRUE(GuardsIntact(t));
  t.FillIntegers(RandomStream(1, "test"));
  EXPECT_TRUE(GuardsIntact(t));
  t.data()[5] = 0.0f;  // between two pixels
  EXPECT_FALSE(GuardsIntact(t));
  GuardedTensor<float> before(Shape4{1, 1, 1, 5});
  before.data()[-1] = std::nanf("");
  EXPECT_FALSE(GuardsIntact(before));
}

TEST(GuardedTensorTest, FillsDoNotDependOnThePixelStride) {
  GuardedTensor<float> dense(Shape4{2, 3, 3, 5});
  GuardedTensor<float> wide(Shape4{2, 3, 3, 5}, 9);
  const RandomStream random(7, "fill");
  dense.FillNormal(random);
  wide.FillNormal(random);
  EXPECT_TRUE(Equal(wide, dense));
  dense.FillIntegers(random, 2);
  EXPECT_FALSE(Equal(wide, dense));
  wide.CopyFrom(dense.cview());
  EXPECT_TRUE(Equal(wide, dense));
  for (int64_t i = 0; i < 90; ++i) {
    EXPECT_EQ(dense.data()[i], std::round(dense.data()[i]));
    EXPECT_LE(std::fabs(dense.data()[i]), 2.0f);
  }
}

}  // namespace
}  // namespace classicnn
