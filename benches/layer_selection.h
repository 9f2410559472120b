// The shapes that --layers and --shapes name.
#ifndef CLASSICNN_BENCHES_LAYER_SELECTION_H_
#define CLASSICNN_BENCHES_LAYER_SELECTION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/layer_shapes.h"
#include "models/model.h"

namespace classicnn {

// `text`: words separated by commas, each "models" (every distinct shape of the five models at
// `batch`) or a shape, which is used for the layers among `layers` (names of kinds) that it fits.
// Each shape once; those of models with their uses. InvalidArgument names the flag.
absl::StatusOr<std::vector<ModelLayerShape>> SelectLayerShapes(
    absl::string_view text, const std::vector<std::string>& layers, int64_t batch,
    const ModelOptions& options);

}  // namespace classicnn

#endif  // CLASSICNN_BENCHES_LAYER_SELECTION_H_
