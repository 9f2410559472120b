#include "models/data/resize.h"

#include <algorithm>
#include <vector>

#include "gtest/gtest.h"

namespace classicnn {
namespace {

std::vector<uint8_t> Resize(const std::vector<uint8_t>& from, int64_t h, int64_t w, int64_t c,
                            int64_t to_h, int64_t to_w) {
  std::vector<uint8_t> to(static_cast<size_t>(to_h * to_w * c), 77);
  std::vector<float> scratch;
  Resizer(h, w, to_h, to_w).Run(from.data(), c, to.data(), &scratch);
  return to;
}

TEST(ResizeTest, SameSizeIsTheSameImage) {
  std::vector<uint8_t> image;
  for (int i = 0; i < 5 * 7 * 3; ++i) image.push_back(static_cast<uint8_t>(i * 37));
  EXPECT_EQ(Resize(image, 5, 7, 3, 5, 7), image);
}

TEST(ResizeTest, HalvingAveragesAllPixels) {
  // Triangle of width 4 over pixels 0, 100: each target pixel is a mean around it.
  const std::vector<uint8_t> image = {0, 100, 0, 100, 0, 100, 0, 100};
  for (const uint8_t v : Resize(image, 1, 8, 1, 1, 4)) EXPECT_NEAR(v, 50, 10);
}

TEST(ResizeTest, EnlargingInterpolates) {
  EXPECT_EQ(Resize({0, 100}, 1, 2, 1, 1, 4), (std::vector<uint8_t>{0, 25, 75, 100}));
  EXPECT_EQ(Resize({0, 100}, 2, 1, 1, 4, 1), (std::vector<uint8_t>{0, 25, 75, 100}));
}

TEST(ResizeTest, FlatImagesStayFlatAtAnySize) {
  for (const int64_t h : {1, 2, 31, 100}) {
    for (const int64_t w : {1, 3, 64}) {
      const std::vector<uint8_t> image(static_cast<size_t>(h * w * 3), 200);
      const auto result = Resize(image, h, w, 3, 32, 32);
      EXPECT_TRUE(std::all_of(result.begin(), result.end(), [](uint8_t v) { return v == 200; }))
          << h << " " << w;
    }
  }
}

}  // namespace
}  // namespace classicnn
