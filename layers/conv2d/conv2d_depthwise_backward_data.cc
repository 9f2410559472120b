// Backward data of 3 x 3 depthwise convolution.
#include <algorithm>
#include <cstdint>

#include "layers/conv2d/conv2d_depthwise_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/conv2d/conv2d_depthwise_backward_data.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h.
#include "layers/conv2d/conv2d_depthwise_strips-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace depthwise {

// Stride 2. Counting padded rows, row 2a+1 of dx is reached by tap 1 from dy row a alone, row 2a+2
// by tap 2 from a and by tap 0 from a+1; columns alike. A strip walks down such pairs of rows, with
// kPairs pairs of columns from 2b+1 on: no multiplication by inserted zeros.
template <int kPairs, Load kLoad, Finish kFinish>
struct ScatterStrip {
  static constexpr int kInCols = kPairs + 1;

  const Input<kLoad>& input;
  const Columns<kInCols>& columns;
  const Output<kFinish>& output;
  Taps taps;
  int64_t padding;
  int64_t n;
  int64_t row0;
  int64_t row1;
  int64_t w;  // dx column of the first pair; it or the last one may be outside dx

  template <bool kTail>
  HWY_INLINE void Step(int64_t c, int64_t count) const {
    VF t[9];
    taps.template Get<kTail>(c, count, t);
    InputLanes<kLoad, kInCols, true, kTail> in(input, columns, n, c, count);
    OutputLanes<kFinish, kTail> out(output, n, w, c, count);
    const int64_t in_rows = input.x.h;
    const int64_t begin = row0, end = row1;
    const bool first_inside = w >= 0;
    const bool last_inside = w + 2 * kPairs <= output.y.w;
    const auto put = [&](int j, VF v) HWY_ATTR {
      if ((j > 0 || first_inside) && (j < 2 * kPairs - 1 || last_inside)) out.Put(j, v);
    };
    const auto load_row = [&](int64_t a, VF* g) HWY_ATTR {
      if (a >= 0 && a < in_rows) {
        in.SetRow(a);
        HWY_UNROLL(4)
        for (int j = 0; j < kInCols; ++j) g[j] = in.Get(j);
      } else {
        HWY_UNROLL(4)
        for (int j = 0; j < kInCols; ++j) g[j] = hn::Zero(DF());
      }
    };
    int64_t a = (begin + padding + 1) / 2 - 1;
    VF g[kInCols], next[kInCols];
    load_row(a, g);
    for (int64_t h = 2 * a + 1 - padding; h < end; h += 2) {
      if (h >= begin) {
        out.SetRow(h);
        HWY_UNROLL(4)
        for (int q = 0; q < kPairs; ++q) {
          put(2 * q, hn::Mul(g[q], t[4]));
          put(2 * q + 1, hn::MulAdd(g[q + 1], t[3], hn::Mul(g[q], t[5])));
        }
      }
      ++a;
      load_row(a, next);
      if (h + 1 < end) {
        out.SetRow(h + 1);
        HWY_UNROLL(4)
        for (int q = 0; q < kPairs; ++q) {
          put(2 * q, hn::MulAdd(next[q], t[1], hn::Mul(g[q], t[7])));
          const VF from_g = hn::MulAdd(g[q + 1], t[6], hn::Mul(g[q], t[8]));
          const VF from_next = hn::MulAdd(next[q + 1], t[0], hn::Mul(next[q], t[2]));
          put(2 * q + 1, hn::Add(from_g, from_next));
        }
      }
      HWY_UNROLL(4)
      for (int j = 0; j < kInCols; ++j) g[j] = next[j];
    }
    out.AddSums();
  }
};

template <Load kLoad, Finish kFinish>
struct ScatterRows {
  Input<kLoad> input;
  Output<kFinish> output;
  Taps taps;
  int64_t padding;
  int64_t n;
  int64_t row0;
  int64_t row1;
  int64_t c0;
  int64_t c1;

  template <int kPairs>
  HWY_INLINE void Strip(int64_t b) const {
    using Kernel = ScatterStrip<kPairs, kLoad, kFinish>;
    const Columns<Kernel::kInCols> columns(input, b);
    ForEachVec(c0, c1,
               Kernel{input, columns, output, taps, padding, n, row0, row1, 2 * b + 1 - padding});
  }
  void Run() const {
    // Pairs that hold columns 0 and W - 1.
    const int64_t first = (padding + 1) / 2 - 1;
    const int64_t last = (output.y.w + padding) / 2 - 1;
    ForEachStrip(first, last + 1, *this);
  }
};

template <Load kLoad, Finish kFinish>
void RowsOf(const Conv2dBackwardDataArgs<float>& args, const DepthwiseBlock& block,
            const Output<kFinish>& output) {
  const Input<kLoad> input{args.dy, {}, args.gradient};
  const int64_t channels = args.shape.in_channels;
  const int64_t padding = args.shape.padding;
  // Fewer and more were slower, or no faster. Stores past the caches want rows written whole;
  // reading x as well, stride 2 took 1.1 to 1.3 of the time with 2 or 4 rows.
  const bool few_rows = args.shape.stride == 2 && output.stream;
  const int64_t rows = kFinish == Finish::kGradient ? 16 : few_rows ? 2 : 4;
  ForEachBand(block, rows, [&](int64_t n, int64_t row0, int64_t row1) HWY_ATTR {
    if (args.shape.stride == 1) {
      // The correlation of dy with the flipped taps.
      const Taps flipped{args.weights + 8 * channels, -channels};
      CorrelateRows<1, kLoad, kFinish>{input, output, flipped, nullptr,  2 - padding,
                                       n,     row0,   row1,    block.c0, block.c1}
          .Run();
    } else {
      const Taps taps{args.weights, channels};
      ScatterRows<kLoad, kFinish>{input, output, taps, padding, n, row0, row1, block.c0, block.c1}
          .Run();
    }
  });
  if (output.stream) hwy::FlushStream();
}

void BackwardData(const Conv2dBackwardDataArgs<float>& args, const DepthwiseBlock& block,
                  const GradientSumPieces& sums) {
  const bool gradient = args.gradient.active();
  if (args.epilogue.active()) {
    const Output<Finish::kGradient> output{args.dx,
                                           args.accumulate,
                                           args.epilogue,
                                           nullptr,
                                           sums.sum_g(block.group),
                                           sums.sum_gx(block.group),
                                           Streams(args.dx, block)};
    (gradient ? RowsOf<Load::kGradient, Finish::kGradient>
              : RowsOf<Load::kPlain, Finish::kGradient>)(args, block, output);
  } else {
    const Output<Finish::kPlain> output{args.dx, args.accumulate,        {}, nullptr, nullptr,
                                        nullptr, Streams(args.dx, block)};
    (gradient ? RowsOf<Load::kGradient, Finish::kPlain>
              : RowsOf<Load::kPlain, Finish::kPlain>)(args, block, output);
  }
}

}  // namespace depthwise

using depthwise::BackwardData;  // HWY_EXPORT takes names of this namespace

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
HWY_EXPORT(BackwardData);

void DepthwiseBackwardDataStrips(const Conv2dBackwardDataArgs<float>& args,
                                 const DepthwiseBlock& block, const GradientSumPieces& sums) {
  HWY_DYNAMIC_DISPATCH(BackwardData)(args, block, sums);
}

}  // namespace classicnn
#endif  // HWY_ONCE
