// CIFAR-10's binary version: records of one label byte and 3,072 pixel bytes (red, green and blue
// planes of 32 x 32, row by row); data_batch_1.bin to data_batch_5.bin and test_batch.bin.
#ifndef CLASSICNN_MODELS_DATA_CIFAR10_H_
#define CLASSICNN_MODELS_DATA_CIFAR10_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/data/dataset.h"

namespace classicnn {

bool IsCifar10Folder(const std::string& folder);

// data_batch_1.bin is required where training images are asked for; 2 to 5 and test_batch.bin are
// optional. Each file holds any whole number of records, at least one.
absl::StatusOr<Dataset> LoadCifar10(const DataOptions& options, MemoryTracker* tracker);

const std::vector<std::string>& Cifar10ClassNames();

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_DATA_CIFAR10_H_
