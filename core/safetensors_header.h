// The JSON header of a safetensors file as text says it: syntax is checked, meaning is not.
#ifndef CLASSICNN_CORE_SAFETENSORS_HEADER_H_
#define CLASSICNN_CORE_SAFETENSORS_HEADER_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace classicnn {

struct HeaderTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::pair<uint64_t, uint64_t> offsets;
};

struct SafetensorsHeader {
  std::map<std::string, std::string> metadata;
  std::vector<HeaderTensor> tensors;  // in the order of the text
};

// Accepts exactly {"__metadata__": {string: string, ...}, NAME: {"dtype": string, "shape": [whole
// numbers], "data_offsets": [begin, end]}, ...}, each name and each field once, with nothing but
// white space after it. InvalidArgument otherwise, naming the tensor where there is one.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view text);

}  // namespace classicnn

#endif  // CLASSICNN_CORE_SAFETENSORS_HEADER_H_
