#include "core/check.h"
#include "layers/add/add.h"

namespace classicnn {

template <typename T>
void AddForwardNaive(absl::Span<const View<const T>> inputs, View<T> y, bool relu) {
  CNN_CHECK(inputs.size() >= 2, inputs.size(), " inputs");
  for (const View<const T>& x : inputs) CNN_CHECK(x.shape() == y.shape());
  for (int64_t n = 0; n < y.n; ++n)
    for (int64_t h = 0; h < y.h; ++h)
      for (int64_t w = 0; w < y.w; ++w)
        for (int64_t c = 0; c < y.c; ++c) {
          T sum = inputs[0].At(n, h, w, c);
          for (size_t i = 1; i < inputs.size(); ++i) sum += inputs[i].At(n, h, w, c);
          y.At(n, h, w, c) = relu && sum < 0 ? T{0} : sum;
        }
}

template <typename T>
void AddBackwardNaive(View<const T> dy, View<T> dx, bool accumulate) {
  CNN_CHECK(dy.shape() == dx.shape());
  for (int64_t n = 0; n < dy.n; ++n)
    for (int64_t h = 0; h < dy.h; ++h)
      for (int64_t w = 0; w < dy.w; ++w)
        for (int64_t c = 0; c < dy.c; ++c) {
          const T g = dy.At(n, h, w, c);
          dx.At(n, h, w, c) = accumulate ? dx.At(n, h, w, c) + g : g;
        }
}

template void AddForwardNaive(absl::Span<const View<const float>>, View<float>, bool);
template void AddForwardNaive(absl::Span<const View<const double>>, View<double>, bool);
template void AddBackwardNaive(View<const float>, View<float>, bool);
template void AddBackwardNaive(View<const double>, View<double>, bool);

}  // namespace classicnn
