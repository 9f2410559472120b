#include "models/train/augment.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/check.h"
#include "core/random.h"

namespace classicnn {
namespace {

// A factor in [0.8, 1.2) from 32 random bits.
float JitterFactor(uint32_t word) {
  return 0.8f + 0.4f * (static_cast<float>(word >> 8) * 0x1p-24f);
}

// Zeros in a square of height / 4 x width / 4 about a pixel, as far as it is inside.
void CutOut(int64_t middle_y, int64_t middle_x, int64_t height, int64_t width, float* image) {
  const int64_t top = middle_y - height / 8, left = middle_x - width / 8;
  const int64_t begin = std::max<int64_t>(left, 0), end = std::min(left + width / 4, width);
  for (int64_t y = std::max<int64_t>(top, 0); y < std::min(top + height / 4, height); ++y) {
    std::fill(image + (y * width + begin) * 3, image + (y * width + end) * 3, 0.0f);
  }
}

// Where a pixel beyond the border is mirrored from: -1 is 1, size is size - 2.
int64_t Reflect(int64_t i, int64_t size) {
  if (i < 0) return -i;
  return i < size ? i : 2 * (size - 1) - i;
}

// ITU-R 601: the grey of a pixel.
float Grey(float r, float g, float b) { return 0.299f * r + 0.587f * g + 0.114f * b; }

float Clamp(float v) { return std::min(std::max(v, 0.0f), 255.0f); }

}  // namespace

absl::StatusOr<Augmentation> ParseAugmentation(absl::string_view text) {
  Augmentation result;
  if (text == "none") return result;
  for (const absl::string_view word : absl::StrSplit(text, ',')) {
    if (word == "crop") {
      result.crop = true;
    } else if (word == "crop_reflect") {
      result.crop_reflect = true;
    } else if (word == "flip") {
      result.flip = true;
    } else if (word == "jitter") {
      result.jitter = true;
    } else if (word == "cutout") {
      result.cutout = true;
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("bad value \"", word.substr(0, 80),
                       "\" for --augment: give none, or a list of crop, crop_reflect, flip, "
                       "jitter, cutout"));
    }
  }
  if (result.crop && result.crop_reflect) {
    return absl::InvalidArgumentError(
        "bad value for --augment: crop and crop_reflect exclude each other");
  }
  return result;
}

std::string ToString(const Augmentation& augmentation) {
  std::vector<std::string> words;
  if (augmentation.crop) words.push_back("crop");
  if (augmentation.crop_reflect) words.push_back("crop_reflect");
  if (augmentation.flip) words.push_back("flip");
  if (augmentation.jitter) words.push_back("jitter");
  if (augmentation.cutout) words.push_back("cutout");
  return words.empty() ? "none" : absl::StrJoin(words, ",");
}

BatchMaker::BatchMaker(const ImageSet& images, int64_t height, int64_t width,
                       const MeanStd& normalization)
    : images_(images), height_(height), width_(width) {
  if (images.height() != height || images.width() != width) {
    resizer_.emplace(images.height(), images.width(), height, width);
  }
  for (size_t c = 0; c < 3; ++c) {
    for (size_t v = 0; v < 256; ++v) {
      normalized_[c][v] = static_cast<float>(
          (static_cast<double>(v) / 255 - normalization.mean[c]) / normalization.std[c]);
    }
  }
}

void BatchMaker::Fill(const BatchRequest& request, Tensor input, int32_t* labels, Context& ctx) {
  const auto count = static_cast<int64_t>(request.images.size());
  CNN_CHECK(
      input.n == count && input.h == height_ && input.w == width_ && input.c == 3 && input.dense(),
      input.shape().ToString(), " for ", count, " images");
  scratch_.resize(static_cast<size_t>(ctx.num_threads()));
  ctx.ParallelFor("data.batch", count, [&](int64_t i, int worker) {
    const int64_t image = request.images[static_cast<size_t>(i)];
    FillImage(request, image, input.Pixel(i, 0, 0), &scratch_[static_cast<size_t>(worker)]);
    if (labels != nullptr) labels[i] = images_.label(image);
  });
}

void BatchMaker::FillImage(const BatchRequest& request, int64_t image, float* to,
                           Scratch* scratch) const {
  const RandomStream random(request.seed, "augment", request.epoch);
  const uint8_t* from = images_.image(image);
  int64_t channels = images_.channels();
  if (resizer_) {
    scratch->resized.resize(static_cast<size_t>(height_ * width_ * channels));
    resizer_->Run(from, channels, scratch->resized.data(), &scratch->floats);
    from = scratch->resized.data();
  }
  const auto index = static_cast<uint64_t>(image);
  if (request.augmentation.jitter) {
    Jitter(random.Words(2 * index + 1), from, scratch);
    from = scratch->jittered.data();
    channels = 3;
  }

  // Offset of the window in the image: negative and beyond the end is border.
  const auto words = random.Words(2 * index);
  int64_t top = 0, left = 0;
  const bool reflect = request.augmentation.crop_reflect;
  if (request.augmentation.crop || reflect) {
    const int64_t border_h = height_ / 8, border_w = width_ / 8;
    top = static_cast<int64_t>(words[0] % static_cast<uint64_t>(2 * border_h + 1)) - border_h;
    left = static_cast<int64_t>(words[1] % static_cast<uint64_t>(2 * border_w + 1)) - border_w;
  }
  // A coin for each image, turned over from epoch to epoch.
  const uint64_t side = RandomStream(request.seed, "augment.flip").Word(index) + request.epoch;
  const bool flip = (request.augmentation.flip && side % 2 != 0) != request.mirrored;

  const float black[3] = {normalized_[0][0], normalized_[1][0], normalized_[2][0]};
  const size_t green = channels == 3 ? 1 : 0, blue = channels == 3 ? 2 : 0;
  float* const first = to;
  for (int64_t y = 0; y < height_; ++y) {
    const int64_t source_y = reflect ? Reflect(top + y, height_) : top + y;
    const bool inside_y = source_y >= 0 && source_y < height_;
    for (int64_t x = 0; x < width_; ++x, to += 3) {
      const int64_t column = left + (flip ? width_ - 1 - x : x);
      const int64_t source_x = reflect ? Reflect(column, width_) : column;
      if (inside_y && source_x >= 0 && source_x < width_) {
        const uint8_t* pixel = from + (source_y * width_ + source_x) * channels;
        to[0] = normalized_[0][pixel[0]];
        to[1] = normalized_[1][pixel[green]];
        to[2] = normalized_[2][pixel[blue]];
      } else {
        to[0] = black[0];
        to[1] = black[1];
        to[2] = black[2];
      }
    }
  }
  if (request.augmentation.cutout) {
    CutOut(static_cast<int64_t>(words[2]) % height_, static_cast<int64_t>(words[3]) % width_,
           height_, width_, first);
  }
}

void BatchMaker::Jitter(const std::array<uint32_t, 4>& words, const uint8_t* from,
                        Scratch* scratch) const {
  const float brightness = JitterFactor(words[0]);
  const float contrast = JitterFactor(words[1]);
  const float saturation = JitterFactor(words[2]);
  const int64_t pixels = height_ * width_, channels = images_.channels();
  const int64_t green = channels == 3 ? 1 : 0, blue = channels == 3 ? 2 : 0;
  scratch->floats.resize(static_cast<size_t>(pixels * 3));
  scratch->jittered.resize(static_cast<size_t>(pixels * 3));
  float* const bright = scratch->floats.data();
  double grey_sum = 0;
  for (int64_t p = 0; p < pixels; ++p) {
    const uint8_t* pixel = from + p * channels;
    bright[3 * p] = Clamp(brightness * static_cast<float>(pixel[0]));
    bright[3 * p + 1] = Clamp(brightness * static_cast<float>(pixel[green]));
    bright[3 * p + 2] = Clamp(brightness * static_cast<float>(pixel[blue]));
    grey_sum += static_cast<double>(Grey(bright[3 * p], bright[3 * p + 1], bright[3 * p + 2]));
  }
  const float mean = static_cast<float>(grey_sum / static_cast<double>(pixels));
  for (int64_t p = 0; p < pixels; ++p) {
    float rgb[3];
    for (int64_t c = 0; c < 3; ++c) {
      rgb[c] = Clamp(contrast * bright[3 * p + c] + (1 - contrast) * mean);
    }
    const float grey = Grey(rgb[0], rgb[1], rgb[2]);
    for (int64_t c = 0; c < 3; ++c) {
      const float value = Clamp(saturation * rgb[c] + (1 - saturation) * grey);
      scratch->jittered[static_cast<size_t>(3 * p + c)] = static_cast<uint8_t>(value + 0.5f);
    }
  }
}

}  // namespace classicnn
