#include "models/train/trainer.h"

#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/model.h"
#include "models/state_tensors.h"
#include "models/train/checkpoint.h"
#include "models/weights_file.h"
#include "nlohmann/json.hpp"
#include "tests/testing/temp_folder.h"

namespace classicnn {
namespace {

using ::testing::HasSubstr;

// Two epochs of four steps on small images.
TrainOptions Tiny() {
  TrainOptions o;
  o.model = "mobilenetv1";
  o.image_size = 16;
  o.synthetic_images = 35;  // the last three are never a whole batch
  o.batch = 8;
  o.epochs = 2;
  o.log_every = 1;
  o.seed = 11;
  return o;
}

absl::StatusOr<std::unique_ptr<Trainer>> Create(TrainOptions options, const std::string& out,
                                                bool resume, Context& ctx) {
  if (absl::Status s = Resolve(&options); !s.ok()) return s;
  return Trainer::Create(options, out, resume, {{"target", "any"}}, ctx);
}

// Trains, stopping after `stop_after` more steps (and, where it is 0 below the end, not at all).
void Train(const TrainOptions& options, const std::string& out, bool resume, int threads,
           int64_t stop_after, TrainOutcome expected) {
  Context ctx(threads);
  auto trainer = Create(options, out, resume, ctx);
  ASSERT_TRUE(trainer.ok()) << trainer.status();
  int64_t steps = 0;
  TrainCallbacks callbacks;
  callbacks.on_step = [&](const TrainCallbacks::Step&) { ++steps; };
  callbacks.stop_requested = [&] { return stop_after > 0 && steps >= stop_after; };
  const auto outcome = (*trainer)->Run(callbacks);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(*outcome, expected);
}

std::vector<nlohmann::json> Metrics(const TempFolder& folder, const std::string& run) {
  std::vector<nlohmann::json> lines;
  for (const auto text :
       absl::StrSplit(folder.Read(run + "/metrics.jsonl"), '\n', absl::SkipEmpty())) {
    auto line = nlohmann::json::parse(text.begin(), text.end());
    // What a clock or an allocator decides.
    for (const char* key : {"seconds", "images_per_second", "peak_bytes", "timed_steps"})
      line.erase(key);
    lines.push_back(line);
  }
  return lines;
}

void ExpectSameRun(const TempFolder& folder, const std::string& a, const std::string& b) {
  for (const char* name : {kStateFile, kLastFile, kBestFile}) {
    EXPECT_TRUE(folder.Read(a + "/" + name) == folder.Read(b + "/" + name)) << name;
    EXPECT_GT(folder.Read(a + "/" + name).size(), 1000u) << name;
  }
  EXPECT_EQ(Metrics(folder, a), Metrics(folder, b));
}

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

// What a resumed run must have in common with an uninterrupted one, for every kind of state.
class ResumeTest : public ::testing::TestWithParam<const char*> {
 protected:
  TrainOptions Options() const {
    TrainOptions o = Tiny();
    const std::string kind = GetParam();
    if (kind == "adamw") o.optimizer = "adamw";
    if (kind == "ema") o.ema = 0.9;
    if (kind == "dropout") o.dropout = 0.3;
    if (kind == "after_backward") o.log_gradients = true;
    if (kind == "jitter") {
      o.augment = "jitter,flip";
      o.nesterov = true;
      o.label_smoothing = 0.1;
      o.decay_norm_and_bias = true;
    }
    return o;
  }
};
INSTANTIATE_TEST_SUITE_P(Kinds, ResumeTest,
                         ::testing::Values("sgd", "adamw", "ema", "dropout", "after_backward",
                                           "jitter"));

TEST_P(ResumeTest, ContinuesBitForBit) {
  TempFolder folder;
  Train(Options(), folder / "whole", false, 2, 0, TrainOutcome::kFinished);
  // Within an epoch; at its end, before evaluation; within the next one; on other threads.
  Train(Options(), folder / "parts", false, 2, 2, TrainOutcome::kInterrupted);
  Train(Options(), folder / "parts", true, 1, 2, TrainOutcome::kInterrupted);
  Train(Options(), folder / "parts", true, 3, 1, TrainOutcome::kInterrupted);
  Train(Options(), folder / "parts", true, 2, 0, TrainOutcome::kFinished);
  ExpectSameRun(folder, "whole", "parts");
}

TEST(TrainerTest, ResumesAfterACrash) {
  TempFolder folder;
  TrainOptions options = Tiny();
  options.save_every = 3;
  Train(options, folder / "whole", false, 2, 0, TrainOutcome::kFinished);
  Train(options, folder / "crash", false, 2, 3, TrainOutcome::kInterrupted);
  // As a crash some steps later leaves it: a longer log, a torn line, exports of another time.
  std::filesystem::copy(folder / "whole/metrics.jsonl", folder / "crash/metrics.jsonl",
                        std::filesystem::copy_options::overwrite_existing);
  folder.Write("crash/metrics.jsonl", folder.Read("crash/metrics.jsonl") + "{\"kind\":\"ep");
  folder.Write("crash/last.safetensors", "torn");
  Train(options, folder / "crash", true, 2, 0, TrainOutcome::kFinished);
  ExpectSameRun(folder, "whole", "crash");
}

TEST(TrainerTest, ResumesBeforeTheFirstStateFromTheStart) {
  TempFolder folder;
  Train(Tiny(), folder / "whole", false, 2, 0, TrainOutcome::kFinished);
  std::filesystem::create_directory(folder / "early");
  std::filesystem::copy(folder / "whole/config.json", folder / "early/config.json");
  folder.Write("early/metrics.jsonl", "{\"kind\":\"step\",\"step\":1}\n");
  Train(Tiny(), folder / "early", true, 2, 0, TrainOutcome::kFinished);
  ExpectSameRun(folder, "whole", "early");
}

TEST(TrainerTest, AFinishedRunStaysAsItIs) {
  TempFolder folder;
  Train(Tiny(), folder / "run", false, 2, 0, TrainOutcome::kFinished);
  const auto written = [&](const char* name) {
    return std::filesystem::last_write_time(folder / (std::string("run/") + name));
  };
  const auto state = written(kStateFile), metrics = written(kMetricsFile),
             last = written(kLastFile);
  Train(Tiny(), folder / "run", true, 2, 0, TrainOutcome::kAlreadyFinished);
  EXPECT_EQ(written(kStateFile), state);
  EXPECT_EQ(written(kMetricsFile), metrics);
  EXPECT_EQ(written(kLastFile), last);
}

TEST(TrainerTest, OtherTestImagesAreNotCompared) {
  TempFolder folder;
  TrainOptions options = Tiny();
  Train(options, folder / "run", false, 2, 3, TrainOutcome::kInterrupted);
  const std::string whole = folder.Read("run/config.json");
  const auto resume = [&](const char* key, const nlohmann::json& value) {
    nlohmann::json config = nlohmann::json::parse(whole);
    EXPECT_TRUE(config["data"].contains(key)) << key;
    config["data"][key] = value;
    folder.Write("run/config.json", config.dump());
    Context ctx(1);
    return Create(options, folder / "run", true, ctx).status();
  };
  for (const auto& status :
       {resume("test_images", 3), resume("test_images", 0), resume("test_fingerprint", 7u)}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("test images are not the"));
  }
  // Of a run that began before it was recorded.
  nlohmann::json config = nlohmann::json::parse(whole);
  config["data"].erase("test_fingerprint");
  folder.Write("run/config.json", config.dump());
  Train(options, folder / "run", true, 2, 0, TrainOutcome::kFinished);
}

TEST(TrainerTest, WhatCannotBeResumedIsNotSaved) {
  ModelOptions model_options;
  model_options.image_h = model_options.image_w = 16;
  const auto graph = BuildModel("mobilenetv1", model_options);
  ASSERT_TRUE(graph.ok());
  auto state = ModelState::Create(*graph, Optimizer::kAdamW, nullptr);
  ASSERT_TRUE(state.ok());
  (*state)->Initialize(*graph, 1);
  EXPECT_EQ(FirstNonFinite(*graph, **state, FiniteCheck::kAll), "");
  // A gradient's square overflows long before the weights do.
  for (const StateTensor& tensor : OptimizerTensors(*graph, **state)) {
    const float before = tensor.data[0];
    tensor.data[0] = std::numeric_limits<float>::infinity();
    EXPECT_EQ(FirstNonFinite(*graph, **state, FiniteCheck::kAll), tensor.name);
    tensor.data[0] = before;
  }
}

// A full disk or a crash right after the last state was saved.
TEST(TrainerTest, AFinishedRunGetsBackTheWeightsThatItLacks) {
  TempFolder folder;
  Train(Tiny(), folder / "run", false, 2, 0, TrainOutcome::kFinished);
  const std::string last = folder.Read("run/last.safetensors");
  const std::string best = folder.Read("run/best.safetensors");
  const auto check = [&](const char* what) {
    Train(Tiny(), folder / "run", true, 2, 0, TrainOutcome::kAlreadyFinished);
    EXPECT_TRUE(folder.Read("run/last.safetensors") == last) << what;
    EXPECT_TRUE(folder.Read("run/best.safetensors") == best) << what;
  };
  std::filesystem::remove(folder / "run/last.safetensors");
  std::filesystem::remove(folder / "run/best.safetensors");
  check("missing");
  std::string changed = last;
  changed.back() = static_cast<char>(changed.back() ^ 1);
  folder.Write("run/last.safetensors", changed);
  check("of other weights");
  folder.Write("run/last.safetensors", last.substr(0, last.size() / 2));
  check("cut short");
}

TEST(TrainerTest, MaxStepsAreAPartOfTheSameRun) {
  TempFolder folder;
  Train(Tiny(), folder / "whole", false, 2, 0, TrainOutcome::kFinished);
  TrainOptions options = Tiny();
  options.max_steps = 6;
  Train(options, folder / "part", false, 2, 0, TrainOutcome::kFinished);
  auto lines = Metrics(folder, "part");
  EXPECT_EQ(lines.back()["kind"], "epoch");
  EXPECT_EQ(lines.back()["epoch"], 2);
  EXPECT_EQ(lines.back()["step"], 6);
  Train(options, folder / "part", true, 2, 0, TrainOutcome::kAlreadyFinished);
  options.max_steps = 0;
  Train(options, folder / "part", true, 2, 0, TrainOutcome::kFinished);
  EXPECT_TRUE(folder.Read("whole/last.safetensors") == folder.Read("part/last.safetensors"));
  EXPECT_EQ(Metrics(folder, "whole"), Metrics(folder, "part"));
}

// The evaluation where a limit stops a run must not outlive the limit: here no later one is better.
TEST(TrainerTest, TheBestOfALimitedRunIsForgottenBeyondItsLimit) {
  TempFolder folder;
  for (const int64_t eval_every : {1, 2}) {
    TrainOptions options = Tiny();
    options.eval_every = eval_every;
    options.lr = 1e-6;  // the predictions hardly change: equally good all through
    options.decay_norm_and_bias = true;
    const std::string whole = absl::StrCat("whole", eval_every);
    Train(options, folder / whole, false, 2, 0, TrainOutcome::kFinished);
    for (const int64_t limit : {2, 4, 6}) {
      const std::string part = absl::StrCat("part", eval_every, "_", limit);
      options.max_steps = limit;
      Train(options, folder / part, false, 2, 0, TrainOutcome::kFinished);
      EXPECT_TRUE(folder.Has(part + "/best.safetensors")) << "of what there is";
      Train(options, folder / part, true, 2, 0, TrainOutcome::kAlreadyFinished);
      options.max_steps = 0;
      // A stop right after it, before any regular evaluation, and on to the end.
      Train(options, folder / part, true, 2, 1, TrainOutcome::kInterrupted);
      Train(options, folder / part, true, 2, 0, TrainOutcome::kFinished);
      for (const char* name : {kStateFile, kLastFile, kBestFile}) {
        EXPECT_TRUE(folder.Read(whole + "/" + name) == folder.Read(part + "/" + name))
            << name << ", evaluated every " << eval_every << ", limit " << limit;
      }
    }
  }
}

TEST(TrainerTest, ALimitedRunExportsTheBestOfItsEvaluations) {
  TempFolder folder;
  TrainOptions options = Tiny();
  options.max_steps = 2;  // within the first epoch: the only evaluation is that at the limit
  Context ctx(2);
  {
    auto trainer = Create(options, folder / "run", false, ctx);
    ASSERT_TRUE(trainer.ok()) << trainer.status();
    ASSERT_TRUE((*trainer)->Run({}).ok());
    EXPECT_TRUE((*trainer)->position().stop_is_best());
  }
  // Metadata apart (best says what it was chosen on) the same weights.
  const auto best = SafetensorsFile::Open(folder / "run/best.safetensors");
  const auto last = SafetensorsFile::Open(folder / "run/last.safetensors");
  ASSERT_TRUE(best.ok() && last.ok());
  for (const auto& entry : last->entries()) {
    if (entry.dtype != DType::kF32) continue;
    EXPECT_EQ(best->ReadFloats(entry.name, entry.shape).value(),
              last->ReadFloats(entry.name, entry.shape).value())
        << entry.name;
  }
  // Known after a restart, too; and gone once the run goes on.
  auto again = Create(options, folder / "run", true, ctx);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE((*again)->position().stop_is_best());
  EXPECT_EQ((*again)->position().stop_epoch, 1);
  again->reset();  // one trainer in a folder at a time
  options.max_steps = 0;
  Train(options, folder / "run", true, 2, 1, TrainOutcome::kInterrupted);
  EXPECT_FALSE(folder.Has("run/best.safetensors")) << "nothing was evaluated as a whole run would";
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

TEST(TrainerTest, KeepsStates) {
  TempFolder folder;
  TrainOptions options = Tiny();
  options.save_every = 2;
  options.keep = 2;
  Train(options, folder / "run", false, 2, 0, TrainOutcome::kFinished);
  EXPECT_TRUE(folder.Has("run/state-000000008.safetensors"));
  EXPECT_TRUE(folder.Has("run/state-000000006.safetensors"));
  EXPECT_FALSE(folder.Has("run/state-000000004.safetensors"));
  EXPECT_TRUE(folder.Read("run/state-000000008.safetensors") ==
              folder.Read("run/state.safetensors"));
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

TEST(TrainerTest, ResumingRemovesWhatAKilledProcessLeftHalfWritten) {
  TempFolder folder;
  Train(Tiny(), folder / "run", false, 2, 1, TrainOutcome::kInterrupted);
  for (const char* name : {"state.safetensors.12.0.tmp", "last.safetensors.3.7.tmp", "mine.tmp"}) {
    folder.Write(std::string("run/") + name, "half");
  }
  Train(Tiny(), folder / "run", true, 2, 0, TrainOutcome::kFinished);
  EXPECT_FALSE(folder.Has("run/state.safetensors.12.0.tmp"));
  EXPECT_FALSE(folder.Has("run/last.safetensors.3.7.tmp"));
  EXPECT_TRUE(folder.Has("run/mine.tmp")) << "not one of the run's files";
}

TEST(TrainerTest, RefusesStatesThatDoNotFit) {
  TempFolder folder;
  Train(Tiny(), folder / "run", false, 2, 3, TrainOutcome::kInterrupted);
  const std::string good = folder.Read("run/state.safetensors");
  Context ctx(2);
  const auto refused = [&](const TrainOptions& options, const std::string& what) {
    const auto trainer = Create(options, folder / "run", true, ctx);
    ASSERT_FALSE(trainer.ok());
    EXPECT_THAT(std::string(trainer.status().message()), HasSubstr(what));
  };
  TrainOptions other = Tiny();
  other.optimizer = "adamw";
  refused(other, "optimizer");
  other = Tiny();
  other.ema = 0.9;
  refused(other, "ema.");
  other = Tiny();
  other.model = "resnet18";
  refused(other, "model");
  other = Tiny();
  other.synthetic_images = 40;
  refused(other, "--data=synthetic");
  // A file that is well-formed and finite, but not what was written.
  std::string flipped = good;
  flipped[flipped.size() - 100] = static_cast<char>(flipped[flipped.size() - 100] ^ 1);
  folder.Write("run/state.safetensors", flipped);
  refused(Tiny(), folder / "run/state.safetensors: is damaged");
  folder.Write("run/state.safetensors", good.substr(0, good.size() / 2));
  refused(Tiny(), folder / "run/state.safetensors");
  folder.Write("run/state.safetensors", "");
  refused(Tiny(), folder / "run/state.safetensors");
  folder.Write("run/config.json", "{\"flags\":");
  refused(Tiny(), folder / "run/config.json");
}

TEST(TrainerTest, MemoryLimitKeepsTheBits) {
  TempFolder folder;
  Train(Tiny(), folder / "free", false, 2, 0, TrainOutcome::kFinished);
  TrainOptions options = Tiny();
  int64_t peak = 0;
  {
    Context ctx(2);
    auto trainer = Create(options, folder / "measure", false, ctx);
    ASSERT_TRUE(trainer.ok());
    peak = (*trainer)->plan().arena_bytes + ctx.memory().peak();
  }
  options.memory_limit = std::to_string(peak + (int64_t{1} << 24));
  Train(options, folder / "limited", false, 2, 0, TrainOutcome::kFinished);
  ExpectSameRun(folder, "free", "limited");
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
