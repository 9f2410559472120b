#include "layers/conv2d/conv2d_depthwise.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/context.h"
#include "core/view.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/conv2d/conv2d_depthwise.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h.
#include "layers/conv2d/conv2d_depthwise-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace depthwise {

// Fills the table of kRows x kCols pixels of image n from (h0, w0) on; `outside` stands for pixels
// outside the image.
template <int kRows, int kCols, typename T>
HWY_INLINE void FillPixels(const View<T>& v, int64_t n, int64_t h0, int64_t w0, T* outside,
                           T** table) {
  if (h0 >= 0 && w0 >= 0 && h0 + kRows <= v.h && w0 + kCols <= v.w) {
    for (int i = 0; i < kRows; ++i) {
      T* pixel = v.Pixel(n, h0 + i, w0);
      HWY_UNROLL(16)
      for (int j = 0; j < kCols; ++j, pixel += v.pixel_stride) table[i * kCols + j] = pixel;
    }
    return;
  }
  for (int i = 0; i < kRows; ++i) {
    const bool row_inside = h0 + i >= 0 && h0 + i < v.h;
    for (int j = 0; j < kCols; ++j) {
      const bool inside = row_inside && w0 + j >= 0 && w0 + j < v.w;
      table[i * kCols + j] = inside ? v.Pixel(n, h0 + i, w0 + j) : outside;
    }
  }
}

// Cuts an image row by row pair into blocks of 4, 2 and 1 columns (stride 2: 2 and 1) and calls
// block.Run<rows, cols>(n, oh, ow).
template <int kStride, class Block>
HWY_INLINE void ForEachBlock(int64_t n, int64_t oh, int64_t rows, int64_t width,
                             const Block& block) {
  int64_t ow = 0;
  if (rows == 2) {
    if constexpr (kStride == 1) {
      for (; ow + 4 <= width; ow += 4) block.template Run<2, 4>(n, oh, ow);
    }
    for (; ow + 2 <= width; ow += 2) block.template Run<2, 2>(n, oh, ow);
    if (ow < width) block.template Run<2, 1>(n, oh, ow);
  } else {
    if constexpr (kStride == 1) {
      for (; ow + 4 <= width; ow += 4) block.template Run<1, 4>(n, oh, ow);
    }
    for (; ow + 2 <= width; ow += 2) block.template Run<1, 2>(n, oh, ow);
    if (ow < width) block.template Run<1, 1>(n, oh, ow);
  }
}

// Forward of kernel 3 (and backward data at stride 1, which is the same with flipped weights).
template <int kStride>
struct CorrelateBlocks {
  ConstTensor x;
  Tensor y;
  int64_t padding;
  const float* const* w;
  const float* bias;
  bool accumulate;
  const float* zeros;

  template <int kRows, int kCols>
  HWY_INLINE void Run(int64_t n, int64_t oh, int64_t ow) const {
    using Kernel = Correlate3x3<kStride, kRows, kCols>;
    const float* in[Kernel::kInRows * Kernel::kInCols];
    float* out[kRows * kCols];
    FillPixels<Kernel::kInRows, Kernel::kInCols>(x, n, oh * kStride - padding,
                                                 ow * kStride - padding, zeros, in);
    FillPixels<kRows, kCols, float>(y, n, oh, ow, nullptr, out);
    ForEachVec(y.c, Kernel{in, w, bias, out, accumulate});
  }

  // Units are pairs of output rows.
  void RunUnits(int64_t begin, int64_t end) const {
    const int64_t pairs = (y.h + 1) / 2;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t oh = unit % pairs * 2;
      ForEachBlock<kStride>(unit / pairs, oh, std::min<int64_t>(2, y.h - oh), y.w, *this);
    }
  }
};

// Backward data of kernel 3, stride 2. Units are rows of quads.
struct ScatterBlocks {
  ConstTensor dy;
  Tensor dx;
  int64_t padding;
  const float* const* w;
  bool accumulate;
  const float* zeros;
  float* spare;

  template <int kQuads>
  HWY_INLINE void Run(int64_t n, int64_t a, int64_t b) const {
    const float* in[2 * (kQuads + 1)];
    float* out[4 * kQuads];
    FillPixels<2, kQuads + 1>(dy, n, a - 1, b - 1, zeros, in);
    FillPixels<2, 2 * kQuads>(dx, n, 2 * a - 1 - padding, 2 * b - 1 - padding, spare, out);
    ForEachVec(dx.c, Scatter3x3Stride2<kQuads>{in, w, out, accumulate});
  }

  void RunUnits(int64_t begin, int64_t end) const {
    const int64_t first = (padding + 1) / 2;
    const int64_t rows = (dx.h + padding) / 2 - first + 1;
    const int64_t last_col = (dx.w + padding) / 2;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / rows;
      const int64_t a = first + unit % rows;
      int64_t b = first;
      for (; b + 1 <= last_col; b += 2) Run<2>(n, a, b);
      if (b <= last_col) Run<1>(n, a, b);
    }
  }
};

// Gathers the taps of one pixel, in chunks where the kernel has more of them than the table.
class TapGather {
 public:
  TapGather(const float* bias, float* out, int64_t channels, bool accumulate)
      : bias_(bias), out_(out), channels_(channels), accumulate_(accumulate) {}
  void Add(const float* in, const float* w) {
    if (count_ == kMaxTaps) Flush();
    in_[count_] = in;
    w_[count_++] = w;
  }
  void Flush() {
    ForEachVec(channels_, TapSum{in_, w_, count_, bias_, out_, accumulate_});
    accumulate_ = true;
    count_ = 0;
  }

 private:
  static constexpr int kMaxTaps = 49;
  const float* in_[kMaxTaps];
  const float* w_[kMaxTaps];
  const float* bias_;
  float* out_;
  int64_t channels_;
  bool accumulate_;
  int count_ = 0;
};

void ForwardAnyRow(const Conv2dForwardArgs<float>& args, int64_t n, int64_t oh) {
  const Conv2dShape& s = args.shape;
  for (int64_t ow = 0; ow < args.y.w; ++ow) {
    TapGather taps(args.bias, args.y.Pixel(n, oh, ow), args.y.c, false);
    for (int64_t kh = 0; kh < s.kernel; ++kh) {
      const int64_t ih = oh * s.stride - s.padding + kh;
      if (ih < 0 || ih >= s.h) continue;
      for (int64_t kw = 0; kw < s.kernel; ++kw) {
        const int64_t iw = ow * s.stride - s.padding + kw;
        if (iw < 0 || iw >= s.w) continue;
        taps.Add(args.x.Pixel(n, ih, iw), args.weights + (kh * s.kernel + kw) * s.in_channels);
      }
    }
    taps.Flush();
  }
}

void BackwardDataAnyRow(const Conv2dBackwardDataArgs<float>& args, int64_t n, int64_t h) {
  const Conv2dShape& s = args.shape;
  for (int64_t w = 0; w < args.dx.w; ++w) {
    TapGather taps(nullptr, args.dx.Pixel(n, h, w), args.dx.c, args.accumulate);
    for (int64_t kh = 0; kh < s.kernel; ++kh) {
      const int64_t dh = h + s.padding - kh;
      if (dh < 0 || dh % s.stride != 0 || dh / s.stride >= args.dy.h) continue;
      for (int64_t kw = 0; kw < s.kernel; ++kw) {
        const int64_t dw = w + s.padding - kw;
        if (dw < 0 || dw % s.stride != 0 || dw / s.stride >= args.dy.w) continue;
        taps.Add(args.dy.Pixel(n, dh / s.stride, dw / s.stride),
                 args.weights + (kh * s.kernel + kw) * s.in_channels);
      }
    }
    taps.Flush();
  }
}

void ForwardUnits(const Conv2dForwardArgs<float>& args, const float* zeros, int64_t begin,
                  int64_t end) {
  const Conv2dShape& s = args.shape;
  if (s.kernel != 3 || s.stride > 2) {
    for (int64_t unit = begin; unit < end; ++unit) {
      ForwardAnyRow(args, unit / args.y.h, unit % args.y.h);
    }
    return;
  }
  const float* w[9];
  for (int t = 0; t < 9; ++t) w[t] = args.weights + t * s.in_channels;
  if (s.stride == 1) {
    CorrelateBlocks<1>{args.x, args.y, s.padding, w, args.bias, false, zeros}.RunUnits(begin, end);
  } else {
    CorrelateBlocks<2>{args.x, args.y, s.padding, w, args.bias, false, zeros}.RunUnits(begin, end);
  }
}

void BackwardDataUnits(const Conv2dBackwardDataArgs<float>& args, const float* zeros, float* spare,
                       int64_t begin, int64_t end) {
  const Conv2dShape& s = args.shape;
  const float* w[9];
  if (s.kernel == 3 && s.stride == 1) {
    for (int t = 0; t < 9; ++t) w[t] = args.weights + (8 - t) * s.in_channels;
    CorrelateBlocks<1>{args.dy, args.dx, 2 - s.padding, w, nullptr, args.accumulate, zeros}
        .RunUnits(begin, end);
  } else if (s.kernel == 3 && s.stride == 2) {
    for (int t = 0; t < 9; ++t) w[t] = args.weights + t * s.in_channels;
    ScatterBlocks{args.dy, args.dx, s.padding, w, args.accumulate, zeros, spare}.RunUnits(begin,
                                                                                          end);
  } else {
    for (int64_t unit = begin; unit < end; ++unit) {
      BackwardDataAnyRow(args, unit / args.dx.h, unit % args.dx.h);
    }
  }
}

template <int kStride>
struct WeightBlocks {
  ConstTensor x;
  ConstTensor dy;
  int64_t padding;
  float* const* dw;
  const float* zeros;

  template <int kRows, int kCols>
  HWY_INLINE void Run(int64_t n, int64_t oh, int64_t ow) const {
    using Kernel = Weights3x3<kStride, kRows, kCols>;
    const float* in[Kernel::kInRows * Kernel::kInCols];
    const float* gradients[kRows * kCols];
    FillPixels<Kernel::kInRows, Kernel::kInCols>(x, n, oh * kStride - padding,
                                                 ow * kStride - padding, zeros, in);
    FillPixels<kRows, kCols, const float>(dy, n, oh, ow, nullptr, gradients);
    ForEachVec(x.c, Kernel{in, gradients, dw});
  }

  void RunImage(int64_t n) const {
    for (int64_t oh = 0; oh < dy.h; oh += 2) {
      ForEachBlock<kStride>(n, oh, std::min<int64_t>(2, dy.h - oh), dy.w, *this);
    }
  }
};

void WeightsAnyImage(const Conv2dShape& s, const ConstTensor& x, const ConstTensor& dy, int64_t n,
                     float* partial) {
  constexpr int kMaxTaps = 49;
  for (int64_t oh = 0; oh < dy.h; ++oh) {
    for (int64_t ow = 0; ow < dy.w; ++ow) {
      const float* in[kMaxTaps];
      float* dw[kMaxTaps];
      int count = 0;
      const auto flush = [&]() HWY_ATTR {
        ForEachVec(x.c, TapGradients{in, dy.Pixel(n, oh, ow), count, dw});
        count = 0;
      };
      for (int64_t kh = 0; kh < s.kernel; ++kh) {
        const int64_t ih = oh * s.stride - s.padding + kh;
        if (ih < 0 || ih >= s.h) continue;
        for (int64_t kw = 0; kw < s.kernel; ++kw) {
          const int64_t iw = ow * s.stride - s.padding + kw;
          if (iw < 0 || iw >= s.w) continue;
          if (count == kMaxTaps) flush();
          in[count] = x.Pixel(n, ih, iw);
          dw[count++] = partial + (kh * s.kernel + kw) * s.in_channels;
        }
      }
      flush();
    }
  }
}

// Images [begin, end), channels [c0, c0 + count) of one partial gradient [R*R, C].
void WeightsPiece(const Conv2dBackwardWeightsArgs<float>& args, const float* zeros, float* partial,
                  int64_t begin, int64_t end, int64_t c0, int64_t count) {
  const Conv2dShape& s = args.shape;
  const ConstTensor x = args.x.Channels(c0, count);
  const ConstTensor dy = args.dy.Channels(c0, count);
  partial += c0;
  const int64_t taps = s.kernel * s.kernel;
  for (int64_t t = 0; t < taps; ++t) {
    std::memset(partial + t * s.in_channels, 0, static_cast<size_t>(count) * sizeof(float));
  }
  float* dw[9];
  for (int t = 0; t < 9 && t < taps; ++t) dw[t] = partial + t * s.in_channels;
  for (int64_t n = begin; n < end; ++n) {
    if (s.kernel == 3 && s.stride == 1) {
      WeightBlocks<1>{x, dy, s.padding, dw, zeros}.RunImage(n);
    } else if (s.kernel == 3 && s.stride == 2) {
      WeightBlocks<2>{x, dy, s.padding, dw, zeros}.RunImage(n);
    } else {
      WeightsAnyImage(s, x, dy, n, partial);
    }
  }
}

// Elements [begin, begin + count) of the partials, summed into the first by a binary tree.
void CombinePartials(float* partials, int64_t groups, int64_t partial_size, int64_t begin,
                     int64_t count) {
  for (int64_t step = 1; step < groups; step *= 2) {
    for (int64_t g = 0; g + step < groups; g += 2 * step) {
      ForEachVec(count, AddInto{partials + (g + step) * partial_size + begin,
                                partials + g * partial_size + begin});
    }
  }
}

}  // namespace depthwise

// HWY_EXPORT takes names of this namespace.
using depthwise::BackwardDataUnits;
using depthwise::CombinePartials;
using depthwise::ForwardUnits;
using depthwise::WeightsPiece;

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
namespace {

HWY_EXPORT(ForwardUnits);
HWY_EXPORT(BackwardDataUnits);
HWY_EXPORT(WeightsPiece);
HWY_EXPORT(CombinePartials);

// Elements that a piece of work should cover at least: enough to make handing it out cheap.
constexpr int64_t kPieceElements = 32768;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool HasBlocks(const Conv2dShape& s) { return s.kernel == 3 && s.stride <= 2; }

// Channels rounded up to whole cache lines, so that the threads' spare rows share none.
int64_t SpareRow(const Conv2dShape& s) { return CeilDiv(s.in_channels, 16) * 16; }

// Images of one partial gradient: a power of two, 1 for all but tiny images (whose partials would
// cost more than their pixels), more where the partials would pass 8 MB.
int64_t ImagesPerGroup(const Conv2dShape& s) {
  int64_t images = 1;
  while (images < 64 && images * s.out_h() * s.out_w() < 64) images *= 2;
  while (CeilDiv(s.n, images) * s.weight_count() * int64_t{sizeof(float)} > (int64_t{8} << 20) &&
         images < s.n) {
    images *= 2;
  }
  return images;
}

const float* TakeZeros(const Conv2dShape& s, Workspace& workspace) {
  float* zeros = workspace.Take<float>(s.in_channels);
  std::fill(zeros, zeros + s.in_channels, 0.0f);
  return zeros;
}

// Runs body(begin, end, worker) over the units (rows of blocks) of all images, `elements` each.
template <class Body>
void ForUnits(const char* zone, int64_t units, int64_t elements, Context& ctx, const Body& body) {
  const int64_t per_piece = std::max<int64_t>(1, kPieceElements / elements);
  ctx.ParallelFor(zone, CeilDiv(units, per_piece), [&](int64_t piece, int worker) {
    body(piece * per_piece, std::min(units, (piece + 1) * per_piece), worker);
  });
}

bool Supports(const Conv2dShape& shape, Conv2dPass /*pass*/) { return shape.depthwise(); }

size_t WorkspaceBytes(const Conv2dShape& shape, Conv2dPass pass, int num_threads,
                      const Conv2dFusion& /*fusion*/) {
  size_t bytes = Workspace::BytesFor<float>(shape.in_channels);
  if (pass == Conv2dPass::kBackwardData) {
    bytes += Workspace::BytesFor<float>(SpareRow(shape) * num_threads);
  } else if (pass == Conv2dPass::kBackwardWeights) {
    bytes +=
        Workspace::BytesFor<float>(CeilDiv(shape.n, ImagesPerGroup(shape)) * shape.weight_count());
  }
  return bytes;
}

void Forward(const Conv2dForwardArgs<float>& args, Context& ctx) {
  const Conv2dShape& s = args.shape;
  Workspace workspace = args.workspace;
  const float* zeros = TakeZeros(s, workspace);
  const int64_t rows = HasBlocks(s) ? 2 : 1;
  const auto kernel = HWY_DYNAMIC_DISPATCH(ForwardUnits);
  ForUnits("conv2d.forward.depthwise", s.n * CeilDiv(s.out_h(), rows),
           rows * s.out_w() * s.in_channels, ctx,
           [&](int64_t begin, int64_t end, int) { kernel(args, zeros, begin, end); });
}

void BackwardData(const Conv2dBackwardDataArgs<float>& args, Context& ctx) {
  const Conv2dShape& s = args.shape;
  Workspace workspace = args.workspace;
  const float* zeros = TakeZeros(s, workspace);
  float* spare = workspace.Take<float>(SpareRow(s) * ctx.num_threads());
  // Rows of dx pixels (any kernel), pairs of them (stride 1), rows of quads (stride 2).
  int64_t units = s.h;
  if (HasBlocks(s)) {
    units = s.stride == 1 ? CeilDiv(s.h, 2) : (s.h + s.padding) / 2 - (s.padding + 1) / 2 + 1;
  }
  const auto kernel = HWY_DYNAMIC_DISPATCH(BackwardDataUnits);
  ForUnits("conv2d.backward_data.depthwise", s.n * units,
           (HasBlocks(s) ? 2 : 1) * s.w * s.in_channels, ctx,
           [&](int64_t begin, int64_t end, int worker) {
             kernel(args, zeros, spare + worker * SpareRow(s), begin, end);
           });
}

void BackwardWeights(const Conv2dBackwardWeightsArgs<float>& args, Context& ctx) {
  const Conv2dShape& s = args.shape;
  Workspace workspace = args.workspace;
  const float* zeros = TakeZeros(s, workspace);
  const int64_t images = ImagesPerGroup(s);
  const int64_t groups = CeilDiv(s.n, images);
  const int64_t size = s.weight_count();
  float* partials = workspace.Take<float>(groups * size);

  // 256 channels of the nine sums stay in the first-level cache with the rows they meet.
  const int64_t chunk = std::min<int64_t>(s.in_channels, 256);
  const int64_t chunks = CeilDiv(s.in_channels, chunk);
  const auto kernel = HWY_DYNAMIC_DISPATCH(WeightsPiece);
  ctx.ParallelFor("conv2d.backward_weights.depthwise", groups * chunks, [&](int64_t piece, int) {
    const int64_t group = piece / chunks;
    const int64_t c0 = piece % chunks * chunk;
    kernel(args, zeros, partials + group * size, group * images,
           std::min(s.n, (group + 1) * images), c0, std::min(chunk, s.in_channels - c0));
  });

  const auto combine = HWY_DYNAMIC_DISPATCH(CombinePartials);
  constexpr int64_t kSpan = 2048;
  ctx.ParallelFor("conv2d.backward_weights.combine", CeilDiv(size, kSpan), [&](int64_t piece, int) {
    const int64_t begin = piece * kSpan;
    const int64_t end = std::min(size, begin + kSpan);
    combine(partials, groups, size, begin, end - begin);
    std::copy(partials + begin, partials + end, args.dweights + begin);
  });
}

}  // namespace

const Conv2dAlgorithmOps kConv2dDepthwiseOps = {
    Supports, nullptr, WorkspaceBytes, Forward, BackwardData, BackwardWeights, nullptr,
};

}  // namespace classicnn
#endif  // HWY_ONCE
