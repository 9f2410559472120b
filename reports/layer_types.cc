#include "reports/layer_types.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"

namespace classicnn {
namespace {

std::string ConvType(int64_t kernel, bool depthwise) {
  if (depthwise) return "conv2d depthwise";
  return absl::StrCat("conv2d ", kernel, "x", kernel);
}

int TypeRank(const std::string& type) {
  static const std::vector<std::string> kOrder = {
      "conv2d 3x3", "conv2d 1x1",    "conv2d 5x5", "conv2d depthwise",
      "linear",     "batch_norm2d",  "relu",       "add",
      "concat",     "max_pool2d",    "avg_pool2d", "global_avg_pool2d",
      "dropout",    "cross_entropy", "update"};
  return static_cast<int>(std::find(kOrder.begin(), kOrder.end(), type) - kOrder.begin());
}

}  // namespace

std::string LayerType(const Node& node) {
  if (node.op != Op::kConv2d) return OpName(node.op);
  return ConvType(node.kernel, node.groups > 1 && node.groups == node.shape.c);
}

std::string LayerType(const LayerShape& shape) {
  if (shape.kind != LayerKind::kConv2d) return LayerKindName(shape.kind);
  return ConvType(shape.conv2d.kernel, shape.conv2d.groups > 1 && shape.conv2d.depthwise());
}

std::string StepType(const Graph& graph, const Step& step) {
  if (step.kind == StepKind::kCrossEntropy) return "cross_entropy";
  if (step.kind == StepKind::kUpdateParameter) return "update";
  return LayerType(graph.node(step.node));
}

const char* StepPass(const Step& step) {
  if (step.recomputed) return "recompute";
  switch (step.kind) {
    case StepKind::kConv2dForward:
    case StepKind::kBatchNorm2dForward:
    case StepKind::kReluForward:
    case StepKind::kMaxPool2dForward:
    case StepKind::kAvgPool2dForward:
    case StepKind::kGlobalAvgPool2dForward:
    case StepKind::kLinearForward:
    case StepKind::kAddForward:
    case StepKind::kConcatForward:
    case StepKind::kDropoutForward:
    case StepKind::kCrossEntropy:
    case StepKind::kBatchNorm2dFoldForward:
    case StepKind::kStatistics:
    case StepKind::kActivation:
      return "forward";
    case StepKind::kConv2dBackwardData:
    case StepKind::kLinearBackwardData:
      return "backward_data";
    case StepKind::kConv2dBackwardWeights:
    case StepKind::kLinearBackwardWeights:
      return "backward_weights";
    case StepKind::kUpdateParameter:
      return "update";
    case StepKind::kConv2dBackward:
    case StepKind::kBatchNorm2dBackward:
    case StepKind::kReluBackward:
    case StepKind::kMaxPool2dBackward:
    case StepKind::kAvgPool2dBackward:
    case StepKind::kGlobalAvgPool2dBackward:
    case StepKind::kAddBackward:
    case StepKind::kConcatBackward:
    case StepKind::kDropoutBackward:
    case StepKind::kBatchNorm2dFoldBackward:
    case StepKind::kGradientEpilogue:
    case StepKind::kGradientPrologue:
      return "backward";
  }
  return "";
}

bool TypeBefore(const std::string& a, const std::string& b) {
  const int ra = TypeRank(a), rb = TypeRank(b);
  return ra != rb ? ra < rb : a < b;
}

int64_t ReceptiveField(const Graph& graph, NodeId target) {
  // Field and jump (input pixels from one output pixel to the next) of every node, inputs first.
  std::vector<std::pair<int64_t, int64_t>> field(graph.nodes().size(), {1, 1});
  for (NodeId id = 1; id <= target; ++id) {
    const Node& node = graph.node(id);
    auto& [size, jump] = field[static_cast<size_t>(id)];
    size = 1;
    for (const NodeId input : node.inputs) {
      const auto& [in_size, in_jump] = field[static_cast<size_t>(input)];
      const bool window =
          node.op == Op::kConv2d || node.op == Op::kMaxPool2d || node.op == Op::kAvgPool2d;
      const int64_t through = window ? in_size + (node.kernel - 1) * in_jump : in_size;
      size = std::max(size, through);
      jump = window ? in_jump * node.stride : in_jump;
    }
  }
  return field[static_cast<size_t>(target)].first;
}

NodeId LastImageNode(const Graph& graph) {
  for (const Node& node : graph.nodes()) {
    if (node.op == Op::kGlobalAvgPool2d || node.op == Op::kLinear) return node.inputs[0];
  }
  return graph.logits();
}

}  // namespace classicnn
