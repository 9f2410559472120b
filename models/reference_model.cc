#include "models/reference_model.h"

#include <algorithm>

#include "core/check.h"
#include "core/random.h"
#include "layers/add/add.h"
#include "layers/avg_pool2d/avg_pool2d.h"
#include "layers/batch_norm2d/batch_norm2d.h"
#include "layers/concat/concat.h"
#include "layers/conv2d/conv2d.h"
#include "layers/cross_entropy/cross_entropy.h"
#include "layers/dropout/dropout.h"
#include "layers/global_avg_pool2d/global_avg_pool2d.h"
#include "layers/linear/linear.h"
#include "layers/max_pool2d/max_pool2d.h"
#include "layers/optimizer/optimizer.h"
#include "layers/relu/relu.h"

namespace classicnn {
namespace {

template <typename T>
void CopyFloats(const float* from, std::vector<T>& to) {
  std::copy_n(from, to.size(), to.begin());
}

}  // namespace

template <typename T>
ReferenceModel<T>::ReferenceModel(const Graph& graph, int64_t batch, bool training,
                                  double label_smoothing)
    : graph_(graph), batch_(batch), training_(training), label_smoothing_(label_smoothing) {
  labels_.resize(static_cast<size_t>(batch));
  for (const Parameter& p : graph.parameters()) {
    const auto count = static_cast<size_t>(p.count());
    parameters_.emplace_back(count);
    gradients_.emplace_back(count);
    momentum_.emplace_back(count);
  }
  for (const Buffer& b : graph.buffers()) {
    buffers_.emplace_back(static_cast<size_t>(b.count), static_cast<T>(b.initial));
  }
  for (size_t i = 0; i < graph.nodes().size(); ++i) {
    const auto id = static_cast<NodeId>(i);
    const Node& node = graph.node(id);
    const auto size = static_cast<size_t>(graph.shape(id, batch).size());
    values_.emplace_back(size);
    value_gradients_.emplace_back(size);
    edge_gradients_.emplace_back();
    for (const NodeId input : node.inputs) {
      edge_gradients_.back().emplace_back(static_cast<size_t>(graph.shape(input, batch).size()));
    }
    const auto saved = static_cast<size_t>(node.op == Op::kBatchNorm2d ? node.shape.c : 0);
    saved_mean_.emplace_back(saved);
    saved_inv_std_.emplace_back(saved);
    argmax_.emplace_back(node.op == Op::kMaxPool2d ? size : 0);
  }
}

template <typename T>
void ReferenceModel<T>::CopyState(const ModelState& state) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const int index = static_cast<int>(i);
    CopyFloats(state.parameter(index), parameters_[i]);
    if (state.momentum(index) != nullptr) CopyFloats(state.momentum(index), momentum_[i]);
  }
  for (size_t i = 0; i < buffers_.size(); ++i) {
    CopyFloats(state.buffer(static_cast<int>(i)), buffers_[i]);
  }
}

template <typename T>
void ReferenceModel<T>::SetDropoutPosition(uint64_t seed, uint64_t step) {
  dropout_seed_ = seed;
  dropout_step_ = step;
}

template <typename T>
View<T> ReferenceModel<T>::value(NodeId id) {
  return View<T>(values_[static_cast<size_t>(id)].data(), graph_.shape(id, batch_));
}

template <typename T>
View<T> ReferenceModel<T>::value_gradient(NodeId id) {
  return View<T>(value_gradients_[static_cast<size_t>(id)].data(), graph_.shape(id, batch_));
}

template <typename T>
View<T> ReferenceModel<T>::edge_gradient(NodeId node, int input) {
  const NodeId from = graph_.node(node).inputs[static_cast<size_t>(input)];
  return View<T>(edge_gradients_[static_cast<size_t>(node)][static_cast<size_t>(input)].data(),
                 graph_.shape(from, batch_));
}

template <typename T>
void ReferenceModel<T>::ForwardNode(NodeId id) {
  const Node& node = graph_.node(id);
  std::vector<View<const T>> inputs;
  for (const NodeId input : node.inputs) inputs.push_back(value(input));
  const View<T> y = value(id);
  const auto parameter_data = [&](size_t i) {
    return parameters_[static_cast<size_t>(node.parameters[i])].data();
  };
  switch (node.op) {
    case Op::kInput:
      break;
    case Op::kConv2d: {
      Conv2dForwardArgs<T> args;
      args.shape = graph_.conv2d_shape(id, batch_);
      args.x = inputs[0];
      args.weights = parameter_data(0);
      args.y = y;
      Conv2dForwardNaive(args);
      break;
    }
    case Op::kBatchNorm2d: {
      BatchNorm2dForwardArgs<T> args;
      args.x = inputs[0];
      args.gamma = parameter_data(0);
      args.beta = parameter_data(1);
      args.y = y;
      args.training = training_;
      args.eps = node.eps;
      args.momentum = node.momentum;
      args.running_mean = buffer(node.buffers[0]).data();
      args.running_var = buffer(node.buffers[1]).data();
      args.mean = saved_mean(id).data();
      args.inv_std = saved_inv_std(id).data();
      BatchNorm2dForwardNaive(args);
      break;
    }
    case Op::kRelu:
      ReluForwardNaive<T>(inputs[0], y);
      break;
    case Op::kMaxPool2d:
      MaxPool2dForwardNaive<T>(node.pool(), inputs[0], y, argmax(id).data());
      break;
    case Op::kAvgPool2d:
      AvgPool2dForwardNaive<T>(node.pool(), inputs[0], y);
      break;
    case Op::kGlobalAvgPool2d:
      GlobalAvgPool2dForwardNaive<T>(inputs[0], y);
      break;
    case Op::kLinear: {
      LinearForwardArgs<T> args;
      args.shape = {batch_, inputs[0].shape().size() / batch_, y.c};
      args.x = inputs[0].data;
      args.x_stride = args.shape.in_features;
      args.weights = parameter_data(0);
      args.bias = parameter_data(1);
      args.y = y.data;
      args.y_stride = y.c;
      LinearForwardNaive(args);
      break;
    }
    case Op::kAdd:
      AddForwardNaive<T>(inputs, y, /*relu=*/false);
      break;
    case Op::kConcat:
      ConcatForwardNaive<T>(inputs, y);
      break;
    case Op::kDropout: {
      DropoutParams params;
      params.p = training_ ? static_cast<float>(node.dropout) : 0.0f;
      params.seed = dropout_seed_;
      params.stream = StreamId(node.name);
      params.step = dropout_step_;
      DropoutForwardNaive<T>(params, inputs[0], y);
      break;
    }
  }
}

template <typename T>
void ReferenceModel<T>::Forward() {
  for (size_t i = 0; i < values_.size(); ++i) ForwardNode(static_cast<NodeId>(i));
  const View<T> z = logits();
  CrossEntropyArgs<T> args;
  args.n = batch_;
  args.classes = z.c;
  args.logits = z.data;
  args.logits_stride = z.c;
  args.labels = labels_.data();
  args.label_smoothing = label_smoothing_;
  args.loss = &loss_;
  args.dlogits = value_gradient(graph_.logits()).data;
  args.dlogits_stride = z.c;
  CrossEntropyNaive(args);
}

template <typename T>
void ReferenceModel<T>::BackwardNode(NodeId id) {
  const Node& node = graph_.node(id);
  const View<const T> dy = value_gradient(id);
  const auto parameter_data = [&](size_t i) {
    return parameters_[static_cast<size_t>(node.parameters[i])].data();
  };
  const auto gradient_data = [&](size_t i) {
    return gradients_[static_cast<size_t>(node.parameters[i])].data();
  };
  const auto x = [&] { return View<const T>(value(node.inputs[0])); };
  const auto dx = [&] { return edge_gradient(id, 0); };
  switch (node.op) {
    case Op::kInput:
      break;
    case Op::kConv2d: {
      Conv2dBackwardWeightsArgs<T> weights;
      weights.shape = graph_.conv2d_shape(id, batch_);
      weights.x = x();
      weights.dy = dy;
      weights.dweights = gradient_data(0);
      Conv2dBackwardWeightsNaive(weights);
      if (graph_.node(node.inputs[0]).needs_gradient) {
        Conv2dBackwardDataArgs<T> data;
        data.shape = weights.shape;
        data.dy = dy;
        data.weights = parameter_data(0);
        data.dx = dx();
        Conv2dBackwardDataNaive(data);
      }
      break;
    }
    case Op::kBatchNorm2d: {
      BatchNorm2dBackwardArgs<T> args;
      args.x = x();
      args.dy = dy;
      args.gamma = parameter_data(0);
      args.beta = parameter_data(1);
      args.mean = saved_mean(id).data();
      args.inv_std = saved_inv_std(id).data();
      args.training = training_;
      args.dx = dx();
      args.dgamma = gradient_data(0);
      args.dbeta = gradient_data(1);
      BatchNorm2dBackwardNaive(args);
      break;
    }
    case Op::kRelu:
      ReluBackwardNaive<T>(value(id), dy, dx(), /*accumulate=*/false);
      break;
    case Op::kMaxPool2d:
      MaxPool2dBackwardNaive<T>(node.pool(), dy, argmax(id).data(), dx(), /*accumulate=*/false);
      break;
    case Op::kAvgPool2d:
      AvgPool2dBackwardNaive<T>(node.pool(), dy, dx(), /*accumulate=*/false);
      break;
    case Op::kGlobalAvgPool2d:
      GlobalAvgPool2dBackwardNaive<T>(dy, dx(), /*accumulate=*/false);
      break;
    case Op::kLinear: {
      LinearBackwardWeightsArgs<T> weights;
      weights.shape = {batch_, x().shape().size() / batch_, dy.c};
      weights.x = x().data;
      weights.x_stride = weights.shape.in_features;
      weights.dy = dy.data;
      weights.dy_stride = dy.c;
      weights.dweights = gradient_data(0);
      weights.dbias = gradient_data(1);
      LinearBackwardWeightsNaive(weights);
      LinearBackwardDataArgs<T> data;
      data.shape = weights.shape;
      data.dy = dy.data;
      data.dy_stride = dy.c;
      data.weights = parameter_data(0);
      data.dx = dx().data;
      data.dx_stride = weights.shape.in_features;
      LinearBackwardDataNaive(data);
      break;
    }
    case Op::kAdd:
      for (size_t i = 0; i < node.inputs.size(); ++i) {
        AddBackwardNaive<T>(dy, edge_gradient(id, static_cast<int>(i)), /*accumulate=*/false);
      }
      break;
    case Op::kConcat: {
      std::vector<View<T>> dxs;
      for (size_t i = 0; i < node.inputs.size(); ++i) {
        dxs.push_back(edge_gradient(id, static_cast<int>(i)));
      }
      ConcatBackwardNaive<T>(dy, dxs, /*accumulate=*/false);
      break;
    }
    case Op::kDropout: {
      DropoutParams params;
      params.p = training_ ? static_cast<float>(node.dropout) : 0.0f;
      params.seed = dropout_seed_;
      params.stream = StreamId(node.name);
      params.step = dropout_step_;
      DropoutBackwardNaive<T>(params, dy, dx(), /*accumulate=*/false);
      break;
    }
  }
}

template <typename T>
void ReferenceModel<T>::Backward() {
  // The gradient of a value is the sum of its readers' contributions, added in the readers' reverse
  // order; the logits' gradient came with the loss.
  for (auto id = static_cast<NodeId>(values_.size()) - 1; id >= 0; --id) {
    if (!graph_.node(id).needs_gradient) continue;
    if (id != graph_.logits()) {
      std::vector<T>& sum = value_gradients_[static_cast<size_t>(id)];
      std::fill(sum.begin(), sum.end(), T{0});
      const std::vector<NodeId>& readers = graph_.readers(id);
      for (size_t r = readers.size(); r-- > 0;) {
        // A reader that reads the value twice appears twice: once for each of its edges.
        if (r + 1 < readers.size() && readers[r] == readers[r + 1]) continue;
        const Node& reader = graph_.node(readers[r]);
        for (size_t k = 0; k < reader.inputs.size(); ++k) {
          if (reader.inputs[k] != id) continue;
          const std::vector<T>& edge = edge_gradients_[static_cast<size_t>(readers[r])][k];
          for (size_t i = 0; i < sum.size(); ++i) sum[i] += edge[i];
        }
      }
    }
    BackwardNode(id);
  }
}

template <typename T>
void ReferenceModel<T>::SgdStep(const UpdateParams& params) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    SgdParams sgd = params.sgd;
    const Parameter& p = graph_.parameters()[i];
    if (!params.Decays(p)) sgd.weight_decay = 0;
    SgdUpdateNaive<T>(sgd, p.count(), parameters_[i].data(), gradients_[i].data(),
                      momentum_[i].data());
  }
}

template <typename T>
int64_t ReferenceModel<T>::bytes() const {
  size_t elements = 0;
  const auto add = [&elements](const std::vector<std::vector<T>>& tensors) {
    for (const auto& t : tensors) elements += t.size();
  };
  add(parameters_);
  add(gradients_);
  add(momentum_);
  add(buffers_);
  add(values_);
  add(value_gradients_);
  add(saved_mean_);
  add(saved_inv_std_);
  for (const auto& edges : edge_gradients_) add(edges);
  size_t bytes = elements * sizeof(T) + labels_.size() * sizeof(labels_[0]);
  for (const auto& a : argmax_) bytes += a.size();
  return static_cast<int64_t>(bytes);
}

template class ReferenceModel<float>;
template class ReferenceModel<double>;

}  // namespace classicnn
