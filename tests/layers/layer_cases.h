// What the tests of the layers share: every usable instruction set, shapes that catch tails and
// gaps, several numbers of threads, finite differences.
#ifndef CLASSICNN_TESTS_LAYERS_LAYER_CASES_H_
#define CLASSICNN_TESTS_LAYERS_LAYER_CASES_H_

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "core/context.h"
#include "core/isa.h"
#include "core/random.h"
#include "gtest/gtest.h"
#include "tests/testing/assertions.h"
#include "tests/testing/buffers.h"

namespace classicnn {

// A suite derived from this runs once for each usable target:
//   class ReluTest : public EveryTarget {};
//   INSTANTIATE_ON_EVERY_TARGET(ReluTest);
//   TEST_P(ReluTest, ...) { ... }
class EveryTarget : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(SetTarget(GetParam()).ok()) << GetParam(); }
  void TearDown() override { ASSERT_TRUE(SetTarget("best").ok()); }
};
inline std::string TargetOf(const ::testing::TestParamInfo<std::string>& test) {
  return test.param;
}
#define INSTANTIATE_ON_EVERY_TARGET(suite)                                                    \
  INSTANTIATE_TEST_SUITE_P(Targets, suite, ::testing::ValuesIn(::classicnn::UsableTargets()), \
                           ::classicnn::TargetOf)

struct TensorCase {
  Shape4 shape;
  int64_t gap = 0;  // elements between the channels of two pixels

  std::string ToString() const { return shape.ToString() + " gap " + std::to_string(gap); }
};

// Channels around the lengths of vectors, odd sizes, tensors of one piece and of several, each
// dense and with gaps.
inline std::vector<TensorCase> TensorCases() {
  std::vector<TensorCase> cases;
  for (const Shape4& shape : {Shape4{1, 1, 1, 1}, Shape4{2, 3, 5, 7}, Shape4{1, 1, 1, 16},
                              Shape4{3, 4, 4, 3}, Shape4{2, 5, 2, 33}, Shape4{2, 7, 7, 24},
                              Shape4{1, 2, 3, 64}, Shape4{2, 3, 3, 130}, Shape4{5, 1, 1, 1000},
                              Shape4{4, 16, 16, 48}, Shape4{8, 16, 17, 64}, Shape4{4, 33, 32, 3}}) {
    for (const int64_t gap : {0, 1, 9}) cases.push_back({shape, gap});
  }
  return cases;
}

// The bytes of a tensor's elements, without its gaps.
template <typename T>
std::string Bits(const GuardedTensor<T>& tensor) {
  std::string bits;
  for (int64_t p = 0; p < tensor.view().pixels(); ++p) {
    bits.append(reinterpret_cast<const char*>(tensor.view().Pixel(p)),
                static_cast<size_t>(tensor.view().c) * sizeof(T));
  }
  return bits;
}

// `run` returns the bits of its results; they must not depend on the threads.
inline void ExpectSameOnAnyThreads(const std::function<std::string(Context&)>& run) {
  Context one(1);
  const std::string expected = run(one);
  for (const int threads : {2, 3, 8}) {
    Context ctx(threads);
    EXPECT_TRUE(run(ctx) == expected) << "other bits on " << threads << " threads";
  }
}

// `gradient` holds d loss / d values, by finite differences; `loss` reads `values` anew.
inline void ExpectGradient(const GuardedTensor<double>& values,
                           const GuardedTensor<double>& gradient,
                           const std::function<double()>& loss, double tolerance = 1e-6) {
  constexpr double kStep = 1e-5;
  GuardedTensor<double> expected(values.view().shape());
  expected.ForEach([&](int64_t i) {
    double& value = values.view().Pixel(i / values.view().c)[i % values.view().c];
    const double saved = value;
    value = saved + kStep;
    const double above = loss();
    value = saved - kStep;
    const double below = loss();
    value = saved;
    return (above - below) / (2 * kStep);
  });
  EXPECT_TRUE(Close(gradient, expected, Tolerance{tolerance}));
}

// sum of a * b: a loss whose gradient with respect to a is b.
inline double Dot(const GuardedTensor<double>& a, const GuardedTensor<double>& b) {
  double sum = 0;
  for (int64_t p = 0; p < a.view().pixels(); ++p) {
    for (int64_t c = 0; c < a.view().c; ++c) sum += a.view().Pixel(p)[c] * b.view().Pixel(p)[c];
  }
  return sum;
}

}  // namespace classicnn

#endif  // CLASSICNN_TESTS_LAYERS_LAYER_CASES_H_
