#include "layers/max_pool2d/max_pool2d.h"

#include "core/check.h"
#include "layers/pieces.h"
#include "layers/pool_windows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/max_pool2d/max_pool2d.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
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

// One vector of channels of one output. `x` is where tap (0, 0) is, or would be; kKernel is the
// kernel size where it is known and no tap is outside the image, else 0.
template <int kKernel, bool kTail>
HWY_INLINE void MaxVector(const float* x, int64_t row_stride, int64_t pixel_stride, int64_t kernel,
                          IndexRange rows, IndexRange columns, int64_t count, float* y,
                          uint8_t* argmax) {
  VF best = LoadLanes<kTail>(x + rows.begin * row_stride + columns.begin * pixel_stride, count);
  VI winner = hn::Set(DI(), static_cast<int32_t>(rows.begin * kernel + columns.begin));
  if (kKernel != 0) {
    for (int r = 0; r < kKernel; ++r) {
      for (int s = 0; s < kKernel; ++s) {
        if (r == 0 && s == 0) continue;
        Challenge(LoadLanes<kTail>(x + r * row_stride + s * pixel_stride, count), r * kKernel + s,
                  best, winner);
      }
    }
  } else {
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      for (int64_t s = columns.begin; s < columns.end; ++s) {
        if (r == rows.begin && s == columns.begin) continue;
        Challenge(LoadLanes<kTail>(x + r * row_stride + s * pixel_stride, count), r * kernel + s,
                  best, winner);
      }
    }
  }
  StoreLanes<kTail>(best, y, count);
  if (argmax != nullptr) StoreBytes<kTail>(winner, argmax, count);
}

template <int kKernel>
void MaxPixel(const float* x, int64_t row_stride, int64_t pixel_stride, int64_t kernel,
              IndexRange rows, IndexRange columns, int64_t channels, float* y, uint8_t* argmax) {
  const int64_t lanes = Lanes();
  int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) {
    MaxVector<kKernel, false>(x + c, row_stride, pixel_stride, kernel, rows, columns, lanes, y + c,
                              argmax == nullptr ? nullptr : argmax + c);
  }
  if (c < channels) {
    MaxVector<kKernel, true>(x + c, row_stride, pixel_stride, kernel, rows, columns, channels - c,
                             y + c, argmax == nullptr ? nullptr : argmax + c);
  }
}

// Row `row` of the outputs, counted over all images.
void MaxPoolRow(const Pool2dParams& params, ConstTensor x, Tensor y, uint8_t* argmax, int64_t row) {
  const int64_t image = row / y.h;
  const int64_t oh = row % y.h;
  const IndexRange rows = ValidTaps(params, oh, x.h);
  const int64_t row_stride = x.w * x.pixel_stride;
  const float* const x_row =
      x.Pixel(image, 0, 0) + FirstInput(params, oh) * row_stride;  // used only within the image
  for (int64_t ow = 0; ow < y.w; ++ow) {
    const IndexRange columns = ValidTaps(params, ow, x.w);
    const bool whole = rows.size() == params.kernel && columns.size() == params.kernel;
    const auto kernel = whole && params.kernel == 3   ? &MaxPixel<3>
                        : whole && params.kernel == 2 ? &MaxPixel<2>
                                                      : &MaxPixel<0>;
    const int64_t out = row * y.w + ow;
    kernel(x_row + FirstInput(params, ow) * x.pixel_stride, row_stride, x.pixel_stride,
           params.kernel, rows, columns, y.c, y.Pixel(out),
           argmax == nullptr ? nullptr : argmax + out * y.c);
  }
}

// One vector of channels of one dx: the gradients of the windows that it won. `dy` and `argmax` are
// those of window (rows.begin, columns.begin), for which the pixel is tap `tap`.
template <bool kTail>
HWY_INLINE void GatherVector(const float* dy, int64_t dy_pixel_stride, const uint8_t* argmax,
                             int64_t channels, int64_t out_width, int64_t num_rows,
                             int64_t num_columns, int64_t tap, const Pool2dParams& params,
                             int64_t count, bool accumulate, float* dx) {
  VF sum = hn::Zero(DF());
  for (int64_t r = 0; r < num_rows; ++r) {
    for (int64_t s = 0; s < num_columns; ++s) {
      const int64_t window = r * out_width + s;
      const VI expected =
          hn::Set(DI(), static_cast<int32_t>(tap - (r * params.kernel + s) * params.stride));
      const VI winner = LoadBytes<kTail>(argmax + window * channels, count);
      const auto won = hn::RebindMask(DF(), hn::Eq(winner, expected));
      const VF g = LoadLanes<kTail>(dy + window * dy_pixel_stride, count);
      sum = hn::Add(sum, hn::IfThenElseZero(won, g));
    }
  }
  if (accumulate) sum = hn::Add(LoadLanes<kTail>(dx, count), sum);
  StoreLanes<kTail>(sum, dx, count);
}

// Row `row` of the inputs, counted over all images.
void MaxPoolBackwardRow(const Pool2dParams& params, ConstTensor dy, const uint8_t* argmax,
                        Tensor dx, bool accumulate, int64_t row) {
  const int64_t lanes = Lanes();
  const int64_t channels = dx.c;
  const int64_t image = row / dx.h;
  const int64_t h = row % dx.h;
  const IndexRange rows = WindowsOver(params, h, dy.h);
  for (int64_t w = 0; w < dx.w; ++w) {
    const IndexRange columns = WindowsOver(params, w, dy.w);
    const int64_t out = (image * dy.h + rows.begin) * dy.w + columns.begin;
    const int64_t tap = (h + params.padding - rows.begin * params.stride) * params.kernel + w +
                        params.padding - columns.begin * params.stride;
    const float* const dy_out = dy.Pixel(out);
    const uint8_t* const argmax_out = argmax + out * channels;
    float* const dx_w = dx.Pixel(row * dx.w + w);
    int64_t c = 0;
    for (; c + lanes <= channels; c += lanes) {
      GatherVector<false>(dy_out + c, dy.pixel_stride, argmax_out + c, channels, dy.w, rows.size(),
                          columns.size(), tap, params, lanes, accumulate, dx_w + c);
    }
    if (c < channels) {
      GatherVector<true>(dy_out + c, dy.pixel_stride, argmax_out + c, channels, dy.w, rows.size(),
                         columns.size(), tap, params, channels - c, accumulate, dx_w + c);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
HWY_EXPORT(MaxPoolRow);
HWY_EXPORT(MaxPoolBackwardRow);
namespace {

void CheckShapes(const Pool2dParams& params, const Shape4& x, const Shape4& y) {
  CNN_CHECK(params.kernel >= 1 && params.kernel <= 15 && params.stride >= 1 &&
                params.padding >= 0 && params.padding <= params.kernel / 2,
            "kernel ", params.kernel, " stride ", params.stride, " padding ", params.padding);
  CNN_CHECK(params.Output(x) == y, x.ToString(), " to ", y.ToString());
}

}  // namespace

void MaxPool2dForward(const Pool2dParams& params, ConstTensor x, Tensor y, uint8_t* argmax,
                      Context& ctx) {
  CheckShapes(params, x.shape(), y.shape());
  const Pieces pieces(y.n * y.h, 4 * y.c * (y.w + x.w * x.h / y.h));
  ctx.ParallelFor("max_pool2d.forward", pieces.count(), [&](int64_t piece, int) {
    for (int64_t row = pieces.Begin(piece); row < pieces.End(piece); ++row) {
      HWY_DYNAMIC_DISPATCH(MaxPoolRow)(params, x, y, argmax, row);
    }
  });
}

void MaxPool2dBackward(const Pool2dParams& params, ConstTensor dy, const uint8_t* argmax, Tensor dx,
                       bool accumulate, Context& ctx) {
  CheckShapes(params, dx.shape(), dy.shape());
  const Pieces pieces(dx.n * dx.h, 4 * dx.c * (dx.w + dy.w * dy.h / dx.h));
  ctx.ParallelFor("max_pool2d.backward", pieces.count(), [&](int64_t piece, int) {
    for (int64_t row = pieces.Begin(piece); row < pieces.End(piece); ++row) {
      HWY_DYNAMIC_DISPATCH(MaxPoolBackwardRow)(params, dy, argmax, dx, accumulate, row);
    }
  });
}

}  // namespace classicnn
#endif  // HWY_ONCE
