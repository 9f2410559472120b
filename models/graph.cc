#include "models/graph.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/check.h"

namespace classicnn {

const char* OpName(Op op) {
  switch (op) {
    case Op::kInput:
      return "input";
    case Op::kConv2d:
      return "conv2d";
    case Op::kBatchNorm2d:
      return "batch_norm2d";
    case Op::kRelu:
      return "relu";
    case Op::kMaxPool2d:
      return "max_pool2d";
    case Op::kAvgPool2d:
      return "avg_pool2d";
    case Op::kGlobalAvgPool2d:
      return "global_avg_pool2d";
    case Op::kLinear:
      return "linear";
    case Op::kAdd:
      return "add";
    case Op::kConcat:
      return "concat";
    case Op::kDropout:
      return "dropout";
  }
  return "unknown";
}

int64_t Parameter::count() const {
  int64_t count = 1;
  for (const int64_t d : shape) count *= d;
  return count;
}

Shape4 Graph::shape(NodeId id, int64_t batch) const {
  Shape4 s = node(id).shape;
  s.n = batch;
  return s;
}

Conv2dShape Graph::conv2d_shape(NodeId id, int64_t batch) const {
  const Node& conv = node(id);
  CNN_CHECK(conv.op == Op::kConv2d, conv.name);
  const Shape4& in = node(conv.inputs[0]).shape;
  Conv2dShape s;
  s.n = batch;
  s.in_channels = in.c;
  s.h = in.h;
  s.w = in.w;
  s.out_channels = conv.shape.c;
  s.kernel = conv.kernel;
  s.stride = conv.stride;
  s.padding = conv.padding;
  s.groups = conv.groups;
  return s;
}

int64_t Graph::parameter_count() const {
  int64_t count = 0;
  for (const Parameter& p : parameters_) count += p.count();
  return count;
}

int64_t Graph::node_macs_per_image(NodeId id) const {
  const Node& n = node(id);
  if (n.op == Op::kConv2d) return conv2d_shape(id, 1).macs();
  if (n.op == Op::kLinear) return node(n.inputs[0]).shape.size() * n.shape.c;
  return 0;
}

int64_t Graph::macs_per_image() const {
  int64_t macs = 0;
  for (size_t i = 0; i < nodes_.size(); ++i) macs += node_macs_per_image(static_cast<NodeId>(i));
  return macs;
}

GraphBuilder::GraphBuilder(absl::string_view model, int64_t image_h, int64_t image_w,
                           int64_t image_c) {
  graph_.model_ = std::string(model);
  Node input;
  input.name = "input";
  input.op = Op::kInput;
  input.shape = {1, image_h, image_w, image_c};
  graph_.nodes_.push_back(input);
  graph_.readers_.emplace_back();
  if (image_h < 1 || image_w < 1 || image_c < 1) {
    Fail("input", absl::InvalidArgumentError(
                      absl::StrCat("image of ", image_h, " x ", image_w, " x ", image_c)));
  }
}

NodeId GraphBuilder::Fail(const std::string& name, const absl::Status& status) {
  if (status_.ok()) {
    status_ = absl::Status(status.code(),
                           absl::StrCat(graph_.model_, ": node ", name, ": ", status.message()));
  }
  return kNoNode;
}

bool GraphBuilder::Usable(const std::string& name, const std::vector<NodeId>& inputs) {
  if (!status_.ok()) return false;
  for (const NodeId id : inputs) {
    if (id < 0 || id >= static_cast<NodeId>(graph_.nodes_.size())) {
      Fail(name, absl::InvalidArgumentError(absl::StrCat("no such input: ", id)));
      return false;
    }
  }
  for (const Node& node : graph_.nodes_) {
    if (node.name == name) {
      Fail(name, absl::InvalidArgumentError("the name is used twice"));
      return false;
    }
  }
  return true;
}

int GraphBuilder::AddParameter(Parameter parameter) {
  parameter.node = static_cast<NodeId>(graph_.nodes_.size());  // of the node about to be added
  graph_.parameters_.push_back(std::move(parameter));
  return static_cast<int>(graph_.parameters_.size()) - 1;
}

NodeId GraphBuilder::AddNode(Node node) {
  const auto id = static_cast<NodeId>(graph_.nodes_.size());
  node.needs_gradient = !node.parameters.empty();
  for (const NodeId input : node.inputs) {
    graph_.readers_[static_cast<size_t>(input)].push_back(id);
    if (graph_.node(input).needs_gradient) node.needs_gradient = true;
  }
  graph_.nodes_.push_back(std::move(node));
  graph_.readers_.emplace_back();
  return id;
}

NodeId GraphBuilder::Conv2d(const std::string& name, NodeId x, const Conv2dOptions& options) {
  if (!Usable(name, {x})) return kNoNode;
  const Shape4& in = graph_.node(x).shape;
  Conv2dShape s;
  s.in_channels = in.c;
  s.h = in.h;
  s.w = in.w;
  s.out_channels = options.out_channels;
  s.kernel = options.kernel;
  s.stride = options.stride;
  s.padding = options.padding;
  s.groups = options.groups;
  if (const absl::Status status = s.Validate(); !status.ok()) return Fail(name, status);

  Node node;
  node.name = name;
  node.op = Op::kConv2d;
  node.inputs = {x};
  node.shape = s.output();
  node.kernel = s.kernel;
  node.stride = s.stride;
  node.padding = s.padding;
  node.groups = s.groups;
  Parameter weight;
  weight.name = name + ".weight";
  weight.kind = ParameterKind::kConvWeight;
  weight.shape = {s.out_channels, s.in_channels / s.groups, s.kernel, s.kernel};
  weight.init = options.init;
  weight.depthwise = s.depthwise();
  node.parameters = {AddParameter(std::move(weight))};
  return AddNode(std::move(node));
}

NodeId GraphBuilder::BatchNorm2d(const std::string& name, NodeId x) {
  if (!Usable(name, {x})) return kNoNode;
  Node node;
  node.name = name;
  node.op = Op::kBatchNorm2d;
  node.inputs = {x};
  node.shape = graph_.node(x).shape;
  const int64_t c = node.shape.c;
  node.parameters = {
      AddParameter({name + ".weight", ParameterKind::kNormWeight, kNoNode, {c}, Init::kOnes, {}}),
      AddParameter({name + ".bias", ParameterKind::kNormBias, kNoNode, {c}, Init::kZeros, {}})};
  const auto id = static_cast<NodeId>(graph_.nodes_.size());
  const auto first = static_cast<int>(graph_.buffers_.size());
  graph_.buffers_.push_back({name + ".running_mean", id, c, 0.0f});
  graph_.buffers_.push_back({name + ".running_var", id, c, 1.0f});
  node.buffers = {first, first + 1};
  return AddNode(std::move(node));
}

NodeId GraphBuilder::Relu(const std::string& name, NodeId x) {
  if (!Usable(name, {x})) return kNoNode;
  Node node;
  node.name = name;
  node.op = Op::kRelu;
  node.inputs = {x};
  node.shape = graph_.node(x).shape;
  return AddNode(std::move(node));
}

NodeId GraphBuilder::Pool(Op op, const std::string& name, NodeId x, const Pool2dParams& params) {
  if (!Usable(name, {x})) return kNoNode;
  const Pool2dShape s{graph_.node(x).shape, params};
  if (const absl::Status status = s.Validate(); !status.ok()) return Fail(name, status);
  Node node;
  node.name = name;
  node.op = op;
  node.inputs = {x};
  node.shape = s.output();
  node.kernel = params.kernel;
  node.stride = params.stride;
  node.padding = params.padding;
  return AddNode(std::move(node));
}

NodeId GraphBuilder::MaxPool2d(const std::string& name, NodeId x, const Pool2dParams& params) {
  return Pool(Op::kMaxPool2d, name, x, params);
}

NodeId GraphBuilder::AvgPool2d(const std::string& name, NodeId x, const Pool2dParams& params) {
  return Pool(Op::kAvgPool2d, name, x, params);
}

NodeId GraphBuilder::GlobalAvgPool2d(const std::string& name, NodeId x) {
  if (!Usable(name, {x})) return kNoNode;
  Node node;
  node.name = name;
  node.op = Op::kGlobalAvgPool2d;
  node.inputs = {x};
  node.shape = {1, 1, 1, graph_.node(x).shape.c};
  return AddNode(std::move(node));
}

NodeId GraphBuilder::Linear(const std::string& name, NodeId x, int64_t out_features) {
  if (!Usable(name, {x})) return kNoNode;
  if (out_features < 1) {
    return Fail(name, absl::InvalidArgumentError(absl::StrCat(out_features, " output features")));
  }
  const Shape4& in = graph_.node(x).shape;
  Node node;
  node.name = name;
  node.op = Op::kLinear;
  node.inputs = {x};
  node.shape = {1, 1, 1, out_features};
  node.parameters = {
      AddParameter({name + ".weight",
                    ParameterKind::kLinearWeight,
                    kNoNode,
                    {out_features, in.size()},
                    Init::kXavierUniform,
                    in}),
      AddParameter(
          {name + ".bias", ParameterKind::kLinearBias, kNoNode, {out_features}, Init::kZeros, {}})};
  return AddNode(std::move(node));
}

NodeId GraphBuilder::Add(const std::string& name, const std::vector<NodeId>& inputs) {
  if (!Usable(name, inputs)) return kNoNode;
  if (inputs.size() < 2) return Fail(name, absl::InvalidArgumentError("fewer than two inputs"));
  Node node;
  node.name = name;
  node.op = Op::kAdd;
  node.inputs = inputs;
  node.shape = graph_.node(inputs[0]).shape;
  for (const NodeId id : inputs) {
    if (graph_.node(id).shape != node.shape) {
      return Fail(name, absl::InvalidArgumentError(absl::StrCat(
                            "inputs of different shapes: ", node.shape.ToString(), " and ",
                            graph_.node(id).shape.ToString(), " (", graph_.node(id).name, ")")));
    }
  }
  return AddNode(std::move(node));
}

NodeId GraphBuilder::Concat(const std::string& name, const std::vector<NodeId>& inputs) {
  if (!Usable(name, inputs)) return kNoNode;
  if (inputs.empty()) return Fail(name, absl::InvalidArgumentError("no inputs"));
  Node node;
  node.name = name;
  node.op = Op::kConcat;
  node.inputs = inputs;
  node.shape = graph_.node(inputs[0]).shape;
  node.shape.c = 0;
  for (const NodeId id : inputs) {
    const Shape4& s = graph_.node(id).shape;
    if (s.h != node.shape.h || s.w != node.shape.w) {
      return Fail(name, absl::InvalidArgumentError(absl::StrCat(
                            "inputs of different sizes: ", s.ToString(), " (", graph_.node(id).name,
                            ") among ", node.shape.h, " x ", node.shape.w)));
    }
    node.shape.c += s.c;
  }
  return AddNode(std::move(node));
}

NodeId GraphBuilder::Dropout(const std::string& name, NodeId x, double p) {
  if (!Usable(name, {x})) return kNoNode;
  if (!(p >= 0 && p < 1)) {
    return Fail(name, absl::InvalidArgumentError(absl::StrCat("dropout ", p, " is not in [0, 1)")));
  }
  Node node;
  node.name = name;
  node.op = Op::kDropout;
  node.inputs = {x};
  node.shape = graph_.node(x).shape;
  node.dropout = p;
  return AddNode(std::move(node));
}

int64_t GraphBuilder::channels(NodeId id) const { return id < 0 ? 0 : graph_.node(id).shape.c; }

absl::StatusOr<Graph> GraphBuilder::Build(NodeId logits) {
  if (!status_.ok()) return status_;
  const Node& out = graph_.node(logits);
  if (out.shape.h != 1 || out.shape.w != 1) {
    return absl::InvalidArgumentError(absl::StrCat(graph_.model_, ": node ", out.name,
                                                   ": logits of ", out.shape.h, " x ", out.shape.w,
                                                   " pixels"));
  }
  // A value nobody reads would have no gradient, which no architecture means to say.
  for (size_t i = 0; i < graph_.nodes_.size(); ++i) {
    if (graph_.readers_[i].empty() && static_cast<NodeId>(i) != logits) {
      return absl::InvalidArgumentError(
          absl::StrCat(graph_.model_, ": node ", graph_.nodes_[i].name, ": nothing reads it"));
    }
  }
  graph_.logits_ = logits;
  return graph_;
}

}  // namespace classicnn
