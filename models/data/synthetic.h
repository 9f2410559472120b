// Images made from a seed, so that everything can be trained without any file: 32 x 32 in colour,
// each class a pattern of its own, each image that pattern moved, at its own contrast and covered
// with noise. Learnable (a small network passes 90%), but not by looking at single pixels.
#ifndef CLASSICNN_MODELS_DATA_SYNTHETIC_H_
#define CLASSICNN_MODELS_DATA_SYNTHETIC_H_

#include "absl/status/statusor.h"
#include "models/data/dataset.h"

namespace classicnn {

inline constexpr int64_t kSyntheticTrainImages = 2048;

// options.num_classes classes, all equally frequent. InvalidArgument where there would be more
// classes than training images.
absl::StatusOr<Dataset> MakeSynthetic(const DataOptions& options, MemoryTracker* tracker);

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_DATA_SYNTHETIC_H_
