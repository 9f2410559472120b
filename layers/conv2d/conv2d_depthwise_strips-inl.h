// What the 3 x 3 depthwise kernels share: strips of a few pixels' width that walk down an image,
// one vector of channels at a time, with prologues on what they load and epilogues on what they
// store. Per-target: included after hwy/highway.h, once per instruction set.

#if defined(CLASSICNN_LAYERS_CONV2D_CONV2D_DEPTHWISE_STRIPS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CLASSICNN_LAYERS_CONV2D_CONV2D_DEPTHWISE_STRIPS_INL_H_
#undef CLASSICNN_LAYERS_CONV2D_CONV2D_DEPTHWISE_STRIPS_INL_H_
#else
#define CLASSICNN_LAYERS_CONV2D_CONV2D_DEPTHWISE_STRIPS_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <limits>

#include "core/view.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "layers/conv2d/conv2d_depthwise_kernels.h"
#include "layers/fusion.h"
#include "layers/partial-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace depthwise {

// Calls step.Step<kTail>(c, count) for each vector of channels [begin, end).
template <class Step>
HWY_INLINE void ForEachVec(int64_t begin, int64_t end, const Step& step) {
  const int64_t lanes = Lanes();
  int64_t c = begin;
  for (; c + lanes <= end; c += lanes) step.template Step<false>(c, lanes);
  if (c < end) step.template Step<true>(c, end - c);
}

// What is done to a tensor as it is loaded.
enum class Load { kPlain, kActivated, kGradient };

template <Load kLoad>
struct Input {
  ConstTensor x;
  ActivationPrologue<float> activation;
  GradientPrologue<float> gradient;
};

// Which columns of a strip are outside the image: none, the first, or any.
enum class Edge { kNone, kFirst, kAny };

// kCols columns of an input from `first` on. Those outside the image are masked to zero, after the
// prologue, and read from a pixel inside instead.
template <int kCols>
struct Columns {
  HWY_ALIGN float inside[kCols * HWY_LANES(float)];  // all bits or none
  int64_t offset[kCols];                             // from the first pixel of a row
  int64_t second[kCols];                             // of gradient.x
  Edge edge = Edge::kAny;

  template <Load kLoad>
  Columns(const Input<kLoad>& input, int64_t first) {
    const DF d;
    const DI di;
    if (first + kCols <= input.x.w && first >= -1) edge = first < 0 ? Edge::kFirst : Edge::kNone;
    for (int j = 0; j < kCols; ++j) {
      const int64_t column = first + j;
      const int64_t nearest = std::clamp<int64_t>(column, 0, input.x.w - 1);
      hn::Store(hn::BitCast(d, hn::Set(di, column == nearest ? -1 : 0)), d, inside + j * Lanes());
      offset[j] = nearest * input.x.pixel_stride;
      second[j] = kLoad == Load::kGradient ? nearest * input.gradient.x.pixel_stride : 0;
    }
  }
};

// v, or the floor where it is less; NaN stays NaN.
HWY_INLINE VF AtLeast(VF floor, VF v) {
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR
  return hn::Max(floor, v);  // the second operand where one is NaN
#else
  return hn::IfThenElse(hn::Lt(v, floor), floor, v);
#endif
}

// One vector of channels of an input: coefficients in registers, and the row that is being read.
// kMasked: some of the columns may be outside.
template <Load kLoad, int kCols, bool kMasked, bool kTail>
class InputLanes {
 public:
  HWY_INLINE InputLanes(const Input<kLoad>& input, const Columns<kCols>& columns, int64_t n,
                        int64_t c, int64_t count)
      : columns_(columns),
        count_(count),
        image_(input.x.Pixel(n, 0, 0) + c),
        row_stride_(input.x.w * input.x.pixel_stride) {
    if constexpr (kLoad == Load::kActivated) {
      a_ = LoadLanes<kTail>(input.activation.scale + c, count);
      b_ = LoadLanes<kTail>(input.activation.shift + c, count);
      floor_ = hn::Set(DF(), input.activation.relu ? 0 : -std::numeric_limits<float>::infinity());
    } else if constexpr (kLoad == Load::kGradient) {
      second_image_ = input.gradient.x.Pixel(n, 0, 0) + c;
      second_row_stride_ = input.gradient.x.w * input.gradient.x.pixel_stride;
      a_ = LoadLanes<kTail>(input.gradient.gain + c, count);
      b_ = LoadLanes<kTail>(input.gradient.slope + c, count);
      floor_ = LoadLanes<kTail>(input.gradient.offset + c, count);
    }
  }
  HWY_INLINE void SetRow(int64_t h) {
    row_ = image_ + h * row_stride_;
    if constexpr (kLoad == Load::kGradient) second_ = second_image_ + h * second_row_stride_;
  }
  HWY_INLINE VF Get(int j) const {
    VF v = LoadLanes<kTail>(row_ + columns_.offset[j], count_);
    if constexpr (kLoad == Load::kActivated) {
      v = AtLeast(floor_, hn::MulAdd(v, a_, b_));
    } else if constexpr (kLoad == Load::kGradient) {
      const VF x = LoadLanes<kTail>(second_ + columns_.second[j], count_);
      v = hn::MulAdd(a_, v, hn::MulAdd(b_, x, floor_));
    }
    if constexpr (kMasked) v = hn::And(v, hn::Load(DF(), columns_.inside + j * Lanes()));
    return v;
  }

 private:
  const Columns<kCols>& columns_;
  const int64_t count_;
  const float* const image_;
  const int64_t row_stride_;
  const float* second_image_ = nullptr;  // of gradient.x
  int64_t second_row_stride_ = 0;
  const float* row_ = nullptr;
  const float* second_ = nullptr;
  VF a_;      // scale or gain
  VF b_;      // shift or slope
  VF floor_;  // or offset
};

// What is done to a tensor as it is stored.
enum class Finish { kPlain, kStatistics, kGradient };

template <Finish kFinish>
struct Output {
  Tensor y;
  bool accumulate;
  GradientEpilogue<float> epilogue;
  // [C]: for kStatistics the moments' center, sum and sum_of_squares; for kGradient the sums of g
  // and g * x - mean.
  const float* center;
  float* sum;
  float* product;
  bool stream = false;  // past the caches; after the last store call hwy::FlushStream
};

// Whether a block that is to be written past the caches can be: vectors are whole cache lines.
HWY_INLINE bool Streams(const Tensor& y, const DepthwiseBlock& block) {
  constexpr int64_t kLine = 16;
  return block.stream && Lanes() == kLine && y.pixel_stride % kLine == 0 && block.c0 % kLine == 0 &&
         reinterpret_cast<uintptr_t>(y.data) % (kLine * sizeof(float)) == 0;
}

// One vector of channels of an output from column w on, as InputLanes. Sums are kept in registers,
// in two chains. Everything is copied from the output: a compiler must think that a store of floats
// changes what lies behind a reference.
template <Finish kFinish, bool kTail>
class OutputLanes {
 public:
  HWY_INLINE OutputLanes(const Output<kFinish>& output, int64_t n, int64_t w, int64_t c,
                         int64_t count)
      : count_(count),
        stride_(output.y.pixel_stride),
        row_stride_(output.y.w * stride_),
        image_(output.y.Pixel(n, 0, 0) + w * stride_ + c),
        accumulate_(output.accumulate),
        stream_(output.stream) {
    const VF zero = hn::Zero(DF());
    sums_[0] = sums_[1] = products_[0] = products_[1] = zero;
    scale_ = shift_ = gain_ = center_ = zero;
    if constexpr (kFinish != Finish::kPlain) {
      sum_ = output.sum + c;
      product_ = output.product + c;
    }
    if constexpr (kFinish == Finish::kStatistics) {
      center_ = LoadLanes<kTail>(output.center + c, count);
    } else if constexpr (kFinish == Finish::kGradient) {
      const GradientEpilogue<float>& e = output.epilogue;
      second_stride_ = e.x.pixel_stride;
      second_row_stride_ = e.x.w * second_stride_;
      second_image_ = e.x.Pixel(n, 0, 0) + w * second_stride_ + c;
      relu_ = e.relu;
      gained_ = e.gain != nullptr;
      added_ = e.add;
      center_ = LoadLanes<kTail>(e.mean + c, count);
      if (relu_) {
        scale_ = LoadLanes<kTail>(e.scale + c, count);
        shift_ = LoadLanes<kTail>(e.shift + c, count);
      }
      if (gained_) gain_ = LoadLanes<kTail>(e.gain + c, count);
    }
  }
  HWY_INLINE void SetRow(int64_t h) {
    row_ = image_ + h * row_stride_;
    if constexpr (kFinish == Finish::kGradient) second_ = second_image_ + h * second_row_stride_;
  }
  HWY_INLINE void Put(int j, VF v) {
    float* const to = row_ + j * stride_;
    if (HWY_UNLIKELY(accumulate_)) v = hn::Add(v, LoadLanes<kTail>(to, count_));
    if constexpr (kFinish == Finish::kStatistics) {
      const VF d = hn::Sub(v, center_);
      sums_[j & 1] = hn::Add(sums_[j & 1], d);
      products_[j & 1] = hn::MulAdd(d, d, products_[j & 1]);
    } else if constexpr (kFinish == Finish::kGradient) {
      const VF x = LoadLanes<kTail>(second_ + j * second_stride_, count_);
      if (HWY_LIKELY(relu_)) {
        v = KeepWhere(hn::Gt(hn::MulAdd(x, scale_, shift_), hn::Zero(DF())), v);
      }
      sums_[j & 1] = hn::Add(sums_[j & 1], v);
      products_[j & 1] = hn::MulAdd(v, hn::Sub(x, center_), products_[j & 1]);
      if (HWY_UNLIKELY(gained_)) {
        v = added_ ? hn::MulAdd(v, gain_, LoadLanes<kTail>(to, count_)) : hn::Mul(v, gain_);
      }
    }
    if (!kTail && stream_) {
      hn::Stream(v, DF(), to);
    } else {
      StoreLanes<kTail>(v, to, count_);
    }
  }
  // After the last pixel.
  HWY_INLINE void AddSums() const {
    if constexpr (kFinish != Finish::kPlain) {
      Add(hn::Add(sums_[0], sums_[1]), sum_);
      Add(hn::Add(products_[0], products_[1]), product_);
    }
  }

 private:
  HWY_INLINE void Add(VF v, float* to) const {
    StoreLanes<kTail>(hn::Add(LoadLanes<kTail>(to, count_), v), to, count_);
  }

  const int64_t count_;
  const int64_t stride_;
  const int64_t row_stride_;
  float* const image_;
  const bool accumulate_;
  const bool stream_;
  // Of epilogue.x.
  int64_t second_stride_ = 0;
  int64_t second_row_stride_ = 0;
  const float* second_image_ = nullptr;
  bool relu_ = false, gained_ = false, added_ = false;
  float* sum_ = nullptr;
  float* product_ = nullptr;
  float* row_ = nullptr;
  const float* second_ = nullptr;
  VF scale_, shift_, gain_;
  VF center_;  // or mean
  VF sums_[2];
  VF products_[2];
};

// Calls body(n, row0, row1) for bands of `rows` rows of each image of the block, one below the
// other: kernels then move along the rows, as prefetchers expect, and the rows that two bands share
// are still in the second-level cache. Each row is one or two memory pages that are walked at once,
// of which hardware follows some 32.
template <class Body>
HWY_INLINE void ForEachBand(const DepthwiseBlock& block, int64_t rows, const Body& body) {
  for (int64_t n = block.image0; n < block.image1; ++n) {
    for (int64_t row = block.row0; row < block.row1; row += rows) {
      body(n, row, std::min(row + rows, block.row1));
    }
  }
}

// Calls body.Strip<cols>(first) for strips of 4, 2 and 1 columns side by side, from `begin` to
// `end`. A column's bits do not depend on which strip it falls into.
template <class Body>
HWY_INLINE void ForEachStrip(int64_t begin, int64_t end, const Body& body) {
  int64_t w = begin;
  for (; w + 4 <= end; w += 4) body.template Strip<4>(w);
  if (w + 2 <= end) {
    body.template Strip<2>(w);
    w += 2;
  }
  if (w < end) body.template Strip<1>(w);
}

// Nine taps, `step` (negative where they are flipped) floats apart.
struct Taps {
  const float* first;
  int64_t step;

  template <bool kTail>
  HWY_INLINE void Get(int64_t c, int64_t count, VF* w) const {
    HWY_UNROLL(9)
    for (int t = 0; t < 9; ++t) w[t] = LoadLanes<kTail>(first + t * step + c, count);
  }
};

// Output pixels ow to ow + kCols of rows [row0, row1):
//   out[o, ow + b] = bias + sum over (r,s) of x[o*kStride - padding + r, (ow+b)*kStride - padding
//   + s] * taps[3*r+s],
// for one vector of channels. Every element of x is loaded, and goes through the prologue, once:
// rows are added to the three (stride 2: two) rows of sums that they reach, which move up in turn.
template <int kStride, int kCols, Load kLoad, Finish kFinish, Edge kEdge>
struct CorrelateStrip {
  static constexpr int kInCols = (kCols - 1) * kStride + 3;

  const Input<kLoad>& input;
  const Columns<kInCols>& columns;
  const Output<kFinish>& output;
  Taps taps;
  const float* bias;  // or null
  int64_t padding;
  int64_t n;
  int64_t row0;
  int64_t row1;
  int64_t ow;

  // Adds row r of the taps to kCols sums.
  static HWY_INLINE void AddTap(VF x, int j, const VF* w, VF* acc) {
    HWY_UNROLL(4)
    for (int b = 0; b < kCols; ++b) {
      const int s = j - b * kStride;
      if (s >= 0 && s < 3) acc[b] = hn::MulAdd(x, w[s], acc[b]);
    }
  }

  template <bool kTail>
  HWY_INLINE void Step(int64_t c, int64_t count) const {
    VF w[9];
    taps.template Get<kTail>(c, count, w);
    const int64_t in_rows = input.x.h;
    const int64_t begin = row0, end = row1;
    const int64_t pad = padding;
    const VF start = bias == nullptr ? hn::Zero(DF()) : LoadLanes<kTail>(bias + c, count);
    InputLanes<kLoad, kInCols, kEdge == Edge::kAny, kTail> in(input, columns, n, c, count);
    OutputLanes<kFinish, kTail> out(output, n, ow, c, count);
    constexpr int kBegin = kEdge == Edge::kFirst ? 1 : 0;
    if constexpr (kStride == 1) {
      VF acc0[kCols], acc1[kCols], acc2[kCols];
      HWY_UNROLL(4)
      for (int b = 0; b < kCols; ++b) acc0[b] = acc1[b] = acc2[b] = start;
      for (int64_t k = begin; k < end + 2; ++k) {
        const int64_t i = k - pad;
        if (i >= 0 && i < in_rows) {
          in.SetRow(i);
          HWY_UNROLL(8)
          for (int j = kBegin; j < kInCols; ++j) {
            const VF x = in.Get(j);
            AddTap(x, j, w + 6, acc0);
            AddTap(x, j, w + 3, acc1);
            AddTap(x, j, w, acc2);
          }
        }
        if (k >= begin + 2) {
          out.SetRow(k - 2);
          HWY_UNROLL(4)
          for (int b = 0; b < kCols; ++b) out.Put(b, acc0[b]);
        }
        HWY_UNROLL(4)
        for (int b = 0; b < kCols; ++b) {
          acc0[b] = acc1[b];
          acc1[b] = acc2[b];
          acc2[b] = start;
        }
      }
    } else {
      VF acc0[kCols], acc1[kCols];
      HWY_UNROLL(4)
      for (int b = 0; b < kCols; ++b) acc0[b] = acc1[b] = start;
      for (int64_t k = begin; k <= end; ++k) {
        const int64_t i = 2 * k - pad;
        if (i >= 0 && i < in_rows) {
          in.SetRow(i);
          HWY_UNROLL(16)
          for (int j = kBegin; j < kInCols; ++j) {
            const VF x = in.Get(j);
            AddTap(x, j, w + 6, acc0);
            AddTap(x, j, w, acc1);
          }
        }
        if (k > begin) {
          out.SetRow(k - 1);
          HWY_UNROLL(4)
          for (int b = 0; b < kCols; ++b) out.Put(b, acc0[b]);
        }
        if (k < end && i + 1 >= 0 && i + 1 < in_rows) {
          in.SetRow(i + 1);
          HWY_UNROLL(16)
          for (int j = kBegin; j < kInCols; ++j) AddTap(in.Get(j), j, w + 3, acc1);
        }
        HWY_UNROLL(4)
        for (int b = 0; b < kCols; ++b) {
          acc0[b] = acc1[b];
          acc1[b] = start;
        }
      }
    }
    out.AddSums();
  }
};

// A block of an image: rows of the output, channels.
template <int kStride, Load kLoad, Finish kFinish>
struct CorrelateRows {
  Input<kLoad> input;
  Output<kFinish> output;
  Taps taps;
  const float* bias;
  int64_t padding;
  int64_t n;
  int64_t row0;
  int64_t row1;
  int64_t c0;
  int64_t c1;

  template <int kCols>
  HWY_INLINE void Strip(int64_t ow) const {
    const Columns<(kCols - 1) * kStride + 3> columns(input, ow * kStride - padding);
    // Where stride 2 reads more columns than it computes, masking them all would cost half of it.
    if constexpr (kStride == 2 && kCols == 4) {
      if (columns.edge == Edge::kNone) return Walk<kCols, Edge::kNone>(columns, ow);
      if (columns.edge == Edge::kFirst) return Walk<kCols, Edge::kFirst>(columns, ow);
    }
    Walk<kCols, Edge::kAny>(columns, ow);
  }
  template <int kCols, Edge kEdge>
  HWY_NOINLINE void Walk(const Columns<(kCols - 1) * kStride + 3>& columns, int64_t ow) const {
    ForEachVec(c0, c1,
               CorrelateStrip<kStride, kCols, kLoad, kFinish, kEdge>{
                   input, columns, output, taps, bias, padding, n, row0, row1, ow});
  }
  // Columns [begin, end).
  void RunColumns(int64_t begin, int64_t end) const { ForEachStrip(begin, end, *this); }
  void Run() const { RunColumns(0, output.y.w); }
};

}  // namespace depthwise
}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
