// The tensors of a model's state in files: PyTorch's names, order and layouts.
#ifndef CLASSICNN_MODELS_STATE_TENSORS_H_
#define CLASSICNN_MODELS_STATE_TENSORS_H_

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/safetensors.h"
#include "models/graph.h"
#include "models/model_state.h"

namespace classicnn {

// One tensor of a state, by the name it has in a file.
struct StateTensor {
  std::string name;
  const Parameter* parameter = nullptr;  // its layout; null for a plain vector
  std::vector<int64_t> shape;            // in the file
  float* data = nullptr;                 // in memory, in the layers' layout

  int64_t count() const;
};

// Parameters and running statistics in the order of PyTorch's state_dict, each name after `prefix`.
std::vector<StateTensor> WeightTensors(const Graph& graph, const ModelState& state,
                                       const std::string& prefix = "");
// What the optimizer keeps: "momentum.NAME" and, for AdamW, "second_moment.NAME".
std::vector<StateTensor> OptimizerTensors(const Graph& graph, const ModelState& state);

// Prefixes of the batch norms' parameters: "bn1" of bn1.weight. Each has a num_batches_tracked.
std::vector<std::string> BatchNormNames(const Graph& graph);

// Adds tensors to a file in PyTorch's layout. The converted values live in this object, which must
// outlive the writer's Write.
class TensorStore {
 public:
  void AddTo(SafetensorsWriter& writer, const std::vector<StateTensor>& tensors);
  void AddInt64(SafetensorsWriter& writer, const std::string& name, int64_t value);  // shape []

 private:
  std::deque<std::vector<float>> floats_;
  std::deque<int64_t> integers_;
};

// Reads all tensors, or changes nothing. Every entry of the file must be one of `tensors` or be
// named in `others`. InvalidArgument names the path, the first tensor that is missing, misshapen,
// of another dtype, not finite or unknown, and how many more there are.
absl::Status ReadTensors(const SafetensorsFile& file, const std::vector<StateTensor>& tensors,
                         const std::vector<std::string>& others);

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_STATE_TENSORS_H_
