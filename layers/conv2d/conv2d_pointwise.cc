#include "layers/conv2d/conv2d_pointwise.h"

#include "layers/conv2d/conv2d_pointwise_backward.h"
#include "layers/tap_product.h"
#include "layers/tap_reduction.h"

namespace classicnn {
namespace {

constexpr Tap kTap;  // the pixel itself

bool Supports(const Conv2dShape& shape, Conv2dPass /*pass*/) {
  return shape.kernel == 1 && shape.stride == 1 && shape.padding == 0 && shape.groups == 1;
}

bool HasBackward(const Conv2dShape& shape) { return Supports(shape, Conv2dPass::kBackwardData); }

TapProductSize ProductSize(const Conv2dShape& shape, Conv2dPass pass, const Conv2dFusion& fusion) {
  const int64_t c = shape.in_channels;
  const int64_t k = shape.out_channels;
  const bool forward = pass == Conv2dPass::kForward;
  return {shape.n,
          shape.h,
          shape.w,
          shape.h,
          shape.w,
          1,
          forward ? c : k,
          forward ? k : c,
          forward ? fusion.activation : fusion.gradient,
          fusion.gradient_epilogue};
}

size_t WorkspaceBytes(const Conv2dShape& shape, Conv2dPass pass, int num_threads,
                      const Conv2dFusion& fusion) {
  if (pass == Conv2dPass::kBackwardWeights) {
    return TapReductionWorkspaceBytes(
        {shape.n, shape.h, shape.w, shape.h, shape.w, 1, 1, 1, shape.in_channels,
         shape.out_channels, fusion.activation, fusion.gradient},
        num_threads);
  }
  const TapProductSize size = ProductSize(shape, pass, fusion);
  size_t bytes = TapProductWorkspaceBytes(size, num_threads);
  if (fusion.statistics) bytes += MomentPieces::Bytes(TapProductPieces(size), size.out_channels);
  if (fusion.gradient_epilogue) {
    bytes += GradientSumPieces::Bytes(TapProductPieces(size), size.out_channels);
  }
  return bytes;
}

Conv2dFusion Fuses(const Conv2dShape& /*shape*/, Conv2dPass /*pass*/, const Conv2dFusion& fusion) {
  return fusion;
}

void Forward(const Conv2dForwardArgs<float>& args, Context& ctx) {
  Conv2dFusion fusion;
  fusion.activation = args.activation.active();
  TapProduct product;
  product.in = args.x;
  product.out = args.y;
  product.h = args.y.h;
  product.w = args.y.w;
  product.taps = &kTap;
  product.num_taps = 1;
  product.weights = args.weights;
  product.weight_row_stride = args.shape.out_channels;
  product.weight_column_stride = 1;
  product.epilogue.bias = args.bias;
  product.activation = args.activation;
  constexpr const char* kZone = "conv2d.forward.pointwise";
  if (!args.statistics.active()) {
    RunTapProduct(kZone, product, args.workspace, ctx);
    return;
  }
  Workspace workspace = args.workspace;
  const MomentPieces moments(
      TapProductPieces(ProductSize(args.shape, Conv2dPass::kForward, fusion)), args.y.c,
      &workspace);
  product.moments = &moments;
  RunTapProduct(kZone, product, workspace, ctx);
  moments.Merge(args.statistics, ctx);
}

void BackwardData(const Conv2dBackwardDataArgs<float>& args, Context& ctx) {
  Conv2dFusion fusion;
  fusion.gradient = args.gradient.active();
  fusion.gradient_epilogue = args.epilogue.active();
  TapProduct product;
  product.in = args.dy;
  product.out = args.dx;
  product.h = args.dx.h;
  product.w = args.dx.w;
  product.taps = &kTap;
  product.num_taps = 1;
  product.weights = args.weights;
  product.weight_row_stride = 1;
  product.weight_column_stride = args.shape.out_channels;
  product.epilogue.accumulate = args.accumulate;
  product.gradient = args.gradient;
  constexpr const char* kZone = "conv2d.backward_data.pointwise";
  if (!args.epilogue.active()) {
    RunTapProduct(kZone, product, args.workspace, ctx);
    return;
  }
  Workspace workspace = args.workspace;
  const GradientSumPieces sums(
      TapProductPieces(ProductSize(args.shape, Conv2dPass::kBackwardData, fusion)), args.dx.c,
      &workspace);
  product.gradient_epilogue = args.epilogue;
  product.gradient_sums = &sums;
  RunTapProduct(kZone, product, workspace, ctx);
  sums.Merge(args.epilogue, ctx);
}

void BackwardWeights(const Conv2dBackwardWeightsArgs<float>& args, Context& ctx) {
  TapReduction reduction;
  reduction.in = args.x;
  reduction.grad = args.dy;
  reduction.taps = &kTap;
  reduction.num_taps = 1;
  reduction.out = args.dweights;
  reduction.out_stride = args.shape.out_channels;
  reduction.activation = args.activation;
  reduction.gradient = args.gradient;
  RunTapReduction("conv2d.backward_weights.pointwise", reduction, args.workspace, ctx);
}

}  // namespace

const Conv2dAlgorithmOps kConv2dPointwiseOps = {
    Supports,
    nullptr,
    WorkspaceBytes,
    Forward,
    BackwardData,
    BackwardWeights,
    Fuses,
    HasBackward,
    PointwiseBackwardWorkspaceBytes,
    PointwiseBackward,
    /*updates=*/false,
    PointwisePrefersBackward,
};

}  // namespace classicnn
