// Conversion of parameters between the layers' layout in memory and PyTorch's in files.
#ifndef CLASSICNN_MODELS_LAYOUT_H_
#define CLASSICNN_MODELS_LAYOUT_H_

#include "models/graph.h"

namespace classicnn {

// Convolution [R,R,I/G,O] <-> [O,I/G,R,R]; linear [h*w*c,O] <-> [O,c*h*w]; vectors are copied.
// `from` and `to` hold parameter.count() elements and must not overlap.
template <typename From, typename To>
void ToPytorchLayout(const Parameter& parameter, const From* from, To* to);
template <typename From, typename To>
void FromPytorchLayout(const Parameter& parameter, const From* from, To* to);

// Images [N, C, H, W] <-> an NHWC view.
template <typename From, typename To>
void NchwToNhwc(const From* from, View<To> to);
template <typename From, typename To>
void NhwcToNchw(View<const From> from, To* to);

namespace layout_internal {

// Calls f(index in memory, index in PyTorch's layout) for every element.
template <typename F>
void ForEachElement(const Parameter& p, F&& f) {
  switch (p.kind) {
    case ParameterKind::kConvWeight: {
      const int64_t o = p.shape[0], i = p.shape[1], r = p.shape[2], s = p.shape[3];
      for (int64_t io = 0; io < o; ++io)
        for (int64_t ii = 0; ii < i; ++ii)
          for (int64_t ir = 0; ir < r; ++ir)
            for (int64_t is = 0; is < s; ++is)
              f(((ir * s + is) * i + ii) * o + io, ((io * i + ii) * r + ir) * s + is);
      break;
    }
    case ParameterKind::kLinearWeight: {
      const int64_t o = p.shape[0];
      const int64_t c = p.flattened.c, h = p.flattened.h, w = p.flattened.w;
      for (int64_t io = 0; io < o; ++io)
        for (int64_t ic = 0; ic < c; ++ic)
          for (int64_t ih = 0; ih < h; ++ih)
            for (int64_t iw = 0; iw < w; ++iw)
              f(((ih * w + iw) * c + ic) * o + io, ((io * c + ic) * h + ih) * w + iw);
      break;
    }
    default:
      for (int64_t i = 0; i < p.count(); ++i) f(i, i);
  }
}

}  // namespace layout_internal

template <typename From, typename To>
void ToPytorchLayout(const Parameter& parameter, const From* from, To* to) {
  layout_internal::ForEachElement(parameter, [&](int64_t memory, int64_t pytorch) {
    to[pytorch] = static_cast<To>(from[memory]);
  });
}

template <typename From, typename To>
void FromPytorchLayout(const Parameter& parameter, const From* from, To* to) {
  layout_internal::ForEachElement(parameter, [&](int64_t memory, int64_t pytorch) {
    to[memory] = static_cast<To>(from[pytorch]);
  });
}

template <typename From, typename To>
void NchwToNhwc(const From* from, View<To> to) {
  for (int64_t n = 0; n < to.n; ++n)
    for (int64_t c = 0; c < to.c; ++c)
      for (int64_t h = 0; h < to.h; ++h)
        for (int64_t w = 0; w < to.w; ++w)
          to.At(n, h, w, c) = static_cast<To>(from[((n * to.c + c) * to.h + h) * to.w + w]);
}

template <typename From, typename To>
void NhwcToNchw(View<const From> from, To* to) {
  for (int64_t n = 0; n < from.n; ++n)
    for (int64_t c = 0; c < from.c; ++c)
      for (int64_t h = 0; h < from.h; ++h)
        for (int64_t w = 0; w < from.w; ++w)
          to[((n * from.c + c) * from.h + h) * from.w + w] = static_cast<To>(from.At(n, h, w, c));
}

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_LAYOUT_H_
