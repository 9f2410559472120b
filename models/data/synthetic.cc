#include "models/data/synthetic.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/random.h"

namespace classicnn {
namespace {

constexpr int64_t kSide = 32;
constexpr int64_t kShift = 4;                     // an image moves by 0 to 2 * kShift pixels
constexpr int64_t kPattern = kSide + 2 * kShift;  // side of a class's pattern
constexpr int kWaves = 3;
constexpr double kPi = 3.14159265358979323846;

// A sum of plane waves, each with its own direction, length, phase and colour: [kPattern, kPattern,
// 3] in about [-1, 1].
std::vector<float> ClassPattern(uint64_t seed, int64_t label) {
  const RandomStream random(seed, "synthetic class", static_cast<uint64_t>(label));
  std::vector<float> pattern(static_cast<size_t>(kPattern * kPattern * 3), 0.0f);
  for (uint64_t wave = 0; wave < kWaves; ++wave) {
    const auto draw = [&](uint64_t i) { return static_cast<double>(random.Uniform(wave * 8 + i)); };
    const double angle = 2 * kPi * draw(0);
    const double length = 5 + 15 * draw(1);  // pixels
    const double phase = 2 * kPi * draw(2);
    const double kx = 2 * kPi * std::cos(angle) / length, ky = 2 * kPi * std::sin(angle) / length;
    std::array<double, 3> colour;
    for (uint64_t c = 0; c < 3; ++c) colour[c] = (2 * draw(3 + c) - 1) / 1.5;
    float* to = pattern.data();
    for (int64_t y = 0; y < kPattern; ++y) {
      for (int64_t x = 0; x < kPattern; ++x) {
        const double value =
            std::sin(kx * static_cast<double>(x) + ky * static_cast<double>(y) + phase);
        for (size_t c = 0; c < 3; ++c) *to++ += static_cast<float>(colour[c] * value);
      }
    }
  }
  return pattern;
}

absl::StatusOr<std::unique_ptr<ImageSet>> MakeImages(
    int64_t count, const char* purpose, uint64_t seed,
    const std::vector<std::vector<float>>& patterns, MemoryTracker* tracker) {
  auto set = ImageSet::Create(count, kSide, kSide, 3, tracker);
  if (!set.ok()) return set.status();
  for (int64_t i = 0; i < count; ++i) {
    const size_t label = static_cast<size_t>(i) % patterns.size();
    set->set_label(i, static_cast<int32_t>(label));
    const RandomStream random(seed, purpose, static_cast<uint64_t>(i));
    const auto place = random.Words(0);
    const int64_t top = place[0] % (2 * kShift + 1), left = place[1] % (2 * kShift + 1);
    const float contrast = 50 + 40 * random.Uniform(2);
    uint8_t* to = set->image(i);
    std::array<uint32_t, 4> words{};
    for (int64_t e = 0; e < kSide * kSide * 3; ++e) {
      if (e % 16 == 0) words = random.Words(static_cast<uint64_t>(1 + e / 16));
      const uint32_t byte = (words[static_cast<size_t>(e % 16 / 4)] >> (8 * (e % 4))) & 255;
      const int64_t pixel = e / 3, c = e % 3;
      const int64_t at = ((top + pixel / kSide) * kPattern + left + pixel % kSide) * 3 + c;
      const float noise = (static_cast<float>(byte) - 127.5f) * 0.4f;
      const float value = 127.5f + contrast * patterns[label][static_cast<size_t>(at)] + noise;
      to[e] = static_cast<uint8_t>(std::clamp(value, 0.0f, 255.0f));
    }
  }
  return std::make_unique<ImageSet>(*std::move(set));
}

}  // namespace

absl::StatusOr<Dataset> MakeSynthetic(const DataOptions& options, MemoryTracker* tracker) {
  const int64_t count =
      options.synthetic_images > 0 ? options.synthetic_images : kSyntheticTrainImages;
  if (options.num_classes > count) {
    return absl::InvalidArgumentError(absl::StrCat("--num_classes=", options.num_classes,
                                                   " is more than the ", count,
                                                   " synthetic training images"));
  }
  const auto named = [&](const absl::Status& status) {
    return absl::Status(status.code(),
                        absl::StrCat("--synthetic_images=", count, ": ", status.message()));
  };
  if (count > int64_t{1} << 40) return named(absl::InvalidArgumentError("that is too many"));
  Dataset data;
  data.kind = "synthetic";
  data.num_classes = options.num_classes;
  std::vector<std::vector<float>> patterns;
  for (int64_t label = 0; label < options.num_classes; ++label) {
    patterns.push_back(ClassPattern(options.seed, label));
  }
  if (options.train) {
    auto train = MakeImages(count, "synthetic train", options.seed, patterns, tracker);
    if (!train.ok()) return named(train.status());
    data.train = *std::move(train);
  }
  if (options.test) {
    auto test = MakeImages(std::max<int64_t>(count / 4, 1), "synthetic test", options.seed,
                           patterns, tracker);
    if (!test.ok()) return named(test.status());
    data.test = *std::move(test);
  }
  return data;
}

}  // namespace classicnn
