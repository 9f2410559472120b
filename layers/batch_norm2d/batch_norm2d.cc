#include "layers/batch_norm2d/batch_norm2d.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/divide.h"
#include "layers/batch_norm2d/batch_norm2d_parts.h"
#include "layers/stream.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/batch_norm2d/batch_norm2d.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/partial-inl.h"
#include "layers/stream-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

int64_t BatchNormLanes() { return Lanes(); }

// Adds the deviations of kRows rows from `center`, and their squares, to the sums of one vector of
// channels. The sums have room for whole vectors; lanes of a tail that are no channels add zero.
template <int kRows, bool kTail>
HWY_INLINE void AddDeviations(const float* x, int64_t stride, const float* center, float* sum,
                              float* sum_of_squares, int64_t count) {
  const DF d;
  const VF estimate = LoadLanes<kTail>(center, count);
  const VF d0 = hn::Sub(LoadLanes<kTail>(x, count), estimate);
  VF first = d0;
  VF second = hn::Mul(d0, d0);
  if (kRows == 4) {
    const VF d1 = hn::Sub(LoadLanes<kTail>(x + stride, count), estimate);
    const VF d2 = hn::Sub(LoadLanes<kTail>(x + 2 * stride, count), estimate);
    const VF d3 = hn::Sub(LoadLanes<kTail>(x + 3 * stride, count), estimate);
    first = hn::Add(hn::Add(d0, d1), hn::Add(d2, d3));
    second = hn::Add(hn::MulAdd(d1, d1, second), hn::MulAdd(d3, d3, hn::Mul(d2, d2)));
  }
  hn::StoreU(hn::Add(hn::LoadU(d, sum), first), d, sum);
  hn::StoreU(hn::Add(hn::LoadU(d, sum_of_squares), second), d, sum_of_squares);
}

template <int kRows>
HWY_INLINE void AddDeviationRows(const float* x, int64_t stride, int64_t columns,
                                 const float* center, float* sum, float* sum_of_squares) {
  const int64_t lanes = Lanes();
  int64_t i = 0;
  for (; i + lanes <= columns; i += lanes) {
    AddDeviations<kRows, false>(x + i, stride, center + i, sum + i, sum_of_squares + i, lanes);
  }
  if (i < columns) {
    AddDeviations<kRows, true>(x + i, stride, center + i, sum + i, sum_of_squares + i, columns - i);
  }
}

// mean[c] and m2[c] (sum of squared deviations from it) of a run of pixels. `scratch` holds three
// arrays of FoldedWidth(channels).
void Statistics(const float* x, int64_t pixel_stride, int64_t pixels, int64_t channels,
                int64_t group, float* scratch, double* mean, double* m2) {
  const int64_t width = FoldedWidth(channels);
  float* const center = scratch;
  float* const sum = scratch + width;
  float* const sum_of_squares = scratch + 2 * width;
  std::fill(scratch, scratch + 3 * width, 0.0f);

  // A few pixels from all over the run estimate the mean: one alone could be an outlier, such as a
  // corner that saw padding. Multiples of the golden ratio, because evenly spaced ones could all be
  // in one column of the images.
  const int64_t samples = std::min<int64_t>(pixels, 8);
  for (int64_t s = 0; s < samples; ++s) {
    const double place = static_cast<double>(s) * 0.6180339887498949;
    const auto pixel =
        static_cast<int64_t>((place - std::floor(place)) * static_cast<double>(pixels));
    const float* const sample = x + pixel * pixel_stride;
    for (int64_t c = 0; c < channels; ++c) center[c] += sample[c];
  }
  for (int64_t c = 0; c < channels; ++c) center[c] /= static_cast<float>(samples);
  Repeat(center, channels, group);

  const FoldedRows folded(pixels, channels, group);
  const int64_t stride = folded.Stride(pixel_stride);
  const float* row = x;
  int64_t r = 0;
  for (; r + 4 <= folded.rows; r += 4, row += 4 * stride) {
    AddDeviationRows<4>(row, stride, folded.columns, center, sum, sum_of_squares);
  }
  for (; r < folded.rows; ++r, row += stride) {
    AddDeviationRows<1>(row, stride, folded.columns, center, sum, sum_of_squares);
  }
  AddDeviationRows<1>(row, stride, folded.last_columns, center, sum, sum_of_squares);

  const double count = static_cast<double>(pixels);
  for (int64_t c = 0; c < channels; ++c) {
    double first = 0;
    double second = 0;
    for (int64_t i = c; i < folded.columns; i += channels) {
      first += sum[i];
      second += sum_of_squares[i];
    }
    mean[c] = center[c] + first / count;
    m2[c] = std::max(0.0, second - first * first / count);
  }
}

template <bool kRelu, bool kTail>
HWY_INLINE VF Normalized(const float* x, const float* scale, const float* shift, int64_t count) {
  const DF d;  // coefficient arrays hold whole vectors
  const VF v = hn::MulAdd(LoadLanes<kTail>(x, count), hn::LoadU(d, scale), hn::LoadU(d, shift));
  return kRelu ? ReluOf(v) : v;
}

template <bool kRelu, bool kStream>
void NormalizeRows(FoldedRows folded, const float* x, int64_t x_stride, const float* scale,
                   const float* shift, float* y, int64_t y_stride) {
  const int64_t lanes = Lanes();
  for (int64_t r = 0; r <= folded.rows; ++r, x += x_stride, y += y_stride) {
    const int64_t columns = r < folded.rows ? folded.columns : folded.last_columns;
    int64_t i = 0;
    for (; i + lanes <= columns; i += lanes) {
      StoreWhole<kStream>(Normalized<kRelu, false>(x + i, scale + i, shift + i, lanes), y + i);
    }
    if (i < columns) {
      StoreFirst(Normalized<kRelu, true>(x + i, scale + i, shift + i, columns - i), y + i,
                 columns - i);
    }
  }
  if (kStream) hwy::FlushStream();
}

void Normalize(FoldedRows folded, const float* x, int64_t x_stride, const float* scale,
               const float* shift, bool relu, float* y, int64_t y_stride, bool stream) {
  const bool streams = stream && CanStream(y, folded.rows, folded.columns, folded.Stride(y_stride));
  const auto kernel = relu ? (streams ? &NormalizeRows<true, true> : &NormalizeRows<true, false>)
                           : (streams ? &NormalizeRows<false, true> : &NormalizeRows<false, false>);
  kernel(folded, x, folded.Stride(x_stride), scale, shift, y, folded.Stride(y_stride));
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
HWY_EXPORT(BatchNormLanes);
HWY_EXPORT(Statistics);
HWY_EXPORT(Normalize);
namespace {

// Merges the statistics of all pieces into those of the first, for channels [begin, end), pairwise
// as in a binary tree.
void MergeStatistics(const Pieces& pieces, int64_t channels, int64_t begin, int64_t end,
                     double* mean, double* m2) {
  for (int64_t step = 1; step < pieces.count(); step *= 2) {
    for (int64_t a = 0; a + step < pieces.count(); a += 2 * step) {
      const int64_t b = a + step;
      const int64_t b_end = std::min(b + step, pieces.count());
      const double count_a = static_cast<double>(pieces.Begin(b) - pieces.Begin(a));
      const double count_b = static_cast<double>(pieces.End(b_end - 1) - pieces.Begin(b));
      const double weight_b = count_b / (count_a + count_b);
      double* const mean_a = mean + a * channels;
      double* const m2_a = m2 + a * channels;
      const double* const mean_b = mean + b * channels;
      const double* const m2_b = m2 + b * channels;
      for (int64_t c = begin; c < end; ++c) {
        const double delta = mean_b[c] - mean_a[c];
        mean_a[c] += delta * weight_b;
        m2_a[c] += m2_b[c] + delta * delta * count_a * weight_b;
      }
    }
  }
}

// The batch's statistics into args.mean and args.inv_std, and into the running ones.
void BatchStatistics(const BatchNorm2dForwardArgs<float>& args, Workspace* workspace,
                     Context& ctx) {
  const ConstTensor& x = args.x;
  const int64_t channels = x.c;
  const Pieces pieces = ReductionPieces(x.shape(), 1);
  double* const means = workspace->Take<double>(pieces.count() * channels);
  double* const m2s = workspace->Take<double>(pieces.count() * channels);
  const int64_t width = FoldedWidth(channels);
  float* const scratch = workspace->Take<float>(ctx.num_threads() * 3 * width);
  const int64_t group = FoldedPixels(channels, x.dense(), HWY_DYNAMIC_DISPATCH(BatchNormLanes)());
  ctx.ParallelFor(
      "batch_norm2d.forward.statistics", pieces.count(), [&](int64_t piece, int worker) {
        HWY_DYNAMIC_DISPATCH(Statistics)
        (x.Pixel(pieces.Begin(piece)), x.pixel_stride, pieces.Size(piece), channels, group,
         scratch + worker * 3 * width, means + piece * channels, m2s + piece * channels);
      });
  const int64_t blocks = DivideUp(channels, kMergedChannels);
  const double count = static_cast<double>(x.pixels());
  ctx.ParallelFor("batch_norm2d.forward.merge", blocks, [&](int64_t block, int) {
    const int64_t begin = block * kMergedChannels;
    const int64_t end = std::min(channels, begin + kMergedChannels);
    MergeStatistics(pieces, channels, begin, end, means, m2s);
    for (int64_t c = begin; c < end; ++c) {
      const double var = m2s[c] / count;
      const double unbiased = m2s[c] / std::max(count - 1, 1.0);  // one value has no spread
      args.mean[c] = static_cast<float>(means[c]);
      args.inv_std[c] = static_cast<float>(1 / std::sqrt(var + args.eps));
      args.running_mean[c] =
          static_cast<float>((1 - args.momentum) * args.running_mean[c] + args.momentum * means[c]);
      args.running_var[c] =
          static_cast<float>((1 - args.momentum) * args.running_var[c] + args.momentum * unbiased);
    }
  });
}

}  // namespace

size_t BatchNorm2dWorkspaceBytes(const Shape4& shape, int num_threads) {
  // Forward: two doubles a piece and channel, three arrays a thread, two of coefficients. Backward
  // has more pieces but keeps floats, two arrays a thread, and six of coefficients.
  const int64_t partial_sums = ReductionPieces(shape, 2).count() * shape.c;
  const int64_t width = FoldedWidth(shape.c);
  return 2 * Workspace::BytesFor<double>(partial_sums) +
         Workspace::BytesFor<float>(num_threads * 3 * width) +
         6 * Workspace::BytesFor<float>(width);
}

void BatchNorm2dForward(const BatchNorm2dForwardArgs<float>& args, Context& ctx) {
  const ConstTensor& x = args.x;
  const Tensor& y = args.y;
  CNN_CHECK(x.shape() == y.shape(), x.shape().ToString(), " and ", y.shape().ToString());
  Workspace workspace = args.workspace;
  const int64_t channels = x.c;
  if (args.training) {
    BatchStatistics(args, &workspace, ctx);
  } else {
    for (int64_t c = 0; c < channels; ++c) {
      args.mean[c] = args.running_mean[c];
      args.inv_std[c] = static_cast<float>(1 / std::sqrt(args.running_var[c] + args.eps));
    }
  }

  const int64_t group =
      FoldedPixels(channels, x.dense() && y.dense(), HWY_DYNAMIC_DISPATCH(BatchNormLanes)());
  float* const scale = workspace.Take<float>(FoldedWidth(channels));
  float* const shift = workspace.Take<float>(FoldedWidth(channels));
  ScaleAndShift(args.gamma, args.beta, args.mean, args.inv_std, channels, scale, shift);
  Repeat(scale, channels, group);
  Repeat(shift, channels, group);
  const bool stream = BeyondCaches(8 * x.size()) && y.data != x.data;
  const Pieces pieces(x.pixels(), 8 * channels);
  ctx.ParallelFor("batch_norm2d.forward.normalize", pieces.count(), [&](int64_t i, int) {
    const int64_t piece = pieces.count() - 1 - i;  // what the statistics read last is in cache
    const int64_t begin = pieces.Begin(piece);
    HWY_DYNAMIC_DISPATCH(Normalize)
    (FoldedRows(pieces.Size(piece), channels, group), x.Pixel(begin), x.pixel_stride, scale, shift,
     args.relu, y.Pixel(begin), y.pixel_stride, stream);
  });
}

}  // namespace classicnn
#endif  // HWY_ONCE
