// What an executor does for batch norms that are spread over the steps around them
// (models/plan_batch_norms.cc): prologues and epilogues of those steps, and what is left between.
#include <algorithm>

#include "layers/add/add.h"
#include "layers/batch_norm2d/batch_norm2d_fused.h"
#include "layers/fusion_passes.h"
#include "models/executor.h"

namespace classicnn {

ActivationPrologue<float> Executor::activation(const Step& step, size_t input) const {
  if (!step.activates(input)) return {};
  const ActivationOperands& a = step.activations[input];
  return {floats(a.scale), floats(a.shift), a.relu};
}

GradientPrologue<float> Executor::gradient_prologue(const Step& step) const {
  const GradientPrologueOperands& g = step.gradient;
  if (!g.active()) return {};
  return {view(g.x), floats(g.gain), floats(g.slope), floats(g.offset)};
}

StatisticsEpilogue<float> Executor::statistics(const Step& step) const {
  return {floats(step.mean), floats(step.var)};
}

GradientEpilogue<float> Executor::gradient_epilogue(const Step& step) const {
  if (!step.has_epilogue()) return {};
  const GradientEpilogueOperands& e = step.epilogues[0];
  return {view(e.x),      floats(e.scale), floats(e.shift), e.relu,          floats(e.mean),
          floats(e.gain), e.add,           floats(e.sum_g), floats(e.sum_gx)};
}

void Executor::RunFold(const Step& step) {
  const Node& node = graph_.node(step.node);
  const Shape4 x = graph_.shape(node.inputs[0], plan_.options.batch);
  const float* const gamma = state_->parameter(node.parameters[0]);
  if (step.kind == StepKind::kBatchNorm2dFoldForward) {
    BatchNorm2dFoldForwardArgs args;
    args.channels = x.c;
    args.pixels = x.pixels();
    args.mean = floats(step.mean);
    args.var = floats(step.var);
    args.gamma = gamma;
    args.beta = state_->parameter(node.parameters[1]);
    args.eps = node.eps;
    args.momentum = node.momentum;
    args.running_mean = state_->buffer(node.buffers[0]);
    args.running_var = state_->buffer(node.buffers[1]);
    args.scale = floats(step.activations[0].scale);
    args.shift = floats(step.activations[0].shift);
    BatchNorm2dFoldForward(args);
    return;
  }
  const GradientEpilogueOperands& e = step.epilogues[0];
  BatchNorm2dFoldBackwardArgs args;
  args.channels = x.c;
  args.pixels = x.pixels();
  args.mean = floats(e.mean);
  args.var = floats(step.var);
  args.gamma = gamma;
  args.eps = node.eps;
  args.sum_g = floats(e.sum_g);
  args.sum_gx = floats(e.sum_gx);
  args.dgamma = floats(step.parameter_gradients[0]);
  args.dbeta = floats(step.parameter_gradients[1]);
  float* const gain = floats(step.gradient.gain);
  if (step.shared) {
    std::fill_n(gain, x.c, 1.0f);
  } else {
    args.gain = gain;
  }
  args.accumulate = step.accumulate;
  args.slope = floats(step.gradient.slope);
  args.offset = floats(step.gradient.offset);
  BatchNorm2dFoldBackward(args);
}

void Executor::RunPassOrFold(const Step& step, const Workspace& workspace) {
  switch (step.kind) {
    case StepKind::kStatistics:
      StatisticsPass(statistics(step), view(step.inputs[0]), workspace, ctx_);
      break;
    case StepKind::kActivation:
      ActivationPass(activation(step, 0), view(step.inputs[0]), view(step.outputs[0]), ctx_);
      break;
    case StepKind::kGradientEpilogue:
      GradientEpiloguePass(gradient_epilogue(step), view(step.inputs[0]), view(step.outputs[0]),
                           workspace, ctx_);
      break;
    case StepKind::kGradientPrologue:
      GradientPass(gradient_prologue(step), view(step.inputs[0]), view(step.outputs[0]), ctx_);
      break;
    default:
      RunFold(step);
  }
}

void Executor::RunAddBackward(const Step& step, const Workspace& workspace) {
  if (step.epilogues.empty()) {
    AddBackward(view(step.inputs[0]), view(step.outputs[0]), step.accumulate, ctx_);
    return;
  }
  AddReluBackwardArgs args;
  args.dy = view(step.inputs[0]);
  args.y = view(step.inputs[1]);
  args.g = view(step.outputs[0]);
  for (size_t i = 0; i < step.epilogues.size(); ++i) {
    const GradientEpilogueOperands& e = step.epilogues[i];
    args.terms[i] = {view(e.x), floats(e.mean), floats(e.sum_gx)};
  }
  args.sum_g = floats(step.epilogues[0].sum_g);
  args.workspace = workspace;
  AddReluBackward(args, ctx_);
  // The sum is the same for all of them.
  for (size_t i = 1; i < step.epilogues.size(); ++i) {
    std::copy_n(args.sum_g, args.g.c, floats(step.epilogues[i].sum_g));
  }
}

}  // namespace classicnn
