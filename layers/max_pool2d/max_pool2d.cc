#include "layers/max_pool2d/max_pool2d.h"

#include <algorithm>

#include "core/check.h"
#include "layers/channel_rows.h"
#include "layers/channel_sums.h"
#include "layers/pieces.h"
#include "layers/pool_windows.h"
#include "layers/prefetch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/max_pool2d/max_pool2d.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/activation-inl.h"
#include "layers/partial-inl.h"

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

// One vector of channels of one output. `x` is where tap (0, 0) is, or would be; kKernel is the
// kernel size where it is known and no tap is outside the image, else 0.
template <int kKernel, bool kTail, class Load>
HWY_INLINE void MaxVector(const Load load, const float* x, int64_t row_stride, int64_t pixel_stride,
                          int64_t kernel, IndexRange rows, IndexRange columns, float* y,
                          uint8_t* argmax, int64_t room) {
  VF best = load(x + rows.begin * row_stride + columns.begin * pixel_stride);
  VI winner = hn::Set(DI(), static_cast<int32_t>(rows.begin * kernel + columns.begin));
  if (kKernel != 0) {
    for (int r = 0; r < kKernel; ++r) {
      for (int s = 0; s < kKernel; ++s) {
        if (r == 0 && s == 0) continue;
        Challenge(load(x + r * row_stride + s * pixel_stride), r * kKernel + s, best, winner);
      }
    }
  } else {
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      for (int64_t s = columns.begin; s < columns.end; ++s) {
        if (r == rows.begin && s == columns.begin) continue;
        Challenge(load(x + r * row_stride + s * pixel_stride), r * kernel + s, best, winner);
      }
    }
  }
  StoreLanes<kTail>(best, y, load.count);
  if (argmax != nullptr) StoreBytes(winner, argmax, load.count, room);
}

template <int kKernel, Activation kActivation>
void MaxPixel(const float* scale, const float* shift, const float* x, int64_t row_stride,
              int64_t pixel_stride, int64_t kernel, IndexRange rows, IndexRange columns,
              int64_t channels, float* y, uint8_t* argmax, int64_t room) {
  const int64_t lanes = Lanes();
  int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) {
    MaxVector<kKernel, false>(Loader<kActivation, false>{scale + c, shift + c, lanes}, x + c,
                              row_stride, pixel_stride, kernel, rows, columns, y + c,
                              argmax == nullptr ? nullptr : argmax + c, lanes);
  }
  if (c < channels) {
    MaxVector<kKernel, true>(Loader<kActivation, true>{scale + c, shift + c, channels - c}, x + c,
                             row_stride, pixel_stride, kernel, rows, columns, y + c,
                             argmax == nullptr ? nullptr : argmax + c, room - c);
  }
}

// Pixels [column, column + columns) of some rows of an image, where there are so many.
HWY_INLINE void PrefetchPixels(const ConstTensor& x, int64_t image, IndexRange rows, int64_t column,
                               int64_t columns) {
  if (column + columns > x.w) return;
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    PrefetchFloats(x.Pixel(image, r, column), columns * x.pixel_stride);
  }
}

template <Activation kActivation>
void MaxPoolRowT(const Pool2dParams& params, const float* scale, const float* shift, ConstTensor x,
                 Tensor y, uint8_t* argmax, int64_t row) {
  const int64_t image = row / y.h;
  const int64_t oh = row % y.h;
  const IndexRange rows = ValidTaps(params, oh, x.h);
  const int64_t row_stride = x.w * x.pixel_stride;
  const float* const x_row =
      x.Pixel(image, 0, 0) + FirstInput(params, oh) * row_stride;  // used only within the image
  for (int64_t ow = 0; ow < y.w; ++ow) {
    const IndexRange columns = ValidTaps(params, ow, x.w);
    const bool whole = rows.size() == params.kernel && columns.size() == params.kernel;
    const auto kernel = whole && params.kernel == 3   ? &MaxPixel<3, kActivation>
                        : whole && params.kernel == 2 ? &MaxPixel<2, kActivation>
                                                      : &MaxPixel<0, kActivation>;
    const int64_t out = row * y.w + ow;
    PrefetchPixels(x, image,
                   {FirstInput(params, oh) + rows.begin, FirstInput(params, oh) + rows.end},
                   (ow + kPrefetchAhead) * params.stride, params.stride);
    // What a vector writes beyond its pixel, the next pixels of the row overwrite.
    kernel(scale, shift, x_row + FirstInput(params, ow) * x.pixel_stride, row_stride,
           x.pixel_stride, params.kernel, rows, columns, y.c, y.Pixel(out),
           argmax == nullptr ? nullptr : argmax + out * y.c, (y.w - ow) * y.c);
  }
}

// Row `row` of the outputs, counted over all images.
void MaxPoolRow(const Pool2dParams& params, const ActivationPrologue<float>& activation,
                ConstTensor x, Tensor y, uint8_t* argmax, int64_t row) {
  // Without an activation any pointers will do: nothing is read of them.
  const float* const scale = activation.active() ? activation.scale : x.data;
  const float* const shift = activation.active() ? activation.shift : x.data;
  const Activation kind = KindOf(activation);
  const auto kernel = kind == Activation::kAffineRelu ? &MaxPoolRowT<Activation::kAffineRelu>
                      : kind == Activation::kAffine   ? &MaxPoolRowT<Activation::kAffine>
                                                      : &MaxPoolRowT<Activation::kNone>;
  kernel(params, scale, shift, x, y, argmax, row);
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
void MaxPool3x3RowsT(const Pool2dParams& params, const float* scale, const float* shift,
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

// Output rows [begin, end) of one image, 3 x 3 with stride 1.
void MaxPool3x3Rows(const Pool2dParams& params, const ActivationPrologue<float>& activation,
                    ConstTensor x, Tensor y, uint8_t* argmax, int64_t image, int64_t begin,
                    int64_t end) {
  const float* const scale = activation.active() ? activation.scale : x.data;
  const float* const shift = activation.active() ? activation.shift : x.data;
  const Activation kind = KindOf(activation);
  const auto kernel = kind == Activation::kAffineRelu ? &MaxPool3x3RowsT<Activation::kAffineRelu>
                      : kind == Activation::kAffine   ? &MaxPool3x3RowsT<Activation::kAffine>
                                                      : &MaxPool3x3RowsT<Activation::kNone>;
  kernel(params, scale, shift, x, y, argmax, image, begin, end);
}

// One vector of channels of one dx: the gradients of the windows that it won. `dy` and `argmax` are
// those of the first window over the pixel, which is its tap `tap`. kRows and kColumns are the
// numbers of such windows where they are known, else 0.
template <int kRows, int kColumns, bool kTail>
HWY_INLINE void GatherVector(const float* dy, int64_t dy_pixel_stride, const uint8_t* argmax,
                             int64_t channels, int64_t out_width, int64_t num_rows,
                             int64_t num_columns, int64_t tap, const Pool2dParams& params,
                             int64_t count, int64_t room, bool accumulate, float* dx) {
  VF sum = hn::Zero(DF());
  const int64_t rows = kRows != 0 ? kRows : num_rows;
  const int64_t columns = kColumns != 0 ? kColumns : num_columns;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t s = 0; s < columns; ++s) {
      const int64_t window = r * out_width + s;
      const VI expected =
          hn::Set(DI(), static_cast<int32_t>(tap - (r * params.kernel + s) * params.stride));
      const VI winner = LoadBytes(argmax + window * channels, count, room - window * channels);
      const auto won = hn::RebindMask(DF(), hn::Eq(winner, expected));
      const VF g = LoadLanes<kTail>(dy + window * dy_pixel_stride, count);
      sum = hn::Add(sum, KeepWhere(won, g));
    }
  }
  if (accumulate) sum = hn::Add(LoadLanes<kTail>(dx, count), sum);
  StoreLanes<kTail>(sum, dx, count);
}

// Channels [begin, end) of one dx, of `channels`. `room`: bytes from `argmax` to the end of the
// array. `dx` is where channel `begin` goes; the others are at channel 0.
template <int kRows, int kColumns>
void GatherPixel(const float* dy, int64_t dy_pixel_stride, const uint8_t* argmax, int64_t channels,
                 int64_t begin, int64_t end, int64_t out_width, int64_t num_rows,
                 int64_t num_columns, int64_t tap, const Pool2dParams& params, int64_t room,
                 bool accumulate, float* dx) {
  const Pool2dParams local = params;  // a copy that stores cannot change
  const int64_t lanes = Lanes();
  int64_t c = begin;
  for (; c + lanes <= end; c += lanes) {
    GatherVector<kRows, kColumns, false>(dy + c, dy_pixel_stride, argmax + c, channels, out_width,
                                         num_rows, num_columns, tap, local, lanes,
                                         /*room=*/int64_t{1} << 40, accumulate, dx + c - begin);
  }
  if (c < end) {
    GatherVector<kRows, kColumns, true>(dy + c, dy_pixel_stride, argmax + c, channels, out_width,
                                        num_rows, num_columns, tap, local, end - c, room - c,
                                        accumulate, dx + c - begin);
  }
}

// Pixels `columns` and channels `channels` of row `row` of the inputs, counted over all images.
// `to` is where the first of them goes.
void MaxPoolGather(const Pool2dParams& params, ConstTensor dy, const uint8_t* argmax,
                   const Shape4& x, int64_t row, IndexRange columns, IndexRange channels, float* to,
                   int64_t to_stride, bool accumulate) {
  const int64_t image = row / x.h;
  const int64_t h = row % x.h;
  const IndexRange rows = WindowsOver(params, h, dy.h);
  for (int64_t w = columns.begin; w < columns.end; ++w, to += to_stride) {
    const IndexRange windows = WindowsOver(params, w, dy.w);
    const int64_t out = (image * dy.h + rows.begin) * dy.w + windows.begin;
    const int64_t tap = (h + params.padding - rows.begin * params.stride) * params.kernel + w +
                        params.padding - windows.begin * params.stride;
    // The models' windows: 3 x 3 in steps of 1 (nine over a pixel), or of 2 (one to four).
    const int64_t over = rows.size() * 4 + windows.size();
    const auto kernel = over == 3 * 4 + 3   ? &GatherPixel<3, 3>
                        : over == 2 * 4 + 2 ? &GatherPixel<2, 2>
                        : over == 2 * 4 + 1 ? &GatherPixel<2, 1>
                        : over == 1 * 4 + 2 ? &GatherPixel<1, 2>
                        : over == 1 * 4 + 1 ? &GatherPixel<1, 1>
                                            : &GatherPixel<0, 0>;
    kernel(dy.Pixel(out), dy.pixel_stride, argmax + out * dy.c, dy.c, channels.begin, channels.end,
           dy.w, rows.size(), windows.size(), tap, params, dy.size() - out * dy.c, accumulate, to);
  }
}

// One vector of channels of one window, whose pixels are in no other: dx of all its taps. `dx` is
// that of tap (0, 0).
template <int kKernel, bool kTail>
HWY_INLINE void ScatterVector(const float* dy, const uint8_t* argmax, int64_t kernel, int64_t count,
                              int64_t room, bool accumulate, float* dx, int64_t row_stride,
                              int64_t pixel_stride) {
  const VF g = LoadLanes<kTail>(dy, count);
  const VI winner = LoadBytes(argmax, count, room);
  const int64_t size = kKernel != 0 ? kKernel : kernel;
  for (int64_t r = 0; r < size; ++r) {
    for (int64_t s = 0; s < size; ++s) {
      float* const to = dx + r * row_stride + s * pixel_stride;
      const VI tap = hn::Set(DI(), static_cast<int32_t>(r * size + s));
      VF v = KeepWhere(hn::RebindMask(DF(), hn::Eq(winner, tap)), g);
      if (accumulate) v = hn::Add(LoadLanes<kTail>(to, count), v);
      StoreLanes<kTail>(v, to, count);
    }
  }
}

template <int kKernel>
void ScatterWindows(const Pool2dParams& params, ConstTensor dy, const uint8_t* argmax, Tensor dx,
                    bool accumulate, int64_t row, IndexRange columns) {
  const int64_t lanes = Lanes();
  const int64_t kernel = params.kernel;
  const int64_t row_stride = dx.w * dx.pixel_stride;
  for (int64_t ow = columns.begin; ow < columns.end; ++ow) {
    const int64_t out = row * dy.w + ow;
    const float* const dy_out = dy.Pixel(out);
    const uint8_t* const argmax_out = argmax + out * dy.c;
    const int64_t room = dy.size() - out * dy.c;
    float* const dx_out = dx.Pixel(row * kernel * dx.w + ow * kernel);
    int64_t c = 0;
    for (; c + lanes <= dy.c; c += lanes) {
      ScatterVector<kKernel, false>(dy_out + c, argmax_out + c, kernel, lanes, lanes, accumulate,
                                    dx_out + c, row_stride, dx.pixel_stride);
    }
    if (c < dy.c) {
      ScatterVector<kKernel, true>(dy_out + c, argmax_out + c, kernel, dy.c - c, room - c,
                                   accumulate, dx_out + c, row_stride, dx.pixel_stride);
    }
  }
}

// Outputs `columns` of row `row`, counted over all images, where every input is in exactly one
// window.
void MaxPoolScatter(const Pool2dParams& params, ConstTensor dy, const uint8_t* argmax, Tensor dx,
                    bool accumulate, int64_t row, IndexRange columns) {
  const auto kernel = params.kernel == 2 ? &ScatterWindows<2> : &ScatterWindows<0>;
  kernel(params, dy, argmax, dx, accumulate, row, columns);
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
HWY_EXPORT(MaxPoolRow);
HWY_EXPORT(MaxPool3x3Rows);
HWY_EXPORT(MaxPoolGather);
HWY_EXPORT(MaxPoolScatter);
namespace {

void CheckShapes(const Pool2dParams& params, const Shape4& x, const Shape4& y) {
  CNN_CHECK(params.kernel >= 1 && params.kernel <= 15 && params.stride >= 1 &&
                params.padding >= 0 && params.padding <= params.kernel / 2,
            "kernel ", params.kernel, " stride ", params.stride, " padding ", params.padding);
  CNN_CHECK(params.Output(x) == y, x.ToString(), " to ", y.ToString());
}

// Every input is in exactly one window: a window's gradients can be scattered.
bool Disjoint(const Pool2dParams& params, const Shape4& x, const Shape4& y) {
  return params.stride == params.kernel && params.padding == 0 && y.h * params.kernel == x.h &&
         y.w * params.kernel == x.w;
}

// The rows that backward is cut by: of the outputs where they are disjoint, else of the inputs.
// Fewer pieces where each leaves sums of every channel.
Pieces BackwardRows(const Pool2dParams& params, const Shape4& x, bool sums) {
  const Shape4 y = params.Output(x);
  const int64_t max_pieces = sums ? 256 : Pieces::kMaxPieces;
  if (Disjoint(params, x, y)) {
    const int64_t dx_pixels = y.w * params.kernel * params.kernel;
    return Pieces(y.n * y.h, 4 * y.c * (y.w + (sums ? 2 : 1) * dx_pixels), max_pieces);
  }
  return Pieces(x.n * x.h, 4 * x.c * ((sums ? 2 : 1) * x.w + y.w * y.h / x.h), max_pieces);
}

// A few pixels at a time go through the epilogue, while they are in the first-level cache.
int64_t PixelsTogether(int64_t channels) { return std::max<int64_t>(16, 4096 / channels); }

// Row `row` of the outputs, with the epilogue: windows, then the rows of pixels they left.
void ScatterWithEpilogue(const MaxPool2dBackwardArgs& args, int64_t row, float* sum_g,
                         float* sum_gx) {
  const Tensor& dx = args.dx;
  const int64_t kernel = args.params.kernel;
  const int64_t together = std::max<int64_t>(1, PixelsTogether(dx.c) / kernel);
  for (int64_t ow = 0; ow < args.dy.w; ow += together) {
    const IndexRange columns = {ow, std::min(args.dy.w, ow + together)};
    for (int64_t r = row * kernel; r < (row + 1) * kernel; ++r) {
      PrefetchFloats(args.epilogue.x.Pixel(r * dx.w + columns.begin * kernel),
                     columns.size() * kernel * args.epilogue.x.pixel_stride);
    }
    HWY_DYNAMIC_DISPATCH(MaxPoolScatter)
    (args.params, args.dy, args.argmax, dx, args.accumulate, row, columns);
    for (int64_t r = row * kernel; r < (row + 1) * kernel; ++r) {
      const int64_t pixel = r * dx.w + columns.begin * kernel;
      float* const to = dx.Pixel(pixel);
      GradientEpilogueRows(args.epilogue, 0, to, dx.pixel_stride, args.epilogue.x.Pixel(pixel),
                           columns.size() * kernel, dx.c, to, dx.pixel_stride, sum_g, sum_gx);
    }
  }
}

// Row `row` of the inputs, with the epilogue.
void GatherWithEpilogue(const MaxPool2dBackwardArgs& args, int64_t row, float* sum_g,
                        float* sum_gx) {
  const Tensor& dx = args.dx;
  // What is added after the mask cannot be in dx before it: blocks of channels go through a buffer.
  constexpr int64_t kChannels = 256;
  constexpr int64_t kPixels = 16;
  float buffer[kChannels * kPixels];
  const bool add = args.epilogue.add;
  const int64_t channels_together = add ? kChannels : dx.c;
  const int64_t together = add ? kPixels : PixelsTogether(dx.c);
  for (int64_t w = 0; w < dx.w; w += together) {
    const IndexRange columns = {w, std::min(dx.w, w + together)};
    const int64_t pixel = row * dx.w + w;
    PrefetchFloats(args.epilogue.x.Pixel(pixel), columns.size() * args.epilogue.x.pixel_stride);
    for (int64_t c = 0; c < dx.c; c += channels_together) {
      const IndexRange channels = {c, std::min(dx.c, c + channels_together)};
      float* const to = dx.Pixel(pixel) + c;
      float* const da = add ? buffer : to;
      const int64_t da_stride = add ? kChannels : dx.pixel_stride;
      HWY_DYNAMIC_DISPATCH(MaxPoolGather)
      (args.params, args.dy, args.argmax, dx.shape(), row, columns, channels, da, da_stride,
       args.accumulate);
      GradientEpilogueRows(args.epilogue, c, da, da_stride, args.epilogue.x.Pixel(pixel) + c,
                           columns.size(), channels.size(), to, dx.pixel_stride, sum_g + c,
                           sum_gx + c);
    }
  }
}

}  // namespace

void MaxPool2dForward(const Pool2dParams& params, ConstTensor x, Tensor y, uint8_t* argmax,
                      Context& ctx, const ActivationPrologue<float>& activation) {
  CheckShapes(params, x.shape(), y.shape());
  const Pieces pieces(y.n * y.h, 4 * y.c * (y.w + x.w * x.h / y.h));
  const bool sliding = params.kernel == 3 && params.stride == 1;
  ctx.ParallelFor("max_pool2d.forward", pieces.count(), [&](int64_t piece, int) {
    if (sliding) {
      for (int64_t row = pieces.Begin(piece); row < pieces.End(piece);) {
        const int64_t image = row / y.h;
        const int64_t end = std::min(pieces.End(piece), (image + 1) * y.h);
        HWY_DYNAMIC_DISPATCH(MaxPool3x3Rows)
        (params, activation, x, y, argmax, image, row - image * y.h, end - image * y.h);
        row = end;
      }
      return;
    }
    for (int64_t row = pieces.Begin(piece); row < pieces.End(piece); ++row) {
      HWY_DYNAMIC_DISPATCH(MaxPoolRow)(params, activation, x, y, argmax, row);
    }
  });
}

size_t MaxPool2dBackwardWorkspaceBytes(const Pool2dParams& params, const Shape4& x) {
  return GradientSumPieces::Bytes(BackwardRows(params, x, /*sums=*/true).count(), x.c);
}

void MaxPool2dBackward(const MaxPool2dBackwardArgs& args, Context& ctx) {
  const Tensor& dx = args.dx;
  const ConstTensor& dy = args.dy;
  CheckShapes(args.params, dx.shape(), dy.shape());
  const bool disjoint = Disjoint(args.params, dx.shape(), dy.shape());
  if (!args.epilogue.active()) {
    const Pieces pieces = BackwardRows(args.params, dx.shape(), /*sums=*/false);
    ctx.ParallelFor("max_pool2d.backward", pieces.count(), [&](int64_t piece, int) {
      for (int64_t row = pieces.Begin(piece); row < pieces.End(piece); ++row) {
        if (disjoint) {
          HWY_DYNAMIC_DISPATCH(MaxPoolScatter)
          (args.params, dy, args.argmax, dx, args.accumulate, row, {0, dy.w});
        } else {
          HWY_DYNAMIC_DISPATCH(MaxPoolGather)
          (args.params, dy, args.argmax, dx.shape(), row, {0, dx.w}, {0, dx.c},
           dx.Pixel(row * dx.w), dx.pixel_stride, args.accumulate);
        }
      }
    });
    return;
  }
  CNN_CHECK(args.epilogue.x.shape() == dx.shape(), "epilogue of ",
            args.epilogue.x.shape().ToString(), " for ", dx.shape().ToString());
  CNN_CHECK(!args.accumulate || !args.epilogue.add, "a gradient is added before or after its mask");
  Workspace workspace = args.workspace;
  const Pieces pieces = BackwardRows(args.params, dx.shape(), /*sums=*/true);
  const GradientSumPieces sums(pieces.count(), dx.c, &workspace);
  ctx.ParallelFor("max_pool2d.backward", pieces.count(), [&](int64_t piece, int) {
    sums.Clear(piece, 0, dx.c);
    // Where the result is added after the mask, even disjoint windows are gathered; a row of them
    // is then a few rows of the inputs.
    const bool scatter = disjoint && !args.epilogue.add;
    const int64_t rows = disjoint && !scatter ? args.params.kernel : 1;
    for (int64_t row = rows * pieces.Begin(piece); row < rows * pieces.End(piece); ++row) {
      if (scatter) {
        ScatterWithEpilogue(args, row, sums.sum_g(piece), sums.sum_gx(piece));
      } else {
        GatherWithEpilogue(args, row, sums.sum_g(piece), sums.sum_gx(piece));
      }
    }
  });
  sums.Merge(args.epilogue, ctx);
}

}  // namespace classicnn
#endif  // HWY_ONCE
