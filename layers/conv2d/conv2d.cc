// Checks of the arguments and dispatch to the algorithm.
#include "layers/conv2d/conv2d.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/check.h"
#include "layers/column_sums.h"
#include "layers/conv2d/algorithms.h"
#include "layers/conv2d/conv2d_depthwise.h"
#include "layers/conv2d/conv2d_direct.h"
#include "layers/conv2d/conv2d_few_pixels.h"
#include "layers/conv2d/conv2d_pointwise.h"
#include "layers/conv2d/conv2d_stem.h"
#include "layers/conv2d/conv2d_winograd.h"
#include "layers/fusion_passes.h"

namespace classicnn {
namespace {

const Conv2dAlgorithmOps& OpsFor(const Conv2dShape& shape, Conv2dPass pass,
                                 Conv2dAlgorithm algorithm) {
  const Conv2dAlgorithmOps* ops = GetConv2dAlgorithmOps(algorithm);
  CNN_CHECK(ops != nullptr && ops->supports(shape, pass), Conv2dAlgorithmName(algorithm),
            " does not do ", Conv2dPassName(pass), " of ", shape.ToString());
  return *ops;
}

template <typename T>
void CheckView(const View<T>& view, const Shape4& shape, const char* name) {
  CNN_CHECK(view.shape() == shape, name, " is ", view.shape().ToString(), ", not ",
            shape.ToString());
  CNN_CHECK(view.data != nullptr && view.pixel_stride >= view.c, name, " has a pixel stride of ",
            view.pixel_stride);
}

}  // namespace

const Conv2dAlgorithmOps* GetConv2dAlgorithmOps(Conv2dAlgorithm algorithm) {
  switch (algorithm) {
    case Conv2dAlgorithm::kDepthwise:
      return &kConv2dDepthwiseOps;
    case Conv2dAlgorithm::kPointwise:
      return &kConv2dPointwiseOps;
    case Conv2dAlgorithm::kDirect:
      return &kConv2dDirectOps;
    case Conv2dAlgorithm::kWinograd4:
      return &kConv2dWinograd4Ops;
    case Conv2dAlgorithm::kWinograd2:
      return &kConv2dWinograd2Ops;
    case Conv2dAlgorithm::kWinograd2x5:
      return &kConv2dWinograd2x5Ops;
    case Conv2dAlgorithm::kWinograd4x5:
      return &kConv2dWinograd4x5Ops;
    case Conv2dAlgorithm::kStem:
      return &kConv2dStemOps;
    case Conv2dAlgorithm::kFewPixels:
      return &kConv2dFewPixelsOps;
  }
  return nullptr;
}

template <typename T>
void CheckConv2dArgs(const Conv2dForwardArgs<T>& args) {
  CheckView(args.x, args.shape.input(), "x");
  CheckView(args.y, args.shape.output(), "y");
  CNN_CHECK(args.weights != nullptr);
}

template <typename T>
void CheckConv2dArgs(const Conv2dBackwardDataArgs<T>& args) {
  CheckView(args.dy, args.shape.output(), "dy");
  CheckView(args.dx, args.shape.input(), "dx");
  CNN_CHECK(args.weights != nullptr);
}

template <typename T>
void CheckConv2dArgs(const Conv2dBackwardWeightsArgs<T>& args) {
  CheckView(args.x, args.shape.input(), "x");
  CheckView(args.dy, args.shape.output(), "dy");
  CNN_CHECK(args.dweights != nullptr || args.update != nullptr);
}

template void CheckConv2dArgs(const Conv2dForwardArgs<float>&);
template void CheckConv2dArgs(const Conv2dForwardArgs<double>&);
template void CheckConv2dArgs(const Conv2dBackwardDataArgs<float>&);
template void CheckConv2dArgs(const Conv2dBackwardDataArgs<double>&);
template void CheckConv2dArgs(const Conv2dBackwardWeightsArgs<float>&);
template void CheckConv2dArgs(const Conv2dBackwardWeightsArgs<double>&);

int64_t Conv2dExecutedMacs(const Conv2dShape& shape, Conv2dPass pass, Conv2dAlgorithm algorithm) {
  const Conv2dAlgorithmOps& ops = OpsFor(shape, pass, algorithm);
  return ops.executed_macs != nullptr ? ops.executed_macs(shape, pass) : shape.macs();
}

Conv2dFusion Conv2dFuses(const Conv2dShape& shape, Conv2dPass pass, Conv2dAlgorithm algorithm,
                         const Conv2dFusion& fusion) {
  const Conv2dAlgorithmOps& ops = OpsFor(shape, pass, algorithm);
  return ops.fuses != nullptr ? ops.fuses(shape, pass, fusion) : Conv2dFusion();
}

namespace {

// With the passes for what of `fusion` the algorithm does not do itself.
size_t WithPasses(size_t bytes, const Conv2dShape& shape, const Conv2dFusion& fusion,
                  const Conv2dFusion& fused) {
  // Epilogues' passes come after the convolution and share its scratch; copies stay beside it.
  if (fusion.statistics && !fused.statistics) {
    bytes = std::max(bytes, StatisticsPassWorkspaceBytes(shape.output()));
  }
  if (fusion.gradient_epilogue && !fused.gradient_epilogue) {
    bytes = std::max(bytes, GradientEpiloguePassWorkspaceBytes(shape.input())) +
            Workspace::BytesFor<float>(shape.input().size());
  }
  if (fusion.activation && !fused.activation) {
    bytes += Workspace::BytesFor<float>(shape.input().size());
  }
  if (fusion.gradient && !fused.gradient) {
    bytes += Workspace::BytesFor<float>(shape.output().size());
  }
  return bytes;
}

}  // namespace

size_t Conv2dWorkspaceBytes(const Conv2dShape& shape, Conv2dPass pass, Conv2dAlgorithm algorithm,
                            int num_threads, const Conv2dFusion& fusion) {
  const Conv2dFusion fused = Conv2dFuses(shape, pass, algorithm, fusion);
  size_t bytes = OpsFor(shape, pass, algorithm).workspace_bytes(shape, pass, num_threads, fused);
  if (pass == Conv2dPass::kBackwardWeights) {
    // The bias gradient is summed before the weights' gradient and shares its scratch.
    bytes = std::max(bytes, ColumnSumsWorkspaceBytes(shape.output().pixels(), shape.out_channels));
  }
  return WithPasses(bytes, shape, fusion, fused);
}

namespace {

// Prologues that the algorithm cannot do: the tensor is made in the workspace first.
template <class Args>
void ActivateFirst(const Conv2dFusion& fused, Args* args, Context& ctx) {
  if (!args->activation.active() || fused.activation) return;
  const Tensor copy(args->workspace.template Take<float>(args->x.size()), args->x.shape());
  ActivationPass(args->activation, args->x, copy, ctx);
  args->x = copy;
  args->activation = {};
}

template <class Args>
void MakeGradientFirst(const Conv2dFusion& fused, Args* args, Context& ctx) {
  if (!args->gradient.active() || fused.gradient) return;
  const Tensor copy(args->workspace.template Take<float>(args->dy.size()), args->dy.shape());
  GradientPass(args->gradient, args->dy, copy, ctx);
  args->dy = copy;
  args->gradient = {};
}

// Runs `backward`, and after it what of the epilogue it does not do itself.
template <class Call>
void WithEpiloguePass(const Conv2dFusion& fused, Conv2dBackwardDataArgs<float>* args, Context& ctx,
                      const Call& backward) {
  const GradientEpilogue<float> epilogue = args->epilogue;
  const Tensor dx = args->dx;
  const bool pass = epilogue.active() && !fused.gradient_epilogue;
  if (pass) {
    args->epilogue = {};
    if (epilogue.add) args->dx = Tensor(args->workspace.Take<float>(dx.size()), dx.shape());
  }
  backward();
  if (pass) GradientEpiloguePass(epilogue, args->dx, dx, args->workspace, ctx);
}

}  // namespace

void Conv2dForward(const Conv2dForwardArgs<float>& given, Context& ctx) {
  CheckConv2dArgs(given);
  constexpr auto kPass = Conv2dPass::kForward;
  Conv2dForwardArgs<float> args = given;
  Conv2dFusion fusion;
  fusion.activation = args.activation.active();
  fusion.statistics = args.statistics.active();
  const Conv2dFusion fused = Conv2dFuses(args.shape, kPass, args.algorithm, fusion);
  ActivateFirst(fused, &args, ctx);
  if (!fused.statistics) args.statistics = {};
  OpsFor(args.shape, kPass, args.algorithm).forward(args, ctx);
  if (fusion.statistics && !fused.statistics) {
    StatisticsPass(given.statistics, args.y, args.workspace, ctx);
  }
}

void Conv2dBackwardData(const Conv2dBackwardDataArgs<float>& given, Context& ctx) {
  CheckConv2dArgs(given);
  constexpr auto kPass = Conv2dPass::kBackwardData;
  Conv2dBackwardDataArgs<float> args = given;
  CNN_CHECK(!args.accumulate || !args.epilogue.add, "a gradient is added before or after its mask");
  Conv2dFusion fusion;
  fusion.gradient = args.gradient.active();
  fusion.gradient_epilogue = args.epilogue.active();
  const Conv2dFusion fused = Conv2dFuses(args.shape, kPass, args.algorithm, fusion);
  MakeGradientFirst(fused, &args, ctx);
  WithEpiloguePass(fused, &args, ctx,
                   [&] { OpsFor(args.shape, kPass, args.algorithm).backward_data(args, ctx); });
}

void Conv2dBackwardWeights(const Conv2dBackwardWeightsArgs<float>& given, Context& ctx) {
  CheckConv2dArgs(given);
  constexpr auto kPass = Conv2dPass::kBackwardWeights;
  Conv2dBackwardWeightsArgs<float> args = given;
  Conv2dFusion fusion;
  fusion.activation = args.activation.active();
  fusion.gradient = args.gradient.active();
  const Conv2dFusion fused = Conv2dFuses(args.shape, kPass, args.algorithm, fusion);
  ActivateFirst(fused, &args, ctx);
  MakeGradientFirst(fused, &args, ctx);
  if (args.dbias != nullptr) {
    CNN_CHECK(!args.gradient.active(), "no bias gradient with a gradient prologue");
    ColumnSums("conv2d.backward_weights.bias", args.dy.data, args.dy.pixels(), args.dy.c,
               args.dy.pixel_stride, args.dbias, args.workspace, ctx);
  }
  CNN_CHECK(args.update == nullptr || Conv2dUpdates(args.algorithm),
            Conv2dAlgorithmName(args.algorithm), " applies no updates");
  OpsFor(args.shape, kPass, args.algorithm).backward_weights(args, ctx);
}

bool Conv2dUpdates(Conv2dAlgorithm algorithm) {
  const Conv2dAlgorithmOps* ops = GetConv2dAlgorithmOps(algorithm);
  return ops != nullptr && ops->updates;
}

bool Conv2dHasBackward(const Conv2dShape& shape, Conv2dAlgorithm algorithm) {
  const Conv2dAlgorithmOps* ops = GetConv2dAlgorithmOps(algorithm);
  return ops != nullptr && ops->has_backward != nullptr && ops->has_backward(shape);
}

bool Conv2dPrefersBackward(const Conv2dShape& shape, Conv2dAlgorithm algorithm) {
  if (!Conv2dHasBackward(shape, algorithm)) return false;
  const Conv2dAlgorithmOps& ops = *GetConv2dAlgorithmOps(algorithm);
  return ops.prefers_backward == nullptr || ops.prefers_backward(shape);
}

size_t Conv2dBackwardWorkspaceBytes(const Conv2dShape& shape, Conv2dAlgorithm algorithm,
                                    int num_threads, const Conv2dFusion& fusion) {
  constexpr auto kPass = Conv2dPass::kBackwardData;
  const Conv2dFusion fused = Conv2dFuses(shape, kPass, algorithm, fusion);
  return WithPasses(
      OpsFor(shape, kPass, algorithm).backward_workspace_bytes(shape, num_threads, fused), shape,
      fusion, fused);
}

void Conv2dBackward(const Conv2dBackwardDataArgs<float>& given_data,
                    const Conv2dBackwardWeightsArgs<float>& given_weights, Context& ctx) {
  CheckConv2dArgs(given_data);
  CheckConv2dArgs(given_weights);
  Conv2dBackwardDataArgs<float> data = given_data;
  Conv2dBackwardWeightsArgs<float> weights = given_weights;
  CNN_CHECK(data.shape == weights.shape && data.dy.data == weights.dy.data &&
                data.algorithm == weights.algorithm && weights.dbias == nullptr &&
                Conv2dHasBackward(data.shape, data.algorithm),
            "not one convolution whose backwards are one sweep: ", data.shape.ToString(), ", ",
            weights.shape.ToString());
  CNN_CHECK(!data.accumulate || !data.epilogue.add, "a gradient is added before or after its mask");
  CNN_CHECK(weights.update == nullptr ||
                (Conv2dUpdates(weights.algorithm) && weights.update->w == data.weights),
            Conv2dAlgorithmName(weights.algorithm), " applies no update, or one of other weights");
  constexpr auto kPass = Conv2dPass::kBackwardData;
  Conv2dFusion fusion;
  fusion.activation = weights.activation.active();
  fusion.gradient = data.gradient.active();
  fusion.gradient_epilogue = data.epilogue.active();
  const Conv2dFusion fused = Conv2dFuses(data.shape, kPass, data.algorithm, fusion);
  MakeGradientFirst(fused, &data, ctx);
  weights.dy = data.dy;
  weights.gradient = data.gradient;
  weights.workspace = data.workspace;
  ActivateFirst(fused, &weights, ctx);
  data.workspace = weights.workspace;
  WithEpiloguePass(fused, &data, ctx,
                   [&] { OpsFor(data.shape, kPass, data.algorithm).backward(data, weights, ctx); });
}

}  // namespace classicnn
