#include "models/data/synthetic.h"

#include <cstring>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace classicnn {
namespace {

Dataset Make(uint64_t seed, int64_t images, int64_t classes = 10) {
  DataOptions options;
  options.seed = seed;
  options.synthetic_images = images;
  options.num_classes = classes;
  auto data = LoadDataset(options, nullptr);
  EXPECT_TRUE(data.ok()) << data.status();
  return *std::move(data);
}

TEST(SyntheticTest, SizesAndClasses) {
  const Dataset data = Make(0, 0);
  EXPECT_EQ(data.train->count(), 2048);
  EXPECT_EQ(data.test->count(), 512);
  EXPECT_EQ(data.train->height(), 32);
  EXPECT_EQ(data.train->channels(), 3);
  std::vector<int> frequency(10);
  for (int64_t i = 0; i < 2048; ++i) ++frequency[static_cast<size_t>(data.train->label(i))];
  for (const int f : frequency) EXPECT_NEAR(f, 204.8, 1);
  EXPECT_EQ(Make(0, 3, 2).test->count(), 1);
  EXPECT_EQ(Make(0, 200, 100).num_classes, 100);
}

TEST(SyntheticTest, DependsOnTheSeedAlone) {
  EXPECT_EQ(Make(1, 40).train->Fingerprint(), Make(1, 40).train->Fingerprint());
  EXPECT_NE(Make(1, 40).train->Fingerprint(), Make(2, 40).train->Fingerprint());
  // What is tested on was not trained on.
  const Dataset both = Make(1, 40);
  for (int64_t i = 0; i < both.test->count(); ++i) {
    for (int64_t k = 0; k < both.train->count(); ++k) {
      EXPECT_NE(std::memcmp(both.test->image(i), both.train->image(k), 3072), 0) << i << " " << k;
    }
  }
  // An image does not depend on how many there are.
  const Dataset few = Make(1, 20), many = Make(1, 40);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(few.train->image(19)), 3072),
            std::string(reinterpret_cast<const char*>(many.train->image(19)), 3072));
}

TEST(SyntheticTest, RefusesMoreClassesThanImages) {
  DataOptions options;
  options.synthetic_images = 9;
  EXPECT_FALSE(LoadDataset(options, nullptr).ok());
}

}  // namespace
}  // namespace classicnn
