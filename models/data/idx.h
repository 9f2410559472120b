// MNIST-like idx files, plain or gzip: train-images-idx3-ubyte, train-labels-idx1-ubyte,
// t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte (LeCun's format: big-endian 32-bit magic 0x803 or
// 0x801, sizes, bytes).
#ifndef CLASSICNN_MODELS_DATA_IDX_H_
#define CLASSICNN_MODELS_DATA_IDX_H_

#include <string>

#include "absl/status/statusor.h"
#include "models/data/dataset.h"

namespace classicnn {

bool IsIdxFolder(const std::string& folder);

// Images of up to 32 x 32 are centred in 32 x 32 zeros and kept grey (one channel). Plain files are
// preferred to those with ".gz". The test files are optional, both or neither. The data is taken to
// have ten classes unless a training label says more. A folder whose path contains "fashion" gets
// Fashion-MNIST's class names.
absl::StatusOr<Dataset> LoadIdx(const DataOptions& options, MemoryTracker* tracker);

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_DATA_IDX_H_
