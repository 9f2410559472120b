#include "layers/avg_pool2d/avg_pool2d.h"

#include "core/check.h"
#include "layers/pieces.h"
#include "layers/pool_windows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/avg_pool2d/avg_pool2d.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/partial-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

// to = (the sum of rows x columns pixels from `from` on) / area, or to += that.
template <bool kTail>
HWY_INLINE void AverageVector(const float* from, int64_t row_stride, int64_t pixel_stride,
                              int64_t rows, int64_t columns, VF area, int64_t count,
                              bool accumulate, float* to) {
  VF sum = hn::Zero(DF());
  if (rows == 2 && columns == 2) {  // the usual one, without loops
    sum = hn::Add(
        hn::Add(LoadLanes<kTail>(from, count), LoadLanes<kTail>(from + pixel_stride, count)),
        hn::Add(LoadLanes<kTail>(from + row_stride, count),
                LoadLanes<kTail>(from + row_stride + pixel_stride, count)));
  } else {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t s = 0; s < columns; ++s) {
        sum = hn::Add(sum, LoadLanes<kTail>(from + r * row_stride + s * pixel_stride, count));
      }
    }
  }
  VF result = hn::Div(sum, area);
  if (accumulate) result = hn::Add(LoadLanes<kTail>(to, count), result);
  StoreLanes<kTail>(result, to, count);
}

void AverageBlock(const float* from, int64_t row_stride, int64_t pixel_stride, int64_t rows,
                  int64_t columns, float area, int64_t channels, bool accumulate, float* to) {
  const int64_t lanes = Lanes();
  const VF divisor = hn::Set(DF(), area);
  int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) {
    AverageVector<false>(from + c, row_stride, pixel_stride, rows, columns, divisor, lanes,
                         accumulate, to + c);
  }
  if (c < channels) {
    AverageVector<true>(from + c, row_stride, pixel_stride, rows, columns, divisor, channels - c,
                        accumulate, to + c);
  }
}

// Row `row` of the outputs, counted over all images.
void AvgPoolRow(const Pool2dParams& params, ConstTensor x, Tensor y, int64_t row) {
  const int64_t image = row / y.h;
  const int64_t oh = row % y.h;
  const IndexRange rows = ValidTaps(params, oh, x.h);
  const float area = static_cast<float>(params.kernel * params.kernel);
  for (int64_t ow = 0; ow < y.w; ++ow) {
    const IndexRange columns = ValidTaps(params, ow, x.w);
    const float* const first =
        x.Pixel(image, FirstInput(params, oh) + rows.begin, FirstInput(params, ow) + columns.begin);
    AverageBlock(first, x.w * x.pixel_stride, x.pixel_stride, rows.size(), columns.size(), area,
                 y.c, /*accumulate=*/false, y.Pixel(row * y.w + ow));
  }
}

// Row `row` of the inputs, counted over all images: each collects from the windows it is in.
void AvgPoolBackwardRow(const Pool2dParams& params, ConstTensor dy, Tensor dx, bool accumulate,
                        int64_t row) {
  const int64_t image = row / dx.h;
  const IndexRange rows = WindowsOver(params, row % dx.h, dy.h);
  const float area = static_cast<float>(params.kernel * params.kernel);
  for (int64_t w = 0; w < dx.w; ++w) {
    const IndexRange columns = WindowsOver(params, w, dy.w);
    const float* const first =
        dy.Pixel((image * dy.h + rows.begin) * dy.w + columns.begin);  // unused if there are none
    AverageBlock(first, dy.w * dy.pixel_stride, dy.pixel_stride, rows.size(), columns.size(), area,
                 dx.c, accumulate, dx.Pixel(row * dx.w + w));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
HWY_EXPORT(AvgPoolRow);
HWY_EXPORT(AvgPoolBackwardRow);
namespace {

void CheckShapes(const Pool2dParams& params, const Shape4& x, const Shape4& y) {
  CNN_CHECK(params.kernel >= 1 && params.stride >= 1 && params.padding >= 0 &&
                params.padding <= params.kernel / 2,
            "kernel ", params.kernel, " stride ", params.stride, " padding ", params.padding);
  CNN_CHECK(params.Output(x) == y, x.ToString(), " to ", y.ToString());
}

}  // namespace

void AvgPool2dForward(const Pool2dParams& params, ConstTensor x, Tensor y, Context& ctx) {
  CheckShapes(params, x.shape(), y.shape());
  const Pieces pieces(y.n * y.h, 4 * y.c * (y.w + x.w * x.h / y.h));
  ctx.ParallelFor("avg_pool2d.forward", pieces.count(), [&](int64_t piece, int) {
    for (int64_t row = pieces.Begin(piece); row < pieces.End(piece); ++row) {
      HWY_DYNAMIC_DISPATCH(AvgPoolRow)(params, x, y, row);
    }
  });
}

void AvgPool2dBackward(const Pool2dParams& params, ConstTensor dy, Tensor dx, bool accumulate,
                       Context& ctx) {
  CheckShapes(params, dx.shape(), dy.shape());
  const Pieces pieces(dx.n * dx.h, 4 * dx.c * (dx.w + dy.w * dy.h / dx.h));
  ctx.ParallelFor("avg_pool2d.backward", pieces.count(), [&](int64_t piece, int) {
    for (int64_t row = pieces.Begin(piece); row < pieces.End(piece); ++row) {
      HWY_DYNAMIC_DISPATCH(AvgPoolBackwardRow)(params, dy, dx, accumulate, row);
    }
  });
}

}  // namespace classicnn
#endif  // HWY_ONCE
