#include "models/data/image_file.h"

#include <limits>
#include <memory>

#include "absl/strings/str_cat.h"
#include "core/file.h"
#include "models/data/resize.h"

// The decoder is compiled into this file alone; its warnings are not ours.
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#pragma GCC diagnostic ignored "-Wimplicit-fallthrough"
#endif
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STBI_NO_STDIO
#define STB_IMAGE_STATIC
#define STBI_MAX_DIMENSIONS (1 << 15)
#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

namespace classicnn {

absl::StatusOr<std::vector<uint8_t>> ReadImageFile(const std::string& path, int64_t height,
                                                   int64_t width) {
  auto file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  const auto bytes = (*file)->bytes();
  if (bytes.size() > static_cast<size_t>(std::numeric_limits<int>::max())) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": too large for a picture"));
  }
  int from_width = 0, from_height = 0, channels = 0;
  const std::unique_ptr<stbi_uc, void (*)(void*)> pixels(
      stbi_load_from_memory(bytes.data(), static_cast<int>(bytes.size()), &from_width, &from_height,
                            &channels, 3),
      stbi_image_free);
  if (pixels == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": not a readable PNG or JPEG: ", stbi_failure_reason()));
  }
  std::vector<uint8_t> result(static_cast<size_t>(height * width * 3));
  std::vector<float> scratch;
  Resizer(from_height, from_width, height, width).Run(pixels.get(), 3, result.data(), &scratch);
  return result;
}

}  // namespace classicnn
