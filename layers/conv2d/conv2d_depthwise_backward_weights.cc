// Backward weights of 3 x 3 depthwise convolution.
#include <cstdint>

#include "layers/conv2d/conv2d_depthwise_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/conv2d/conv2d_depthwise_backward_weights.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h.
#include "layers/conv2d/conv2d_depthwise_strips-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace depthwise {

// dw[3*r+s] += sum over columns ow to ow + kCols of rows [row0, row1) of dy of
//   x[o*kStride - padding + r, (ow+b)*kStride - padding + s] * dy[o, ow+b],
// for one vector of channels. The nine sums stay in registers, and so do the rows of dy that a row
// of x meets: every element of x and of dy is loaded, and goes through its prologue, once.
//
// No hints to fetch what the next vectors read: asking for the same pixels four cache lines on cost
// 18% on an Intel Xeon, where hardware follows the rows better by itself.
template <int kStride, int kCols, Load kLoadX, Load kLoadDy, Edge kEdge>
struct WeightsStrip {
  static constexpr int kInCols = (kCols - 1) * kStride + 3;

  const Input<kLoadX>& x;
  const Columns<kInCols>& x_columns;
  const Input<kLoadDy>& dy;
  const Columns<kCols>& dy_columns;
  float* dw;
  int64_t tap_step;
  int64_t padding;
  int64_t n;
  int64_t row0;
  int64_t row1;

  static HWY_INLINE void AddTap(VF x, int j, const VF* g, VF* acc) {
    HWY_UNROLL(4)
    for (int b = 0; b < kCols; ++b) {
      const int s = j - b * kStride;
      if (s >= 0 && s < 3) acc[s] = hn::MulAdd(x, g[b], acc[s]);
    }
  }

  template <bool kTail>
  HWY_INLINE void Step(int64_t c, int64_t count) const {
    VF acc[9];
    HWY_UNROLL(9)
    for (int t = 0; t < 9; ++t) acc[t] = LoadLanes<kTail>(dw + t * tap_step + c, count);
    constexpr int kBegin = kEdge == Edge::kFirst ? 1 : 0;
    InputLanes<kLoadX, kInCols, kEdge == Edge::kAny, kTail> in(x, x_columns, n, c, count);
    InputLanes<kLoadDy, kCols, false, kTail> gradient(dy, dy_columns, n, c, count);
    const VF zero = hn::Zero(DF());
    // Rows k, k - 1, k - 2 of dy; zero where they are not in [row0, row1).
    VF g0[kCols], g1[kCols], g2[kCols];
    HWY_UNROLL(4)
    for (int b = 0; b < kCols; ++b) g0[b] = g1[b] = g2[b] = zero;
    const int64_t in_rows = x.x.h;
    const int64_t end = kStride == 1 ? row1 + 2 : row1 + 1;
    for (int64_t k = row0; k < end; ++k) {
      if (k < row1) {
        gradient.SetRow(k);
        HWY_UNROLL(4)
        for (int b = 0; b < kCols; ++b) g0[b] = gradient.Get(b);
      } else {
        HWY_UNROLL(4)
        for (int b = 0; b < kCols; ++b) g0[b] = zero;
      }
      const int64_t i = k * kStride - padding;
      if (i >= 0 && i < in_rows) {
        in.SetRow(i);
        HWY_UNROLL(16)
        for (int j = kBegin; j < kInCols; ++j) {
          const VF v = in.Get(j);
          AddTap(v, j, g0, acc);
          if constexpr (kStride == 1) AddTap(v, j, g1, acc + 3);
          AddTap(v, j, kStride == 1 ? g2 : g1, acc + 6);
        }
      }
      if constexpr (kStride == 2) {
        if (k < row1 && i + 1 >= 0 && i + 1 < in_rows) {
          in.SetRow(i + 1);
          HWY_UNROLL(16)
          for (int j = kBegin; j < kInCols; ++j) AddTap(in.Get(j), j, g0, acc + 3);
        }
      }
      HWY_UNROLL(4)
      for (int b = 0; b < kCols; ++b) {
        g2[b] = g1[b];
        g1[b] = g0[b];
      }
    }
    HWY_UNROLL(9)
    for (int t = 0; t < 9; ++t) StoreLanes<kTail>(acc[t], dw + t * tap_step + c, count);
  }
};

template <int kStride, Load kLoadX, Load kLoadDy>
struct WeightsRows {
  Input<kLoadX> x;
  Input<kLoadDy> dy;
  float* dw;
  int64_t tap_step;
  int64_t padding;
  int64_t n;
  int64_t row0;
  int64_t row1;
  int64_t c0;
  int64_t c1;

  template <int kCols>
  HWY_INLINE void Strip(int64_t ow) const {
    const Columns<(kCols - 1) * kStride + 3> x_columns(x, ow * kStride - padding);
    if constexpr (kStride == 2 && kCols == 4) {
      if (x_columns.edge == Edge::kNone) return Walk<kCols, Edge::kNone>(x_columns, ow);
      if (x_columns.edge == Edge::kFirst) return Walk<kCols, Edge::kFirst>(x_columns, ow);
    }
    Walk<kCols, Edge::kAny>(x_columns, ow);
  }
  template <int kCols, Edge kEdge>
  HWY_NOINLINE void Walk(const Columns<(kCols - 1) * kStride + 3>& x_columns, int64_t ow) const {
    const Columns<kCols> dy_columns(dy, ow);
    ForEachVec(c0, c1,
               WeightsStrip<kStride, kCols, kLoadX, kLoadDy, kEdge>{
                   x, x_columns, dy, dy_columns, dw, tap_step, padding, n, row0, row1});
  }
};

template <int kStride, Load kLoadX, Load kLoadDy>
void WeightsOf(const Conv2dBackwardWeightsArgs<float>& args, const DepthwiseBlock& block,
               float* partial) {
  constexpr int64_t kRows = kStride == 1 ? 8 : 2;  // fewer and more were slower, or no faster
  const Input<kLoadX> x{args.x, args.activation, {}};
  const Input<kLoadDy> dy{args.dy, {}, args.gradient};
  ForEachBand(block, kRows, [&](int64_t n, int64_t row0, int64_t row1) HWY_ATTR {
    ForEachStrip(0, args.dy.w,
                 WeightsRows<kStride, kLoadX, kLoadDy>{x, dy, partial, args.shape.in_channels,
                                                       args.shape.padding, n, row0, row1, block.c0,
                                                       block.c1});
  });
}

template <int kStride>
void WeightsOfStride(const Conv2dBackwardWeightsArgs<float>& args, const DepthwiseBlock& block,
                     float* partial) {
  constexpr auto kPlain = Load::kPlain;
  if (args.activation.active()) {
    (args.gradient.active() ? WeightsOf<kStride, Load::kActivated, Load::kGradient>
                            : WeightsOf<kStride, Load::kActivated, kPlain>)(args, block, partial);
  } else {
    (args.gradient.active() ? WeightsOf<kStride, kPlain, Load::kGradient>
                            : WeightsOf<kStride, kPlain, kPlain>)(args, block, partial);
  }
}

void BackwardWeights(const Conv2dBackwardWeightsArgs<float>& args, const DepthwiseBlock& block,
                     float* partial) {
  (args.shape.stride == 1 ? WeightsOfStride<1> : WeightsOfStride<2>)(args, block, partial);
}

}  // namespace depthwise

using depthwise::BackwardWeights;  // HWY_EXPORT takes names of this namespace

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
HWY_EXPORT(BackwardWeights);

void DepthwiseBackwardWeightsStrips(const Conv2dBackwardWeightsArgs<float>& args,
                                    const DepthwiseBlock& block, float* partial) {
  HWY_DYNAMIC_DISPATCH(BackwardWeights)(args, block, partial);
}

}  // namespace classicnn
#endif  // HWY_ONCE
