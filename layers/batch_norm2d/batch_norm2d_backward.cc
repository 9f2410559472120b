#include <algorithm>

#include "core/check.h"
#include "core/divide.h"
#include "layers/batch_norm2d/batch_norm2d.h"
#include "layers/batch_norm2d/batch_norm2d_parts.h"
#include "layers/stream.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/batch_norm2d/batch_norm2d_backward.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/partial-inl.h"
#include "layers/stream-inl.h"

#ifndef CLASSICNN_BATCH_NORM2D_BACKWARD_ONCE_
#define CLASSICNN_BATCH_NORM2D_BACKWARD_ONCE_
namespace classicnn {

// Arrays of FoldedWidth(C), of the channels or their repetition.
struct BackwardCoefficients {
  const float* mean;
  const float* scale;  // with shift: where relu let the value pass
  const float* shift;
  const float* a;  // dx = a * g + b * (x - mean) + c; a alone in inference
  const float* b;
  const float* c;
};

// Where GradientSums writes the input's gradient of a run of pixels.
struct InputGradientOutput {
  float* dx;
  int64_t stride;
  bool accumulate;
  bool stream;
};

// Of x and of dy each, between taking their sums and reading them again: they stay in the
// second-level cache.
inline constexpr int64_t kRunFloats = 16 << 10;

}  // namespace classicnn
#endif

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

int64_t BatchNormBackwardLanes() { return Lanes(); }

// g: dy where relu let the value pass.
template <bool kRelu>
HWY_INLINE VF Passed(VF x, VF dy, const float* scale, const float* shift) {
  if (!kRelu) return dy;
  const DF d;
  const VF y = hn::MulAdd(x, hn::LoadU(d, scale), hn::LoadU(d, shift));
  return KeepWhere(hn::Gt(y, hn::Zero(d)), dy);
}

// Adds g and g * (x - mean) of kRows rows to the sums of one vector of channels. The sums have room
// for whole vectors; lanes of a tail that are no channels add zero.
template <bool kRelu, int kRows, bool kTail>
HWY_INLINE void AddGradients(const float* x, int64_t x_stride, const float* dy, int64_t dy_stride,
                             const BackwardCoefficients& k, int64_t i, int64_t count, float* sum_g,
                             float* sum_gx) {
  const DF d;
  const VF mean = LoadLanes<kTail>(k.mean + i, count);
  VF sums[2] = {hn::Zero(d), hn::Zero(d)};
  VF products[2] = {hn::Zero(d), hn::Zero(d)};
  for (int r = 0; r < kRows; ++r) {
    const VF x_r = LoadLanes<kTail>(x + i + r * x_stride, count);
    const VF dy_r = LoadLanes<kTail>(dy + i + r * dy_stride, count);
    const VF g = Passed<kRelu>(x_r, dy_r, k.scale + i, k.shift + i);
    sums[r % 2] = hn::Add(sums[r % 2], g);
    products[r % 2] = hn::MulAdd(g, hn::Sub(x_r, mean), products[r % 2]);
  }
  hn::StoreU(hn::Add(hn::LoadU(d, sum_g + i), hn::Add(sums[0], sums[1])), d, sum_g + i);
  hn::StoreU(hn::Add(hn::LoadU(d, sum_gx + i), hn::Add(products[0], products[1])), d, sum_gx + i);
}

template <bool kRelu, int kRows>
HWY_INLINE void AddGradientRows(const float* x, int64_t x_stride, const float* dy,
                                int64_t dy_stride, int64_t columns, const BackwardCoefficients& k,
                                float* sum_g, float* sum_gx) {
  const int64_t lanes = Lanes();
  int64_t i = 0;
  for (; i + lanes <= columns; i += lanes) {
    AddGradients<kRelu, kRows, false>(x, x_stride, dy, dy_stride, k, i, lanes, sum_g, sum_gx);
  }
  if (i < columns) {
    AddGradients<kRelu, kRows, true>(x, x_stride, dy, dy_stride, k, i, columns - i, sum_g, sum_gx);
  }
}

template <bool kRelu>
void GradientSumsT(FoldedRows folded, const float* x, int64_t x_stride, const float* dy,
                   int64_t dy_stride, const BackwardCoefficients& coefficients, float* sum_g,
                   float* sum_gx) {
  const BackwardCoefficients k = coefficients;  // a copy that stores cannot change
  int64_t r = 0;
  for (; r + 4 <= folded.rows; r += 4, x += 4 * x_stride, dy += 4 * dy_stride) {
    AddGradientRows<kRelu, 4>(x, x_stride, dy, dy_stride, folded.columns, k, sum_g, sum_gx);
  }
  for (; r < folded.rows; ++r, x += x_stride, dy += dy_stride) {
    AddGradientRows<kRelu, 1>(x, x_stride, dy, dy_stride, folded.columns, k, sum_g, sum_gx);
  }
  AddGradientRows<kRelu, 1>(x, x_stride, dy, dy_stride, folded.last_columns, k, sum_g, sum_gx);
}

enum class Write { kStored, kStreamed, kAdded };

template <bool kRelu, bool kTraining, Write kWrite, bool kTail>
HWY_INLINE void InputGradient(const float* x, const float* dy, const BackwardCoefficients& k,
                              int64_t i, int64_t count, float* dx) {
  const DF d;
  const VF dy_i = LoadLanes<kTail>(dy + i, count);
  const VF x_i = kRelu || kTraining ? LoadLanes<kTail>(x + i, count) : dy_i;
  const VF g = Passed<kRelu>(x_i, dy_i, k.scale + i, k.shift + i);
  VF result = hn::Mul(hn::LoadU(d, k.a + i), g);
  if (kTraining) {
    const VF deviation = hn::Sub(x_i, hn::LoadU(d, k.mean + i));
    result = hn::MulAdd(hn::LoadU(d, k.a + i), g,
                        hn::MulAdd(hn::LoadU(d, k.b + i), deviation, hn::LoadU(d, k.c + i)));
  }
  if (kWrite == Write::kAdded) result = hn::Add(LoadLanes<kTail>(dx + i, count), result);
  if (kTail) {
    StoreFirst(result, dx + i, count);
  } else {
    StoreWhole<kWrite == Write::kStreamed>(result, dx + i);
  }
}

template <bool kRelu, bool kTraining, Write kWrite>
void InputGradientRows(FoldedRows folded, const float* x, int64_t x_stride, const float* dy,
                       int64_t dy_stride, const BackwardCoefficients& coefficients, float* dx,
                       int64_t dx_stride) {
  const BackwardCoefficients k = coefficients;  // a copy that stores cannot change
  const int64_t lanes = Lanes();
  for (int64_t r = 0; r <= folded.rows; ++r, x += x_stride, dy += dy_stride, dx += dx_stride) {
    const int64_t columns = r < folded.rows ? folded.columns : folded.last_columns;
    int64_t i = 0;
    for (; i + lanes <= columns; i += lanes) {
      InputGradient<kRelu, kTraining, kWrite, false>(x, dy, k, i, lanes, dx);
    }
    if (i < columns) {
      InputGradient<kRelu, kTraining, kWrite, true>(x, dy, k, i, columns - i, dx);
    }
  }
  if (kWrite == Write::kStreamed) hwy::FlushStream();
}

using InputGradientKernel = void (*)(FoldedRows, const float*, int64_t, const float*, int64_t,
                                     const BackwardCoefficients&, float*, int64_t);

template <bool kRelu, bool kTraining>
InputGradientKernel InputGradientKernelFor(Write write) {
  return write == Write::kAdded      ? &InputGradientRows<kRelu, kTraining, Write::kAdded>
         : write == Write::kStreamed ? &InputGradientRows<kRelu, kTraining, Write::kStreamed>
                                     : &InputGradientRows<kRelu, kTraining, Write::kStored>;
}

void InputGradients(FoldedRows folded, const float* x, int64_t x_stride, const float* dy,
                    int64_t dy_stride, const BackwardCoefficients& k, bool relu, bool training,
                    bool accumulate, bool stream, float* dx, int64_t dx_stride) {
  const bool streams =
      stream && CanStream(dx, folded.rows, folded.columns, folded.Stride(dx_stride));
  const Write write = accumulate ? Write::kAdded : streams ? Write::kStreamed : Write::kStored;
  const InputGradientKernel kernel = relu
                                         ? (training ? InputGradientKernelFor<true, true>(write)
                                                     : InputGradientKernelFor<true, false>(write))
                                         : (training ? InputGradientKernelFor<false, true>(write)
                                                     : InputGradientKernelFor<false, false>(write));
  kernel(folded, x, folded.Stride(x_stride), dy, folded.Stride(dy_stride), k, dx,
         folded.Stride(dx_stride));
}

// sums[c] = sum g, sums[channels + c] = sum g * (x - mean) over a run of pixels. `scratch` holds
// two arrays of FoldedWidth(channels). With `gradient`, which needs no sums then, dx too.
void GradientSums(const float* x, int64_t x_stride, const float* dy, int64_t dy_stride,
                  int64_t pixels, int64_t channels, int64_t group, bool relu,
                  const BackwardCoefficients& k, const InputGradientOutput* gradient,
                  float* scratch, float* sums) {
  const int64_t width = FoldedWidth(channels);
  float* const sum_g = scratch;
  float* const sum_gx = scratch + width;
  std::fill(scratch, scratch + 2 * width, 0.0f);
  const auto kernel = relu ? &GradientSumsT<true> : &GradientSumsT<false>;
  const int64_t columns = group * channels;
  // Rows by fours, as if they were taken at once; the gradient finds them in the cache.
  const int64_t rows = std::max<int64_t>(1, kRunFloats / columns / 4) * 4;
  const int64_t run = gradient != nullptr ? rows * group : pixels;
  for (int64_t begin = 0; begin < pixels; begin += run) {
    const FoldedRows folded(std::min(run, pixels - begin), channels, group);
    const float* const x_run = x + begin * x_stride;
    const float* const dy_run = dy + begin * dy_stride;
    kernel(folded, x_run, folded.Stride(x_stride), dy_run, folded.Stride(dy_stride), k, sum_g,
           sum_gx);
    if (gradient == nullptr) continue;
    InputGradients(folded, x_run, x_stride, dy_run, dy_stride, k, relu, /*training=*/false,
                   gradient->accumulate, gradient->stream, gradient->dx + begin * gradient->stride,
                   gradient->stride);
  }
  for (int64_t c = 0; c < channels; ++c) {
    double g = 0;
    double gx = 0;
    for (int64_t i = c; i < columns; i += channels) {
      g += sum_g[i];
      gx += sum_gx[i];
    }
    sums[c] = static_cast<float>(g);
    sums[channels + c] = static_cast<float>(gx);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
HWY_EXPORT(BatchNormBackwardLanes);
HWY_EXPORT(GradientSums);
HWY_EXPORT(InputGradients);

void BatchNorm2dBackward(const BatchNorm2dBackwardArgs<float>& args, Context& ctx) {
  const ConstTensor& x = args.x;
  const ConstTensor& dy = args.dy;
  const Tensor& dx = args.dx;
  CNN_CHECK(x.shape() == dy.shape() && x.shape() == dx.shape(), x.shape().ToString(), ", ",
            dy.shape().ToString(), " and ", dx.shape().ToString());
  const int64_t channels = x.c;
  const int64_t width = FoldedWidth(channels);
  const int64_t lanes = HWY_DYNAMIC_DISPATCH(BatchNormBackwardLanes)();
  const int64_t group = FoldedPixels(channels, x.dense() && dy.dense() && dx.dense(), lanes);

  Workspace workspace = args.workspace;
  const Pieces pieces = ReductionPieces(x.shape(), 2);
  float* const sums = workspace.Take<float>(pieces.count() * 2 * channels);
  float* const scratch = workspace.Take<float>(ctx.num_threads() * 2 * width);
  float* const mean = workspace.Take<float>(width);
  float* const scale = workspace.Take<float>(width);
  float* const shift = workspace.Take<float>(width);
  float* const a = workspace.Take<float>(width);
  float* const b = workspace.Take<float>(width);
  float* const c = workspace.Take<float>(width);
  const BackwardCoefficients coefficients = {mean, scale, shift, a, b, c};

  std::copy(args.mean, args.mean + channels, mean);
  Repeat(mean, channels, group);
  if (args.relu) {
    ScaleAndShift(args.gamma, args.beta, args.mean, args.inv_std, channels, scale, shift);
    Repeat(scale, channels, group);
    Repeat(shift, channels, group);
  }
  const bool in_place = dx.data == dy.data || dx.data == x.data;
  const bool stream = BeyondCaches(12 * x.size()) && !in_place;
  if (!args.training) {
    // The gradient does not depend on the sums: one pass makes both.
    for (int64_t i = 0; i < channels; ++i) a[i] = args.gamma[i] * args.inv_std[i];
    Repeat(a, channels, group);
  }
  ctx.ParallelFor("batch_norm2d.backward.sums", pieces.count(), [&](int64_t piece, int worker) {
    const int64_t begin = pieces.Begin(piece);
    const InputGradientOutput gradient = {dx.Pixel(begin), dx.pixel_stride, args.accumulate,
                                          stream};
    HWY_DYNAMIC_DISPATCH(GradientSums)
    (x.Pixel(begin), x.pixel_stride, dy.Pixel(begin), dy.pixel_stride, pieces.Size(piece), channels,
     group, args.relu, coefficients, args.training ? nullptr : &gradient,
     scratch + worker * 2 * width, sums + piece * 2 * channels);
  });

  const double count = static_cast<double>(x.pixels());
  const int64_t blocks = DivideUp(channels, kMergedChannels);
  ctx.ParallelFor("batch_norm2d.backward.merge", blocks, [&](int64_t block, int) {
    const int64_t begin = block * kMergedChannels;
    const int64_t end = std::min(channels, begin + kMergedChannels);
    double sum_g[kMergedChannels] = {};
    double sum_gx[kMergedChannels] = {};
    for (int64_t piece = 0; piece < pieces.count(); ++piece) {
      const float* piece_sums = sums + piece * 2 * channels;
      for (int64_t i = begin; i < end; ++i) {
        sum_g[i - begin] += piece_sums[i];
        sum_gx[i - begin] += piece_sums[channels + i];
      }
    }
    for (int64_t i = begin; i < end; ++i) {
      const double inv_std = args.inv_std[i];
      const double dbeta = sum_g[i - begin];
      const double dgamma = sum_gx[i - begin] * inv_std;
      args.dbeta[i] = static_cast<float>(dbeta);
      args.dgamma[i] = static_cast<float>(dgamma);
      if (!args.training) continue;
      const double factor = args.gamma[i] * inv_std;
      a[i] = static_cast<float>(factor);
      b[i] = static_cast<float>(-factor * inv_std * dgamma / count);
      c[i] = static_cast<float>(-factor * dbeta / count);
    }
  });

  if (!args.training) return;
  for (float* const coefficient : {a, b, c}) Repeat(coefficient, channels, group);
  const Pieces apply(x.pixels(), 12 * channels);
  ctx.ParallelFor("batch_norm2d.backward.apply", apply.count(), [&](int64_t i, int) {
    const int64_t piece = apply.count() - 1 - i;  // what the sums read last is in cache
    const int64_t begin = apply.Begin(piece);
    HWY_DYNAMIC_DISPATCH(InputGradients)
    (FoldedRows(apply.Size(piece), channels, group), x.Pixel(begin), x.pixel_stride,
     dy.Pixel(begin), dy.pixel_stride, coefficients, args.relu, /*training=*/true, args.accumulate,
     stream, dx.Pixel(begin), dx.pixel_stride);
  });
}

}  // namespace classicnn
#endif  // HWY_ONCE
