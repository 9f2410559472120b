#include "layers/avg_pool2d/avg_pool2d.h"

#include <type_traits>

#include "core/check.h"
#include "layers/channel_rows.h"
#include "layers/channel_sums.h"
#include "layers/pieces.h"
#include "layers/pool_windows.h"
#include "layers/prefetch.h"
#include "layers/stream.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/avg_pool2d/avg_pool2d.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/partial-inl.h"
#include "layers/stream-inl.h"

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
  const bool hints = ComesFromMemory(4 * (x.size() + y.size()));
  for (int64_t ow = 0; ow < y.w; ++ow) {
    const IndexRange columns = ValidTaps(params, ow, x.w);
    const float* const first =
        x.Pixel(image, FirstInput(params, oh) + rows.begin, FirstInput(params, ow) + columns.begin);
    const int64_t next = (ow + kPrefetchAhead) * params.stride;
    if (hints && next + params.stride <= x.w) {
      for (int64_t r = rows.begin; r < rows.end; ++r) {
        PrefetchFloats(x.Pixel(image, FirstInput(params, oh) + r, next),
                       params.stride * x.pixel_stride);
      }
    }
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

// What one vector of channels of dx collects through a gradient prologue. dy and x are those of the
// first of rows x columns windows.
template <bool kTail>
HWY_INLINE void CollectVector(const GradientPrologue<float>& gradient, int64_t c, const float* dy,
                              int64_t dy_row_stride, int64_t dy_pixel_stride, const float* x,
                              int64_t x_row_stride, int64_t x_pixel_stride, int64_t rows,
                              int64_t columns, VF area, int64_t count, bool accumulate, float* dx) {
  const VF gain = LoadLanes<kTail>(gradient.gain + c, count);
  const VF slope = LoadLanes<kTail>(gradient.slope + c, count);
  const VF offset = LoadLanes<kTail>(gradient.offset + c, count);
  VF sum = hn::Zero(DF());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t s = 0; s < columns; ++s) {
      const VF g = LoadLanes<kTail>(dy + r * dy_row_stride + s * dy_pixel_stride + c, count);
      const VF v = LoadLanes<kTail>(x + r * x_row_stride + s * x_pixel_stride + c, count);
      sum = hn::Add(sum, hn::MulAdd(gain, g, hn::MulAdd(slope, v, offset)));
    }
  }
  VF result = hn::Div(sum, area);
  if (accumulate) result = hn::Add(LoadLanes<kTail>(dx + c, count), result);
  StoreLanes<kTail>(result, dx + c, count);
}

// As AvgPoolBackwardRow, with a gradient prologue.
void AvgPoolBackwardGradientRow(const Pool2dParams& params, const GradientPrologue<float>& gradient,
                                ConstTensor dy, Tensor dx, bool accumulate, int64_t row) {
  const int64_t lanes = Lanes();
  const int64_t channels = dx.c;
  const GradientPrologue<float> local = gradient;  // a copy that stores cannot change
  const ConstTensor x = local.x;
  const int64_t image = row / dx.h;
  const IndexRange rows = WindowsOver(params, row % dx.h, dy.h);
  const VF area = hn::Set(DF(), static_cast<float>(params.kernel * params.kernel));
  for (int64_t w = 0; w < dx.w; ++w) {
    const IndexRange columns = WindowsOver(params, w, dy.w);
    const int64_t window = (image * dy.h + rows.begin) * dy.w + columns.begin;
    const auto collect = [&](int64_t c, int64_t count, auto tail) HWY_ATTR {
      CollectVector<decltype(tail)::value>(local, c, dy.Pixel(window), dy.w * dy.pixel_stride,
                                           dy.pixel_stride, x.Pixel(window), x.w * x.pixel_stride,
                                           x.pixel_stride, rows.size(), columns.size(), area, count,
                                           accumulate, dx.Pixel(row * dx.w + w));
    };
    int64_t c = 0;
    for (; c + lanes <= channels; c += lanes) collect(c, lanes, std::false_type());
    if (c < channels) collect(c, channels - c, std::true_type());
  }
}

// One vector of channels of one window, whose pixels are in no other: its share goes to all of
// them. dx is that of tap (0, 0).
template <bool kStream, bool kTail>
HWY_INLINE void ShareVector(VF share, int64_t kernel, int64_t row_stride, int64_t pixel_stride,
                            int64_t count, bool accumulate, float* dx) {
  for (int64_t r = 0; r < kernel; ++r) {
    for (int64_t s = 0; s < kernel; ++s) {
      float* const to = dx + r * row_stride + s * pixel_stride;
      const VF v = accumulate ? hn::Add(LoadLanes<kTail>(to, count), share) : share;
      if (kTail) {
        StoreFirst(v, to, count);
      } else {
        StoreWhole<kStream>(v, to);
      }
    }
  }
}

template <bool kStream>
void AvgPoolShareRowT(const Pool2dParams& params, const GradientPrologue<float>& gradient,
                      ConstTensor dy, Tensor dx, bool accumulate, int64_t row) {
  const int64_t lanes = Lanes();
  const int64_t channels = dx.c;
  const GradientPrologue<float> local = gradient;
  const bool has_prologue = local.active();
  const int64_t kernel = params.kernel;
  const VF area = hn::Set(DF(), static_cast<float>(kernel * kernel));
  for (int64_t ow = 0; ow < dy.w; ++ow) {
    const float* const dy_out = dy.Pixel(row * dy.w + ow);
    const float* const x_out = has_prologue ? local.x.Pixel(row * dy.w + ow) : nullptr;
    float* const dx_out = dx.Pixel(row * kernel * dx.w + ow * kernel);
    const auto share = [&](int64_t c, int64_t count, auto tail) HWY_ATTR {
      constexpr bool kTail = decltype(tail)::value;
      VF g = LoadLanes<kTail>(dy_out + c, count);
      if (has_prologue) {
        const VF v =
            hn::MulAdd(LoadLanes<kTail>(local.slope + c, count), LoadLanes<kTail>(x_out + c, count),
                       LoadLanes<kTail>(local.offset + c, count));
        g = hn::MulAdd(LoadLanes<kTail>(local.gain + c, count), g, v);
      }
      ShareVector<kStream, kTail>(hn::Div(g, area), kernel, dx.w * dx.pixel_stride, dx.pixel_stride,
                                  count, accumulate, dx_out + c);
    };
    int64_t c = 0;
    for (; c + lanes <= channels; c += lanes) share(c, lanes, std::false_type());
    if (c < channels) share(c, channels - c, std::true_type());
  }
  if (kStream) hwy::FlushStream();
}

// Row `row` of the outputs, counted over all images, where every input is in exactly one window.
void AvgPoolShareRow(const Pool2dParams& params, const GradientPrologue<float>& gradient,
                     ConstTensor dy, Tensor dx, bool accumulate, int64_t row) {
  const bool stream = !accumulate && BeyondCaches(4 * (dx.size() + dy.size())) &&
                      CanStream(dx.data, dx.pixels(), dx.c, dx.pixel_stride);
  const auto kernel = stream ? &AvgPoolShareRowT<true> : &AvgPoolShareRowT<false>;
  kernel(params, gradient, dy, dx, accumulate, row);
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
HWY_EXPORT(AvgPoolRow);
HWY_EXPORT(AvgPoolBackwardRow);
HWY_EXPORT(AvgPoolBackwardGradientRow);
HWY_EXPORT(AvgPoolShareRow);
namespace {

void CheckShapes(const Pool2dParams& params, const Shape4& x, const Shape4& y) {
  CNN_CHECK(params.kernel >= 1 && params.stride >= 1 && params.padding >= 0 &&
                params.padding <= params.kernel / 2,
            "kernel ", params.kernel, " stride ", params.stride, " padding ", params.padding);
  CNN_CHECK(params.Output(x) == y, x.ToString(), " to ", y.ToString());
}

// Rows of the outputs. Fewer pieces where each leaves sums of every channel.
Pieces OutputRows(const Pool2dParams& params, const Shape4& x, bool sums) {
  const Shape4 y = params.Output(x);
  return Pieces(y.n * y.h, 4 * y.c * (y.w + x.w * x.h / y.h), sums ? 256 : Pieces::kMaxPieces);
}

}  // namespace

size_t AvgPool2dForwardWorkspaceBytes(const Pool2dParams& params, const Shape4& x) {
  return MomentPieces::Bytes(OutputRows(params, x, /*sums=*/true).count(), x.c);
}

void AvgPool2dForward(const Pool2dParams& params, ConstTensor x, Tensor y, Context& ctx,
                      const StatisticsEpilogue<float>& statistics, Workspace workspace) {
  CheckShapes(params, x.shape(), y.shape());
  const Pieces pieces = OutputRows(params, x.shape(), statistics.active());
  if (!statistics.active()) {
    ctx.ParallelFor("avg_pool2d.forward", pieces.count(), [&](int64_t piece, int) {
      for (int64_t row = pieces.Begin(piece); row < pieces.End(piece); ++row) {
        HWY_DYNAMIC_DISPATCH(AvgPoolRow)(params, x, y, row);
      }
    });
    return;
  }
  const MomentPieces moments(pieces.count(), y.c, &workspace);
  ctx.ParallelFor("avg_pool2d.forward", pieces.count(), [&](int64_t piece, int) {
    moments.pixels(piece) = pieces.Size(piece) * y.w;
    for (int64_t row = pieces.Begin(piece); row < pieces.End(piece); ++row) {
      HWY_DYNAMIC_DISPATCH(AvgPoolRow)(params, x, y, row);
      const float* const y_row = y.Pixel(row * y.w);
      if (row == pieces.Begin(piece)) {
        moments.Begin(piece, 0, y.c, y_row, y.pixel_stride, y.w);
      }
      AddMomentRows(y_row, y.pixel_stride, y.w, y.c, moments.center(piece), moments.sum(piece),
                    moments.sum_of_squares(piece));
    }
  });
  moments.Merge(statistics, ctx);
}

void AvgPool2dBackward(const Pool2dParams& params, ConstTensor dy, Tensor dx, bool accumulate,
                       Context& ctx, const GradientPrologue<float>& gradient) {
  CheckShapes(params, dx.shape(), dy.shape());
  CNN_CHECK(!gradient.active() || gradient.x.shape() == dy.shape(), "prologue of ",
            gradient.x.shape().ToString(), " for ", dy.shape().ToString());
  if (params.stride == params.kernel && params.padding == 0 && dy.h * params.kernel == dx.h &&
      dy.w * params.kernel == dx.w) {
    const Pieces windows = OutputRows(params, dx.shape(), /*sums=*/false);
    ctx.ParallelFor("avg_pool2d.backward", windows.count(), [&](int64_t piece, int) {
      for (int64_t row = windows.Begin(piece); row < windows.End(piece); ++row) {
        HWY_DYNAMIC_DISPATCH(AvgPoolShareRow)(params, gradient, dy, dx, accumulate, row);
      }
    });
    return;
  }
  const Pieces pieces(dx.n * dx.h, 4 * dx.c * (dx.w + dy.w * dy.h / dx.h));
  ctx.ParallelFor("avg_pool2d.backward", pieces.count(), [&](int64_t piece, int) {
    for (int64_t row = pieces.Begin(piece); row < pieces.End(piece); ++row) {
      if (gradient.active()) {
        HWY_DYNAMIC_DISPATCH(AvgPoolBackwardGradientRow)(params, gradient, dy, dx, accumulate, row);
      } else {
        HWY_DYNAMIC_DISPATCH(AvgPoolBackwardRow)(params, dy, dx, accumulate, row);
      }
    }
  });
}

}  // namespace classicnn
#endif  // HWY_ONCE
