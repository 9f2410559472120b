#include "models/layer_shapes.h"

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/check.h"
#include "layers/shape_text.h"

namespace classicnn {
namespace {

constexpr LayerKind kLastKind = LayerKind::kConcat;

absl::Status CheckSizes(absl::string_view text, std::initializer_list<int64_t> sizes) {
  int64_t product = 1;
  for (const int64_t size : sizes) {
    if (size < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("bad shape '", text, "': every size must be at least 1"));
    }
    if (size > std::numeric_limits<int64_t>::max() / 64 / product) {
      return absl::InvalidArgumentError(absl::StrCat("bad shape '", text, "': it is too large"));
    }
    product *= size;
  }
  return absl::OkStatus();
}

absl::StatusOr<LayerShape> ParseTensor(LayerShape shape, absl::string_view text, bool norm) {
  Shape4& t = shape.tensor;
  int64_t mode = 1;
  const absl::Status parsed =
      norm ? ParseShapeText(text, "n64c64h32w32m1 (m1 training, m0 inference)",
                            {{'n', &t.n}, {'c', &t.c}, {'h', &t.h}, {'w', &t.w}, {'m', &mode}})
           : ParseShapeText(text, "n64c64h32w32",
                            {{'n', &t.n}, {'c', &t.c}, {'h', &t.h}, {'w', &t.w}});
  if (!parsed.ok()) return parsed;
  const auto error = [text](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("bad shape '", text, "': ", what));
  };
  if (mode > 1) return error("m is 1 (training) or 0 (inference)");
  shape.training = mode == 1;
  if (absl::Status sizes = CheckSizes(text, {t.n, t.h, t.w, t.c}); !sizes.ok()) return sizes;
  if (norm && shape.training && t.pixels() < 2) {
    return error("training needs more than one value per channel");
  }
  return shape;
}

absl::StatusOr<LayerShape> ParseCrossEntropy(LayerShape shape, absl::string_view text) {
  const absl::Status parsed =
      ParseShapeText(text, "n64c10", {{'n', &shape.linear.n}, {'c', &shape.linear.in_features}});
  if (!parsed.ok()) return parsed;
  const absl::Status sizes = CheckSizes(text, {shape.linear.n, shape.linear.in_features});
  if (!sizes.ok()) return sizes;
  return shape;
}

// Adds `use` of `shape` to the list, which has each shape once.
void Count(const LayerShape& shape, const LayerUse& use, std::vector<ModelLayerShape>& shapes) {
  auto entry = std::find_if(shapes.begin(), shapes.end(),
                            [&](const ModelLayerShape& s) { return s.shape == shape; });
  if (entry == shapes.end()) {
    shapes.push_back({shape, {}});
    entry = shapes.end() - 1;
  }
  std::vector<LayerUse>& uses = entry->uses;
  if (uses.empty() || uses.back().model != use.model) uses.push_back({use.model, 0, 0});
  uses.back().count += use.count;
  uses.back().with_input_gradient += use.with_input_gradient;
}

void SortByKind(std::vector<ModelLayerShape>& shapes) {
  std::stable_sort(shapes.begin(), shapes.end(),
                   [](const ModelLayerShape& a, const ModelLayerShape& b) {
                     return a.shape.kind < b.shape.kind;
                   });
}

LayerKind KindOf(Op op) {
  switch (op) {
    case Op::kConv2d:
      return LayerKind::kConv2d;
    case Op::kBatchNorm2d:
      return LayerKind::kBatchNorm2d;
    case Op::kRelu:
      return LayerKind::kRelu;
    case Op::kMaxPool2d:
      return LayerKind::kMaxPool2d;
    case Op::kAvgPool2d:
      return LayerKind::kAvgPool2d;
    case Op::kGlobalAvgPool2d:
      return LayerKind::kGlobalAvgPool2d;
    case Op::kLinear:
      return LayerKind::kLinear;
    case Op::kAdd:
      return LayerKind::kAdd;
    case Op::kConcat:
      return LayerKind::kConcat;
    case Op::kDropout:
      return LayerKind::kDropout;
    case Op::kInput:
      break;
  }
  CheckFailed(__FILE__, __LINE__, "node is a layer", OpName(op));
}

}  // namespace

const char* LayerKindName(LayerKind kind) {
  switch (kind) {
    case LayerKind::kConv2d:
      return "conv2d";
    case LayerKind::kLinear:
      return "linear";
    case LayerKind::kBatchNorm2d:
      return "batch_norm2d";
    case LayerKind::kRelu:
      return "relu";
    case LayerKind::kMaxPool2d:
      return "max_pool2d";
    case LayerKind::kAvgPool2d:
      return "avg_pool2d";
    case LayerKind::kGlobalAvgPool2d:
      return "global_avg_pool2d";
    case LayerKind::kDropout:
      return "dropout";
    case LayerKind::kCrossEntropy:
      return "cross_entropy";
    case LayerKind::kAdd:
      return "add";
    case LayerKind::kConcat:
      return "concat";
  }
  return "?";
}

const std::vector<std::string>& LayerKindNames() {
  static const auto* names = [] {
    auto* all = new std::vector<std::string>;
    for (int kind = 0; kind <= static_cast<int>(kLastKind); ++kind) {
      all->push_back(LayerKindName(static_cast<LayerKind>(kind)));
    }
    return all;
  }();
  return *names;
}

absl::StatusOr<LayerKind> ParseLayerKind(absl::string_view name) {
  const std::vector<std::string>& names = LayerKindNames();
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("unknown layer '", name, "'; there are ", absl::StrJoin(names, ", ")));
  }
  return static_cast<LayerKind>(found - names.begin());
}

const char* LayerPassName(LayerPass pass) {
  switch (pass) {
    case LayerPass::kForward:
      return "forward";
    case LayerPass::kBackward:
      return "backward";
    case LayerPass::kBackwardData:
      return "backward_data";
    case LayerPass::kBackwardWeights:
      return "backward_weights";
  }
  return "?";
}

const std::vector<LayerPass>& LayerPasses(LayerKind kind) {
  static const auto* products = new std::vector<LayerPass>{
      LayerPass::kForward, LayerPass::kBackwardData, LayerPass::kBackwardWeights};
  static const auto* others = new std::vector<LayerPass>{LayerPass::kForward, LayerPass::kBackward};
  return kind == LayerKind::kConv2d || kind == LayerKind::kLinear ? *products : *others;
}

int64_t LayerShape::batch() const {
  switch (kind) {
    case LayerKind::kConv2d:
      return conv2d.n;
    case LayerKind::kLinear:
    case LayerKind::kCrossEntropy:
      return linear.n;
    case LayerKind::kMaxPool2d:
    case LayerKind::kAvgPool2d:
      return pool.input.n;
    case LayerKind::kConcat:
      return concat.n;
    default:
      return tensor.n;
  }
}

LayerShape LayerShape::WithBatch(int64_t n) const {
  LayerShape result = *this;
  result.conv2d.n = n;
  result.linear.n = n;
  result.pool.input.n = n;
  result.concat.n = n;
  result.tensor.n = n;
  return result;
}

int64_t LayerShape::macs() const {
  if (kind == LayerKind::kConv2d) return conv2d.macs();
  if (kind == LayerKind::kLinear) return linear.macs();
  return 0;
}

int64_t LayerShape::traffic(LayerPass pass) const {
  const bool forward = pass == LayerPass::kForward;
  switch (kind) {
    case LayerKind::kConv2d:
      return conv2d.input().size() + conv2d.weight_count() + conv2d.output().size();
    case LayerKind::kLinear:
      return linear.n * (linear.in_features + linear.out_features) + linear.weight_count();
    case LayerKind::kBatchNorm2d:
      if (!training) return (forward ? 2 : 3) * tensor.size();
      return (forward ? 3 : 5) * tensor.size();
    case LayerKind::kRelu:
      return (forward ? 2 : 3) * tensor.size();
    case LayerKind::kMaxPool2d:
    case LayerKind::kAvgPool2d:
      return pool.input.size() + pool.output().size();
    case LayerKind::kGlobalAvgPool2d:
      return tensor.size() + tensor.n * tensor.c;
    case LayerKind::kDropout:
      return 2 * tensor.size();
    case LayerKind::kCrossEntropy:
      return 2 * linear.n * linear.in_features;
    case LayerKind::kAdd:
      return 3 * tensor.size();
    case LayerKind::kConcat:
      return 2 * concat.output().size();
  }
  return 0;
}

std::string LayerShape::ToString() const {
  switch (kind) {
    case LayerKind::kConv2d:
      return conv2d.ToString();
    case LayerKind::kLinear:
      return linear.ToString();
    case LayerKind::kCrossEntropy:
      return absl::StrCat("n", linear.n, "c", linear.in_features);
    case LayerKind::kMaxPool2d:
    case LayerKind::kAvgPool2d:
      return pool.ToString();
    case LayerKind::kConcat:
      return concat.ToString();
    case LayerKind::kBatchNorm2d:
      return absl::StrCat(tensor.ToString(), training ? "m1" : "m0");
    default:
      return tensor.ToString();
  }
}

absl::StatusOr<LayerShape> LayerShape::Parse(LayerKind kind, absl::string_view text) {
  LayerShape shape;
  shape.kind = kind;
  // Copies what was parsed into its member, or passes the error on.
  const auto take = [&shape](auto parsed, auto& member) -> absl::StatusOr<LayerShape> {
    if (!parsed.ok()) return parsed.status();
    member = *std::move(parsed);
    return shape;
  };
  switch (kind) {
    case LayerKind::kConv2d:
      return take(Conv2dShape::Parse(text), shape.conv2d);
    case LayerKind::kLinear:
      return take(LinearShape::Parse(text), shape.linear);
    case LayerKind::kMaxPool2d:
    case LayerKind::kAvgPool2d:
      return take(Pool2dShape::Parse(text), shape.pool);
    case LayerKind::kConcat:
      return take(ConcatShape::Parse(text), shape.concat);
    case LayerKind::kCrossEntropy:
      return ParseCrossEntropy(shape, text);
    default:
      return ParseTensor(shape, text, kind == LayerKind::kBatchNorm2d);
  }
}

LayerShape NodeLayerShape(const Graph& graph, NodeId id, int64_t batch, bool training) {
  const Node& node = graph.node(id);
  LayerShape shape;
  shape.kind = KindOf(node.op);
  shape.training = training;
  const Shape4 input = graph.shape(node.inputs.front(), batch);
  switch (shape.kind) {
    case LayerKind::kConv2d:
      shape.conv2d = graph.conv2d_shape(id, batch);
      break;
    case LayerKind::kLinear:
      shape.linear = {batch, input.h * input.w * input.c, node.shape.c};
      break;
    case LayerKind::kMaxPool2d:
    case LayerKind::kAvgPool2d:
      shape.pool = {input, node.pool()};
      break;
    case LayerKind::kConcat:
      shape.concat.n = batch;
      shape.concat.h = input.h;
      shape.concat.w = input.w;
      for (const NodeId i : node.inputs) shape.concat.channels.push_back(graph.node(i).shape.c);
      break;
    default:
      shape.tensor = input;
  }
  return shape;
}

std::vector<ModelLayerShape> GraphLayerShapes(const Graph& graph, int64_t batch) {
  std::vector<ModelLayerShape> shapes;
  for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
    const Node& node = graph.node(id);
    if (node.op == Op::kInput) continue;
    const bool gradient = std::any_of(node.inputs.begin(), node.inputs.end(), [&](NodeId input) {
      return graph.node(input).needs_gradient;
    });
    const LayerUse use{graph.model(), 1, gradient ? 1 : 0};
    Count(NodeLayerShape(graph, id, batch), use, shapes);
    if (node.op == Op::kBatchNorm2d) Count(NodeLayerShape(graph, id, batch, false), use, shapes);
  }
  LayerShape loss;
  loss.kind = LayerKind::kCrossEntropy;
  loss.linear = {batch, graph.num_classes(), 1};
  Count(loss, {graph.model(), 1, 1}, shapes);
  SortByKind(shapes);
  return shapes;
}

absl::StatusOr<std::vector<ModelLayerShape>> ModelLayerShapes(
    const std::vector<std::string>& models, int64_t batch, const ModelOptions& options) {
  std::vector<ModelLayerShape> shapes;
  for (const std::string& model : models) {
    absl::StatusOr<Graph> graph = BuildModel(model, options);
    if (!graph.ok()) return graph.status();
    for (const ModelLayerShape& entry : GraphLayerShapes(*graph, batch)) {
      for (const LayerUse& use : entry.uses) Count(entry.shape, use, shapes);
    }
  }
  SortByKind(shapes);
  return shapes;
}

}  // namespace classicnn
