#include "layers/conv2d/conv2d_pointwise.h"

#include "layers/tap_product.h"
#include "layers/tap_reduction.h"

namespace classicnn {
namespace {

constexpr Tap kTap;  // the pixel itself

bool Supports(const Conv2dShape& shape, Conv2dPass /*pass*/) {
  return shape.kernel == 1 && shape.stride == 1 && shape.padding == 0 && shape.groups == 1;
}

size_t WorkspaceBytes(const Conv2dShape& shape, Conv2dPass pass, int num_threads,
                      const Conv2dFusion& /*fusion*/) {
  const int64_t c = shape.in_channels;
  const int64_t k = shape.out_channels;
  const int64_t pixels = shape.h * shape.w;
  switch (pass) {
    case Conv2dPass::kForward:
      return TapProductWorkspaceBytes({shape.n, shape.h, shape.w, shape.h, shape.w, 1, c, k},
                                      num_threads);
    case Conv2dPass::kBackwardData:
      return TapProductWorkspaceBytes({shape.n, shape.h, shape.w, shape.h, shape.w, 1, k, c},
                                      num_threads);
    case Conv2dPass::kBackwardWeights:
      return TapReductionWorkspaceBytes(shape.n, pixels, 1, c, k, num_threads);
  }
  return 0;
}

void Forward(const Conv2dForwardArgs<float>& args, Context& ctx) {
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
  RunTapProduct("conv2d.forward.pointwise", product, args.workspace, ctx);
}

void BackwardData(const Conv2dBackwardDataArgs<float>& args, Context& ctx) {
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
  RunTapProduct("conv2d.backward_data.pointwise", product, args.workspace, ctx);
}

void BackwardWeights(const Conv2dBackwardWeightsArgs<float>& args, Context& ctx) {
  TapReduction reduction;
  reduction.in = args.x;
  reduction.grad = args.dy;
  reduction.taps = &kTap;
  reduction.num_taps = 1;
  reduction.out = args.dweights;
  reduction.out_stride = args.shape.out_channels;
  RunTapReduction("conv2d.backward_weights.pointwise", reduction, args.workspace, ctx);
}

}  // namespace

const Conv2dAlgorithmOps kConv2dPointwiseOps = {
    Supports, nullptr, WorkspaceBytes, Forward, BackwardData, BackwardWeights, nullptr,
};

}  // namespace classicnn
