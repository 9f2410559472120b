// GoogleTest assertions over tests/testing/compare.h and buffers.h.
#ifndef CLASSICNN_TESTS_TESTING_ASSERTIONS_H_
#define CLASSICNN_TESTS_TESTING_ASSERTIONS_H_

#include <cstdint>
#include <string>

#include "gtest/gtest.h"
#include "tests/testing/buffers.h"
#include "tests/testing/compare.h"

namespace classicnn {

inline ::testing::AssertionResult ToAssertion(const Comparison& comparison) {
  if (comparison.ok) return ::testing::AssertionSuccess() << comparison.message;
  return ::testing::AssertionFailure() << comparison.message;
}

// EXPECT_TRUE(Close(actual, expected, Tolerance::ForSum(9 * 64)));
template <typename T, typename U>
::testing::AssertionResult Close(const GuardedTensor<T>& actual, const GuardedTensor<U>& expected,
                                 Tolerance tolerance) {
  return ToAssertion(Compare(actual.cview(), expected.cview(), tolerance));
}

// Every element ==.
template <typename T, typename U>
::testing::AssertionResult Equal(const GuardedTensor<T>& actual, const GuardedTensor<U>& expected) {
  return Close(actual, expected, Tolerance::Exact());
}

template <typename Guarded>
::testing::AssertionResult GuardsIntact(const Guarded& buffer) {
  const std::string broken = buffer.BrokenGuard();
  if (broken.empty()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << broken;
}

}  // namespace classicnn

#endif  // CLASSICNN_TESTS_TESTING_ASSERTIONS_H_
