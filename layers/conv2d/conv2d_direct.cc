#include "layers/conv2d/conv2d_direct.h"

#include <algorithm>
#include <optional>

#include "layers/tap_product.h"
#include "layers/tap_reduction.h"

namespace classicnn {
namespace {

bool Supports(const Conv2dShape& /*shape*/, Conv2dPass /*pass*/) { return true; }

// Backward data is a product for each phase of the stride, see below.
struct Phase {
  int64_t h, w;
};

// Rows or columns of the window that meet a phase.
int64_t PhaseTaps(const Conv2dShape& shape, int64_t phase) {
  int64_t count = 0;
  for (int64_t r = 0; r < shape.kernel; ++r)
    count += (phase + shape.padding - r) % shape.stride == 0;
  return count;
}

int64_t NumPhases(const Conv2dShape& shape) {
  return std::min(shape.stride, shape.h) * std::min(shape.stride, shape.w);
}

Phase PhaseAt(const Conv2dShape& shape, int64_t index) {
  const int64_t columns = std::min(shape.stride, shape.w);
  return {index / columns, index % columns};
}

// Of one group.
TapProductSize ForwardSize(const Conv2dShape& shape, const Conv2dFusion& fusion) {
  return {shape.n,
          shape.out_h(),
          shape.out_w(),
          shape.h,
          shape.w,
          shape.kernel * shape.kernel,
          shape.in_channels / shape.groups,
          shape.out_channels / shape.groups,
          fusion.activation,
          false};
}
TapProductSize PhaseSize(const Conv2dShape& shape, const Phase& phase, const Conv2dFusion& fusion) {
  const int64_t taps = PhaseTaps(shape, phase.h) * PhaseTaps(shape, phase.w);
  return {shape.n,
          (shape.h - phase.h + shape.stride - 1) / shape.stride,
          (shape.w - phase.w + shape.stride - 1) / shape.stride,
          shape.out_h(),
          shape.out_w(),
          taps,
          shape.out_channels / shape.groups,
          shape.in_channels / shape.groups,
          fusion.gradient && taps > 0,
          fusion.gradient_epilogue};
}

int64_t PhasePieces(const Conv2dShape& shape, const Conv2dFusion& fusion) {
  int64_t pieces = 0;
  for (int64_t i = 0; i < NumPhases(shape); ++i) {
    pieces += TapProductPieces(PhaseSize(shape, PhaseAt(shape, i), fusion));
  }
  return pieces;
}

TapReductionSize ReductionSize(const Conv2dShape& shape, const Conv2dFusion& fusion) {
  return {shape.n,
          shape.out_h(),
          shape.out_w(),
          shape.h,
          shape.w,
          shape.stride,
          shape.kernel * shape.kernel,
          shape.kernel,
          shape.in_channels / shape.groups,
          shape.out_channels / shape.groups,
          fusion.activation,
          fusion.gradient};
}

// Prologues of large images with a window are left to passes of their own: tiles overlap, and where
// there are phases each would do the work anew. So are those of groups, which are rare.
Conv2dFusion Fuses(const Conv2dShape& shape, Conv2dPass pass, const Conv2dFusion& fusion) {
  Conv2dFusion fused;
  if (shape.groups > 1) return fused;
  switch (pass) {
    case Conv2dPass::kForward:
      fused.activation = fusion.activation && TapProductTakesPrologue(ForwardSize(shape, fusion));
      fused.statistics = fusion.statistics;
      break;
    case Conv2dPass::kBackwardData:
      fused.gradient =
          fusion.gradient &&
          (shape.kernel == 1 ||
           (shape.stride == 1 && TapProductTakesPrologue(PhaseSize(shape, {0, 0}, fusion))));
      fused.gradient_epilogue = fusion.gradient_epilogue;
      break;
    case Conv2dPass::kBackwardWeights:
      fused.activation =
          fusion.activation && TapReductionTakesActivation(ReductionSize(shape, fusion));
      fused.gradient = fusion.gradient;
      break;
  }
  return fused;
}

size_t WorkspaceBytes(const Conv2dShape& shape, Conv2dPass pass, int num_threads,
                      const Conv2dFusion& fusion) {
  size_t bytes = Workspace::BytesFor<Tap>(shape.kernel * shape.kernel);
  switch (pass) {
    case Conv2dPass::kForward: {
      const TapProductSize size = ForwardSize(shape, fusion);
      bytes += TapProductWorkspaceBytes(size, num_threads);
      if (fusion.statistics) {
        bytes += MomentPieces::Bytes(TapProductPieces(size), shape.out_channels);
      }
      break;
    }
    case Conv2dPass::kBackwardData: {
      size_t product_bytes = 0;
      for (int64_t i = 0; i < NumPhases(shape); ++i) {
        const TapProductSize size = PhaseSize(shape, PhaseAt(shape, i), fusion);
        product_bytes = std::max(product_bytes, TapProductWorkspaceBytes(size, num_threads));
      }
      bytes += product_bytes;
      if (fusion.gradient_epilogue) {
        bytes += GradientSumPieces::Bytes(PhasePieces(shape, fusion), shape.in_channels);
      }
      break;
    }
    case Conv2dPass::kBackwardWeights:
      bytes += TapReductionWorkspaceBytes(ReductionSize(shape, fusion), num_threads);
      break;
  }
  return bytes;
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
  if (pass == Conv2dPass::kForward && !TapProductSkipsPadding(ForwardSize(shape, {}))) {
    return shape.macs();
  }
  if (pass == Conv2dPass::kBackwardData && !TapProductSkipsPadding(PhaseSize(shape, {0, 0}, {}))) {
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
  product.activation = args.activation;
  std::optional<MomentPieces> moments;
  if (args.statistics.active()) {
    Conv2dFusion fusion;
    fusion.activation = args.activation.active();
    moments.emplace(TapProductPieces(ForwardSize(shape, fusion)), k, &workspace);
    product.moments = &*moments;
  }
  for (int64_t g = 0; g < shape.groups; ++g) {
    product.in = args.x.Channels(g * c, c);
    product.out = args.y.Channels(g * k, k);
    product.weights = args.weights + g * k;
    product.epilogue.bias = args.bias != nullptr ? args.bias + g * k : nullptr;
    RunTapProduct("conv2d.forward.direct", product, workspace, ctx);
  }
  if (moments) moments->Merge(args.statistics, ctx);
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
  Conv2dFusion fusion;
  fusion.gradient = args.gradient.active();
  fusion.gradient_epilogue = args.epilogue.active();
  std::optional<GradientSumPieces> sums;
  if (args.epilogue.active()) {
    sums.emplace(PhasePieces(shape, fusion), c, &workspace);
    product.gradient_epilogue = args.epilogue;
    product.gradient_sums = &*sums;
  }
  for (int64_t i = 0; i < NumPhases(shape); ++i) {
    const Phase phase = PhaseAt(shape, i);
    product.num_taps = 0;
    // From the last tap to the first: through dy in the order of its pixels.
    for (int64_t r = shape.kernel - 1; r >= 0; --r) {
      for (int64_t s = shape.kernel - 1; s >= 0; --s) {
        const int64_t h = phase.h + shape.padding - r;
        const int64_t w = phase.w + shape.padding - s;
        if (h % stride != 0 || w % stride != 0) continue;
        taps[product.num_taps++] = {h / stride, w / stride,
                                    (r * shape.kernel + s) * c * shape.out_channels};
      }
    }
    const TapProductSize size = PhaseSize(shape, phase, fusion);
    product.first_h = phase.h;
    product.first_w = phase.w;
    product.h = size.h;
    product.w = size.w;
    product.gradient = {};
    if (size.prologue) product.gradient = args.gradient;
    for (int64_t g = 0; g < shape.groups; ++g) {
      product.in = args.dy.Channels(g * k, k);
      product.out = args.dx.Channels(g * c, c);
      product.weights = args.weights + g * k;
      RunTapProduct("conv2d.backward_data.direct", product, workspace, ctx);
    }
    product.first_piece += TapProductPieces(size);
  }
  if (sums) sums->Merge(args.epilogue, ctx);
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
  reduction.activation = args.activation;
  reduction.gradient = args.gradient;
  for (int64_t g = 0; g < shape.groups; ++g) {
    reduction.in = args.x.Channels(g * c, c);
    reduction.grad = args.dy.Channels(g * k, k);
    reduction.out = args.dweights + g * k;
    RunTapReduction("conv2d.backward_weights.direct", reduction, workspace, ctx);
  }
}

}  // namespace

const Conv2dAlgorithmOps kConv2dDirectOps = {
    Supports, ExecutedMacs, WorkspaceBytes, Forward, BackwardData, BackwardWeights, Fuses,
};

}  // namespace classicnn
