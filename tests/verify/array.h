// Dense values in double, the common form in which problems are posed and results are compared.
#ifndef CLASSICNN_TESTS_VERIFY_ARRAY_H_
#define CLASSICNN_TESTS_VERIFY_ARRAY_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/view.h"

namespace classicnn::verify {

// Images are n, h, w, c; convolution weights [R, R, C/G, K] are n = h = R; vectors lie along c.
struct Array {
  Shape4 shape;
  std::vector<double> values;

  Array() = default;
  explicit Array(const Shape4& s) : shape(s), values(static_cast<size_t>(s.size())) {}
  View<const double> view() const { return View<const double>(values.data(), shape); }
  View<double> view() { return View<double>(values.data(), shape); }
};

// By name; the names are those of golden files, without "expected.".
using Arrays = std::map<std::string, Array>;

template <typename T>
Array ToArray(View<const T> from) {
  Array array(from.shape());
  for (int64_t p = 0, i = 0; p < from.pixels(); ++p) {
    for (int64_t c = 0; c < from.c; ++c, ++i) {
      array.values[static_cast<size_t>(i)] = static_cast<double>(from.Pixel(p)[c]);
    }
  }
  return array;
}

template <typename T>
Array ToArray(const T* from, int64_t count) {
  return ToArray(View<const T>(from, Shape4{1, 1, 1, count}));
}

}  // namespace classicnn::verify

#endif  // CLASSICNN_TESTS_VERIFY_ARRAY_H_
