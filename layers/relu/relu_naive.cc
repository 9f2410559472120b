#include "core/check.h"
#include "layers/relu/relu.h"

namespace classicnn {

template <typename T>
void ReluForwardNaive(View<const T> x, View<T> y) {
  CNN_CHECK(x.shape() == y.shape());
  for (int64_t n = 0; n < y.n; ++n)
    for (int64_t h = 0; h < y.h; ++h)
      for (int64_t w = 0; w < y.w; ++w)
        for (int64_t c = 0; c < y.c; ++c) {
          const T v = x.At(n, h, w, c);
          y.At(n, h, w, c) = v < 0 ? T{0} : v;  // NaN is not below 0: it stays
        }
}

template <typename T>
void ReluBackwardNaive(View<const T> y, View<const T> dy, View<T> dx, bool accumulate) {
  CNN_CHECK(y.shape() == dy.shape() && y.shape() == dx.shape());
  for (int64_t n = 0; n < y.n; ++n)
    for (int64_t h = 0; h < y.h; ++h)
      for (int64_t w = 0; w < y.w; ++w)
        for (int64_t c = 0; c < y.c; ++c) {
          const T g = y.At(n, h, w, c) > 0 ? dy.At(n, h, w, c) : T{0};
          dx.At(n, h, w, c) = accumulate ? dx.At(n, h, w, c) + g : g;
        }
}

template void ReluForwardNaive(View<const float>, View<float>);
template void ReluForwardNaive(View<const double>, View<double>);
template void ReluBackwardNaive(View<const float>, View<const float>, View<float>, bool);
template void ReluBackwardNaive(View<const double>, View<const double>, View<double>, bool);

}  // namespace classicnn
