// Weight files: safetensors with PyTorch's state_dict names and layouts.
#ifndef CLASSICNN_MODELS_WEIGHTS_FILE_H_
#define CLASSICNN_MODELS_WEIGHTS_FILE_H_

#include <map>
#include <string>

#include "absl/status/status.h"
#include "core/safetensors.h"
#include "models/graph.h"
#include "models/model_state.h"

namespace classicnn {

// Parameters, running statistics and num_batches_tracked (I64, shape []), with `metadata` beside
// model, num_classes and image_size. Atomic and synced.
absl::Status SaveWeights(const std::string& path, const Graph& graph, const ModelState& state,
                         const std::map<std::string, std::string>& metadata);
// The same, but a file that holds just that already is not touched.
absl::Status UpdateWeights(const std::string& path, const Graph& graph, const ModelState& state,
                           const std::map<std::string, std::string>& metadata);

// Reads every parameter and running statistic of the graph; num_batches_tracked is optional ([] or
// [1]). Nothing of `state` changes unless everything fits. Errors name the path and the first
// tensor that is missing, misshapen, of another dtype, not finite or not of this network, and the
// number of the others; a file whose metadata names another model says so.
absl::Status LoadWeights(const std::string& path, const Graph& graph, ModelState* state);

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_WEIGHTS_FILE_H_
