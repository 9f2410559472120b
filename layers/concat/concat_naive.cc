#include "core/check.h"
#include "layers/concat/concat.h"

namespace classicnn {

template <typename T>
void ConcatForwardNaive(absl::Span<const View<const T>> inputs, View<T> y) {
  int64_t offset = 0;
  for (const View<const T>& x : inputs) {
    CNN_CHECK(x.n == y.n && x.h == y.h && x.w == y.w && offset + x.c <= y.c);
    for (int64_t n = 0; n < y.n; ++n)
      for (int64_t h = 0; h < y.h; ++h)
        for (int64_t w = 0; w < y.w; ++w)
          for (int64_t c = 0; c < x.c; ++c) y.At(n, h, w, offset + c) = x.At(n, h, w, c);
    offset += x.c;
  }
  CNN_CHECK(offset == y.c, offset, " channels in, ", y.c, " out");
}

template <typename T>
void ConcatBackwardNaive(View<const T> dy, absl::Span<const View<T>> dx, bool accumulate) {
  int64_t offset = 0;
  for (const View<T>& d : dx) {
    CNN_CHECK(d.n == dy.n && d.h == dy.h && d.w == dy.w && offset + d.c <= dy.c);
    for (int64_t n = 0; n < dy.n; ++n)
      for (int64_t h = 0; h < dy.h; ++h)
        for (int64_t w = 0; w < dy.w; ++w)
          for (int64_t c = 0; c < d.c; ++c) {
            const T g = dy.At(n, h, w, offset + c);
            d.At(n, h, w, c) = accumulate ? d.At(n, h, w, c) + g : g;
          }
    offset += d.c;
  }
  CNN_CHECK(offset == dy.c, offset, " channels of dx, ", dy.c, " of dy");
}

template void ConcatForwardNaive(absl::Span<const View<const float>>, View<float>);
template void ConcatForwardNaive(absl::Span<const View<const double>>, View<double>);
template void ConcatBackwardNaive(View<const float>, absl::Span<const View<float>>, bool);
template void ConcatBackwardNaive(View<const double>, absl::Span<const View<double>>, bool);

}  // namespace classicnn
