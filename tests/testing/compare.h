// Comparison of results with what was expected. Nothing vacuous passes: a wrong shape, a NaN or
// infinity on either side, or an expectation that is all zeros fails.
#ifndef CLASSICNN_TESTS_TESTING_COMPARE_H_
#define CLASSICNN_TESTS_TESTING_COMPARE_H_

#include <cstdint>
#include <string>

#include "core/view.h"

namespace classicnn {

struct Comparison {
  bool ok = false;
  bool vacuous = false;           // the expectation is empty, all zeros, or not finite
  double max_relative_error = 0;  // largest |actual - expected| / (|expected| + scale), below
  double relative_l2 = 0;         // ||actual - expected|| / ||expected||
  std::string message;            // the worst element, both values, the bound, how many failed
};

// An element passes where |actual - expected| <= relative * (|expected| + scale), with scale the
// root mean square of the expectation: elements that are small by cancellation are held to the size
// of the terms that made them.
struct Tolerance {
  double relative = 0;

  // For float sums of `terms` products in any order, against a sum in double: the error of such a
  // sum grows with the square root of its length.
  static Tolerance ForSum(int64_t terms);
  // Bit for bit, except that 0 equals -0.
  static Tolerance Exact() { return {0.0}; }
};

// Which elements: those of the views. T is float or double.
template <typename T, typename U>
Comparison Compare(View<const T> actual, View<const U> expected, Tolerance tolerance);
template <typename T, typename U>
Comparison Compare(const T* actual, const U* expected, int64_t count, Tolerance tolerance) {
  return Compare(View<const T>(actual, 1, 1, 1, count, count),
                 View<const U>(expected, 1, 1, 1, count, count), tolerance);
}

}  // namespace classicnn

#endif  // CLASSICNN_TESTS_TESTING_COMPARE_H_
