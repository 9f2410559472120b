// The forward steps of a plan, and the loss.
#include "layers/avg_pool2d/avg_pool2d.h"
#include "layers/batch_norm2d/batch_norm2d.h"
#include "layers/cross_entropy/cross_entropy.h"
#include "layers/linear/linear.h"
#include "models/plan_builder.h"

namespace classicnn {
namespace {

StepKind ForwardKind(Op op) {
  switch (op) {
    case Op::kConv2d:
      return StepKind::kConv2dForward;
    case Op::kBatchNorm2d:
      return StepKind::kBatchNorm2dForward;
    case Op::kRelu:
      return StepKind::kReluForward;
    case Op::kMaxPool2d:
      return StepKind::kMaxPool2dForward;
    case Op::kAvgPool2d:
      return StepKind::kAvgPool2dForward;
    case Op::kGlobalAvgPool2d:
      return StepKind::kGlobalAvgPool2dForward;
    case Op::kLinear:
      return StepKind::kLinearForward;
    case Op::kAdd:
      return StepKind::kAddForward;
    case Op::kConcat:
      return StepKind::kConcatForward;
    case Op::kDropout:
      return StepKind::kDropoutForward;
    case Op::kInput:
      break;
  }
  CNN_CHECK(false, "no forward step of ", OpName(op));
  return StepKind::kConv2dForward;
}

}  // namespace

void PlanBuilder::EmitForward(NodeId id) {
  const Node& node = graph_.node(id);
  const auto i = static_cast<size_t>(id);
  if (node.op == Op::kInput) return;
  // A ReLU has run inside the node before it, and a concatenation's inputs wrote its slices.
  if (absorbed_[i] || (node.op == Op::kConcat && free_concat_[i])) {
    EmitStatistics(id, nullptr);
    return;
  }
  if (fused_norm_[i]) {
    EmitNormForward(id);
    if (Out(id) == id) EmitStatistics(id, nullptr);
    return;
  }

  Step step = NewStep(ForwardKind(node.op), Phase::kForward, id, "forward");
  step.fused_relu = fused_relu_[i];
  for (const NodeId input : node.inputs) step.inputs.push_back(ReadValue(input, &step));
  step.outputs.push_back(Value(Out(id)));
  const Shape4 in = graph_.shape(node.inputs[0], batch());
  const int threads = plan_.options.num_threads;
  const bool sums = node.op == Op::kConv2d || node.op == Op::kAvgPool2d;  // as they go
  if (sums) EmitStatistics(id, &step);

  switch (node.op) {
    case Op::kConv2d: {
      const Conv2dShape s = graph_.conv2d_shape(id, batch());
      step.algorithm = AlgorithmOf(id, Conv2dPass::kForward);
      step.macs = s.macs();
      step.executed_macs = Conv2dExecutedMacs(s, Conv2dPass::kForward, step.algorithm);
      step.workspace = NewWorkspace(
          step.name,
          Conv2dWorkspaceBytes(s, Conv2dPass::kForward, step.algorithm, threads, step.fusion()));
      break;
    }
    case Op::kLinear: {
      const LinearShape s{batch(), in.size() / batch(), node.shape.c};
      step.macs = step.executed_macs = s.macs();
      step.workspace =
          NewWorkspace(step.name, LinearWorkspaceBytes(s, LinearPass::kForward, threads));
      break;
    }
    case Op::kBatchNorm2d: {
      const auto bytes = node.shape.c * static_cast<int64_t>(sizeof(float));
      saved_mean_[i] = NewBuffer(node.name + " mean", MemoryCategory::kActivations, bytes);
      saved_inv_std_[i] = NewBuffer(node.name + " inv_std", MemoryCategory::kActivations, bytes);
      step.saved_mean = FlatOperand(Role::kSavedMean, id, saved_mean_[i]);
      step.saved_inv_std = FlatOperand(Role::kSavedInvStd, id, saved_inv_std_[i]);
      step.workspace = NewWorkspace(step.name, BatchNorm2dWorkspaceBytes(in, threads));
      break;
    }
    case Op::kMaxPool2d:
      if (plan_.options.backward) {
        argmax_[i] = NewBuffer(node.name + " argmax", MemoryCategory::kActivations,
                               graph_.shape(id, batch()).size());
        step.argmax = FlatOperand(Role::kArgmax, id, argmax_[i]);
      }
      break;
    case Op::kAvgPool2d:
      if (step.mean.valid()) {
        step.workspace = NewWorkspace(step.name, AvgPool2dForwardWorkspaceBytes(node.pool(), in));
      }
      break;
    default:
      break;
  }
  Emit(std::move(step));
  if (!sums && Out(id) == id) EmitStatistics(id, nullptr);
}

void PlanBuilder::EmitLoss() {
  const NodeId logits = graph_.logits();
  Step step = NewStep(StepKind::kCrossEntropy, Phase::kLoss, logits, "loss");
  step.name = "loss";
  step.inputs = {Value(logits), plan_.labels};
  step.loss = plan_.loss;
  if (plan_.options.backward) {
    bool accumulate = false;
    step.outputs = {WriteGradient(logits, Operand(), &accumulate)};
  }
  step.workspace =
      NewWorkspace(step.name, CrossEntropyWorkspaceBytes(batch(), graph_.num_classes()));
  Emit(std::move(step));
}

}  // namespace classicnn
