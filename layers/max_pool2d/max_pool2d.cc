#include "layers/max_pool2d/max_pool2d.h"

#include <algorithm>

#include "core/check.h"
#include "core/divide.h"
#include "layers/max_pool2d/max_pool2d_parts.h"
#include "layers/pieces.h"
#include "layers/pool_windows.h"
#include "layers/prefetch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/max_pool2d/max_pool2d.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/max_pool2d/max_pool2d_strips-inl.h"

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

template <Activation kActivation>
void MaxPoolRowT(const Pool2dParams& params, const float* scale, const float* shift, ConstTensor x,
                 Tensor y, uint8_t* argmax, int64_t row) {
  const int64_t image = row / y.h;
  const int64_t oh = row % y.h;
  const IndexRange rows = ValidTaps(params, oh, x.h);
  const int64_t row_stride = x.w * x.pixel_stride;
  const bool hints = ComesFromMemory(4 * (x.size() + y.size()));
  const float* const x_row =
      x.Pixel(image, 0, 0) + FirstInput(params, oh) * row_stride;  // used only within the image
  for (int64_t ow = 0; ow < y.w; ++ow) {
    const IndexRange columns = ValidTaps(params, ow, x.w);
    const bool whole = rows.size() == params.kernel && columns.size() == params.kernel;
    const auto kernel = whole && params.kernel == 3   ? &MaxPixel<3, kActivation>
                        : whole && params.kernel == 2 ? &MaxPixel<2, kActivation>
                                                      : &MaxPixel<0, kActivation>;
    const int64_t out = row * y.w + ow;
    if (hints) {
      PrefetchPixels(x, image,
                     {FirstInput(params, oh) + rows.begin, FirstInput(params, oh) + rows.end},
                     (ow + kPrefetchAhead) * params.stride, params.stride);
    }
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

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
HWY_EXPORT(MaxPoolRow);
HWY_EXPORT(MaxPoolFiniteStrip);

void CheckMaxPool2dShapes(const Pool2dParams& params, const Shape4& x, const Shape4& y) {
  CNN_CHECK(params.kernel >= 1 && params.kernel <= 15 && params.stride >= 1 &&
                params.padding >= 0 && params.padding <= params.kernel / 2,
            "kernel ", params.kernel, " stride ", params.stride, " padding ", params.padding);
  CNN_CHECK(params.Output(x) == y, x.ToString(), " to ", y.ToString());
}

void MaxPool2dForward(const Pool2dParams& params, ConstTensor x, Tensor y, uint8_t* argmax,
                      Context& ctx, const ActivationPrologue<float>& activation) {
  CheckMaxPool2dShapes(params, x.shape(), y.shape());
  const int64_t row_bytes = 4 * y.c * (y.w + x.w * x.h / y.h);
  const auto rows = [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      HWY_DYNAMIC_DISPATCH(MaxPoolRow)(params, activation, x, y, argmax, row);
    }
  };
  if (const int64_t strip_rows = MaxPoolStripRows(params)) {
    const int64_t strips = DivideUp(y.h, strip_rows);  // of an image
    const Pieces pieces(y.n * strips, row_bytes * y.h / strips);
    ctx.ParallelFor("max_pool2d.forward", pieces.count(), [&](int64_t piece, int) {
      for (int64_t strip = pieces.Begin(piece); strip < pieces.End(piece); ++strip) {
        const int64_t image = strip / strips;
        const int64_t begin = strip % strips * strip_rows;
        const int64_t end = std::min(y.h, begin + strip_rows);
        if (!HWY_DYNAMIC_DISPATCH(MaxPoolFiniteStrip)(params, activation, x, y, argmax, image,
                                                      begin, end)) {
          rows(image * y.h + begin, image * y.h + end);
        }
      }
    });
    return;
  }
  const Pieces pieces(y.n * y.h, row_bytes);
  ctx.ParallelFor("max_pool2d.forward", pieces.count(),
                  [&](int64_t piece, int) { rows(pieces.Begin(piece), pieces.End(piece)); });
}

}  // namespace classicnn
#endif  // HWY_ONCE
