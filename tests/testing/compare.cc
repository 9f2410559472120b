#include "tests/testing/compare.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace classicnn {

Tolerance Tolerance::ForSum(int64_t terms) {
  return {6e-7 * (2.0 + std::sqrt(static_cast<double>(terms)))};
}

template <typename T, typename U>
Comparison Compare(View<const T> actual, View<const U> expected, Tolerance tolerance) {
  Comparison result;
  if (actual.shape() != expected.shape()) {
    result.message = absl::StrCat("shape ", actual.shape().ToString(), ", expected ",
                                  expected.shape().ToString());
    return result;
  }
  double sum_squares = 0;
  for (int64_t p = 0; p < expected.pixels(); ++p) {
    for (int64_t c = 0; c < expected.c; ++c) {
      const double e = static_cast<double>(expected.Pixel(p)[c]);
      sum_squares += e * e;
    }
  }
  if (!(sum_squares > 0) || !std::isfinite(sum_squares)) {
    result.vacuous = true;
    result.message = absl::StrCat("the expectation of shape ", expected.shape().ToString(),
                                  " is empty, all zeros or not finite: it proves nothing");
    return result;
  }
  const double scale = std::sqrt(sum_squares / static_cast<double>(expected.size()));
  double sum_error_squares = 0;
  int64_t failures = 0;
  double worst = -1;
  std::string worst_text;
  for (int64_t p = 0; p < expected.pixels(); ++p) {
    for (int64_t c = 0; c < expected.c; ++c) {
      const double e = static_cast<double>(expected.Pixel(p)[c]);
      const double a = static_cast<double>(actual.Pixel(p)[c]);
      const double error = std::fabs(a - e);
      const double size = std::fabs(e) + scale;
      const double relative = std::isfinite(a) ? error / size : HUGE_VAL;
      sum_error_squares += error * error;
      if (!(relative <= tolerance.relative)) ++failures;
      if (relative > worst) {
        worst = relative;
        worst_text =
            absl::StrCat("n=", p / (expected.h * expected.w), " h=", p / expected.w % expected.h,
                         " w=", p % expected.w, " c=", c, ": ", a, ", expected ", e, ", bound ",
                         tolerance.relative * size);
      }
    }
  }
  result.max_relative_error = worst;
  result.relative_l2 = std::sqrt(sum_error_squares / sum_squares);
  result.ok = failures == 0;
  result.message = absl::StrCat(failures, " of ", expected.size(), " elements of ",
                                expected.shape().ToString(), " off; the worst ", worst_text);
  return result;
}

template Comparison Compare(View<const float>, View<const float>, Tolerance);
template Comparison Compare(View<const float>, View<const double>, Tolerance);
template Comparison Compare(View<const double>, View<const double>, Tolerance);

}  // namespace classicnn
