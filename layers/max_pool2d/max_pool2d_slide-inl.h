// Max pooling 3 x 3 in steps of 1, on vectors: each row of taps is compared once for the three
// windows that contain it.
// Included once for each target, after hwy/foreach_target.h.
#if defined(CLASSICNN_LAYERS_MAX_POOL2D_MAX_POOL2D_SLIDE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CLASSICNN_LAYERS_MAX_POOL2D_MAX_POOL2D_SLIDE_INL_H_
#undef CLASSICNN_LAYERS_MAX_POOL2D_MAX_POOL2D_SLIDE_INL_H_
#else
#define CLASSICNN_LAYERS_MAX_POOL2D_MAX_POOL2D_SLIDE_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "core/view.h"
#include "hwy/highway.h"
#include "layers/activation-inl.h"
#include "layers/max_pool2d/max_pool2d_parts.h"
#include "layers/partial-inl.h"
#include "layers/pool_windows.h"
#include "layers/prefetch.h"
#include "layers/stream-inl.h"
#include "layers/stream.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

// Keeps the larger of best and v, and its tap; v only where it is really larger, or NaN.
HWY_INLINE void Challenge(VF v, int64_t tap, VF& best, VI& winner) {
  const auto wins = hn::Or(hn::Gt(v, best), hn::IsNaN(v));
  best = hn::IfThenElse(wins, v, best);
  winner =
      hn::IfThenElse(hn::RebindMask(DI(), wins), hn::Set(DI(), static_cast<int32_t>(tap)), winner);
}

// Loads vectors of channels of x, activated.
template <Activation kActivation, bool kTail>
struct Loader {
  const float* scale;  // of the vector's first channel
  const float* shift;
  int64_t count;

  HWY_INLINE VF operator()(const float* from) const {
    return Activated<kActivation>(LoadLanes<kTail>(from, count),
                                  LoadCoefficients<kActivation, kTail>(scale, count),
                                  LoadCoefficients<kActivation, kTail>(shift, count));
  }
};

// Pixels [column, column + columns) of some rows of an image, where there are so many.
HWY_INLINE void PrefetchPixels(const ConstTensor& x, int64_t image, IndexRange rows, int64_t column,
                               int64_t columns) {
  if (column + columns > x.w) return;
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    PrefetchFloats(x.Pixel(image, r, column), columns * x.pixel_stride);
  }
}

// The winner among the taps [columns.begin, columns.end) of one row of a 3 x 3 window.
template <class Load>
HWY_INLINE void MaxOfRow(const Load load, const float* x, int64_t pixel_stride, IndexRange columns,
                         VF& best, VI& winner) {
  if (HWY_LIKELY(columns.size() == 3)) {
    best = load(x);
    winner = hn::Zero(DI());
    Challenge(load(x + pixel_stride), 1, best, winner);
    Challenge(load(x + 2 * pixel_stride), 2, best, winner);
  } else {
    best = load(x + columns.begin * pixel_stride);
    winner = hn::Set(DI(), static_cast<int32_t>(columns.begin));
    for (int64_t s = columns.begin + 1; s < columns.end; ++s) {
      Challenge(load(x + s * pixel_stride), s, best, winner);
    }
  }
}

// Keeps the winner of two rows, the lower of which is `row` rows below the window's first.
HWY_INLINE void ChallengeByRow(VF v, VI v_winner, int row, VF& best, VI& winner) {
  const auto wins = hn::Or(hn::Gt(v, best), hn::IsNaN(v));
  best = hn::IfThenElse(wins, v, best);
  winner = hn::IfThenElse(hn::RebindMask(DI(), wins),
                          hn::Add(v_winner, hn::Set(DI(), static_cast<int32_t>(3 * row))), winner);
}

// One vector of channels of one column of outputs [begin, end) of an image, 3 x 3 with stride 1:
// each row's winner is found once and used in the three windows that contain it. `x` is where the
// first tap of output row 0 is, or would be; y and argmax are at output row 0 too.
template <bool kTail, class Load>
HWY_INLINE void MaxColumn(const Load load, const float* x, int64_t row_stride, int64_t pixel_stride,
                          int64_t padding, int64_t height, IndexRange columns, int64_t begin,
                          int64_t end, float* y, int64_t y_row_stride, uint8_t* argmax,
                          int64_t argmax_row_stride, int64_t room) {
  // Rows of the window, from the top; a row outside the image takes no part.
  VF v0 = hn::Zero(DF()), v1 = v0, v2 = v0;
  VI w0 = hn::Zero(DI()), w1 = w0, w2 = w0;
  const auto inside = [&](int64_t row) { return row >= padding && row < height + padding; };
  if (inside(begin)) MaxOfRow(load, x + begin * row_stride, pixel_stride, columns, v0, w0);
  if (inside(begin + 1)) {
    MaxOfRow(load, x + (begin + 1) * row_stride, pixel_stride, columns, v1, w1);
  }
  for (int64_t oh = begin; oh < end; ++oh) {
    const bool third = inside(oh + 2);
    if (third) MaxOfRow(load, x + (oh + 2) * row_stride, pixel_stride, columns, v2, w2);
    VF best = v0;
    VI winner = w0;
    if (HWY_LIKELY(inside(oh))) {
      if (inside(oh + 1)) ChallengeByRow(v1, w1, 1, best, winner);
    } else {  // then the second row is inside: padding is at most one
      best = v1;
      winner = hn::Add(w1, hn::Set(DI(), 3));
    }
    if (third) ChallengeByRow(v2, w2, 2, best, winner);
    StoreLanes<kTail>(best, y + oh * y_row_stride, load.count);
    if (argmax != nullptr) StoreBytes(winner, argmax + oh * argmax_row_stride, load.count, room);
    v0 = v1;
    w0 = w1;
    v1 = v2;
    w1 = w2;
  }
}

template <Activation kActivation>
void CarefulStripT(const Pool2dParams& params, const float* scale, const float* shift,
                   ConstTensor x, Tensor y, uint8_t* argmax, int64_t image, int64_t begin,
                   int64_t end) {
  const int64_t lanes = Lanes();
  const int64_t row_stride = x.w * x.pixel_stride;
  const float* const x_image =
      x.Pixel(image, 0, 0) - params.padding * (row_stride + x.pixel_stride);
  uint8_t* const argmax_image = argmax == nullptr ? nullptr : argmax + image * y.h * y.w * y.c;
  for (int64_t ow = 0; ow < y.w; ++ow) {
    const IndexRange columns = ValidTaps(params, ow, x.w);
    const float* const x_column = x_image + ow * x.pixel_stride;
    float* const y_column = y.Pixel(image, 0, ow);
    PrefetchPixels(
        x, image,
        {std::max<int64_t>(0, begin - params.padding), std::min(x.h, end + 2 - params.padding)},
        ow + kPrefetchAhead, 1);
    uint8_t* const argmax_column = argmax == nullptr ? nullptr : argmax_image + ow * y.c;
    // Rows are not written one after the other here, but those of a column are: what a vector
    // writes beyond its pixel, the next columns overwrite.
    const int64_t room = (y.w - ow) * y.c;
    int64_t c = 0;
    for (; c + lanes <= y.c; c += lanes) {
      MaxColumn<false>(Loader<kActivation, false>{scale + c, shift + c, lanes}, x_column + c,
                       row_stride, x.pixel_stride, params.padding, x.h, columns, begin, end,
                       y_column + c, y.w * y.pixel_stride,
                       argmax == nullptr ? nullptr : argmax_column + c, y.w * y.c, lanes);
    }
    if (c < y.c) {
      MaxColumn<true>(Loader<kActivation, true>{scale + c, shift + c, y.c - c}, x_column + c,
                      row_stride, x.pixel_stride, params.padding, x.h, columns, begin, end,
                      y_column + c, y.w * y.pixel_stride,
                      argmax == nullptr ? nullptr : argmax_column + c, y.w * y.c, room - c);
    }
  }
}

struct MaxStrip {
  // Pixel 0, channel 0 of the rows that the windows cover, from the top. A row outside the image is
  // replaced by the one beside it: that is in the window anyway, and never larger than itself.
  const float* rows[kMaxPoolStripRows + 2];
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

// Largest of what one vector of channels of a column's windows cover, for all rows of a strip.
// Nothing is compared with NaN in mind: `suspects` becomes NaN in lanes that met an infinity or a
// NaN, and what was written is then not to be used.
//
// Without winners a largest input, or a smallest where the scale is negative, is activated once it
// is known: activating is monotone, rounding included.
template <Activation kActivation, bool kArgmax, bool kStream, bool kTail>
HWY_INLINE VF MaxStripVector(const MaxStrip& strip, const MaxStripColumn& column, int64_t c,
                             int64_t count, VF scale, VF shift, VF suspects) {
  constexpr bool kLate = !kArgmax && kActivation != Activation::kNone;
  const DF d;
  const VI one = hn::Set(DI(), 1), two = hn::Set(DI(), 2), three = hn::Set(DI(), 3);
  const VI first_tap = hn::Set(DI(), column.first_tap);
  const VF sign = kLate ? hn::And(scale, hn::SignBit(d)) : hn::Zero(d);
  const VF size = kLate ? hn::Abs(scale) : scale;
  const auto load = [&](const float* from) HWY_ATTR {
    const VF v = LoadLanes<kTail>(from + c, count);
    if (kLate) return hn::Xor(v, sign);
    return Activated<kActivation>(v, scale, shift);
  };
  const auto row = [&](int64_t r, VF& best, VI& winner) HWY_ATTR {
    const float* const x = strip.rows[r];
    const VF left = load(x + column.x[0]);
    const VF middle = load(x + column.x[1]);
    const VF right = load(x + column.x[2]);
    suspects = hn::MulAdd(middle, hn::Zero(d), suspects);
    // Of equals Max keeps its second argument: the first one wins a tie.
    best = hn::Max(middle, left);
    if (kArgmax) {
      winner = hn::IfThenElse(hn::RebindMask(DI(), hn::Gt(middle, left)), one, first_tap);
      winner = hn::IfThenElse(hn::RebindMask(DI(), hn::Gt(right, best)), two, winner);
    }
    best = hn::Max(right, best);
  };
  VF v0, v1, v2;
  VI w0 = hn::Zero(DI()), w1 = w0, w2 = w0;
  row(0, v0, w0);
  if (kArgmax && strip.top_outside) w0 = hn::Add(w0, three);
  row(1, v1, w1);
  for (int64_t r = 0; r < strip.num_rows; ++r) {
    row(r + 2, v2, w2);
    VF best = hn::Max(v1, v0);
    if (kArgmax) {
      VI winner = hn::IfThenElse(hn::RebindMask(DI(), hn::Gt(v1, v0)), hn::Add(w1, three), w0);
      winner = hn::IfThenElse(hn::RebindMask(DI(), hn::Gt(v2, best)), hn::Add(w2, hn::Set(DI(), 6)),
                              winner);
      StoreBytes(winner, strip.argmax + r * strip.argmax_row_stride + column.argmax + c, count,
                 column.argmax_room - c);
    }
    best = hn::Max(v2, best);
    if (kLate) best = Activated<kActivation>(best, size, shift);
    float* const to = strip.y + r * strip.y_row_stride + column.y + c;
    if (kStream) {
      StoreWhole<true>(best, to);
    } else {
      StoreLanes<kTail>(best, to, count);
    }
    v0 = v1;
    w0 = w1;
    v1 = v2;
    w1 = w2;
  }
  return suspects;
}

// Whether the strip is right: false where an input is, or a coefficient makes it, infinite or NaN.
template <Activation kActivation, bool kArgmax, bool kStream>
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
    const MaxStripColumn column = {{pixel(ow - 1), pixel(ow), pixel(ow + 1)},
                                   ow == 0 ? 1 : 0,
                                   ow * y.pixel_stride,
                                   ow * y.c,
                                   (y.w - ow) * y.c};
    // The rows that the next strip adds to these, as far as the image or the next goes on.
    for (int64_t r = 0; r < strip.num_rows; ++r) {
      PrefetchFloats(strip.rows[1] + column.x[1] + (strip.num_rows + 1 + r) * row_stride, x.c);
    }
    int64_t c = 0;
    for (; c + lanes <= y.c; c += lanes) {
      suspects = MaxStripVector<kActivation, kArgmax, kStream, false>(
          strip, column, c, lanes, LoadCoefficients<kActivation, false>(scale + c, lanes),
          LoadCoefficients<kActivation, false>(shift + c, lanes), suspects);
    }
    if (c < y.c) {
      const int64_t count = y.c - c;
      suspects = MaxStripVector<kActivation, kArgmax, false, true>(
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

template <Activation kActivation>
void MaxPool3x3StripT(const Pool2dParams& params, const float* scale, const float* shift,
                      ConstTensor x, Tensor y, uint8_t* argmax, int64_t image, int64_t begin,
                      int64_t end) {
  if (params.padding == 1) {
    MaxStrip strip;
    strip.num_rows = end - begin;
    strip.top_outside = begin == 0;
    for (int64_t r = 0; r < strip.num_rows + 2; ++r) {
      strip.rows[r] = x.Pixel(image, std::clamp<int64_t>(begin - 1 + r, 0, x.h - 1), 0);
    }
    strip.y = y.Pixel(image, begin, 0);
    strip.y_row_stride = y.w * y.pixel_stride;
    strip.argmax_row_stride = y.w * y.c;
    strip.argmax = argmax == nullptr ? nullptr : argmax + (image * y.h + begin) * y.w * y.c;
    const bool stream = BeyondCaches(4 * (x.size() + y.size())) &&
                        CanStream(strip.y, y.w, y.c, y.pixel_stride) && y.c % Lanes() == 0;
    const auto kernel = argmax == nullptr ? (stream ? &FiniteStripT<kActivation, false, true>
                                                    : &FiniteStripT<kActivation, false, false>)
                                          : (stream ? &FiniteStripT<kActivation, true, true>
                                                    : &FiniteStripT<kActivation, true, false>);
    if (kernel(strip, scale, shift, x, y)) return;
  }
  CarefulStripT<kActivation>(params, scale, shift, x, y, argmax, image, begin, end);
}

// Output rows [begin, end) of one image, kMaxPoolStripRows at most, 3 x 3 with stride 1.
void MaxPool3x3Strip(const Pool2dParams& params, const ActivationPrologue<float>& activation,
                     ConstTensor x, Tensor y, uint8_t* argmax, int64_t image, int64_t begin,
                     int64_t end) {
  const float* const scale = activation.active() ? activation.scale : x.data;
  const float* const shift = activation.active() ? activation.shift : x.data;
  const Activation kind = KindOf(activation);
  const auto kernel = kind == Activation::kAffineRelu ? &MaxPool3x3StripT<Activation::kAffineRelu>
                      : kind == Activation::kAffine   ? &MaxPool3x3StripT<Activation::kAffine>
                                                      : &MaxPool3x3StripT<Activation::kNone>;
  kernel(params, scale, shift, x, y, argmax, image, begin, end);
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#endif  // CLASSICNN_LAYERS_MAX_POOL2D_MAX_POOL2D_SLIDE_INL_H_
