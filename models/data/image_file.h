// Pictures from PNG and JPEG files.
#ifndef CLASSICNN_MODELS_DATA_IMAGE_FILE_H_
#define CLASSICNN_MODELS_DATA_IMAGE_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace classicnn {

// Reads a PNG or JPEG of any size and colour kind and resizes it to height x width: [height, width,
// 3], 8 bits. Pixels as they are stored: an orientation in EXIF data is not applied.
// InvalidArgument with the path for anything else, NotFound for a missing file.
absl::StatusOr<std::vector<uint8_t>> ReadImageFile(const std::string& path, int64_t height,
                                                   int64_t width);

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_DATA_IMAGE_FILE_H_
