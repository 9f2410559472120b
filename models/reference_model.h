// The same graph on the naive references: no plan, no sharing of memory, every value, every
// gradient and every edge's contribution to a gradient kept. It shares no code with what it checks
// except the graph and the layers' argument structs.
#ifndef CLASSICNN_MODELS_REFERENCE_MODEL_H_
#define CLASSICNN_MODELS_REFERENCE_MODEL_H_

#include <cstdint>
#include <vector>

#include "models/executor.h"
#include "models/graph.h"
#include "models/model_state.h"

namespace classicnn {

template <typename T>
class ReferenceModel {
 public:
  // `graph` must outlive the model. Parameters are zero until CopyState or filled through
  // parameter().
  ReferenceModel(const Graph& graph, int64_t batch, bool training, double label_smoothing = 0);

  // Parameters, running statistics and optimizer tensors, from a state in float.
  void CopyState(const ModelState& state);

  std::vector<T>& parameter(int i) { return parameters_[static_cast<size_t>(i)]; }
  std::vector<T>& buffer(int i) { return buffers_[static_cast<size_t>(i)]; }
  std::vector<T>& momentum(int i) { return momentum_[static_cast<size_t>(i)]; }
  std::vector<T>& gradient(int i) { return gradients_[static_cast<size_t>(i)]; }

  View<T> input() { return value(graph_.input()); }  // [batch, H, W, 3]: fill before Forward
  std::vector<int32_t>& labels() { return labels_; }
  void SetDropoutPosition(uint64_t seed, uint64_t step);

  void Forward();  // with the loss
  void Backward();
  void SgdStep(const UpdateParams& params);

  T loss() const { return loss_; }
  View<T> logits() { return value(graph_.logits()); }
  View<T> value(NodeId id);
  View<T> value_gradient(NodeId id);
  // What `node` contributed to the gradient of its input number `input`.
  View<T> edge_gradient(NodeId node, int input);
  std::vector<T>& saved_mean(NodeId id) { return saved_mean_[static_cast<size_t>(id)]; }
  std::vector<T>& saved_inv_std(NodeId id) { return saved_inv_std_[static_cast<size_t>(id)]; }
  std::vector<uint8_t>& argmax(NodeId id) { return argmax_[static_cast<size_t>(id)]; }

  // Bytes of all tensors.
  int64_t bytes() const;

 private:
  void ForwardNode(NodeId id);
  void BackwardNode(NodeId id);

  const Graph& graph_;
  int64_t batch_;
  bool training_;
  double label_smoothing_;
  uint64_t dropout_seed_ = 0;
  uint64_t dropout_step_ = 0;
  std::vector<int32_t> labels_;
  std::vector<std::vector<T>> parameters_, gradients_, momentum_, buffers_;
  std::vector<std::vector<T>> values_, value_gradients_;
  std::vector<std::vector<std::vector<T>>> edge_gradients_;
  std::vector<std::vector<T>> saved_mean_, saved_inv_std_;
  std::vector<std::vector<uint8_t>> argmax_;
  T loss_ = 0;
};

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_REFERENCE_MODEL_H_
