#include "models/data/image_file.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
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

namespace {

// Whether a JPEG defines Huffman tables of more codes than there are bytes: the decoder of Debian
// 12 would write them beyond its tables.
bool HasTooManyCodes(absl::Span<const uint8_t> jpeg) {
  const size_t size = jpeg.size();
  for (size_t i = 2; i + 3 < size;) {
    // Up to the next marker: in compressed data 0xff is followed by 0 or a restart marker.
    const uint8_t marker = jpeg[i + 1];
    if (jpeg[i] != 0xff || marker == 0 || marker == 0xff || (marker >= 0xd0 && marker <= 0xd8)) {
      ++i;
      continue;
    }
    if (marker == 0xd9) break;  // the end
    const size_t end = std::min(size, i + 2 + static_cast<size_t>(jpeg[i + 2] * 256 + jpeg[i + 3]));
    if (marker == 0xc4) {
      for (size_t table = i + 4; table + 17 <= size && table < end;) {
        const auto counts = jpeg.subspan(table + 1, 16);
        const int codes = std::accumulate(counts.begin(), counts.end(), 0);
        if (codes > 256) return true;
        table += 17 + static_cast<size_t>(codes);
      }
    }
    i = std::max(end, i + 2);
  }
  return false;
}

}  // namespace

absl::StatusOr<std::vector<uint8_t>> ReadImageFile(const std::string& path, int64_t height,
                                                   int64_t width) {
  auto file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  const auto bytes = (*file)->bytes();
  if (bytes.size() > static_cast<size_t>(std::numeric_limits<int>::max())) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": too large for a picture"));
  }
  if (bytes.size() > 2 && bytes[0] == 0xff && bytes[1] == 0xd8 && HasTooManyCodes(bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": not a readable PNG or JPEG: bad codes"));
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
