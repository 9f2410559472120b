#include "reports/baseline.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/reports/fixtures.h"

namespace classicnn {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// The fixture with resnet18's training step taking `seconds` of that spread.
Results WithStep(std::vector<double> samples) {
  Results r = MakeResults();
  r.models["resnet18"].train_step.seconds.samples = std::move(samples);
  return r;
}

TEST(ComparisonTest, NothingChangedIsNoRegression) {
  const Comparison same(MakeResults(), MakeResults());
  ASSERT_NE(same.Find("vgg16/train_step/seconds"), nullptr);
  EXPECT_EQ(same.Find("vgg16/train_step/seconds")->relative, 0);
  EXPECT_THAT(same.Regressions(0), IsEmpty());
}

TEST(ComparisonTest, SlowerBeyondNoiseAndThresholdFails) {
  const Comparison c(WithStep({1.00, 1.01, 0.99}), WithStep({1.20, 1.21, 1.19}));
  const Change* change = c.Find("resnet18/train_step/seconds");
  ASSERT_NE(change, nullptr);
  EXPECT_NEAR(change->relative, 0.2, 1e-9);
  EXPECT_TRUE(change->beyond_noise);
  EXPECT_TRUE(change->worse);
  EXPECT_THAT(c.Regressions(10), ElementsAre(HasSubstr("resnet18/train_step/seconds")));
  EXPECT_THAT(c.Regressions(25), IsEmpty()) << "below the threshold";
}

TEST(ComparisonTest, SlowerWithinTheNoisePasses) {
  const Comparison c(WithStep({1.0, 0.8, 1.3}), WithStep({1.2, 0.9, 1.5}));
  EXPECT_FALSE(c.Find("resnet18/train_step/seconds")->beyond_noise);
  EXPECT_THAT(c.Regressions(5), IsEmpty());
}

TEST(ComparisonTest, FasterIsNoRegression) {
  const Comparison c(WithStep({1.00, 1.01, 0.99}), WithStep({0.5, 0.5, 0.5}));
  EXPECT_TRUE(c.Find("resnet18/train_step/seconds")->beyond_noise);
  EXPECT_FALSE(c.Find("resnet18/train_step/seconds")->worse);
  EXPECT_THAT(c.Regressions(0), IsEmpty());
}

TEST(ComparisonTest, MemoryIsCountedAndHasNoNoise) {
  Results more = MakeResults();
  more.models["vgg16"].memory.peak_bytes += 30 * 1000;  // 3%
  const Comparison c(MakeResults(), more);
  EXPECT_TRUE(c.Find("vgg16/memory/peak_bytes")->beyond_noise);
  EXPECT_THAT(c.Regressions(2), ElementsAre(HasSubstr("vgg16/memory/peak_bytes")));
}

TEST(ComparisonTest, HigherRatesAreBetter) {
  Results faster = MakeResults();
  faster.models["vgg16"].train_step.images_per_second *= 2;
  const Comparison c(MakeResults(), faster);
  EXPECT_FALSE(c.Find("vgg16/train_step/images_per_second")->worse);
  const Comparison back(faster, MakeResults());
  EXPECT_TRUE(back.Find("vgg16/train_step/images_per_second")->worse);
}

TEST(ComparisonTest, GatesTrainingInferenceAndMemory) {
  Results slower = MakeResults();
  ModelResult& m = slower.models["vgg16"];
  for (PassResult* pass : {&m.train_step, &m.inference, &m.inference_one}) {
    for (double& s : pass->seconds.samples) s *= 2;
  }
  m.memory.peak_bytes *= 2;
  m.memory.weights *= 2;  // is shown and not gated: it is a part of the peak
  EXPECT_THAT(Comparison(MakeResults(), slower).Regressions(50),
              testing::UnorderedElementsAre(
                  HasSubstr("vgg16/train_step/seconds"), HasSubstr("vgg16/inference/seconds"),
                  HasSubstr("vgg16/inference_one/seconds"), HasSubstr("vgg16/memory/peak_bytes")));
  EXPECT_THAT(Comparison(slower, MakeResults()).Regressions(0), IsEmpty()) << "all is better";
}

TEST(ComparisonTest, FiguresOfOneSideHaveNoChange) {
  Results fewer = MakeResults();
  fewer.models.erase("vgg16");
  fewer.model_order.erase(fewer.model_order.begin());
  const Comparison c(fewer, MakeResults());
  EXPECT_EQ(c.Find("vgg16/train_step/seconds"), nullptr);
  EXPECT_NE(c.Find("resnet18/train_step/seconds"), nullptr);
  EXPECT_EQ(Comparison().Find("resnet18/train_step/seconds"), nullptr);
}

TEST(CheckComparableTest, NamesWhatDiffers) {
  const Results r = MakeResults();
  EXPECT_TRUE(CheckComparable("b.json", r, 64, 2, 32, 10, {"vgg16"}).ok());
  const auto message = [&](const absl::Status& s) { return std::string(s.message()); };
  EXPECT_THAT(message(CheckComparable("b.json", r, 32, 2, 32, 10, {"vgg16"})),
              HasSubstr("--batch=64"));
  EXPECT_THAT(message(CheckComparable("b.json", r, 64, 1, 32, 10, {"vgg16"})),
              HasSubstr("--threads=2"));
  EXPECT_THAT(message(CheckComparable("b.json", r, 64, 2, 64, 10, {"vgg16"})), HasSubstr("b.json"));
  EXPECT_THAT(message(CheckComparable("b.json", r, 64, 2, 32, 10, {"alexnet"})),
              HasSubstr("none of the models"));
}

}  // namespace
}  // namespace classicnn
