#include "layers/conv2d/conv2d_winograd.h"

#include <cstddef>
#include <cstdint>

#include "core/context.h"
#include "core/view.h"
#include "layers/conv2d/conv2d_winograd_correlation.h"
#include "layers/conv2d/conv2d_winograd_gradient.h"
#include "layers/conv2d/conv2d_winograd_kernels.h"

namespace classicnn {
namespace {

template <int kKernel>
bool Supports(const Conv2dShape& s, Conv2dPass /*pass*/) {
  return s.kernel == kKernel && s.stride == 1 && s.groups == 1;
}

template <int kTile>
int64_t ExecutedMacs(const Conv2dShape& s, Conv2dPass pass) {
  const bool of_input = pass == Conv2dPass::kBackwardData;
  const WinogradTiles tiles(s.n, of_input ? s.h : s.out_h(), of_input ? s.w : s.out_w(), kTile);
  const int64_t size = kTile + s.kernel - 1;
  return tiles.count * size * size * s.in_channels * s.out_channels;
}

template <int kTile>
size_t WorkspaceBytes(const Conv2dShape& s, Conv2dPass pass, int num_threads,
                      const Conv2dFusion& fusion) {
  switch (pass) {
    case Conv2dPass::kForward:
      return WinogradCorrelateWorkspaceBytes(GetWinogradKernels(kTile, s.kernel), s.output(),
                                             s.in_channels, num_threads, fusion);
    case Conv2dPass::kBackwardData:
      return WinogradCorrelateWorkspaceBytes(GetWinogradKernels(kTile, s.kernel), s.input(),
                                             s.out_channels, num_threads, fusion);
    case Conv2dPass::kBackwardWeights:
      return WinogradGradientWorkspaceBytes(kTile, s, num_threads);
  }
  return 0;
}

// All of what a pass can have.
Conv2dFusion Fuses(const Conv2dShape& /*shape*/, Conv2dPass pass, const Conv2dFusion& fusion) {
  Conv2dFusion fused;
  fused.activation = fusion.activation && pass != Conv2dPass::kBackwardData;
  fused.gradient = fusion.gradient && pass != Conv2dPass::kForward;
  fused.statistics = fusion.statistics && pass == Conv2dPass::kForward;
  fused.gradient_epilogue = fusion.gradient_epilogue && pass == Conv2dPass::kBackwardData;
  return fused;
}

template <int kTile>
void Forward(const Conv2dForwardArgs<float>& args, Context& ctx) {
  WinogradCorrelation c;
  c.in.tensor = args.x;
  c.in.activation = args.activation;
  c.out = args.y;
  c.padding = args.shape.padding;
  c.weights = args.weights;
  c.bias = args.bias;
  c.statistics = args.statistics;
  WinogradCorrelate("conv2d.forward.winograd", GetWinogradKernels(kTile, args.shape.kernel), c,
                    args.workspace, ctx);
}

template <int kTile>
void BackwardData(const Conv2dBackwardDataArgs<float>& args, Context& ctx) {
  WinogradCorrelation c;
  c.in.tensor = args.dy;
  c.in.gradient = args.gradient;
  c.out = args.dx;
  c.padding = args.shape.kernel - 1 - args.shape.padding;
  c.weights = args.weights;
  c.transposed = true;
  c.accumulate = args.accumulate;
  c.epilogue = args.epilogue;
  WinogradCorrelate("conv2d.backward_data.winograd", GetWinogradKernels(kTile, args.shape.kernel),
                    c, args.workspace, ctx);
}

template <int kTile>
void BackwardWeights(const Conv2dBackwardWeightsArgs<float>& args, Context& ctx) {
  WinogradGradient(kTile, args, ctx);
}

}  // namespace

const Conv2dAlgorithmOps kConv2dWinograd4Ops = {
    Supports<3>,        ExecutedMacs<4>, WorkspaceBytes<4>, Forward<4>, BackwardData<4>,
    BackwardWeights<4>, Fuses,
};
const Conv2dAlgorithmOps kConv2dWinograd2Ops = {
    Supports<3>,        ExecutedMacs<2>, WorkspaceBytes<2>, Forward<2>, BackwardData<2>,
    BackwardWeights<2>, Fuses,
};
const Conv2dAlgorithmOps kConv2dWinograd2x5Ops = {
    Supports<5>,        ExecutedMacs<2>, WorkspaceBytes<2>, Forward<2>, BackwardData<2>,
    BackwardWeights<2>, Fuses,
};
const Conv2dAlgorithmOps kConv2dWinograd4x5Ops = {
    Supports<5>,        ExecutedMacs<4>, WorkspaceBytes<4>, Forward<4>, BackwardData<4>,
    BackwardWeights<4>, Fuses,
};

}  // namespace classicnn
