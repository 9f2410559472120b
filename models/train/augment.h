// From stored 8-bit images to a normalized, augmented batch.
#ifndef CLASSICNN_MODELS_TRAIN_AUGMENT_H_
#define CLASSICNN_MODELS_TRAIN_AUGMENT_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/context.h"
#include "core/view.h"
#include "models/data/dataset.h"
#include "models/data/resize.h"

namespace classicnn {

// In this order: jitter of the colours, crop (black or reflected), flip, cutout.
struct Augmentation {
  // A window of the image's own size from the image with a border of 0 (black, before
  // normalization) around it, an eighth of its side wide (4 at 32 x 32): all positions equally
  // likely.
  bool crop = false;
  // Left and right swapped: in the first epoch of half of the images, then in every second epoch of
  // each. Two epochs in a row thus show both sides of every image, where independent coins would
  // show half of them the same side twice (Jordan, "94% on CIFAR-10 in 3.29
  // seconds on a single GPU", 2024: worth a tenth of a short run).
  bool flip = false;
  // Brightness, contrast (towards the mean grey of the image) and saturation (towards the grey of
  // the pixel), each times a factor uniform in [0.8, 1.2].
  bool jitter = false;
  // A square a quarter of the side wide (8 at 32 x 32) becomes 0, after normalization: the mean.
  // Its middle is anywhere in the image, all pixels equally likely, so that part of it may be
  // outside (DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with
  // Cutout", 2017; theirs is 16 wide, for hundreds of epochs).
  bool cutout = false;
  // As crop, which it excludes, with a border that mirrors the image about its outermost pixels.
  // Batch norm's running statistics then are those of images without border, as in evaluation; a
  // black border is a part of them that evaluation lacks.
  bool crop_reflect = false;

  bool any() const { return crop || crop_reflect || flip || jitter || cutout; }
};
// "none", or a comma-separated list of crop or crop_reflect, flip, jitter, cutout. InvalidArgument
// names --augment.
absl::StatusOr<Augmentation> ParseAugmentation(absl::string_view text);
std::string ToString(const Augmentation& augmentation);

// Which images of a set make a batch, and where in the run it is: the augmentation of image i in
// epoch e is a function of (seed, e, i) alone.
struct BatchRequest {
  absl::Span<const int64_t> images;
  Augmentation augmentation;
  uint64_t seed = 0;
  uint64_t epoch = 0;
  bool mirrored = false;  // every image, for evaluation on both
};

// Threads share the images of a batch; the same bits on any number of them. Images of another size
// than asked for are resized first (models/data/resize.h). Fill allocates nothing after its first
// call. Not thread-safe.
class BatchMaker {
 public:
  // `images` must outlive the maker.
  BatchMaker(const ImageSet& images, int64_t height, int64_t width, const MeanStd& normalization);

  // input [images, height, width, 3], (pixel / 255 - mean) / std; labels [images]. labels may be
  // null.
  void Fill(const BatchRequest& request, Tensor input, int32_t* labels, Context& ctx);

 private:
  struct Scratch {
    std::vector<uint8_t> resized, jittered;
    std::vector<float> floats;
  };
  void FillImage(const BatchRequest& request, int64_t image, float* to, Scratch* scratch) const;
  void Jitter(const std::array<uint32_t, 4>& words, const uint8_t* from, Scratch* scratch) const;

  const ImageSet& images_;
  int64_t height_, width_;
  std::optional<Resizer> resizer_;
  // Normalized value of each 8-bit one, by channel.
  std::array<std::array<float, 256>, 3> normalized_;
  std::vector<Scratch> scratch_;  // by worker
};

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_TRAIN_AUGMENT_H_
