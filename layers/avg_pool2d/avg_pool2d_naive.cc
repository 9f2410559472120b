#include "core/check.h"
#include "layers/avg_pool2d/avg_pool2d.h"

namespace classicnn {

template <typename T>
void AvgPool2dForwardNaive(const Pool2dParams& params, View<const T> x, View<T> y) {
  CNN_CHECK(params.Output(x.shape()) == y.shape());
  const double area = static_cast<double>(params.kernel * params.kernel);
  for (int64_t n = 0; n < y.n; ++n)
    for (int64_t oh = 0; oh < y.h; ++oh)
      for (int64_t ow = 0; ow < y.w; ++ow)
        for (int64_t c = 0; c < y.c; ++c) {
          double sum = 0;
          for (int64_t r = 0; r < params.kernel; ++r)
            for (int64_t s = 0; s < params.kernel; ++s) {
              const int64_t h = oh * params.stride - params.padding + r;
              const int64_t w = ow * params.stride - params.padding + s;
              if (h < 0 || h >= x.h || w < 0 || w >= x.w) continue;
              sum += x.At(n, h, w, c);
            }
          y.At(n, oh, ow, c) = static_cast<T>(sum / area);
        }
}

template <typename T>
void AvgPool2dBackwardNaive(const Pool2dParams& params, View<const T> dy, View<T> dx,
                            bool accumulate) {
  CNN_CHECK(params.Output(dx.shape()) == dy.shape());
  const T area = static_cast<T>(params.kernel * params.kernel);
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
          const T g = dy.At(n, oh, ow, c) / area;
          for (int64_t r = 0; r < params.kernel; ++r)
            for (int64_t s = 0; s < params.kernel; ++s) {
              const int64_t h = oh * params.stride - params.padding + r;
              const int64_t w = ow * params.stride - params.padding + s;
              if (h < 0 || h >= dx.h || w < 0 || w >= dx.w) continue;
              dx.At(n, h, w, c) += g;
            }
        }
}

template void AvgPool2dForwardNaive(const Pool2dParams&, View<const float>, View<float>);
template void AvgPool2dForwardNaive(const Pool2dParams&, View<const double>, View<double>);
template void AvgPool2dBackwardNaive(const Pool2dParams&, View<const float>, View<float>, bool);
template void AvgPool2dBackwardNaive(const Pool2dParams&, View<const double>, View<double>, bool);

}  // namespace classicnn
