// Forward of 3 x 3 depthwise convolution.
#include <algorithm>
#include <cstdint>

#include "layers/conv2d/conv2d_depthwise_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/conv2d/conv2d_depthwise_forward.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h.
#include "layers/conv2d/conv2d_depthwise_strips-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace depthwise {

template <int kStride, Load kLoad>
void ForwardOf(const Conv2dForwardArgs<float>& args, const DepthwiseBlock& block,
               const MomentPieces& moments) {
  constexpr int64_t kRows = kStride == 1 ? 4 : 2;  // fewer and more were slower, or no faster
  const Input<kLoad> input{args.x, args.activation, {}};
  const Taps taps{args.weights, args.shape.in_channels};
  const int64_t padding = args.shape.padding;
  const Output<Finish::kPlain> plain{
      args.y, false, {}, nullptr, nullptr, nullptr, Streams(args.y, block)};
  using Plain = CorrelateRows<kStride, kLoad, Finish::kPlain>;
  if (!args.statistics.active()) {
    ForEachBand(block, kRows, [&](int64_t n, int64_t row0, int64_t row1) HWY_ATTR {
      Plain{input, plain, taps, args.bias, padding, n, row0, row1, block.c0, block.c1}.Run();
    });
    if (plain.stream) hwy::FlushStream();
    return;
  }
  const int64_t count = block.c1 - block.c0;
  if (block.group != 0) {
    const float* const center = moments.center(0);
    std::copy(center + block.c0, center + block.c1, moments.center(block.group) + block.c0);
  }
  std::fill_n(moments.sum(block.group) + block.c0, count, 0.0f);
  std::fill_n(moments.sum_of_squares(block.group) + block.c0, count, 0.0f);
  if (block.c0 == 0) {
    moments.pixels(block.group) =
        (block.image1 - block.image0) * (block.row1 - block.row0) * args.y.w;
  }
  const Output<Finish::kStatistics> output{args.y,
                                           false,
                                           {},
                                           moments.center(block.group),
                                           moments.sum(block.group),
                                           moments.sum_of_squares(block.group),
                                           Streams(args.y, block)};
  ForEachBand(block, kRows, [&](int64_t n, int64_t row0, int64_t row1) HWY_ATTR {
    CorrelateRows<kStride, kLoad, Finish::kStatistics>{input, output, taps, args.bias, padding,
                                                       n,     row0,   row1, block.c0,  block.c1}
        .Run();
  });
  if (output.stream) hwy::FlushStream();
}

void Forward(const Conv2dForwardArgs<float>& args, const DepthwiseBlock& block,
             const MomentPieces& moments) {
  const bool activated = args.activation.active();
  if (args.shape.stride == 1) {
    (activated ? ForwardOf<1, Load::kActivated> : ForwardOf<1, Load::kPlain>)(args, block, moments);
  } else {
    (activated ? ForwardOf<2, Load::kActivated> : ForwardOf<2, Load::kPlain>)(args, block, moments);
  }
}

}  // namespace depthwise

using depthwise::Forward;  // HWY_EXPORT takes names of this namespace

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
HWY_EXPORT(Forward);

void DepthwiseForwardStrips(const Conv2dForwardArgs<float>& args, const DepthwiseBlock& block,
                            const MomentPieces& moments) {
  HWY_DYNAMIC_DISPATCH(Forward)(args, block, moments);
}

}  // namespace classicnn
#endif  // HWY_ONCE
