// Small training runs, for the tests of the trainer.
#ifndef CLASSICNN_TESTS_MODELS_TRAIN_TRAIN_RUNS_H_
#define CLASSICNN_TESTS_MODELS_TRAIN_TRAIN_RUNS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "models/train/run_folder.h"
#include "models/train/trainer.h"
#include "nlohmann/json.hpp"
#include "tests/testing/temp_folder.h"

namespace classicnn {

// Two epochs of four steps on small images.
inline TrainOptions Tiny() {
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

inline absl::StatusOr<std::unique_ptr<Trainer>> Create(TrainOptions options, const std::string& out,
                                                       bool resume, Context& ctx) {
  if (absl::Status s = Resolve(&options); !s.ok()) return s;
  return Trainer::Create(options, out, resume, {{"target", "any"}}, ctx);
}

// Trains, stopping after `stop_after` more steps (and, where it is 0 below the end, not at all).
inline void Train(const TrainOptions& options, const std::string& out, bool resume, int threads,
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

inline std::vector<nlohmann::json> Metrics(const TempFolder& folder, const std::string& run) {
  std::vector<nlohmann::json> lines;
  for (const auto text :
       absl::StrSplit(folder.Read(run + "/metrics.jsonl"), '\n', absl::SkipEmpty())) {
    auto line = nlohmann::json::parse(text.begin(), text.end());
    // What a clock or an allocator decides.
    for (const char* key : {"seconds", "images_per_second", "peak_bytes", "timed_steps"}) {
      line.erase(key);
    }
    lines.push_back(line);
  }
  return lines;
}

inline void ExpectSameRun(const TempFolder& folder, const std::string& a, const std::string& b) {
  for (const char* name : {kStateFile, kLastFile, kBestFile}) {
    EXPECT_TRUE(folder.Read(a + "/" + name) == folder.Read(b + "/" + name)) << name;
    EXPECT_GT(folder.Read(a + "/" + name).size(), 1000u) << name;
  }
  EXPECT_EQ(Metrics(folder, a), Metrics(folder, b));
}

}  // namespace classicnn

#endif  // CLASSICNN_TESTS_MODELS_TRAIN_TRAIN_RUNS_H_
