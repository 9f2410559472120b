#include "models/data/dataset.h"

#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/data/cifar10.h"
#include "models/data/idx.h"
#include "models/data/synthetic.h"

namespace classicnn {

absl::StatusOr<ImageSet> ImageSet::Create(int64_t count, int64_t height, int64_t width,
                                          int64_t channels, MemoryTracker* tracker) {
  ImageSet set;
  set.count_ = count;
  set.height_ = height;
  set.width_ = width;
  set.channels_ = channels;
  BytesByCategory bytes{};
  At(bytes, MemoryCategory::kData) = set.bytes();
  auto arena = Arena::Create(bytes, tracker);
  if (!arena.ok()) return arena.status();
  set.arena_ = *std::move(arena);
  set.labels_ = reinterpret_cast<int32_t*>(set.arena_->data());
  set.pixels_ = reinterpret_cast<uint8_t*>(set.labels_ + count);
  return set;
}

int64_t ImageSet::bytes() const {
  return count_ * (image_bytes() + static_cast<int64_t>(sizeof(int32_t)));
}

uint32_t ImageSet::Fingerprint() const {
  uLong crc = crc32(0, nullptr, 0);
  const auto* data = reinterpret_cast<const Bytef*>(labels_);
  // In pieces: zlib counts in 32 bits.
  constexpr int64_t kPiece = int64_t{1} << 24;
  for (int64_t at = 0; at < bytes(); at += kPiece) {
    crc = crc32(crc, data + at, static_cast<uInt>(std::min(kPiece, bytes() - at)));
  }
  return static_cast<uint32_t>(crc);
}

absl::Status CheckLabel(int64_t label, int64_t record, const std::string& path,
                        int64_t num_classes) {
  if (label >= 0 && label < num_classes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(path, ": label ", label, " of record ", record,
                                                 " is out of range: there are ", num_classes,
                                                 " classes (0 to ", num_classes - 1, ")"));
}

absl::Status CheckClasses(int64_t data_classes, const std::string& source, int64_t num_classes) {
  if (num_classes <= data_classes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--num_classes=", num_classes, " is more than ",
                                                 source, " has: ", data_classes, " classes"));
}

absl::StatusOr<Dataset> LoadDataset(const DataOptions& options, MemoryTracker* tracker) {
  if (options.source == "synthetic") return MakeSynthetic(options, tracker);
  std::error_code error;
  if (!std::filesystem::is_directory(options.source, error)) {
    return absl::NotFoundError(
        absl::StrCat("--data=", options.source,
                     " is not a folder: give one with CIFAR-10's binary files or with idx files, "
                     "or \"synthetic\""));
  }
  if (IsCifar10Folder(options.source)) return LoadCifar10(options, tracker);
  if (IsIdxFolder(options.source)) return LoadIdx(options, tracker);
  return absl::NotFoundError(
      absl::StrCat("--data=", options.source,
                   " holds neither CIFAR-10's data_batch_1.bin nor train-images-idx3-ubyte(.gz)"));
}

MeanStd MeasureMeanStd(const ImageSet& images) {
  // Counts of the 256 values are exact, whatever the order.
  std::array<std::array<int64_t, 256>, 3> histogram{};
  const int64_t channels = images.channels();
  for (int64_t i = 0; i < images.count(); ++i) {
    const uint8_t* pixel = images.image(i);
    for (int64_t p = 0; p < images.height() * images.width(); ++p) {
      for (int64_t c = 0; c < channels; ++c) {
        ++histogram[static_cast<size_t>(c)][pixel[p * channels + c]];
      }
    }
  }
  MeanStd result;
  const double count = static_cast<double>(images.count() * images.height() * images.width());
  for (size_t c = 0; c < 3; ++c) {
    const auto& h = histogram[channels == 3 ? c : 0];
    double sum = 0;
    for (size_t v = 0; v < 256; ++v) sum += static_cast<double>(h[v]) * static_cast<double>(v);
    const double mean = sum / count;
    double squares = 0;
    for (size_t v = 0; v < 256; ++v) {
      const double d = static_cast<double>(v) - mean;
      squares += static_cast<double>(h[v]) * d * d;
    }
    result.mean[c] = mean / 255;
    result.std[c] = std::sqrt(squares / count) / 255;
  }
  return result;
}

}  // namespace classicnn
