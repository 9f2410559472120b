#include "layers/conv2d/conv2d_direct.h"

#include <algorithm>

#include "layers/tap_product.h"
#include "layers/tap_reduction.h"

namespace classicnn {
namespace {

bool Supports(const Conv2dShape& /*shape*/, Conv2dPass /*pass*/) { return true; }

// Of one group; of backward data the phase at (0, 0), whose lattice no other exceeds, with as many
// taps as a phase can have.
TapProductSize ProductSize(const Conv2dShape& shape, Conv2dPass pass) {
  const int64_t c = shape.in_channels / shape.groups;
  const int64_t k = shape.out_channels / shape.groups;
  if (pass == Conv2dPass::kForward) {
    return {shape.n, shape.out_h(), shape.out_w(), shape.h, shape.w, shape.kernel * shape.kernel, c,
            k};
  }
  const int64_t taps = (shape.kernel + shape.stride - 1) / shape.stride;
  return {shape.n,
          (shape.h + shape.stride - 1) / shape.stride,
          (shape.w + shape.stride - 1) / shape.stride,
          shape.out_h(),
          shape.out_w(),
          taps * taps,
          k,
          c};
}

size_t WorkspaceBytes(const Conv2dShape& shape, Conv2dPass pass, int num_threads,
                      const Conv2dFusion& fusion) {
  const int64_t taps = shape.kernel * shape.kernel;
  const size_t tap_bytes = Workspace::BytesFor<Tap>(taps);
  if (pass != Conv2dPass::kBackwardWeights) {
    return tap_bytes + TapProductWorkspaceBytes(ProductSize(shape, pass), num_threads);
  }
  return tap_bytes + TapReductionWorkspaceBytes(
                         {shape.n, shape.out_h(), shape.out_w(), shape.h, shape.w, shape.stride,
                          taps, shape.kernel, shape.in_channels / shape.groups,
                          shape.out_channels / shape.groups, fusion.activation, fusion.gradient},
                         num_threads);
}

// Positions along one axis that the taps have inside the image.
int64_t InsidePositions(const Conv2dShape& shape, int64_t in_size, int64_t out_size) {
  int64_t count = 0;
  for (int64_t r = 0; r < shape.kernel; ++r) {
    for (int64_t o = 0; o < out_size; ++o) {
      const int64_t i = o * shape.stride - shape.padding + r;
      count += i >= 0 && i < in_size;
    }
  }
  return count;
}

int64_t ExecutedMacs(const Conv2dShape& shape, Conv2dPass pass) {
  if (pass != Conv2dPass::kBackwardWeights && !TapProductSkipsPadding(ProductSize(shape, pass))) {
    return shape.macs();
  }
  return shape.n * InsidePositions(shape, shape.h, shape.out_h()) *
         InsidePositions(shape, shape.w, shape.out_w()) * (shape.in_channels / shape.groups) *
         shape.out_channels;
}

// Taps of the window in the order of the weights.
const Tap* MakeTaps(const Conv2dShape& shape, int64_t matrix, Workspace* workspace) {
  Tap* const taps = workspace->Take<Tap>(shape.kernel * shape.kernel);
  int64_t t = 0;
  for (int64_t r = 0; r < shape.kernel; ++r) {
    for (int64_t s = 0; s < shape.kernel; ++s, ++t) {
      taps[t] = {r - shape.padding, s - shape.padding, t * matrix};
    }
  }
  return taps;
}

void Forward(const Conv2dForwardArgs<float>& args, Context& ctx) {
  const Conv2dShape& shape = args.shape;
  const int64_t c = shape.in_channels / shape.groups;
  const int64_t k = shape.out_channels / shape.groups;
  Workspace workspace = args.workspace;
  TapProduct product;
  product.taps = MakeTaps(shape, c * shape.out_channels, &workspace);
  product.num_taps = shape.kernel * shape.kernel;
  product.h = args.y.h;
  product.w = args.y.w;
  product.in_step = shape.stride;
  product.weight_row_stride = shape.out_channels;
  product.weight_column_stride = 1;
  for (int64_t g = 0; g < shape.groups; ++g) {
    product.in = args.x.Channels(g * c, c);
    product.out = args.y.Channels(g * k, k);
    product.weights = args.weights + g * k;
    product.epilogue.bias = args.bias != nullptr ? args.bias + g * k : nullptr;
    RunTapProduct("conv2d.forward.direct", product, workspace, ctx);
  }
}

// dx at row ih gets dy at row oh through tap r where oh*stride - padding + r == ih. So the rows
// ih = phase + i*stride get the taps r with (phase + padding - r) divisible by the stride, from
// oh = i + (phase + padding - r) / stride: a product with steps of 1 for each phase.
void BackwardData(const Conv2dBackwardDataArgs<float>& args, Context& ctx) {
  const Conv2dShape& shape = args.shape;
  const int64_t c = shape.in_channels / shape.groups;
  const int64_t k = shape.out_channels / shape.groups;
  const int64_t stride = shape.stride;
  Workspace workspace = args.workspace;
  Tap* const taps = workspace.Take<Tap>(shape.kernel * shape.kernel);
  TapProduct product;
  product.taps = taps;
  product.out_step = stride;
  product.weight_row_stride = 1;
  product.weight_column_stride = shape.out_channels;
  product.epilogue.accumulate = args.accumulate;
  for (int64_t phase_h = 0; phase_h < std::min(stride, shape.h); ++phase_h) {
    for (int64_t phase_w = 0; phase_w < std::min(stride, shape.w); ++phase_w) {
      product.num_taps = 0;
      // From the last tap to the first: through dy in the order of its pixels.
      for (int64_t r = shape.kernel - 1; r >= 0; --r) {
        for (int64_t s = shape.kernel - 1; s >= 0; --s) {
          const int64_t h = phase_h + shape.padding - r;
          const int64_t w = phase_w + shape.padding - s;
          if (h % stride != 0 || w % stride != 0) continue;
          taps[product.num_taps++] = {h / stride, w / stride,
                                      (r * shape.kernel + s) * c * shape.out_channels};
        }
      }
      product.first_h = phase_h;
      product.first_w = phase_w;
      product.h = (shape.h - phase_h + stride - 1) / stride;
      product.w = (shape.w - phase_w + stride - 1) / stride;
      for (int64_t g = 0; g < shape.groups; ++g) {
        product.in = args.dy.Channels(g * k, k);
        product.out = args.dx.Channels(g * c, c);
        product.weights = args.weights + g * k;
        RunTapProduct("conv2d.backward_data.direct", product, workspace, ctx);
      }
    }
  }
}

void BackwardWeights(const Conv2dBackwardWeightsArgs<float>& args, Context& ctx) {
  const Conv2dShape& shape = args.shape;
  const int64_t c = shape.in_channels / shape.groups;
  const int64_t k = shape.out_channels / shape.groups;
  Workspace workspace = args.workspace;
  TapReduction reduction;
  reduction.taps = MakeTaps(shape, c * shape.out_channels, &workspace);
  reduction.num_taps = shape.kernel * shape.kernel;
  reduction.in_step = shape.stride;
  reduction.out_stride = shape.out_channels;
  for (int64_t g = 0; g < shape.groups; ++g) {
    reduction.in = args.x.Channels(g * c, c);
    reduction.grad = args.dy.Channels(g * k, k);
    reduction.out = args.dweights + g * k;
    RunTapReduction("conv2d.backward_weights.direct", reduction, workspace, ctx);
  }
}

}  // namespace

const Conv2dAlgorithmOps kConv2dDirectOps = {
    Supports, ExecutedMacs, WorkspaceBytes, Forward, BackwardData, BackwardWeights, nullptr,
};

}  // namespace classicnn
