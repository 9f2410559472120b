#include "models/train/augment.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "models/data/synthetic.h"

namespace classicnn {
namespace {

constexpr MeanStd kUnit{{0, 0, 0}, {1, 1, 1}};

Dataset Synthetic(int64_t images) {
  DataOptions options;
  options.synthetic_images = images;
  auto data = LoadDataset(options, nullptr);
  EXPECT_TRUE(data.ok());
  return *std::move(data);
}

std::vector<float> Fill(const ImageSet& images, const std::vector<int64_t>& indices,
                        const Augmentation& augmentation, int threads, uint64_t epoch = 0,
                        const MeanStd& normalization = kUnit, int64_t size = 32,
                        bool mirrored = false) {
  Context ctx(threads);
  BatchMaker maker(images, size, size, normalization);
  const Shape4 shape{static_cast<int64_t>(indices.size()), size, size, 3};
  std::vector<float> batch(static_cast<size_t>(shape.size()), -1e9f);
  std::vector<int32_t> labels(indices.size(), -1);
  BatchRequest request;
  request.images = indices;
  request.augmentation = augmentation;
  request.seed = 5;
  request.epoch = epoch;
  request.mirrored = mirrored;
  maker.Fill(request, Tensor(batch.data(), shape), labels.data(), ctx);
  for (size_t i = 0; i < indices.size(); ++i) EXPECT_EQ(labels[i], images.label(indices[i]));
  return batch;
}

std::vector<int64_t> FirstIndices(int64_t count) {
  std::vector<int64_t> indices(static_cast<size_t>(count));
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

TEST(AugmentTest, ParsesLists) {
  EXPECT_EQ(ToString(*ParseAugmentation("none")), "none");
  EXPECT_EQ(ToString(*ParseAugmentation("flip,crop")), "crop,flip");
  EXPECT_EQ(ToString(*ParseAugmentation("cutout,jitter")), "jitter,cutout");
  EXPECT_EQ(ToString(*ParseAugmentation("flip,crop_reflect")), "crop_reflect,flip");
  for (const char* bad : {"", "crop,", "none,crop", "mixup", "crop,crop_reflect"}) {
    EXPECT_FALSE(ParseAugmentation(bad).ok()) << bad;
  }
}

TEST(AugmentTest, NormalizesEachChannel) {
  const Dataset data = Synthetic(10);
  const MeanStd normalization{{0.5, 0.25, 0}, {0.5, 2, 4}};
  const auto batch = Fill(*data.train, {7}, {}, 1, 0, normalization);
  for (size_t e = 0; e < batch.size(); ++e) {
    const double pixel = data.train->image(7)[e] / 255.0;
    EXPECT_NEAR(batch[e], (pixel - normalization.mean[e % 3]) / normalization.std[e % 3], 1e-6);
  }
}

TEST(AugmentTest, GreyIsCopiedToThreeChannels) {
  auto images = ImageSet::Create(1, 32, 32, 1, nullptr);
  ASSERT_TRUE(images.ok());
  for (int p = 0; p < 1024; ++p) images->image(0)[p] = static_cast<uint8_t>(p);
  const auto batch = Fill(*images, {0}, {}, 1);
  for (size_t p = 0; p < 1024; ++p) {
    for (size_t c = 0; c < 3; ++c) {
      EXPECT_FLOAT_EQ(batch[p * 3 + c], static_cast<float>(p % 256) / 255.0f);
    }
  }
}

TEST(AugmentTest, SameBitsOnAnyNumberOfThreads) {
  const Dataset data = Synthetic(40);
  const Augmentation all{true, true, true, true};
  for (const int64_t size : {32, 48}) {
    const auto one = Fill(*data.train, FirstIndices(40), all, 1, 3, kUnit, size);
    for (const int threads : {2, 3, 8}) {
      EXPECT_EQ(Fill(*data.train, FirstIndices(40), all, threads, 3, kUnit, size), one) << threads;
    }
  }
}

TEST(AugmentTest, AnImageDependsOnItsNumberAndEpochAlone) {
  const Dataset data = Synthetic(40);
  const Augmentation all{true, true, true, true};
  const auto batch = Fill(*data.train, {3, 17, 5}, all, 2);
  const auto alone = Fill(*data.train, {17}, all, 1);
  EXPECT_TRUE(std::equal(alone.begin(), alone.end(), batch.begin() + 3072));
  EXPECT_NE(Fill(*data.train, {17}, all, 1, 1), alone);
}

// An image whose pixels say where they are: red is the row, green the column, blue 255.
ImageSet Coordinates() {
  auto images = ImageSet::Create(1, 32, 32, 3, nullptr);
  EXPECT_TRUE(images.ok());
  for (int p = 0; p < 1024; ++p) {
    images->image(0)[3 * p] = static_cast<uint8_t>(p / 32);
    images->image(0)[3 * p + 1] = static_cast<uint8_t>(p % 32);
    images->image(0)[3 * p + 2] = 255;
  }
  return *std::move(images);
}

// Crops and flips of Coordinates(): windows at all offsets up to 4, each pixel what `border` says.
// border(i) is the row or column that one outside the image shows, -1 for black.
template <typename Border>
void ExpectWindows(const Augmentation& augmentation, Border border) {
  const ImageSet images = Coordinates();
  std::map<int, int> tops, lefts, flips;
  constexpr int kEpochs = 1000;
  const auto source = [&](int i) { return i >= 0 && i < 32 ? i : border(i); };
  for (uint64_t epoch = 0; epoch < kEpochs; ++epoch) {
    const auto batch = Fill(images, {0}, augmentation, 1, epoch);
    const auto at = [&](int y, int x, int c) {
      return static_cast<int>(std::lround(batch[static_cast<size_t>((y * 32 + x) * 3 + c)] * 255));
    };
    // From the middle, which is never border.
    const int top = at(16, 16, 0) - 16;
    const bool flip = at(16, 17, 1) < at(16, 16, 1);
    const int left = flip ? at(16, 16, 1) - 15 : at(16, 16, 1) - 16;
    ++tops[top], ++lefts[left], ++flips[flip];
    for (int y = 0; y < 32; ++y) {
      for (int x = 0; x < 32; ++x) {
        const int sy = source(y + top), sx = source(left + (flip ? 31 - x : x));
        const bool inside = sy >= 0 && sx >= 0;
        ASSERT_EQ(at(y, x, 0), inside ? sy : 0);
        ASSERT_EQ(at(y, x, 1), inside ? sx : 0);
        ASSERT_EQ(at(y, x, 2), inside ? 255 : 0);
      }
    }
  }
  EXPECT_EQ(tops.size(), 9u);
  EXPECT_EQ(tops.begin()->first, -4);
  EXPECT_EQ(lefts.size(), 9u);
  EXPECT_EQ(lefts.rbegin()->first, 4);
  for (const auto& [top, count] : tops) EXPECT_NEAR(count, kEpochs / 9.0, 50) << top;
  EXPECT_EQ(flips[true], kEpochs / 2);
}

TEST(AugmentTest, CropsAndFlipsAreWindowsWithBlackBorders) {
  ExpectWindows(*ParseAugmentation("crop,flip"), [](int) { return -1; });
}

TEST(AugmentTest, CropsReflectAboutTheOutermostPixels) {
  ExpectWindows(*ParseAugmentation("crop_reflect,flip"), [](int i) { return i < 0 ? -i : 62 - i; });
}

TEST(AugmentTest, CutsOutASquareAroundAnyPixel) {
  const ImageSet images = Coordinates();
  Augmentation cutout;
  cutout.cutout = true;
  const MeanStd normalization{{0.5, 0.5, 0.5}, {1, 1, 1}};
  const auto whole = Fill(images, {0}, {}, 1, 0, normalization);
  std::set<int> tops, lefts, areas;
  for (uint64_t epoch = 0; epoch < 3000; ++epoch) {
    const auto batch = Fill(images, {0}, cutout, 1, epoch, normalization);
    int top = 32, bottom = -1, left = 32, right = -1, zeros = 0;
    for (int p = 0; p < 1024; ++p) {
      const auto at = static_cast<size_t>(3 * p);
      if (batch[at] != 0) {  // red is below 32 / 255, never the mean
        ASSERT_TRUE(std::equal(&batch[at], &batch[at] + 3, &whole[at]));
        continue;
      }
      ++zeros;
      EXPECT_EQ(batch[at + 1], 0);
      EXPECT_EQ(batch[at + 2], 0);
      top = std::min(top, p / 32), bottom = std::max(bottom, p / 32);
      left = std::min(left, p % 32), right = std::max(right, p % 32);
    }
    // A rectangle, 8 x 8 unless it is cut off by the border.
    const int height = bottom - top + 1, width = right - left + 1;
    ASSERT_EQ(zeros, height * width);
    ASSERT_TRUE(height == 8 || (height >= 4 && height < 8 && (top == 0 || bottom == 31)));
    ASSERT_TRUE(width == 8 || (width >= 4 && width < 8 && (left == 0 || right == 31)));
    tops.insert(top), lefts.insert(left), areas.insert(zeros);
  }
  EXPECT_EQ(tops.size(), 28u);  // 0 to 27: the middle is in rows 0 to 31, four below the top
  EXPECT_EQ(lefts.size(), 28u);
  EXPECT_EQ(*areas.rbegin(), 64);
}

TEST(AugmentTest, EveryImageIsSeenFromBothSidesInTwoEpochs) {
  const Dataset data = Synthetic(400);
  const auto indices = FirstIndices(400);
  const auto plain = Fill(*data.train, indices, {}, 1);
  const auto mirrored = Fill(*data.train, indices, {}, 1, 0, kUnit, 32, true);
  int flipped_first = 0;
  std::vector<std::vector<float>> epochs;
  for (uint64_t epoch = 0; epoch < 4; ++epoch) {
    epochs.push_back(Fill(*data.train, indices, {false, true, false}, 2, epoch));
  }
  for (size_t i = 0; i < indices.size(); ++i) {
    const auto same = [&](const std::vector<float>& a, const std::vector<float>& b) {
      const auto at = static_cast<std::ptrdiff_t>(i * 3072);
      return std::equal(a.begin() + at, a.begin() + at + 3072, b.begin() + at);
    };
    const bool first = same(epochs[0], mirrored);
    flipped_first += first;
    for (size_t e = 0; e < epochs.size(); ++e) {
      ASSERT_TRUE(same(epochs[e], first == (e % 2 == 0) ? mirrored : plain)) << i << ", " << e;
    }
  }
  EXPECT_NEAR(flipped_first, 200, 40) << "a coin for each image";
}

TEST(AugmentTest, JitterKeepsTheImageRecognizableAndInRange) {
  const Dataset data = Synthetic(10);
  const auto plain = Fill(*data.train, FirstIndices(10), {}, 1);
  const auto jittered = Fill(*data.train, FirstIndices(10), {false, false, true}, 1);
  EXPECT_NE(plain, jittered);
  double difference = 0;
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_GE(jittered[i], 0);
    EXPECT_LE(jittered[i], 1);
    difference += std::abs(plain[i] - jittered[i]);
  }
  EXPECT_LT(difference / static_cast<double>(plain.size()), 0.2);
  EXPECT_GT(difference / static_cast<double>(plain.size()), 0.005);
}

// Images of two colours, the left and the right half, that no factor takes to a border: what became
// of them tells the factors of each image, and that the formulas are as they should be.
TEST(AugmentTest, JitterIsBrightnessContrastAndSaturation) {
  constexpr double kHalves[2][3] = {{80, 100, 120}, {180, 160, 140}};
  auto images = ImageSet::Create(200, 32, 32, 3, nullptr);
  ASSERT_TRUE(images.ok());
  for (int64_t n = 0; n < 200; ++n) {
    for (int64_t p = 0; p < 32 * 32; ++p) {
      for (int64_t c = 0; c < 3; ++c) {
        images->image(n)[p * 3 + c] = static_cast<uint8_t>(kHalves[p % 32 / 16][c]);
      }
    }
  }
  const auto grey = [](const double* rgb) {
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2];
  };
  const double greys[2] = {grey(kHalves[0]), grey(kHalves[1])};
  const double mean = (greys[0] + greys[1]) / 2;
  const auto jittered = Fill(*images, FirstIndices(200), {false, false, true}, 1);
  double least[3] = {9, 9, 9}, most[3] = {0, 0, 0};
  for (size_t n = 0; n < 200; ++n) {
    double halves[2][3];
    for (size_t h = 0; h < 2; ++h) {
      for (size_t c = 0; c < 3; ++c) {
        halves[h][c] = 255 * static_cast<double>(jittered[(n * 1024 + h * 16) * 3 + c]);
      }
    }
    const double after[2] = {grey(halves[0]), grey(halves[1])};
    // Contrast and saturation leave the mean grey alone, saturation leaves all greys alone.
    const double brightness = (after[0] + after[1]) / 2 / mean;
    const double contrast = (after[1] - after[0]) / (greys[1] - greys[0]) / brightness;
    const double saturation = (halves[0][2] - halves[0][0]) / 40 / brightness / contrast;
    const double factors[3] = {brightness, contrast, saturation};
    for (size_t i = 0; i < 3; ++i) {
      least[i] = std::min(least[i], factors[i]);
      most[i] = std::max(most[i], factors[i]);
    }
    for (size_t h = 0; h < 2; ++h) {
      for (size_t c = 0; c < 3; ++c) {
        const double bright = brightness * kHalves[h][c];
        const double g = contrast * brightness * greys[h] + (1 - contrast) * brightness * mean;
        const double rgb = contrast * bright + (1 - contrast) * brightness * mean;
        EXPECT_NEAR(halves[h][c], saturation * rgb + (1 - saturation) * g, 1.6) << n;
      }
    }
  }
  const double slack[3] = {0.01, 0.03, 0.08};  // of values rounded to whole numbers
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_GE(least[i], 0.8 - slack[i]) << i;
    EXPECT_LE(most[i], 1.2 + slack[i]) << i;
    EXPECT_LT(least[i], 0.85) << i << ": over the whole range";
    EXPECT_GT(most[i], 1.15) << i;
  }
}

TEST(AugmentTest, MirroredIsTheOtherWayRound) {
  const ImageSet images = Coordinates();
  const auto plain = Fill(images, {0}, {}, 1);
  const auto mirrored = Fill(images, {0}, {}, 1, 0, kUnit, 32, true);
  for (size_t y = 0; y < 32; ++y) {
    for (size_t x = 0; x < 32; ++x) {
      EXPECT_EQ(mirrored[(y * 32 + x) * 3 + 1], plain[(y * 32 + 31 - x) * 3 + 1]);
    }
  }
}

}  // namespace
}  // namespace classicnn
