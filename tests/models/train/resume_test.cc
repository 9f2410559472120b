// Going on with runs that were stopped, killed, limited or finished, and what is saved for that.
#include "models/train/trainer.h"

#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/model.h"
#include "models/state_tensors.h"
#include "models/train/checkpoint.h"
#include "models/weights_file.h"
#include "nlohmann/json.hpp"
#include "tests/models/train/train_runs.h"

namespace classicnn {
namespace {

using ::testing::HasSubstr;

// What a resumed run must have in common with an uninterrupted one, for every kind of state.
class ResumeEveryStateTest : public ::testing::TestWithParam<const char*> {
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
INSTANTIATE_TEST_SUITE_P(Kinds, ResumeEveryStateTest,
                         ::testing::Values("sgd", "adamw", "ema", "dropout", "after_backward",
                                           "jitter"));

TEST_P(ResumeEveryStateTest, ContinuesBitForBit) {
  TempFolder folder;
  Train(Options(), folder / "whole", false, 2, 0, TrainOutcome::kFinished);
  // Within an epoch; at its end, before evaluation; within the next one; on other threads.
  Train(Options(), folder / "parts", false, 2, 2, TrainOutcome::kInterrupted);
  Train(Options(), folder / "parts", true, 1, 2, TrainOutcome::kInterrupted);
  Train(Options(), folder / "parts", true, 3, 1, TrainOutcome::kInterrupted);
  Train(Options(), folder / "parts", true, 2, 0, TrainOutcome::kFinished);
  ExpectSameRun(folder, "whole", "parts");
}

TEST(ResumeTest, ResumesAfterACrash) {
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

TEST(ResumeTest, ResumesBeforeTheFirstStateFromTheStart) {
  TempFolder folder;
  Train(Tiny(), folder / "whole", false, 2, 0, TrainOutcome::kFinished);
  std::filesystem::create_directory(folder / "early");
  std::filesystem::copy(folder / "whole/config.json", folder / "early/config.json");
  folder.Write("early/metrics.jsonl", "{\"kind\":\"step\",\"step\":1}\n");
  Train(Tiny(), folder / "early", true, 2, 0, TrainOutcome::kFinished);
  ExpectSameRun(folder, "whole", "early");
}

TEST(ResumeTest, AFinishedRunStaysAsItIs) {
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

TEST(ResumeTest, OtherTestImagesAreNotCompared) {
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

TEST(ResumeTest, WhatCannotBeResumedIsNotSaved) {
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
TEST(ResumeTest, AFinishedRunGetsBackTheWeightsThatItLacks) {
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

TEST(ResumeTest, MaxStepsAreAPartOfTheSameRun) {
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
TEST(ResumeTest, TheBestOfALimitedRunIsForgottenBeyondItsLimit) {
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

TEST(ResumeTest, ALimitedRunExportsTheBestOfItsEvaluations) {
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

TEST(ResumeTest, KeepsStates) {
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

TEST(ResumeTest, ResumingRemovesWhatAKilledProcessLeftHalfWritten) {
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

TEST(ResumeTest, RefusesStatesThatDoNotFit) {
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

}  // namespace
}  // namespace classicnn
