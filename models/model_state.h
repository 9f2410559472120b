// The trained state of a network: parameters, running statistics, the optimizer's tensors.
// Independent of batch size and plan, so that a training and an evaluation executor can share one.
#ifndef CLASSICNN_MODELS_MODEL_STATE_H_
#define CLASSICNN_MODELS_MODEL_STATE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "core/memory.h"
#include "models/graph.h"

namespace classicnn {

enum class Optimizer { kNone, kSgd, kAdamW };

class ModelState {
 public:
  // Everything zero; call Initialize or load weights. One arena, every tensor 64-byte aligned;
  // `tracker` (may be null) must outlive the state. The graph is not kept.
  static absl::StatusOr<std::unique_ptr<ModelState>> Create(const Graph& graph, Optimizer optimizer,
                                                            MemoryTracker* tracker);
  // What Create would map.
  static BytesByCategory Bytes(const Graph& graph, Optimizer optimizer);

  Optimizer optimizer() const { return optimizer_; }

  // By index in graph.parameters(), in the layers' layout.
  float* parameter(int i) const { return parameters_[static_cast<size_t>(i)]; }
  // SGD's velocity or AdamW's first moment; null without an optimizer.
  float* momentum(int i) const { return momentum_[static_cast<size_t>(i)]; }
  float* second_moment(int i) const { return second_moment_[static_cast<size_t>(i)]; }  // AdamW
  // By index in graph.buffers().
  float* buffer(int i) const { return buffers_[static_cast<size_t>(i)]; }

  // Parameters from their Init, buffers from their initial value, the optimizer's tensors zero.
  void Initialize(const Graph& graph, uint64_t seed);

  // Training batches seen: PyTorch's num_batches_tracked of every batch norm.
  int64_t batches_tracked = 0;
  // Updates done: AdamW's step.
  int64_t updates = 0;

 private:
  ModelState() = default;
  Optimizer optimizer_ = Optimizer::kNone;
  std::unique_ptr<Arena> arena_;
  std::vector<float*> parameters_, momentum_, second_moment_, buffers_;
};

// Initial values of one parameter, in PyTorch's layout and order:
//   He normal, fan out: variance 2 / (k*k * out_channels / groups) (He et al., 2015)
//   Xavier uniform: within +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)
// from the stream named after the tensor, so that they depend on seed and name alone.
std::vector<float> InitialValues(const Parameter& parameter, int64_t groups, uint64_t seed);

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_MODEL_STATE_H_
