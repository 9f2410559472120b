#include <cmath>

#include "core/check.h"
#include "layers/max_pool2d/max_pool2d.h"

namespace classicnn {

template <typename T>
void MaxPool2dForwardNaive(const Pool2dParams& params, View<const T> x, View<T> y,
                           uint8_t* argmax) {
  CNN_CHECK(params.Output(x.shape()) == y.shape());
  for (int64_t n = 0; n < y.n; ++n)
    for (int64_t oh = 0; oh < y.h; ++oh)
      for (int64_t ow = 0; ow < y.w; ++ow)
        for (int64_t c = 0; c < y.c; ++c) {
          bool found = false;
          T best{0};
          int64_t winner = 0;
          for (int64_t r = 0; r < params.kernel; ++r)
            for (int64_t s = 0; s < params.kernel; ++s) {
              const int64_t h = oh * params.stride - params.padding + r;
              const int64_t w = ow * params.stride - params.padding + s;
              if (h < 0 || h >= x.h || w < 0 || w >= x.w) continue;
              const T v = x.At(n, h, w, c);
              if (!found || v > best || std::isnan(v)) {
                found = true;
                best = v;
                winner = r * params.kernel + s;
              }
            }
          y.At(n, oh, ow, c) = best;
          if (argmax != nullptr) {
            argmax[((n * y.h + oh) * y.w + ow) * y.c + c] = static_cast<uint8_t>(winner);
          }
        }
}

template <typename T>
void MaxPool2dBackwardNaive(const Pool2dParams& params, View<const T> dy, const uint8_t* argmax,
                            View<T> dx, bool accumulate) {
  CNN_CHECK(params.Output(dx.shape()) == dy.shape());
  if (!accumulate) {
    for (int64_t n = 0; n < dx.n; ++n)
      for (int64_t h = 0; h < dx.h; ++h)
        for (int64_t w = 0; w < dx.w; ++w)
          for (int64_t c = 0; c < dx.c; ++c) dx.At(n, h, w, c) = 0;
  }
  for (int64_t n = 0; n < dy.n; ++n)
    for (int64_t oh = 0; oh < dy.h; ++oh)
      for (int64_t ow = 0; ow < dy.w; ++ow)
        for (int64_t c = 0; c < dy.c; ++c) {
          const int64_t winner = argmax[((n * dy.h + oh) * dy.w + ow) * dy.c + c];
          const int64_t h = oh * params.stride - params.padding + winner / params.kernel;
          const int64_t w = ow * params.stride - params.padding + winner % params.kernel;
          dx.At(n, h, w, c) += dy.At(n, oh, ow, c);
        }
}

template void MaxPool2dForwardNaive(const Pool2dParams&, View<const float>, View<float>, uint8_t*);
template void MaxPool2dForwardNaive(const Pool2dParams&, View<const double>, View<double>,
                                    uint8_t*);
template void MaxPool2dBackwardNaive(const Pool2dParams&, View<const float>, const uint8_t*,
                                     View<float>, bool);
template void MaxPool2dBackwardNaive(const Pool2dParams&, View<const double>, const uint8_t*,
                                     View<double>, bool);

}  // namespace classicnn
