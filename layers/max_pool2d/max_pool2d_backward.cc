// The gradient of max pooling.
#include <algorithm>

#include "core/check.h"
#include "layers/channel_rows.h"
#include "layers/channel_sums.h"
#include "layers/max_pool2d/max_pool2d_parts.h"
#include "layers/pieces.h"
#include "layers/pool_windows.h"
#include "layers/prefetch.h"
#include "layers/stream.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/max_pool2d/max_pool2d_backward.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/partial-inl.h"
#include "layers/stream-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

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
    const auto over = [&](int64_t down, int64_t across) {
      return rows.size() == down && windows.size() == across;
    };
    const auto kernel = over(3, 3)   ? &GatherPixel<3, 3>
                        : over(2, 2) ? &GatherPixel<2, 2>
                        : over(2, 1) ? &GatherPixel<2, 1>
                        : over(1, 2) ? &GatherPixel<1, 2>
                        : over(1, 1) ? &GatherPixel<1, 1>
                                     : &GatherPixel<0, 0>;
    kernel(dy.Pixel(out), dy.pixel_stride, argmax + out * dy.c, dy.c, channels.begin, channels.end,
           dy.w, rows.size(), windows.size(), tap, params, dy.size() - out * dy.c, accumulate, to);
  }
}

// The gradients of a strip of rows where windows are 3 x 3 in steps of 1, padded by 1: each
// window's gradient and winner are loaded once for all rows of the strip that it covers.
struct GatherStripArgs {
  const float* dy;        // of the window whose center is the strip's first pixel
  const uint8_t* argmax;  // likewise
  int64_t dy_pixel_stride;
  int64_t width;
  int64_t channels;
  IndexRange window_rows;  // of the kMaxPoolGatherRows + 2 over the strip, which are in the image
  float* dx;
  int64_t dx_pixel_stride;
  int64_t room;  // bytes from `argmax` to the end of the array
};

// One vector of channels of column w; kInside: it is neither the first nor the last.
template <bool kAccumulate, bool kStream, bool kTail, bool kInside>
HWY_INLINE void GatherStripVector(const GatherStripArgs& args, int64_t w, int64_t c,
                                  int64_t count) {
  static_assert(kMaxPoolGatherRows == 4, "");
  const VF zero = hn::Zero(DF());
  VF sums[kMaxPoolGatherRows] = {zero, zero, zero, zero};
  HWY_UNROLL(6)
  for (int64_t j = 0; j < kMaxPoolGatherRows + 2; ++j) {
    if (j < args.window_rows.begin || j >= args.window_rows.end) continue;
    HWY_UNROLL(3)
    for (int64_t s = 0; s < 3; ++s) {
      if (!kInside && (w + s < 1 || w + s > args.width)) continue;
      const int64_t window = (j - 1) * args.width + w + s - 1;
      const int64_t offset = window * args.channels + c;
      const VI winner = LoadBytes(args.argmax + offset, count, args.room - offset);
      const VF g = LoadLanes<kTail>(args.dy + window * args.dy_pixel_stride + c, count);
      // In row i of the strip this window sees the pixel as its tap (i - j + 2, 2 - s).
      for (int64_t i = std::max<int64_t>(0, j - 2); i < std::min(j + 1, kMaxPoolGatherRows); ++i) {
        const VI tap = hn::Set(DI(), static_cast<int32_t>(3 * (i - j + 2) + 2 - s));
        const auto won = hn::RebindMask(DF(), hn::Eq(winner, tap));
        sums[i] = hn::Add(sums[i], KeepWhere(won, g));
      }
    }
  }
  for (int64_t i = 0; i < kMaxPoolGatherRows; ++i) {
    float* const to = args.dx + (i * args.width + w) * args.dx_pixel_stride + c;
    VF sum = sums[i];
    if (kAccumulate) sum = hn::Add(LoadLanes<kTail>(to, count), sum);
    if (kStream) {
      StoreWhole<true>(sum, to);
    } else {
      StoreLanes<kTail>(sum, to, count);
    }
  }
}

template <bool kAccumulate, bool kStream, bool kInside>
void GatherStripColumn(const GatherStripArgs& args, int64_t w) {
  const int64_t lanes = Lanes();
  int64_t c = 0;
  for (; c + lanes <= args.channels; c += lanes) {
    GatherStripVector<kAccumulate, kStream, false, kInside>(args, w, c, lanes);
  }
  if (c < args.channels) {
    GatherStripVector<kAccumulate, false, true, kInside>(args, w, c, args.channels - c);
  }
}

template <bool kAccumulate, bool kStream>
void GatherStripT(const GatherStripArgs& args) {
  for (int64_t w = 0; w < args.width; ++w) {
    // The rows that the next strip adds to these, as far as the image or the next goes on.
    for (int64_t r = 0; r < kMaxPoolGatherRows; ++r) {
      const int64_t pixel = (kMaxPoolGatherRows + 1 + r) * args.width + w;
      PrefetchFloats(args.dy + pixel * args.dy_pixel_stride, args.channels);
      PrefetchFloats(reinterpret_cast<const float*>(args.argmax + pixel * args.channels),
                     args.channels / 4);
    }
    if (w > 0 && w < args.width - 1) {
      GatherStripColumn<kAccumulate, kStream, true>(args, w);
    } else {
      GatherStripColumn<kAccumulate, kStream, false>(args, w);
    }
  }
  if (kStream) hwy::FlushStream();
}

// Rows [row, row + kMaxPoolGatherRows) of the inputs, counted over all images and all in one.
void MaxPoolGatherStrip(ConstTensor dy, const uint8_t* argmax, Tensor dx, int64_t row,
                        bool accumulate) {
  const int64_t pixel = row * dx.w;
  const int64_t h = row % dx.h;
  const GatherStripArgs args = {
      dy.Pixel(pixel),
      argmax + pixel * dy.c,
      dy.pixel_stride,
      dx.w,
      dx.c,
      {h == 0 ? 1 : 0, kMaxPoolGatherRows + (h + kMaxPoolGatherRows == dx.h ? 1 : 2)},
      dx.Pixel(pixel),
      dx.pixel_stride,
      dy.size() - pixel * dy.c};
  const bool stream = !accumulate && BeyondCaches(4 * (dx.size() + dy.size())) &&
                      CanStream(args.dx, dx.pixels(), dx.c, dx.pixel_stride) && dx.c % Lanes() == 0;
  const auto kernel = accumulate ? &GatherStripT<true, false>
                      : stream   ? &GatherStripT<false, true>
                                 : &GatherStripT<false, false>;
  kernel(args);
}

// One vector of channels of one window, whose pixels are in no other: dx of all its taps. `dx` is
// that of tap (0, 0).
template <int kKernel, bool kStream, bool kTail>
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
      if (kTail) {
        StoreFirst(v, to, count);
      } else {
        StoreWhole<kStream>(v, to);
      }
    }
  }
}

template <int kKernel, bool kStream>
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
      ScatterVector<kKernel, kStream, false>(dy_out + c, argmax_out + c, kernel, lanes, lanes,
                                             accumulate, dx_out + c, row_stride, dx.pixel_stride);
    }
    if (c < dy.c) {
      ScatterVector<kKernel, false, true>(dy_out + c, argmax_out + c, kernel, dy.c - c, room - c,
                                          accumulate, dx_out + c, row_stride, dx.pixel_stride);
    }
  }
  if (kStream) hwy::FlushStream();
}

// Outputs `columns` of row `row`, counted over all images, where every input is in exactly one
// window.
void MaxPoolScatter(const Pool2dParams& params, ConstTensor dy, const uint8_t* argmax, Tensor dx,
                    bool accumulate, int64_t row, IndexRange columns) {
  const bool stream = !accumulate && BeyondCaches(4 * (dx.size() + dy.size())) &&
                      CanStream(dx.data, dx.pixels(), dx.c, dx.pixel_stride);
  const auto kernel = params.kernel != 2 ? &ScatterWindows<0, false>
                      : stream           ? &ScatterWindows<2, true>
                                         : &ScatterWindows<2, false>;
  kernel(params, dy, argmax, dx, accumulate, row, columns);
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
HWY_EXPORT(MaxPoolGather);
HWY_EXPORT(MaxPoolGatherStrip);
HWY_EXPORT(MaxPoolScatter);
namespace {

// Every input is in exactly one window: a window's gradients can be scattered.
bool Disjoint(const Pool2dParams& params, const Shape4& x, const Shape4& y) {
  return params.stride == params.kernel && params.padding == 0 && y.h * params.kernel == x.h &&
         y.w * params.kernel == x.w;
}

// Whether strips of rows can be gathered together.
bool InStrips(const Pool2dParams& params, const Shape4& x) {
  return params.kernel == 3 && params.stride == 1 && params.padding == 1 &&
         x.h % kMaxPoolGatherRows == 0;
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

size_t MaxPool2dBackwardWorkspaceBytes(const Pool2dParams& params, const Shape4& x) {
  return GradientSumPieces::Bytes(BackwardRows(params, x, /*sums=*/true).count(), x.c);
}

void MaxPool2dBackward(const MaxPool2dBackwardArgs& args, Context& ctx) {
  const Tensor& dx = args.dx;
  const ConstTensor& dy = args.dy;
  CheckMaxPool2dShapes(args.params, dx.shape(), dy.shape());
  const bool disjoint = Disjoint(args.params, dx.shape(), dy.shape());
  if (!args.epilogue.active() && InStrips(args.params, dx.shape())) {
    const Pieces strips(dx.n * dx.h / kMaxPoolGatherRows,
                        kMaxPoolGatherRows * dx.w * 4 * (dx.c + dy.c));
    ctx.ParallelFor("max_pool2d.backward", strips.count(), [&](int64_t piece, int) {
      for (int64_t strip = strips.Begin(piece); strip < strips.End(piece); ++strip) {
        HWY_DYNAMIC_DISPATCH(MaxPoolGatherStrip)
        (dy, args.argmax, dx, strip * kMaxPoolGatherRows, args.accumulate);
      }
    });
    return;
  }
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
