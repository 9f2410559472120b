// The inner loops of depthwise convolution: each takes tables of pixel pointers and walks along the
// channels. Per-target: included after hwy/highway.h, once per instruction set.

#if defined(CLASSICNN_LAYERS_CONV2D_CONV2D_DEPTHWISE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CLASSICNN_LAYERS_CONV2D_CONV2D_DEPTHWISE_INL_H_
#undef CLASSICNN_LAYERS_CONV2D_CONV2D_DEPTHWISE_INL_H_
#else
#define CLASSICNN_LAYERS_CONV2D_CONV2D_DEPTHWISE_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace depthwise {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;
using MF = hn::Mask<DF>;

// A whole vector, or the first lanes of one at the end of the channels.
template <bool kTail>
HWY_INLINE VF LoadVec(MF mask, const float* from) {
  if constexpr (kTail) {
    return hn::MaskedLoad(mask, DF(), from);
  } else {
    return hn::LoadU(DF(), from);
  }
}
template <bool kTail>
HWY_INLINE void StoreVec(VF v, MF mask, float* to) {
  if constexpr (kTail) {
    hn::BlendedStore(v, mask, DF(), to);
  } else {
    hn::StoreU(v, DF(), to);
  }
}

// Calls body(c, mask, is_tail) for each vector of `channels`.
template <class Body>
HWY_INLINE void ForEachVec(int64_t channels, const Body& body) {
  const DF d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t c = 0;
  const MF all = hn::FirstN(d, hn::Lanes(d));
  for (; c + lanes <= channels; c += lanes) body.template Step<false>(c, all);
  if (c < channels) body.template Step<true>(c, hn::FirstN(d, static_cast<size_t>(channels - c)));
}

// Kernel 3: out[a*kCols+b] (+)= bias + sum over (r,s) of in[(a*kStride+r)*kInCols + b*kStride+s] *
// w[r*3+s], for kRows x kCols pixels at once. Every sum runs over its taps in the order of r, s
// whatever the size of the block, so a pixel's bits do not depend on which block it falls into.
template <int kStride, int kRows, int kCols>
struct Correlate3x3 {
  static constexpr int kInRows = (kRows - 1) * kStride + 3;
  static constexpr int kInCols = (kCols - 1) * kStride + 3;

  const float* const* HWY_RESTRICT in;  // kInRows * kInCols pixels
  const float* const* HWY_RESTRICT w;   // 9 taps
  const float* HWY_RESTRICT bias;       // or null
  float* const* HWY_RESTRICT out;       // kRows * kCols pixels
  bool accumulate;                      // start from what `out` holds

  template <bool kTail>
  HWY_INLINE void Step(int64_t c, MF mask) const {
    VF taps[9];
    HWY_UNROLL(9)
    for (int t = 0; t < 9; ++t) taps[t] = LoadVec<kTail>(mask, w[t] + c);
    VF acc[kRows * kCols];
    if (accumulate) {
      HWY_UNROLL(8)
      for (int i = 0; i < kRows * kCols; ++i) acc[i] = LoadVec<kTail>(mask, out[i] + c);
    } else {
      const VF start = bias == nullptr ? hn::Zero(DF()) : LoadVec<kTail>(mask, bias + c);
      HWY_UNROLL(8)
      for (int i = 0; i < kRows * kCols; ++i) acc[i] = start;
    }
    HWY_UNROLL(8)
    for (int i = 0; i < kInRows; ++i) {
      HWY_UNROLL(16)
      for (int j = 0; j < kInCols; ++j) {
        const VF x = LoadVec<kTail>(mask, in[i * kInCols + j] + c);
        HWY_UNROLL(4)
        for (int a = 0; a < kRows; ++a) {
          HWY_UNROLL(4)
          for (int b = 0; b < kCols; ++b) {
            const int r = i - a * kStride;
            const int s = j - b * kStride;
            if (r >= 0 && r < 3 && s >= 0 && s < 3) {
              acc[a * kCols + b] = hn::MulAdd(x, taps[r * 3 + s], acc[a * kCols + b]);
            }
          }
        }
      }
    }
    HWY_UNROLL(8)
    for (int i = 0; i < kRows * kCols; ++i) StoreVec<kTail>(acc[i], mask, out[i] + c);
  }
};

// Backward data of kernel 3, stride 2: kQuads quads of 2 x 2 dx pixels side by side. Counting
// padded rows, a quad holds row 2a-1, which only tap 1 reaches (from dy row a-1), and row 2a, which
// tap 2 reaches from a-1 and tap 0 from a; columns alike.
//   dy[u*(kQuads+1) + v]         rows a-1 and a, columns b-1 to b-1+kQuads
//   dx[i*(2*kQuads) + 2*q + j]   rows 2a-1 and 2a
template <int kQuads>
struct Scatter3x3Stride2 {
  const float* const* HWY_RESTRICT dy;
  const float* const* HWY_RESTRICT w;
  float* const* HWY_RESTRICT dx;
  bool accumulate;

  template <bool kTail>
  HWY_INLINE void Step(int64_t c, MF mask) const {
    VF taps[9];
    HWY_UNROLL(9)
    for (int t = 0; t < 9; ++t) taps[t] = LoadVec<kTail>(mask, w[t] + c);
    VF g[2 * (kQuads + 1)];
    HWY_UNROLL(8)
    for (int i = 0; i < 2 * (kQuads + 1); ++i) g[i] = LoadVec<kTail>(mask, dy[i] + c);
    HWY_UNROLL(4)
    for (int q = 0; q < kQuads; ++q) {
      const VF g00 = g[q], g01 = g[q + 1];
      const VF g10 = g[kQuads + 1 + q], g11 = g[kQuads + 2 + q];
      float* const p00 = dx[2 * q] + c;
      float* const p01 = dx[2 * q + 1] + c;
      float* const p10 = dx[2 * kQuads + 2 * q] + c;
      float* const p11 = dx[2 * kQuads + 2 * q + 1] + c;
      const VF zero = hn::Zero(DF());
      VF d00 = accumulate ? LoadVec<kTail>(mask, p00) : zero;
      VF d01 = accumulate ? LoadVec<kTail>(mask, p01) : zero;
      VF d10 = accumulate ? LoadVec<kTail>(mask, p10) : zero;
      VF d11 = accumulate ? LoadVec<kTail>(mask, p11) : zero;
      d00 = hn::MulAdd(g00, taps[4], d00);
      d01 = hn::MulAdd(g00, taps[5], d01);
      d01 = hn::MulAdd(g01, taps[3], d01);
      d10 = hn::MulAdd(g00, taps[7], d10);
      d10 = hn::MulAdd(g10, taps[1], d10);
      d11 = hn::MulAdd(g00, taps[8], d11);
      d11 = hn::MulAdd(g01, taps[6], d11);
      d11 = hn::MulAdd(g10, taps[2], d11);
      d11 = hn::MulAdd(g11, taps[0], d11);
      StoreVec<kTail>(d00, mask, p00);
      StoreVec<kTail>(d01, mask, p01);
      StoreVec<kTail>(d10, mask, p10);
      StoreVec<kTail>(d11, mask, p11);
    }
  }
};

// Kernel 3: dw[r*3+s] += sum over the kRows x kCols pixels of x[...] * dy[...], with x laid out as
// `in` of Correlate3x3. Nine independent sums hide the latency of the multiply-add.
template <int kStride, int kRows, int kCols>
struct Weights3x3 {
  static constexpr int kInRows = (kRows - 1) * kStride + 3;
  static constexpr int kInCols = (kCols - 1) * kStride + 3;

  const float* const* HWY_RESTRICT in;
  const float* const* HWY_RESTRICT dy;
  float* const* HWY_RESTRICT dw;  // 9 taps

  template <bool kTail>
  HWY_INLINE void Step(int64_t c, MF mask) const {
    VF acc[9];
    HWY_UNROLL(9)
    for (int t = 0; t < 9; ++t) acc[t] = LoadVec<kTail>(mask, dw[t] + c);
    VF g[kRows * kCols];
    HWY_UNROLL(8)
    for (int i = 0; i < kRows * kCols; ++i) g[i] = LoadVec<kTail>(mask, dy[i] + c);
    HWY_UNROLL(8)
    for (int i = 0; i < kInRows; ++i) {
      HWY_UNROLL(16)
      for (int j = 0; j < kInCols; ++j) {
        const VF x = LoadVec<kTail>(mask, in[i * kInCols + j] + c);
        HWY_UNROLL(4)
        for (int a = 0; a < kRows; ++a) {
          HWY_UNROLL(4)
          for (int b = 0; b < kCols; ++b) {
            const int r = i - a * kStride;
            const int s = j - b * kStride;
            if (r >= 0 && r < 3 && s >= 0 && s < 3) {
              acc[r * 3 + s] = hn::MulAdd(x, g[a * kCols + b], acc[r * 3 + s]);
            }
          }
        }
      }
    }
    HWY_UNROLL(9)
    for (int t = 0; t < 9; ++t) StoreVec<kTail>(acc[t], mask, dw[t] + c);
  }
};

// Any kernel and stride, one pixel: out (+)= bias + sum over i of in[i] * w[i].
struct TapSum {
  const float* const* HWY_RESTRICT in;
  const float* const* HWY_RESTRICT w;
  int count;
  const float* HWY_RESTRICT bias;  // or null
  float* HWY_RESTRICT out;
  bool accumulate;

  template <bool kTail>
  HWY_INLINE void Step(int64_t c, MF mask) const {
    VF acc = accumulate        ? LoadVec<kTail>(mask, out + c)
             : bias != nullptr ? LoadVec<kTail>(mask, bias + c)
                               : hn::Zero(DF());
    for (int i = 0; i < count; ++i) {
      acc = hn::MulAdd(LoadVec<kTail>(mask, in[i] + c), LoadVec<kTail>(mask, w[i] + c), acc);
    }
    StoreVec<kTail>(acc, mask, out + c);
  }
};

// Any kernel and stride, one pixel: dw[i] += in[i] * dy for each i.
struct TapGradients {
  const float* const* HWY_RESTRICT in;
  const float* HWY_RESTRICT dy;
  int count;
  float* const* HWY_RESTRICT dw;

  template <bool kTail>
  HWY_INLINE void Step(int64_t c, MF mask) const {
    const VF g = LoadVec<kTail>(mask, dy + c);
    for (int i = 0; i < count; ++i) {
      float* const to = dw[i] + c;
      StoreVec<kTail>(hn::MulAdd(LoadVec<kTail>(mask, in[i] + c), g, LoadVec<kTail>(mask, to)),
                      mask, to);
    }
  }
};

// sum += x.
struct AddInto {
  const float* HWY_RESTRICT x;
  float* HWY_RESTRICT sum;

  template <bool kTail>
  HWY_INLINE void Step(int64_t c, MF mask) const {
    StoreVec<kTail>(hn::Add(LoadVec<kTail>(mask, sum + c), LoadVec<kTail>(mask, x + c)), mask,
                    sum + c);
  }
};

}  // namespace depthwise
}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
