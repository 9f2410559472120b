// A network as a graph of named nodes, each with one output value.
//
// Built by GraphBuilder, which infers shapes and reports the first error with the node's name. The
// graph knows nothing of batches, memory or kernels: a plan (models/plan.h) turns it into an
// ordered list of kernel calls, and a reference model (models/reference_model.h) runs it on the
// naive layers.
#ifndef CLASSICNN_MODELS_GRAPH_H_
#define CLASSICNN_MODELS_GRAPH_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/view.h"
#include "layers/conv2d/conv2d.h"
#include "layers/pool_shape.h"

namespace classicnn {

// Nodes are numbered in the order they were added, which is a topological order.
using NodeId = int;
inline constexpr NodeId kNoNode = -1;

enum class Op {
  kInput,
  kConv2d,
  kBatchNorm2d,
  kRelu,
  kMaxPool2d,
  kAvgPool2d,
  kGlobalAvgPool2d,
  kLinear,
  kAdd,
  kConcat,
  kDropout,
};
const char* OpName(Op op);  // "conv2d", ...: the layer names of flags and reports

enum class ParameterKind { kConvWeight, kLinearWeight, kLinearBias, kNormWeight, kNormBias };

// How a tensor is initialized; values depend on the seed and the tensor's name alone.
enum class Init { kHeNormalFanOut, kXavierUniform, kOnes, kZeros };

// A trainable tensor. In memory it has the layers' layout (convolution [R,R,I/G,O], linear
// [inputs,O]); in files PyTorch's ([O,I/G,R,R] and [O,inputs]): models/layout.h converts.
struct Parameter {
  std::string name;  // PyTorch's state_dict name
  ParameterKind kind = ParameterKind::kConvWeight;
  NodeId node = kNoNode;
  std::vector<int64_t> shape;  // PyTorch's
  Init init = Init::kZeros;
  // Linear weights whose inputs are a flattened image: its shape (n is 1). PyTorch flattens in the
  // order c, h, w; NHWC memory in the order h, w, c.
  Shape4 flattened;
  bool depthwise = false;  // of a depthwise convolution

  int64_t count() const;
  bool norm_or_bias() const {
    return kind != ParameterKind::kConvWeight && kind != ParameterKind::kLinearWeight;
  }
};

// A running statistic: not trained, but saved. Every batch norm has two of them in this order,
// running_mean (initially 0) and running_var (1).
struct Buffer {
  std::string name;
  NodeId node = kNoNode;
  int64_t count = 0;
  float initial = 0;
};

struct Node {
  std::string name;  // unique; of a node with parameters also the prefix of their names
  Op op = Op::kInput;
  std::vector<NodeId> inputs;
  Shape4 shape;  // of the output, for one image (n is 1)

  // Attributes; which of them mean something depends on op.
  int64_t kernel = 0, stride = 0, padding = 0, groups = 1;  // conv2d, pools
  double eps = 1e-5, momentum = 0.1;                        // batch_norm2d
  double dropout = 0;                                       // dropout: probability of a zero

  std::vector<int>
      parameters;            // conv2d {weight}, batch_norm2d {weight, bias}, linear {weight, bias}
  std::vector<int> buffers;  // batch_norm2d {running_mean, running_var}
  bool needs_gradient = false;  // some parameter is here or upstream

  Pool2dParams pool() const { return {kernel, stride, padding}; }
};

class Graph {
 public:
  const std::string& model() const { return model_; }
  const std::vector<Node>& nodes() const { return nodes_; }
  const Node& node(NodeId id) const { return nodes_[static_cast<size_t>(id)]; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  const std::vector<Buffer>& buffers() const { return buffers_; }
  NodeId input() const { return 0; }
  NodeId logits() const { return logits_; }  // its shape is 1 x 1 x num_classes
  int64_t num_classes() const { return node(logits_).shape.c; }
  // Nodes that read each node's value, in order; a node that reads it twice is listed twice.
  const std::vector<NodeId>& readers(NodeId id) const { return readers_[static_cast<size_t>(id)]; }

  Shape4 shape(NodeId id, int64_t batch) const;
  // The convolution of a conv2d node at this batch.
  Conv2dShape conv2d_shape(NodeId id, int64_t batch) const;

  int64_t parameter_count() const;
  // Multiply-adds of convolutions and linear layers, direct algorithms, for one image.
  int64_t macs_per_image() const;
  int64_t node_macs_per_image(NodeId id) const;

 private:
  friend class GraphBuilder;
  std::string model_;
  std::vector<Node> nodes_;
  std::vector<Parameter> parameters_;
  std::vector<Buffer> buffers_;
  std::vector<std::vector<NodeId>> readers_;
  NodeId logits_ = kNoNode;
};

struct Conv2dOptions {
  int64_t out_channels = 1;
  int64_t kernel = 1;
  int64_t stride = 1;
  int64_t padding = 0;
  int64_t groups = 1;
  Init init = Init::kHeNormalFanOut;
};

// Adds nodes; after the first error every call returns kNoNode and does nothing, so that an
// architecture reads as a straight line and Build() reports that error.
class GraphBuilder {
 public:
  GraphBuilder(absl::string_view model, int64_t image_h, int64_t image_w, int64_t image_c);

  NodeId input() const { return 0; }
  NodeId Conv2d(const std::string& name, NodeId x, const Conv2dOptions& options);
  NodeId BatchNorm2d(const std::string& name, NodeId x);
  NodeId Relu(const std::string& name, NodeId x);
  NodeId MaxPool2d(const std::string& name, NodeId x, const Pool2dParams& params);
  NodeId AvgPool2d(const std::string& name, NodeId x, const Pool2dParams& params);
  NodeId GlobalAvgPool2d(const std::string& name, NodeId x);
  NodeId Linear(const std::string& name, NodeId x, int64_t out_features);  // flattens its input
  NodeId Add(const std::string& name, const std::vector<NodeId>& inputs);
  NodeId Concat(const std::string& name, const std::vector<NodeId>& inputs);
  NodeId Dropout(const std::string& name, NodeId x, double p);

  // Channels of a node's value; 0 after an error.
  int64_t channels(NodeId id) const;

  // The graph whose output is `logits`. InvalidArgument names the node that failed and why.
  absl::StatusOr<Graph> Build(NodeId logits);

 private:
  NodeId AddNode(Node node);
  NodeId Pool(Op op, const std::string& name, NodeId x, const Pool2dParams& params);
  int AddParameter(Parameter parameter);
  bool Usable(const std::string& name, const std::vector<NodeId>& inputs);
  NodeId Fail(const std::string& name, const absl::Status& status);

  Graph graph_;
  absl::Status status_;
};

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_GRAPH_H_
