// Max pooling 3 x 3 in steps of 1 or 2, on vectors: strips of a few rows of outputs, in which a row
// of taps is compared once for all the windows that contain it.
// Included once for each target, after hwy/foreach_target.h.
#if defined(CLASSICNN_LAYERS_MAX_POOL2D_MAX_POOL2D_STRIPS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CLASSICNN_LAYERS_MAX_POOL2D_MAX_POOL2D_STRIPS_INL_H_
#undef CLASSICNN_LAYERS_MAX_POOL2D_MAX_POOL2D_STRIPS_INL_H_
#else
#define CLASSICNN_LAYERS_MAX_POOL2D_MAX_POOL2D_STRIPS_INL_H_
#endif

#include <algorithm>
#include <array>
#include <cstdint>
#include <type_traits>

#include "core/view.h"
#include "hwy/highway.h"
#include "layers/activation-inl.h"
#include "layers/max_pool2d/max_pool2d_parts.h"
#include "layers/partial-inl.h"
#include "layers/prefetch.h"
#include "layers/stream-inl.h"
#include "layers/stream.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

struct MaxStrip {
  // Pixel 0, channel 0 of the rows that the windows cover, from the top. A row outside the image is
  // replaced by the one beside it: that is in the window anyway, and never larger than itself.
  const float* rows[kMaxPoolMaxStripRows + 2];
  int64_t num_rows;  // of outputs
  bool top_outside;  // rows[0] stands for a row above the image
  float* y;          // pixel 0, channel 0 of the first row
  int64_t y_row_stride;
  uint8_t* argmax;  // likewise, or null
  int64_t argmax_row_stride;
};

// Of the pixels that a column of windows covers, offsets within a row; a pixel outside is replaced
// like a row.
struct MaxStripColumn {
  int64_t x[3];
  int32_t first_tap;  // 1 where the first pixel is replaced
  int64_t y;
  int64_t argmax;
  int64_t argmax_room;  // bytes from there to the end of the row
};

// The largest of a row of three taps, and which it is.
struct RowMax {
  VF best;
  VI winner;
};

// One vector of channels, from c on, of a column of windows. Nothing is compared with NaN in mind:
// `suspects` becomes NaN in lanes that met an infinity or a NaN.
//
// Without winners a largest input, or a smallest where the scale is negative, is activated once it
// is known: activating is monotone, rounding included.
template <int kStride, Activation kActivation, bool kArgmax, bool kTail>
struct ColumnMax {
  static constexpr bool kLate = !kArgmax && kActivation != Activation::kNone;

  HWY_INLINE VF Load(const float* from) const {
    const VF v = LoadLanes<kTail>(from + c, count);
    return kLate ? hn::Xor(v, hn::And(scale, hn::SignBit(DF())))
                 : Activated<kActivation>(v, scale, shift);
  }
  HWY_INLINE RowMax Row(const float* x) {
    const VF left = Load(x + column.x[0]);
    const VF middle = Load(x + column.x[1]);
    const VF right = Load(x + column.x[2]);
    suspects = hn::MulAdd(middle, hn::Zero(DF()), suspects);
    if (kStride == 2) suspects = hn::MulAdd(right, hn::Zero(DF()), suspects);
    // Of equals Max keeps its second argument: the first one wins a tie.
    const VF best = hn::Max(middle, left);
    VI winner = hn::Zero(DI());
    if (kArgmax) {
      winner = hn::IfThenElse(hn::RebindMask(DI(), hn::Gt(middle, left)), hn::Set(DI(), 1),
                              hn::Set(DI(), column.first_tap));
      winner = hn::IfThenElse(hn::RebindMask(DI(), hn::Gt(right, best)), hn::Set(DI(), 2), winner);
    }
    return {hn::Max(right, best), winner};
  }
  // Of the rows of a window.
  HWY_INLINE RowMax Window(const RowMax& top, const RowMax& middle, const RowMax& bottom) const {
    const VF best = hn::Max(middle.best, top.best);
    VI winner = hn::Zero(DI());
    if (kArgmax) {
      winner = hn::IfThenElse(hn::RebindMask(DI(), hn::Gt(middle.best, top.best)),
                              hn::Add(middle.winner, hn::Set(DI(), 3)), top.winner);
      winner = hn::IfThenElse(hn::RebindMask(DI(), hn::Gt(bottom.best, best)),
                              hn::Add(bottom.winner, hn::Set(DI(), 6)), winner);
    }
    const VF all = hn::Max(bottom.best, best);
    return {kLate ? Activated<kActivation>(all, hn::Abs(scale), shift) : all, winner};
  }

  const MaxStripColumn& column;
  int64_t c;
  int64_t count;  // of channels
  VF scale, shift;
  VF suspects;
};

// Largest of what one vector of channels of a column's windows cover, for all rows of a strip.
// Returns the suspects; what was written is not to be used if there are any.
template <int kStride, Activation kActivation, bool kArgmax, bool kStream, bool kTail>
HWY_INLINE VF MaxStripVector(const MaxStrip& strip, const MaxStripColumn& column, int64_t c,
                             int64_t count, VF scale, VF shift, VF suspects) {
  ColumnMax<kStride, kActivation, kArgmax, kTail> max{column, c, count, scale, shift, suspects};
  RowMax top = max.Row(strip.rows[0]);
  if (kArgmax && strip.top_outside) top.winner = hn::Add(top.winner, hn::Set(DI(), 3));
  RowMax middle = top;
  if (kStride == 1) middle = max.Row(strip.rows[1]);
  for (int64_t r = 0; r < strip.num_rows; ++r) {
    if (kStride == 2) middle = max.Row(strip.rows[2 * r + 1]);
    const RowMax bottom = max.Row(strip.rows[kStride * r + 2]);
    const RowMax window = max.Window(top, middle, bottom);
    if (kArgmax) {
      StoreBytes(window.winner, strip.argmax + r * strip.argmax_row_stride + column.argmax + c,
                 count, column.argmax_room - c);
    }
    float* const to = strip.y + r * strip.y_row_stride + column.y + c;
    if (kStream) {
      StoreWhole<true>(window.best, to);
    } else {
      StoreLanes<kTail>(window.best, to, count);
    }
    top = kStride == 1 ? middle : bottom;
    middle = bottom;
  }
  return max.suspects;
}

// Whether the strip is right: false where an input is, or a coefficient makes it, infinite or NaN.
template <int kStride, Activation kActivation, bool kArgmax, bool kStream>
bool FiniteStripT(const MaxStrip& strip, const float* scale, const float* shift,
                  const ConstTensor& x, const Tensor& y) {
  const int64_t lanes = Lanes();
  const int64_t row_stride = x.w * x.pixel_stride;
  VF suspects = hn::Zero(DF());
  for (int64_t ow = 0; ow < y.w; ++ow) {
    const auto pixel = [&](int64_t w) {
      return std::clamp<int64_t>(w, 0, x.w - 1) * x.pixel_stride;
    };
    // What a vector of winners writes beyond its pixel, the next columns overwrite.
    const MaxStripColumn column = {
        {pixel(kStride * ow - 1), pixel(kStride * ow), pixel(kStride * ow + 1)},
        ow == 0 ? 1 : 0,
        ow * y.pixel_stride,
        ow * y.c,
        (y.w - ow) * y.c};
    // The rows that the next strip adds to these, as far as the image or the next goes on.
    for (int64_t r = 0; r < kStride * strip.num_rows; ++r) {
      PrefetchFloats(strip.rows[1] + column.x[1] + (kStride * strip.num_rows + 1 + r) * row_stride,
                     kStride * x.c);
    }
    int64_t c = 0;
    for (; c + lanes <= y.c; c += lanes) {
      suspects = MaxStripVector<kStride, kActivation, kArgmax, kStream, false>(
          strip, column, c, lanes, LoadCoefficients<kActivation, false>(scale + c, lanes),
          LoadCoefficients<kActivation, false>(shift + c, lanes), suspects);
    }
    if (c < y.c) {
      const int64_t count = y.c - c;
      suspects = MaxStripVector<kStride, kActivation, kArgmax, false, true>(
          strip, column, c, count, LoadCoefficients<kActivation, true>(scale + c, count),
          LoadCoefficients<kActivation, true>(shift + c, count), suspects);
    }
  }
  if (kActivation != Activation::kNone) {
    for (int64_t c = 0; c < y.c; c += lanes) {
      const int64_t count = std::min(lanes, y.c - c);
      for (const float* coefficients : {scale, shift}) {
        suspects = hn::MulAdd(LoadFirst(coefficients + c, count), hn::Zero(DF()), suspects);
      }
    }
  }
  if (kStream) hwy::FlushStream();
  return hn::AllFalse(DF(), hn::IsNaN(suspects));
}

template <int kStride, Activation kActivation>
bool FiniteStripOf(const float* scale, const float* shift, const ConstTensor& x, const Tensor& y,
                   uint8_t* argmax, int64_t image, int64_t begin, int64_t end) {
  MaxStrip strip;
  strip.num_rows = end - begin;
  strip.top_outside = begin == 0;
  for (int64_t r = 0; r < kStride * (strip.num_rows - 1) + 3; ++r) {
    strip.rows[r] = x.Pixel(image, std::clamp<int64_t>(kStride * begin - 1 + r, 0, x.h - 1), 0);
  }
  strip.y = y.Pixel(image, begin, 0);
  strip.y_row_stride = y.w * y.pixel_stride;
  strip.argmax_row_stride = y.w * y.c;
  strip.argmax = argmax == nullptr ? nullptr : argmax + (image * y.h + begin) * y.w * y.c;
  const bool stream = BeyondCaches(4 * (x.size() + y.size())) &&
                      CanStream(strip.y, y.pixels(), y.c, y.pixel_stride) && y.c % Lanes() == 0;
  const auto kernel = argmax == nullptr
                          ? (stream ? &FiniteStripT<kStride, kActivation, false, true>
                                    : &FiniteStripT<kStride, kActivation, false, false>)
                          : (stream ? &FiniteStripT<kStride, kActivation, true, true>
                                    : &FiniteStripT<kStride, kActivation, true, false>);
  return kernel(strip, scale, shift, x, y);
}

// Output rows [begin, end) of one image, where MaxPoolStripRows is not 0 and at most so many.
// Returns whether they are right; if not, an infinity or a NaN is in the way.
bool MaxPoolFiniteStrip(const Pool2dParams& params, const ActivationPrologue<float>& activation,
                        ConstTensor x, Tensor y, uint8_t* argmax, int64_t image, int64_t begin,
                        int64_t end) {
  const float* const scale = activation.active() ? activation.scale : x.data;
  const float* const shift = activation.active() ? activation.shift : x.data;
  const auto of = [](auto kind) {
    constexpr Activation kKind = decltype(kind)::value;
    return std::array{&FiniteStripOf<1, kKind>, &FiniteStripOf<2, kKind>};
  };
  using std::integral_constant;
  const Activation kind = KindOf(activation);
  const auto kernels =
      kind == Activation::kAffineRelu ? of(integral_constant<Activation, Activation::kAffineRelu>())
      : kind == Activation::kAffine   ? of(integral_constant<Activation, Activation::kAffine>())
                                      : of(integral_constant<Activation, Activation::kNone>());
  return kernels[params.stride == 1 ? 0 : 1](scale, shift, x, y, argmax, image, begin, end);
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#endif  // CLASSICNN_LAYERS_MAX_POOL2D_MAX_POOL2D_STRIPS_INL_H_
