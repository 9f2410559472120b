// The backward steps of a plan, derived from the graph, and the updates.
#include <algorithm>
#include <array>
#include <utility>

#include "core/check.h"
#include "layers/batch_norm2d/batch_norm2d.h"
#include "layers/global_avg_pool2d/global_avg_pool2d.h"
#include "layers/linear/linear.h"
#include "layers/max_pool2d/max_pool2d.h"
#include "models/plan_builder.h"

namespace classicnn {

Operand PlanBuilder::WriteGradient(NodeId input, const Operand& in_place, bool* accumulate) {
  const auto i = static_cast<size_t>(input);
  *accumulate = gradient_written_[i];
  if (!gradient_written_[i]) {
    Place& place = gradient_places_[i];
    if (in_place.valid()) {
      place = gradient_places_[static_cast<size_t>(in_place.node)];
    } else {
      place = NewPlace("d " + graph_.node(input).name, MemoryCategory::kActivations, input);
    }
    gradient_written_[i] = true;
  }
  return Gradient(input);
}

bool PlanBuilder::CanOverwriteGradient(NodeId input) const {
  return !gradient_written_[static_cast<size_t>(input)] && graph_.readers(input).size() == 1;
}

void PlanBuilder::EmitUpdates(const std::vector<int>& parameters) {
  for (const int parameter : parameters) {
    const Parameter& p = graph_.parameters()[static_cast<size_t>(parameter)];
    Step step = NewStep(StepKind::kUpdateParameter, Phase::kUpdate, p.node, "update");
    if (plan_.options.update == Update::kFused) step.phase = Phase::kBackward;
    step.name = p.name + " update";
    step.parameter_gradients = {ParameterGradient(parameter)};
    Emit(std::move(step));
  }
}

void PlanBuilder::EmitAddBackward(NodeId id, const Operand& dy) {
  const Node& node = graph_.node(id);
  // The sum's gradient is every input's gradient. One input takes over its memory; the others get
  // theirs before anything can overwrite that.
  NodeId heir = kNoNode;
  for (const NodeId input : node.inputs) {
    if (graph_.node(input).needs_gradient && CanOverwriteGradient(input)) {
      heir = input;
      break;
    }
  }
  for (const NodeId input : node.inputs) {
    if (input == heir || !graph_.node(input).needs_gradient) continue;
    Step step = NewStep(StepKind::kAddBackward, Phase::kBackward, id, "backward");
    step.inputs = {dy};
    step.outputs = {WriteGradient(input, Operand(), &step.accumulate)};
    Emit(std::move(step));
  }
  if (heir != kNoNode) {
    bool accumulate = false;
    WriteGradient(heir, dy, &accumulate);
  }
}

void PlanBuilder::EmitConcatBackward(NodeId id, const Operand& dy) {
  const Node& node = graph_.node(id);
  if (free_concat_[static_cast<size_t>(id)]) {
    const Place& whole = gradient_places_[static_cast<size_t>(id)];
    for (const NodeId input : node.inputs) {
      const auto i = static_cast<size_t>(input);
      gradient_places_[i] = whole;
      gradient_places_[i].channel_offset += slices_[i].channel_offset;
      gradient_written_[i] = true;
    }
    return;
  }
  // A copy (or an addition) for each input: a step of its own, since some may have been written
  // before and others not.
  int64_t offset = 0;
  for (const NodeId input : node.inputs) {
    const int64_t channels = graph_.node(input).shape.c;
    if (graph_.node(input).needs_gradient) {
      Step step = NewStep(StepKind::kConcatBackward, Phase::kBackward, id, "backward");
      Operand slice = dy;
      slice.shape.c = channels;
      slice.offset += offset * static_cast<int64_t>(sizeof(float));
      step.inputs = {slice};
      step.outputs = {WriteGradient(input, Operand(), &step.accumulate)};
      Emit(std::move(step));
    }
    offset += channels;
  }
}

void PlanBuilder::EmitBackward(NodeId id) {
  const Node& node = graph_.node(id);
  const auto i = static_cast<size_t>(id);
  if (node.op == Op::kInput || absorbed_[i] || !node.needs_gradient) return;
  const int threads = plan_.options.num_threads;
  const NodeId x = node.inputs[0];
  const bool input_needs_gradient = graph_.node(x).needs_gradient;
  if (fused_norm_[i]) {
    EmitNormBackward(id);
    if (plan_.options.update == Update::kFused) EmitUpdates(node.parameters);
    return;
  }
  // Convolutions and average pooling apply what is left of a batch norm's backward themselves.
  const bool prologue = node.op == Op::kConv2d || node.op == Op::kAvgPool2d;
  const bool nothing = node.op == Op::kConcat && free_concat_[i];
  Operand dy = prologue || nothing ? Gradient(Out(id)) : ReadGradient(Out(id), nullptr);
  const Operand nowhere;

  switch (node.op) {
    case Op::kConv2d: {
      const Conv2dShape s = graph_.conv2d_shape(id, batch());
      const Conv2dAlgorithm algorithm = AlgorithmOf(id, Conv2dPass::kBackwardWeights);
      const bool updates = plan_.options.update == Update::kFused && Conv2dUpdates(algorithm);
      const auto set_weights_gradient = [&](Step* step) {
        step->updates = updates;
        if (!updates) step->parameter_gradients = {ParameterGradient(node.parameters[0])};
      };
      if (input_needs_gradient && algorithm == AlgorithmOf(id, Conv2dPass::kBackwardData) &&
          TakesOneSweep(id, algorithm)) {
        Step step = NewStep(StepKind::kConv2dBackward, Phase::kBackward, id, "backward");
        step.algorithm = algorithm;
        dy = ReadGradient(id, &step);
        const Operand value = ReadValue(x, &step);
        step.inputs = {dy, value};
        set_weights_gradient(&step);
        AddGradientOutput(x, &step);
        step.macs = 2 * s.macs();
        step.executed_macs = Conv2dExecutedMacs(s, Conv2dPass::kBackwardData, algorithm) +
                             Conv2dExecutedMacs(s, Conv2dPass::kBackwardWeights, algorithm);
        step.workspace = NewWorkspace(
            step.name, Conv2dBackwardWorkspaceBytes(s, algorithm, threads, step.fusion()));
        Emit(std::move(step));
      } else {
        std::array<Conv2dPass, 2> passes = {Conv2dPass::kBackwardWeights,
                                            Conv2dPass::kBackwardData};
        // The gradient of the input needs the weights as they were.
        if (updates) std::swap(passes[0], passes[1]);
        for (const Conv2dPass pass : passes) {
          const bool weights = pass == Conv2dPass::kBackwardWeights;
          if (!weights && !input_needs_gradient) continue;
          Step step =
              NewStep(weights ? StepKind::kConv2dBackwardWeights : StepKind::kConv2dBackwardData,
                      Phase::kBackward, id, Conv2dPassName(pass));
          step.algorithm = AlgorithmOf(id, pass);
          dy = ReadGradient(id, &step);
          if (weights) {
            const Operand value = ReadValue(x, &step);
            step.inputs = {dy, value};
            set_weights_gradient(&step);
          } else {
            step.inputs = {dy};
            AddGradientOutput(x, &step);
          }
          step.macs = s.macs();
          step.executed_macs = Conv2dExecutedMacs(s, pass, step.algorithm);
          step.workspace = NewWorkspace(
              step.name, Conv2dWorkspaceBytes(s, pass, step.algorithm, threads, step.fusion()));
          Emit(std::move(step));
        }
      }
      if (updates) {
        CNN_CHECK(node.parameters.size() == 1, node.name, " has more than its weights to update");
        return;
      }
      break;
    }
    case Op::kLinear: {
      const LinearShape s{batch(), graph_.node(x).shape.size(), node.shape.c};
      for (const LinearPass pass : {LinearPass::kBackwardWeights, LinearPass::kBackwardData}) {
        const bool weights = pass == LinearPass::kBackwardWeights;
        if (!weights && !input_needs_gradient) continue;
        Step step =
            NewStep(weights ? StepKind::kLinearBackwardWeights : StepKind::kLinearBackwardData,
                    Phase::kBackward, id, weights ? "backward_weights" : "backward_data");
        step.inputs = {dy};
        if (weights) {
          step.inputs.push_back(Value(x));
          step.parameter_gradients = {ParameterGradient(node.parameters[0]),
                                      ParameterGradient(node.parameters[1])};
        } else {
          step.outputs = {WriteGradient(x, nowhere, &step.accumulate)};
        }
        step.macs = step.executed_macs = s.macs();
        step.workspace = NewWorkspace(step.name, LinearWorkspaceBytes(s, pass, threads));
        Emit(std::move(step));
      }
      break;
    }
    case Op::kBatchNorm2d: {
      Step step = NewStep(StepKind::kBatchNorm2dBackward, Phase::kBackward, id, "backward");
      step.fused_relu = fused_relu_[i];
      step.inputs = {dy, Value(x)};
      step.outputs = {WriteGradient(x, CanOverwriteGradient(x) ? dy : nowhere, &step.accumulate)};
      step.saved_mean = FlatOperand(Role::kSavedMean, id, saved_mean_[i]);
      step.saved_inv_std = FlatOperand(Role::kSavedInvStd, id, saved_inv_std_[i]);
      step.parameter_gradients = {ParameterGradient(node.parameters[0]),
                                  ParameterGradient(node.parameters[1])};
      step.workspace =
          NewWorkspace(step.name, BatchNorm2dWorkspaceBytes(graph_.shape(x, batch()), threads));
      Emit(std::move(step));
      break;
    }
    case Op::kRelu: {
      if (!input_needs_gradient) break;
      Step step = NewStep(StepKind::kReluBackward, Phase::kBackward, id, "backward");
      step.inputs = {dy, Value(id)};
      step.outputs = {WriteGradient(x, CanOverwriteGradient(x) ? dy : nowhere, &step.accumulate)};
      Emit(std::move(step));
      break;
    }
    case Op::kDropout: {
      if (!input_needs_gradient) break;
      Step step = NewStep(StepKind::kDropoutBackward, Phase::kBackward, id, "backward");
      step.inputs = {dy};
      step.outputs = {WriteGradient(x, CanOverwriteGradient(x) ? dy : nowhere, &step.accumulate)};
      Emit(std::move(step));
      break;
    }
    case Op::kMaxPool2d:
    case Op::kAvgPool2d:
    case Op::kGlobalAvgPool2d: {
      if (!input_needs_gradient) break;
      const StepKind kind = node.op == Op::kMaxPool2d   ? StepKind::kMaxPool2dBackward
                            : node.op == Op::kAvgPool2d ? StepKind::kAvgPool2dBackward
                                                        : StepKind::kGlobalAvgPool2dBackward;
      Step step = NewStep(kind, Phase::kBackward, id, "backward");
      step.inputs = {prologue ? ReadGradient(id, &step) : dy};
      if (node.op == Op::kMaxPool2d) step.argmax = FlatOperand(Role::kArgmax, id, argmax_[i]);
      AddGradientOutput(x, &step);
      if (step.has_epilogue()) {
        const Shape4 in = graph_.shape(x, batch());
        step.workspace = NewWorkspace(
            step.name, node.op == Op::kMaxPool2d ? MaxPool2dBackwardWorkspaceBytes(node.pool(), in)
                                                 : GlobalAvgPool2dBackwardWorkspaceBytes(in));
      }
      Emit(std::move(step));
      break;
    }
    case Op::kAdd: {
      if (std::any_of(node.inputs.begin(), node.inputs.end(),
                      [&](NodeId input) { return activated_[static_cast<size_t>(input)]; })) {
        EmitAddNormsBackward(id, dy);
        break;
      }
      if (fused_relu_[i] != kNoNode) {
        // The mask is applied where the gradient lies; what is left is the sum's own gradient.
        const NodeId relu = fused_relu_[i];
        Step step = NewStep(StepKind::kReluBackward, Phase::kBackward, relu, "backward");
        step.inputs = {dy, Value(relu)};
        step.outputs = {WriteGradient(id, dy, &step.accumulate)};
        Emit(std::move(step));
        dy = Gradient(id);
      }
      EmitAddBackward(id, dy);
      break;
    }
    case Op::kConcat:
      EmitConcatBackward(id, dy);
      break;
    case Op::kInput:
      break;
  }
  if (plan_.options.update == Update::kFused) EmitUpdates(node.parameters);
}

}  // namespace classicnn
