#include "core/check.h"
#include "core/random.h"
#include "layers/dropout/dropout.h"

namespace classicnn {

template <typename T>
void DropoutForwardNaive(const DropoutParams& params, View<const T> x, View<T> y) {
  CNN_CHECK(x.shape() == y.shape() && params.p >= 0 && params.p < 1);
  const RandomStream random(params.seed, params.stream, params.step);
  uint64_t i = 0;
  for (int64_t n = 0; n < y.n; ++n)
    for (int64_t h = 0; h < y.h; ++h)
      for (int64_t w = 0; w < y.w; ++w)
        for (int64_t c = 0; c < y.c; ++c, ++i) {
          const bool keep = random.Uniform(i) >= params.p;
          y.At(n, h, w, c) = keep ? x.At(n, h, w, c) / (T{1} - T{params.p}) : T{0};
        }
}

template <typename T>
void DropoutBackwardNaive(const DropoutParams& params, View<const T> dy, View<T> dx,
                          bool accumulate) {
  CNN_CHECK(dy.shape() == dx.shape() && params.p >= 0 && params.p < 1);
  const RandomStream random(params.seed, params.stream, params.step);
  uint64_t i = 0;
  for (int64_t n = 0; n < dy.n; ++n)
    for (int64_t h = 0; h < dy.h; ++h)
      for (int64_t w = 0; w < dy.w; ++w)
        for (int64_t c = 0; c < dy.c; ++c, ++i) {
          const bool keep = random.Uniform(i) >= params.p;
          const T g = keep ? dy.At(n, h, w, c) / (T{1} - T{params.p}) : T{0};
          dx.At(n, h, w, c) = accumulate ? dx.At(n, h, w, c) + g : g;
        }
}

template void DropoutForwardNaive(const DropoutParams&, View<const float>, View<float>);
template void DropoutForwardNaive(const DropoutParams&, View<const double>, View<double>);
template void DropoutBackwardNaive(const DropoutParams&, View<const float>, View<float>, bool);
template void DropoutBackwardNaive(const DropoutParams&, View<const double>, View<double>, bool);

}  // namespace classicnn
