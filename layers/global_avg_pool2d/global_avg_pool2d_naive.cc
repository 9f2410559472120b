#include "core/check.h"
#include "layers/global_avg_pool2d/global_avg_pool2d.h"

namespace classicnn {

template <typename T>
void GlobalAvgPool2dForwardNaive(View<const T> x, View<T> y) {
  CNN_CHECK((y.shape() == Shape4{x.n, 1, 1, x.c}));
  for (int64_t n = 0; n < x.n; ++n)
    for (int64_t c = 0; c < x.c; ++c) {
      double sum = 0;
      for (int64_t h = 0; h < x.h; ++h)
        for (int64_t w = 0; w < x.w; ++w) sum += x.At(n, h, w, c);
      y.At(n, 0, 0, c) = static_cast<T>(sum / static_cast<double>(x.h * x.w));
    }
}

template <typename T>
void GlobalAvgPool2dBackwardNaive(View<const T> dy, View<T> dx, bool accumulate) {
  CNN_CHECK((dy.shape() == Shape4{dx.n, 1, 1, dx.c}));
  for (int64_t n = 0; n < dx.n; ++n)
    for (int64_t h = 0; h < dx.h; ++h)
      for (int64_t w = 0; w < dx.w; ++w)
        for (int64_t c = 0; c < dx.c; ++c) {
          const T g = dy.At(n, 0, 0, c) / static_cast<T>(dx.h * dx.w);
          dx.At(n, h, w, c) = accumulate ? dx.At(n, h, w, c) + g : g;
        }
}

template void GlobalAvgPool2dForwardNaive(View<const float>, View<float>);
template void GlobalAvgPool2dForwardNaive(View<const double>, View<double>);
template void GlobalAvgPool2dBackwardNaive(View<const float>, View<float>, bool);
template void GlobalAvgPool2dBackwardNaive(View<const double>, View<double>, bool);

}  // namespace classicnn
