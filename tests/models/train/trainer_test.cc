#include "models/train/trainer.h"

#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/state_tensors.h"
#include "models/weights_file.h"
#include "nlohmann/json.hpp"
#include "tests/models/train/train_runs.h"

namespace classicnn {
namespace {

using ::testing::HasSubstr;

TEST(TrainerTest, WritesARun) {
  TempFolder folder;
  Train(Tiny(), folder / "run", false, 2, 0, TrainOutcome::kFinished);
  const auto config = nlohmann::json::parse(folder.Read("run/config.json"));
  EXPECT_EQ(config["flags"]["model"], "mobilenetv1");
  EXPECT_EQ(config["flags"]["warmup_epochs"], 0.5);
  EXPECT_EQ(config["run"]["steps_per_epoch"], 4);
  EXPECT_EQ(config["data"]["train_images"], 35);
  EXPECT_FALSE(config["algorithms"].empty());
  const auto lines = Metrics(folder, "run");
  ASSERT_EQ(lines.size(), 10u);
  EXPECT_EQ(lines[3]["kind"], "step");
  EXPECT_EQ(lines[3]["step"], 4);
  EXPECT_EQ(lines[4]["kind"], "epoch");
  EXPECT_EQ(lines[4]["epoch"], 1);
  EXPECT_EQ(lines[9]["step"], 8);
  for (const char* key : {"train_loss", "train_accuracy", "test_loss", "test_accuracy", "lr"}) {
    EXPECT_TRUE(lines[9][key].is_number()) << key;
  }
  double mean = 0;
  for (int i = 5; i < 9; ++i) mean += lines[static_cast<size_t>(i)]["train_loss"].get<double>() / 4;
  EXPECT_NEAR(lines[9]["train_loss"].get<double>(), mean, 1e-6);
  const auto last = SafetensorsFile::Open(folder / "run/last.safetensors");
  ASSERT_TRUE(last.ok());
  EXPECT_EQ(last->metadata().at("mean"), "0.4914,0.4822,0.4465");
  EXPECT_EQ(last->metadata().at("image_size"), "16");
  const auto best = SafetensorsFile::Open(folder / "run/best.safetensors");
  ASSERT_TRUE(best.ok());
  EXPECT_EQ(best->metadata().at("chosen_on"), "test set");
  for (const auto& entry : std::filesystem::directory_iterator(folder / "run")) {
    EXPECT_THAT(entry.path().filename().string(),
                ::testing::AnyOf("config.json", "metrics.jsonl", "state.safetensors",
                                 "last.safetensors", "best.safetensors"));
  }
}

// What a clock decides cannot be compared, but it can be bounded.
TEST(TrainerTest, TimesAreThoseOfTheStepsThatWereTaken) {
  TempFolder folder;
  Train(Tiny(), folder / "run", false, 2, 6, TrainOutcome::kInterrupted);  // in the second epoch
  Train(Tiny(), folder / "run", true, 2, 0, TrainOutcome::kFinished);
  std::vector<nlohmann::json> epochs;
  for (const auto text :
       absl::StrSplit(folder.Read("run/metrics.jsonl"), '\n', absl::SkipEmpty())) {
    auto line = nlohmann::json::parse(text.begin(), text.end());
    if (line["kind"] == "epoch") epochs.push_back(line);
  }
  ASSERT_EQ(epochs.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    const double images = i == 0 ? 32 : 16;
    const double seconds = epochs[i]["seconds"];
    const double training = images / epochs[i]["images_per_second"].get<double>();
    EXPECT_GT(seconds, 0);
    EXPECT_LE(training, seconds) << "which evaluation is part of";
    EXPECT_GT(training, seconds / 1000);
    EXPECT_GT(epochs[i]["peak_bytes"].get<int64_t>(), 1 << 20);
  }
  EXPECT_FALSE(epochs[0].contains("timed_steps"));
  EXPECT_EQ(epochs[1]["timed_steps"], 2);
}

TEST(TrainerTest, LearnsTheTrainingImages) {
  TempFolder folder;
  TrainOptions options = Tiny();
  options.synthetic_images = 16;
  options.num_classes = 2;
  options.epochs = 40;  // after 12, a third of all seeds miss one of the images; now none does
  options.lr = 0.006;
  options.augment = "none";
  Train(options, folder / "run", false, 2, 0, TrainOutcome::kFinished);
  const auto lines = Metrics(folder, "run");
  EXPECT_LT(lines.back()["train_loss"].get<double>(), 0.2 * lines[0]["train_loss"].get<double>());
  EXPECT_EQ(lines.back()["train_accuracy"], 1.0);
}

TEST(TrainerTest, SameBitsOnAnyNumberOfThreads) {
  TempFolder folder;
  Train(Tiny(), folder / "1", false, 1, 0, TrainOutcome::kFinished);
  for (const int threads : {2, 3, 8}) {
    const std::string run = std::to_string(threads);
    Train(Tiny(), folder / run, false, threads, 0, TrainOutcome::kFinished);
    ExpectSameRun(folder, "1", run);
  }
}

TEST(TrainerTest, MaxStepsAloneDecideTheEpochs) {
  TempFolder folder;
  TrainOptions options = Tiny();
  options.epochs = 0;
  options.max_steps = 5;
  Context ctx(2);
  auto trainer = Create(options, folder / "run", false, ctx);
  ASSERT_TRUE(trainer.ok()) << trainer.status();
  EXPECT_EQ((*trainer)->options().epochs, 2);
  EXPECT_EQ((*trainer)->total_steps(), 5);
}

TEST(TrainerTest, DataSmallerThanABatchIsTheBatch) {
  TempFolder folder;
  TrainOptions options = Tiny();
  options.batch = 1000;
  Context ctx(2);
  auto trainer = Create(options, folder / "run", false, ctx);
  ASSERT_TRUE(trainer.ok()) << trainer.status();
  EXPECT_EQ((*trainer)->batch(), 35);
  EXPECT_DOUBLE_EQ((*trainer)->options().lr, DefaultLr(options, 35)) << "as small as the steps are";
  EXPECT_EQ((*trainer)->steps_per_epoch(), 1);
}

TEST(TrainerTest, StartsFromAWeightFile) {
  TempFolder folder;
  Train(Tiny(), folder / "first", false, 2, 0, TrainOutcome::kFinished);
  TrainOptions options = Tiny();
  options.init = folder / "first/last.safetensors";
  options.seed = 12;
  Context ctx(1);
  auto second = Create(options, folder / "second", false, ctx);
  ASSERT_TRUE(second.ok()) << second.status();
  auto loaded = ModelState::Create((*second)->graph(), Optimizer::kNone, nullptr);
  ASSERT_TRUE(LoadWeights(options.init, (*second)->graph(), loaded->get()).ok());
  const auto a = WeightTensors((*second)->graph(), (*second)->state());
  const auto b = WeightTensors((*second)->graph(), **loaded);
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(std::equal(a[i].data, a[i].data + a[i].count(), b[i].data)) << a[i].name;
  }
}

TEST(TrainerTest, StopsWhereTheLossIsNotFinite) {
  TempFolder folder;
  TrainOptions options = Tiny();
  options.lr = 1e30;
  options.warmup_epochs = 0;
  options.schedule = "constant";
  Context ctx(2);
  auto trainer = Create(options, folder / "run", false, ctx);
  ASSERT_TRUE(trainer.ok()) << trainer.status();
  const auto outcome = (*trainer)->Run({});
  ASSERT_TRUE(absl::IsAborted(outcome.status())) << outcome.status();
  EXPECT_THAT(std::string(outcome.status().message()), HasSubstr("step "));
  EXPECT_THAT(std::string(outcome.status().message()), HasSubstr("first in "));
  EXPECT_THAT(std::string(outcome.status().message()), HasSubstr("no weights"));
  for (const auto& entry : std::filesystem::directory_iterator(folder / "run")) {
    EXPECT_THAT(entry.path().filename().string(), ::testing::AnyOf("config.json", "metrics.jsonl"));
  }
}

TEST(TrainerTest, WhatWasSavedOutlivesALossThatIsNotFinite) {
  TempFolder folder;
  TrainOptions options = Tiny();
  options.lr = 1e25;  // huge weights after the first step, no finite loss in the second
  options.warmup_epochs = 0;
  options.schedule = "constant";
  options.save_every = 1;
  std::map<std::string, std::string> kept;
  for (const bool resume : {false, true}) {
    Context ctx(2);
    auto trainer = Create(options, folder / "run", resume, ctx);
    ASSERT_TRUE(trainer.ok()) << trainer.status();
    EXPECT_EQ((*trainer)->position().step, resume ? 1 : 0);
    const auto outcome = (*trainer)->Run({});
    ASSERT_TRUE(absl::IsAborted(outcome.status())) << outcome.status();
    const std::string message(outcome.status().message());
    EXPECT_THAT(message, HasSubstr("step 2: "));
    EXPECT_THAT(message, HasSubstr((folder / "run") + " keeps"));
    for (const char* name : {kStateFile, kLastFile}) {
      const std::string contents = folder.Read(std::string("run/") + name);
      EXPECT_GT(contents.size(), 1000u) << name;
      EXPECT_TRUE(!resume || contents == kept[name]) << name;
      kept[name] = contents;
    }
  }
}

// Weights whose loss is finite, but which scale the gradient of one layer beyond all floats.
TEST(TrainerTest, StopsInTheStepWhereAGradientIsNotFinite) {
  TempFolder folder;
  TrainOptions options = Tiny();
  options.warmup_epochs = 0;
  options.schedule = "constant";
  options.lr = 1e-3;
  options.weight_decay = 0;
  options.init = folder / "init.safetensors";
  {
    Context ctx(1);
    auto trainer = Create(Tiny(), folder / "initial", false, ctx);
    ASSERT_TRUE(trainer.ok()) << trainer.status();
    const Graph& graph = (*trainer)->graph();
    for (const StateTensor& tensor : WeightTensors(graph, (*trainer)->state())) {
      const float scale = tensor.name == "blocks.2.0.bn1.weight"       ? 1e-35f
                          : tensor.name == "blocks.2.0.conv_pw.weight" ? 1e36f
                          : tensor.name == "classifier.weight"         ? 1e4f
                                                                       : 1;
      for (int64_t i = 0; i < tensor.count(); ++i) tensor.data[i] *= scale;
    }
    ASSERT_TRUE(SaveWeights(options.init, graph, (*trainer)->state(), {}).ok());
  }
  for (const bool fused : {true, false}) {
    SCOPED_TRACE(fused);
    options.log_gradients = !fused;
    const std::string run = folder / (fused ? "fused" : "after");
    Context ctx(2);
    auto trainer = Create(options, run, false, ctx);
    ASSERT_TRUE(trainer.ok()) << trainer.status();
    const auto outcome = (*trainer)->Run({});
    ASSERT_TRUE(absl::IsAborted(outcome.status())) << outcome.status();
    EXPECT_THAT(std::string(outcome.status().message()), HasSubstr("step 1: "));
    EXPECT_THAT(std::string(outcome.status().message()), HasSubstr("blocks.2.0.bn1."));
  }
}

TEST(TrainerTest, ARefusedRunLeavesNothingBehind) {
  TempFolder folder;
  const auto refused = [&](const std::function<void(TrainOptions&)>& change,
                           const std::string& what) {
    TrainOptions options = Tiny();
    change(options);
    Context ctx(2);
    const auto trainer = Create(options, folder / "new/run", false, ctx);
    ASSERT_FALSE(trainer.ok());
    EXPECT_THAT(std::string(trainer.status().message()), HasSubstr(what));
    EXPECT_FALSE(folder.Has("new"));
  };
  refused([&](TrainOptions& o) { o.data = folder / "none"; }, folder / "none");
  refused([&](TrainOptions& o) { o.init = folder / "none"; }, folder / "none");
  refused([](TrainOptions& o) { o.memory_limit = "1M"; }, "--memory_limit");
  refused([](TrainOptions& o) { o.num_classes = 36; }, "--num_classes");
  refused([](TrainOptions& o) { o.warmup_epochs = 2; }, "--warmup_epochs");
  refused([](TrainOptions& o) { o.image_size = 1, o.batch = 1; }, "");
  const std::string file = folder.Write("file", "x");
  Context ctx(2);
  EXPECT_FALSE(Create(Tiny(), file + "/run", false, ctx).ok());
  EXPECT_FALSE(Create(Tiny(), folder / "new/run", true, ctx).ok());  // no config.json
  EXPECT_FALSE(folder.Has("new"));
}

TEST(TrainerTest, RefusesAFolderThatHoldsARun) {
  TempFolder folder;
  Train(Tiny(), folder / "run", false, 2, 1, TrainOutcome::kInterrupted);
  Context ctx(2);
  const auto again = Create(Tiny(), folder / "run", false, ctx);
  EXPECT_THAT(std::string(again.status().message()), HasSubstr("--resume"));
}

TEST(TrainerTest, OneProcessTrainsInAFolder) {
  TempFolder folder;
  Context ctx(2);
  auto first = Create(Tiny(), folder / "run", false, ctx);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = Create(Tiny(), folder / "run", true, ctx);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr("--out=" + (folder / "run") + ": another process"));
  first->reset();
  EXPECT_TRUE(Create(Tiny(), folder / "run", true, ctx).ok());
}

// A limit that makes it compute again, and that holds for everything it maps.
TEST(TrainerTest, MemoryLimitKeepsTheBits) {
  for (const double ema : {0.0, 0.9}) {
    TempFolder folder;
    TrainOptions options = Tiny();
    options.ema = ema;
    Train(options, folder / "free", false, 2, 0, TrainOutcome::kFinished);
    const auto memory = nlohmann::json::parse(folder.Read("free/config.json"))["memory"];
    const auto limit = static_cast<int64_t>(memory["state_and_data_bytes"].get<double>() +
                                            0.9 * memory["arena_bytes"].get<double>());
    options.memory_limit = std::to_string(limit);
    Context ctx(2);
    auto trainer = Create(options, folder / "limited", false, ctx);
    ASSERT_TRUE(trainer.ok()) << trainer.status();
    EXPECT_GT((*trainer)->plan().recomputed_macs(), 0);
    const auto outcome = (*trainer)->Run({});
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_LE(ctx.memory().peak(), limit);
    ExpectSameRun(folder, "free", "limited");
  }
}

TEST(TrainerTest, LogsTheNormsOfGradientsAndWeights) {
  TempFolder folder;
  TrainOptions options = Tiny();
  options.log_gradients = true;
  options.max_steps = 2;
  options.lr = 1e-12;  // the weights stay as they were drawn
  Train(options, folder / "run", false, 2, 0, TrainOutcome::kFinished);
  const auto line = Metrics(folder, "run").front();
  const auto& gradients = line["gradient_norms"];
  const auto& weights = line["weight_norms"];
  EXPECT_EQ(gradients.size(), 83u);
  EXPECT_EQ(weights.size(), 83u);
  double squares = 0;
  for (const auto& [name, norm] : gradients.items()) {
    EXPECT_GT(norm.get<double>(), 0) << name;
    squares += norm.get<double>() * norm.get<double>();
  }
  EXPECT_NEAR(line["gradient_norm"].get<double>(), std::sqrt(squares), 1e-9);
  EXPECT_NEAR(weights["bn1.weight"].get<double>(), std::sqrt(32.0), 1e-5);
  EXPECT_EQ(weights["bn1.bias"].get<double>() > 1e-6, false);
  EXPECT_NEAR(weights["conv_stem.weight"].get<double>(), std::sqrt(864 * 2 / 288.0), 0.3);
}

TEST(TrainerTest, WithoutShufflingTheOrderIsThatOfTheData) {
  TempFolder folder;
  TrainOptions options = Tiny();
  options.lr = 1e-12;  // losses of the same weights
  options.warmup_epochs = 0;
  options.schedule = "constant";
  options.augment = "none";
  const auto losses = [&](const std::string& run) {
    Train(options, folder / run, false, 2, 0, TrainOutcome::kFinished);
    std::vector<double> result;
    for (const auto& line : Metrics(folder, run)) {
      if (line["kind"] == "step") result.push_back(line["train_loss"]);
    }
    return result;
  };
  options.shuffle = false;
  const auto plain = losses("plain");
  ASSERT_EQ(plain.size(), 8u);
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(plain[i], plain[i + 4], 1e-4) << "the next epoch";
  options.synthetic_images = 16;  // the first batch's images are the first ones
  EXPECT_NEAR(losses("first").front(), plain.front(), 1e-4);
  options.synthetic_images = 35;
  options.shuffle = true;
  const auto shuffled = losses("shuffled");
  EXPECT_GT(std::abs(shuffled[0] - shuffled[4]), 1e-3);
}

TEST(ShuffledOrderTest, IsAPermutationBySeedAndEpoch) {
  auto order = ShuffledOrder(1000, 1, 0);
  EXPECT_EQ(order, ShuffledOrder(1000, 1, 0));
  EXPECT_NE(order, ShuffledOrder(1000, 1, 1));
  EXPECT_NE(order, ShuffledOrder(1000, 2, 0));
  int64_t moved = 0;
  for (size_t i = 0; i < order.size(); ++i) moved += order[i] != static_cast<int64_t>(i);
  EXPECT_GT(moved, 950);
  std::sort(order.begin(), order.end());
  for (size_t i = 0; i < order.size(); ++i) ASSERT_EQ(order[i], static_cast<int64_t>(i));
}

}  // namespace
}  // namespace classicnn
