// Data sets: images and labels in memory, and where they come from.
#ifndef CLASSICNN_MODELS_DATA_DATASET_H_
#define CLASSICNN_MODELS_DATA_DATASET_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/memory.h"

namespace classicnn {

// Images of one size with a label each: 8 bits a channel, [count, height, width, channels] dense,
// 1 (grey) or 3 channels (red, green, blue). Accounted as MemoryCategory::kData.
class ImageSet {
 public:
  // Zero images with labels 0. `tracker` may be null, else must outlive the set.
  static absl::StatusOr<ImageSet> Create(int64_t count, int64_t height, int64_t width,
                                         int64_t channels, MemoryTracker* tracker);

  int64_t count() const { return count_; }
  int64_t height() const { return height_; }
  int64_t width() const { return width_; }
  int64_t channels() const { return channels_; }
  int64_t image_bytes() const { return height_ * width_ * channels_; }
  int64_t bytes() const;  // of the memory it takes

  const uint8_t* image(int64_t i) const { return pixels_ + i * image_bytes(); }
  uint8_t* image(int64_t i) { return pixels_ + i * image_bytes(); }
  int32_t label(int64_t i) const { return labels_[i]; }
  void set_label(int64_t i, int32_t label) { labels_[i] = label; }

  // CRC-32 of all pixels and labels: tells whether a run goes on with the data it began with.
  uint32_t Fingerprint() const;

 private:
  int64_t count_ = 0, height_ = 0, width_ = 0, channels_ = 0;
  std::unique_ptr<Arena> arena_;
  uint8_t* pixels_ = nullptr;
  int32_t* labels_ = nullptr;
};

struct Dataset {
  std::string kind;  // "cifar10", "idx", "synthetic"
  int64_t num_classes = 0;
  std::vector<std::string> class_names;  // num_classes of them, or none
  std::unique_ptr<ImageSet> train;       // null where not asked for
  std::unique_ptr<ImageSet> test;        // null where not asked for, or the data has none
};

struct DataOptions {
  std::string source = "synthetic";  // a folder, or "synthetic"
  int64_t num_classes = 10;          // of the model
  bool train = true;
  bool test = true;
  int64_t synthetic_images = 0;  // training images; a quarter as many for testing. 0: 2,048
  uint64_t seed = 0;             // of synthetic data
};

// Finds out what is in the folder (data_batch_1.bin or test_batch.bin: CIFAR-10's binary version;
// train-images-idx3-ubyte or t10k-..., with or without .gz: idx files) and loads it.
// InvalidArgument or NotFound, with the path, for a folder with neither, for a file that is
// missing, truncated, too long or damaged, for a label out of range (naming file and record) and
// for more classes in the model than in the data.
absl::StatusOr<Dataset> LoadDataset(const DataOptions& options, MemoryTracker* tracker);

// The check for one label, shared by the readers: 0 <= label < num_classes.
absl::Status CheckLabel(int64_t label, int64_t record, const std::string& path,
                        int64_t num_classes);
// And the opposite one: InvalidArgument where the model has more classes than the data.
absl::Status CheckClasses(int64_t data_classes, const std::string& source, int64_t num_classes);

// Mean and standard deviation of each of the three channels over all pixels, pixels in [0, 1].
struct MeanStd {
  std::array<double, 3> mean{};
  std::array<double, 3> std{};
};
MeanStd MeasureMeanStd(const ImageSet& images);

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_DATA_DATASET_H_
