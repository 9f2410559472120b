// Depthwise convolution with any kernel and stride: a list of taps for each pixel, and a walk along
// the channels for each list.
#include <algorithm>
#include <cstdint>

#include "core/view.h"
#include "layers/conv2d/conv2d_depthwise_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/conv2d/conv2d_depthwise_taps.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h.
#include "layers/conv2d/conv2d_depthwise_strips-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace depthwise {

constexpr int kMaxTaps = 49;  // of one list; larger kernels take several

// One pixel: out (+)= bias + sum over i of in[i] * w[i].
struct TapSum {
  const float* const* in;
  const float* const* w;
  int taps;
  const float* bias;  // or null
  float* out;
  bool accumulate;

  template <bool kTail>
  HWY_INLINE void Step(int64_t c, int64_t count) const {
    VF acc = accumulate        ? LoadLanes<kTail>(out + c, count)
             : bias != nullptr ? LoadLanes<kTail>(bias + c, count)
                               : hn::Zero(DF());
    for (int i = 0; i < taps; ++i) {
      acc = hn::MulAdd(LoadLanes<kTail>(in[i] + c, count), LoadLanes<kTail>(w[i] + c, count), acc);
    }
    StoreLanes<kTail>(acc, out + c, count);
  }
};

// One pixel: dw[i] += in[i] * dy for each i.
struct TapGradients {
  const float* const* in;
  const float* dy;
  int taps;
  float* const* dw;

  template <bool kTail>
  HWY_INLINE void Step(int64_t c, int64_t count) const {
    const VF g = LoadLanes<kTail>(dy + c, count);
    for (int i = 0; i < taps; ++i) {
      float* const to = dw[i] + c;
      StoreLanes<kTail>(
          hn::MulAdd(LoadLanes<kTail>(in[i] + c, count), g, LoadLanes<kTail>(to, count)), to,
          count);
    }
  }
};

class TapGather {
 public:
  TapGather(const DepthwiseBlock& block, const float* bias, float* out, bool accumulate)
      : block_(block), bias_(bias), out_(out), accumulate_(accumulate) {}
  void Add(const float* in, const float* w) {
    if (taps_ == kMaxTaps) Flush();
    in_[taps_] = in;
    w_[taps_++] = w;
  }
  void Flush() {
    ForEachVec(block_.c0, block_.c1, TapSum{in_, w_, taps_, bias_, out_, accumulate_});
    accumulate_ = true;
    taps_ = 0;
  }

 private:
  const DepthwiseBlock& block_;
  const float* in_[kMaxTaps];
  const float* w_[kMaxTaps];
  const float* bias_;
  float* out_;
  bool accumulate_;
  int taps_ = 0;
};

void ForwardPixel(const Conv2dForwardArgs<float>& args, const DepthwiseBlock& block, int64_t n,
                  int64_t oh, int64_t ow) {
  const Conv2dShape& s = args.shape;
  TapGather taps(block, args.bias, args.y.Pixel(n, oh, ow), false);
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

void BackwardDataPixel(const Conv2dBackwardDataArgs<float>& args, const DepthwiseBlock& block,
                       int64_t n, int64_t h, int64_t w) {
  const Conv2dShape& s = args.shape;
  TapGather taps(block, nullptr, args.dx.Pixel(n, h, w), args.accumulate);
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

void BackwardWeightsPixel(const Conv2dBackwardWeightsArgs<float>& args, const DepthwiseBlock& block,
                          int64_t n, int64_t oh, int64_t ow, float* partial) {
  const Conv2dShape& s = args.shape;
  const float* in[kMaxTaps];
  float* dw[kMaxTaps];
  int taps = 0;
  const auto flush = [&]() HWY_ATTR {
    ForEachVec(block.c0, block.c1, TapGradients{in, args.dy.Pixel(n, oh, ow), taps, dw});
    taps = 0;
  };
  for (int64_t kh = 0; kh < s.kernel; ++kh) {
    const int64_t ih = oh * s.stride - s.padding + kh;
    if (ih < 0 || ih >= s.h) continue;
    for (int64_t kw = 0; kw < s.kernel; ++kw) {
      const int64_t iw = ow * s.stride - s.padding + kw;
      if (iw < 0 || iw >= s.w) continue;
      if (taps == kMaxTaps) flush();
      in[taps] = args.x.Pixel(n, ih, iw);
      dw[taps++] = partial + (kh * s.kernel + kw) * s.in_channels;
    }
  }
  flush();
}

template <class Body>
HWY_INLINE void ForEachPixel(const DepthwiseBlock& block, int64_t width, const Body& body) {
  for (int64_t n = block.image0; n < block.image1; ++n) {
    for (int64_t h = block.row0; h < block.row1; ++h) {
      for (int64_t w = 0; w < width; ++w) body(n, h, w);
    }
  }
}

void ForwardTaps(const Conv2dForwardArgs<float>& args, const DepthwiseBlock& block) {
  ForEachPixel(block, args.y.w, [&](int64_t n, int64_t h, int64_t w) HWY_ATTR {
    ForwardPixel(args, block, n, h, w);
  });
}

void BackwardDataTaps(const Conv2dBackwardDataArgs<float>& args, const DepthwiseBlock& block) {
  ForEachPixel(block, args.dx.w, [&](int64_t n, int64_t h, int64_t w) HWY_ATTR {
    BackwardDataPixel(args, block, n, h, w);
  });
}

void BackwardWeightsTaps(const Conv2dBackwardWeightsArgs<float>& args, const DepthwiseBlock& block,
                         float* partial) {
  ForEachPixel(block, args.dy.w, [&](int64_t n, int64_t h, int64_t w) HWY_ATTR {
    BackwardWeightsPixel(args, block, n, h, w, partial);
  });
}

}  // namespace depthwise

// HWY_EXPORT takes names of this namespace.
using depthwise::BackwardDataTaps;
using depthwise::BackwardWeightsTaps;
using depthwise::ForwardTaps;

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
HWY_EXPORT(ForwardTaps);
HWY_EXPORT(BackwardDataTaps);
HWY_EXPORT(BackwardWeightsTaps);

void DepthwiseForwardTaps(const Conv2dForwardArgs<float>& args, const DepthwiseBlock& block) {
  HWY_DYNAMIC_DISPATCH(ForwardTaps)(args, block);
}

void DepthwiseBackwardDataTaps(const Conv2dBackwardDataArgs<float>& args,
                               const DepthwiseBlock& block) {
  HWY_DYNAMIC_DISPATCH(BackwardDataTaps)(args, block);
}

void DepthwiseBackwardWeightsTaps(const Conv2dBackwardWeightsArgs<float>& args,
                                  const DepthwiseBlock& block, float* partial) {
  HWY_DYNAMIC_DISPATCH(BackwardWeightsTaps)(args, block, partial);
}

}  // namespace classicnn
#endif  // HWY_ONCE
