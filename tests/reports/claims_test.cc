#include "reports/claims.h"

#include <algorithm>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/reports/fixtures.h"

namespace classicnn {
namespace {

using ::testing::HasSubstr;

Claim Find(const std::vector<Claim>& claims, const std::string& subject,
           const std::string& model = "") {
  const auto it = std::find_if(claims.begin(), claims.end(), [&](const Claim& c) {
    return c.subject.find(subject) != std::string::npos && c.model == model;
  });
  EXPECT_NE(it, claims.end()) << subject << " " << model;
  return it == claims.end() ? Claim{} : *it;
}

TrainingRun MakeRun(const std::string& model, const std::string& augment, double last) {
  TrainingRun run;
  run.path = "runs/" + model;
  run.model = model;
  run.data = "data/cifar-10-batches-bin";
  run.augment = augment;
  TrainedEpoch first, second;
  first.epoch = 1;
  first.test_accuracy = 0.99;  // the best epoch is not the one that counts
  second.epoch = 2;
  second.test_accuracy = last;
  run.epochs = {first, second};
  return run;
}

TEST(JudgeTest, Bounds) {
  EXPECT_EQ(JudgeNumber(100, 105), Verdict::kHolds);
  EXPECT_EQ(JudgeNumber(100, 94), Verdict::kDiffers);
  EXPECT_EQ(JudgeNumber(100, 80), Verdict::kDoesNotHold);
  EXPECT_EQ(JudgeRange(2, 5, 3), Verdict::kHolds);
  EXPECT_EQ(JudgeRange(2, 5, 9), Verdict::kDiffers);
  EXPECT_EQ(JudgeRange(2, 5, 1.9), Verdict::kDoesNotHold);
}

TEST(ModelClaimsTest, VerdictsFollowTheFigures) {
  const std::vector<Claim> claims = CheckModelClaims(MakeResults(), {});
  EXPECT_EQ(Find(claims, "parameters", "vgg16").verdict, Verdict::kHolds);
  EXPECT_EQ(Find(claims, "parameters", "mobilenetv1").verdict, Verdict::kDoesNotHold);
  EXPECT_THAT(Find(claims, "parameters", "mobilenetv1").reason, HasSubstr("1000 classes"));
  EXPECT_EQ(Find(claims, "operations", "vgg16").verdict, Verdict::kDoesNotHold);
  EXPECT_EQ(Find(claims, "operations", "googlenet").verdict, Verdict::kHolds);
  EXPECT_EQ(Find(claims, "weights in memory", "densenet121").verdict, Verdict::kHolds);
  EXPECT_EQ(Find(claims, "parameter rank", "googlenet").verdict, Verdict::kHolds);
  // In the fixture: mobilenetv1, vgg16, resnet18, densenet121, googlenet.
  EXPECT_EQ(Find(claims, "speed rank", "mobilenetv1").verdict, Verdict::kHolds);
  EXPECT_EQ(Find(claims, "speed rank", "vgg16").verdict, Verdict::kDoesNotHold);
  EXPECT_EQ(Find(claims, "speed rank", "vgg16").measured, "2");
  EXPECT_EQ(Find(claims, "accuracy, no augmentation", "vgg16").verdict, Verdict::kNotMeasured);
}

TEST(ModelClaimsTest, RanksNeedAllFive) {
  Results r = MakeResults();
  r.models.erase("vgg16");
  r.model_order.erase(r.model_order.begin());
  const std::vector<Claim> claims = CheckModelClaims(r, {});
  EXPECT_EQ(Find(claims, "speed rank", "resnet18").verdict, Verdict::kNotMeasured);
  EXPECT_EQ(std::count_if(claims.begin(), claims.end(),
                          [](const Claim& c) { return c.model == "vgg16"; }),
            0);
}

TEST(ModelClaimsTest, AccuraciesQuoteTheLastEpoch) {
  const std::vector<TrainingRun> runs = {MakeRun("resnet18", "crop,flip", 0.945),
                                         MakeRun("resnet18", "none", 0.90),
                                         MakeRun("vgg16", "crop,flip", 0.96)};
  const std::vector<Claim> claims = CheckModelClaims(MakeResults(), runs);
  const Claim with = Find(claims, "accuracy, with augmentation", "resnet18");
  EXPECT_EQ(with.verdict, Verdict::kHolds);
  EXPECT_EQ(with.measured, "94.5%");
  EXPECT_EQ(Find(claims, "accuracy, no augmentation", "resnet18").verdict, Verdict::kDoesNotHold);
  EXPECT_EQ(Find(claims, "accuracy, with augmentation", "vgg16").verdict, Verdict::kDiffers);
  EXPECT_EQ(Find(claims, "accuracy, with augmentation", "googlenet").verdict,
            Verdict::kNotMeasured);
}

TEST(ModelClaimsTest, OnlyCifar10Counts) {
  TrainingRun run = MakeRun("resnet18", "crop,flip", 0.945);
  run.data = "/usr/share/datasets/fashion-mnist";
  const std::vector<Claim> claims = CheckModelClaims(MakeResults(), {run});
  EXPECT_EQ(Find(claims, "accuracy, with augmentation", "resnet18").verdict, Verdict::kNotMeasured);
}

TEST(ModelClaimsTest, OnlyCompleteRunsOnAllImagesCount) {
  TrainingRun run = MakeRun("resnet18", "crop,flip", 0.945);
  const auto verdict = [&] {
    return Find(CheckModelClaims(MakeResults(), {run}), "accuracy, with augmentation", "resnet18")
        .verdict;
  };
  run.planned_epochs = run.epochs.back().epoch;
  run.train_images = 50000;
  run.test_images = 10000;
  EXPECT_EQ(verdict(), Verdict::kHolds);
  run.planned_epochs = run.epochs.back().epoch + 1;
  EXPECT_EQ(verdict(), Verdict::kNotMeasured) << "stopped early";
  run.planned_epochs = 0;
  run.test_images = 20;
  EXPECT_EQ(verdict(), Verdict::kNotMeasured) << "a few images";
}

TEST(SingleClaimsTest, AccuraciesAreComparedAfterAsManyEpochs) {
  std::vector<TrainingRun> runs;
  for (const char* model : {"vgg16", "resnet18", "googlenet", "mobilenetv1"}) {
    runs.push_back(MakeRun(model, "crop,flip", 0.9));
  }
  runs.push_back(MakeRun("densenet121", "crop,flip", 0.95));
  const auto claim = [&](const char* subject) {
    return Find(CheckSingleClaims(MakeResults(), runs), subject);
  };
  EXPECT_EQ(claim("Best accuracy").verdict, Verdict::kHolds);
  EXPECT_NE(claim("Best balance").verdict, Verdict::kNotMeasured);
  runs[1].epochs.back().test_accuracy = 0.96;
  EXPECT_EQ(claim("Best accuracy").verdict, Verdict::kDoesNotHold);
  runs[1].epochs.back().epoch = 20;
  EXPECT_EQ(claim("Best accuracy").verdict, Verdict::kNotMeasured);
  EXPECT_THAT(claim("Best accuracy").reason, HasSubstr("2 to 20 epochs"));
  EXPECT_THAT(claim("Best accuracy").measured, HasSubstr("resnet18 96.0% (20 epochs)"));
  EXPECT_EQ(claim("Best balance").verdict, Verdict::kNotMeasured);
  runs[1].epochs.back().epoch = 2;
  runs[1].augment = "none";
  EXPECT_EQ(claim("Best accuracy").verdict, Verdict::kNotMeasured);
}

TEST(SingleClaimsTest, VerdictsFollowTheFigures) {
  const std::vector<Claim> claims = CheckSingleClaims(MakeResults(), {});
  EXPECT_EQ(Find(claims, "250 ×").verdict, Verdict::kDoesNotHold);
  EXPECT_THAT(Find(claims, "250 ×").measured, HasSubstr("3.00 ×"));
  EXPECT_EQ(Find(claims, "8.4 ×").verdict, Verdict::kHolds);
  EXPECT_EQ(Find(claims, "saves 54%").verdict, Verdict::kHolds);
  EXPECT_EQ(Find(claims, "549").verdict, Verdict::kDoesNotHold);
  EXPECT_EQ(Find(claims, "549").measured, "535");
  EXPECT_EQ(Find(claims, "58 conv").verdict, Verdict::kDoesNotHold);
  EXPECT_EQ(Find(claims, "SIMD depthwise").verdict, Verdict::kHolds);
  EXPECT_EQ(Find(claims, "Newer").verdict, Verdict::kDoesNotHold);
  EXPECT_EQ(Find(claims, "Half-precision").verdict, Verdict::kNotMeasured);
  EXPECT_EQ(Find(claims, "O(L²)").verdict, Verdict::kNotMeasured);
  EXPECT_EQ(Find(claims, "Best accuracy").verdict, Verdict::kNotMeasured);
  EXPECT_EQ(Find(claims, "Best efficiency").verdict, Verdict::kHolds);
}

TEST(SingleClaimsTest, QuadraticMemoryShowsInTheIncrements) {
  Results r = MakeResults();
  r.extra["densenet121.layer_bytes_first"] = 1e6;
  r.extra["densenet121.layer_bytes_last"] = 3e6;
  EXPECT_EQ(Find(CheckSingleClaims(r, {}), "O(L²)").verdict, Verdict::kHolds);
  r.extra["densenet121.layer_bytes_last"] = 1e6;
  EXPECT_EQ(Find(CheckSingleClaims(r, {}), "O(L²)").verdict, Verdict::kDoesNotHold);
}

TEST(SingleClaimsTest, AugmentationNeedsBothRuns) {
  const TrainingRun with = MakeRun("resnet18", "crop,flip", 0.945);
  const TrainingRun without = MakeRun("resnet18", "none", 0.92);
  const Results r = MakeResults();
  EXPECT_EQ(Find(CheckSingleClaims(r, {with}), "Augmentation").verdict, Verdict::kNotMeasured);
  const Claim claim = Find(CheckSingleClaims(r, {with, without}), "Augmentation");
  EXPECT_EQ(claim.verdict, Verdict::kHolds);
  EXPECT_THAT(claim.measured, HasSubstr("+2.5%"));
  TrainingRun longer = with, larger = with;
  longer.epochs.back().epoch = 30;
  larger.batch = 256;
  larger.epochs.back().test_accuracy = 0.99;
  EXPECT_EQ(Find(CheckSingleClaims(r, {longer, larger, without}), "Augmentation").verdict,
            Verdict::kNotMeasured);
  EXPECT_THAT(Find(CheckSingleClaims(r, {longer, larger, with, without}), "Augmentation").measured,
              HasSubstr("+2.5%"));
}

}  // namespace
}  // namespace classicnn
