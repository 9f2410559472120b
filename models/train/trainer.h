// A training run: data, network, optimizer, and the folder that keeps what comes of it.
#ifndef CLASSICNN_MODELS_TRAIN_TRAINER_H_
#define CLASSICNN_MODELS_TRAIN_TRAINER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/context.h"
#include "models/data/dataset.h"
#include "models/executor.h"
#include "models/graph.h"
#include "models/model_state.h"
#include "models/plan.h"
#include "models/train/augment.h"
#include "models/train/checkpoint.h"
#include "models/train/evaluate.h"
#include "models/train/metrics.h"
#include "models/train/options.h"
#include "models/train/run_folder.h"
#include "models/train/schedule.h"
#include "nlohmann/json_fwd.hpp"

namespace classicnn {

// What one epoch came to; also the line in metrics.jsonl.
struct EpochResult {
  int64_t epoch = 0;  // from 1
  int64_t epochs = 0;
  int64_t step = 0;
  double train_loss = 0;      // as trained: augmented, smoothed, weights moving
  double train_accuracy = 0;  // of the same batches
  std::optional<double> test_loss, test_accuracy;  // of the weights in last.safetensors
  double images_per_second = 0;                    // while training
  double seconds = 0;                              // evaluation included
  int64_t timed_steps = 0;                         // that they took, of the epoch's
  double lr = 0;                                   // of the last step
  int64_t peak_bytes = 0;
};

// What a run tells whoever watches it. Each may be empty.
struct TrainCallbacks {
  struct Step {
    int64_t step, total_steps;
    int64_t epoch, epochs;
    double loss;      // running mean over the epoch
    double accuracy;  // likewise
    double images_per_second;
  };
  std::function<void(const Step&)> on_step;
  std::function<void(int64_t done, int64_t total)> on_evaluation;
  std::function<void(const EpochResult&)> on_epoch;
  std::function<bool()> stop_requested;  // asked after every step and evaluation batch
};

enum class TrainOutcome {
  kFinished,
  kAlreadyFinished,  // nothing was done; nothing written but exports that were missing or old
  kInterrupted,      // by stop_requested; the state is saved
};

class Trainer {
 public:
  // Checks everything, loads the data, makes plan and weights, and only then creates the folder
  // `out` with config.json and metrics.jsonl, or with `resume` reads state.safetensors there. On an
  // error nothing new is left behind. `options` must be resolved. `extra_config` goes into
  // config.json as it is. `ctx` must outlive the trainer.
  static absl::StatusOr<std::unique_ptr<Trainer>> Create(const TrainOptions& options,
                                                         const std::string& out, bool resume,
                                                         const nlohmann::json& extra_config,
                                                         Context& ctx);

  // Trains to the end. Aborted names the step where the loss, a gradient or a weight stopped being
  // finite, and the layer. Other errors: a file could not be written (a full disk, a folder that
  // became read-only). Either way what was saved last is still there as it was, and the message
  // says of which step it is.
  absl::StatusOr<TrainOutcome> Run(const TrainCallbacks& callbacks);

  const TrainOptions& options() const { return options_; }
  const TrainPosition& position() const { return position_; }
  const Graph& graph() const { return graph_; }
  const ModelState& state() const { return *state_; }
  const Dataset& data() const { return data_; }
  const Plan& plan() const { return plan_; }
  const MeanStd& normalization() const { return normalization_; }
  int64_t batch() const { return batch_; }
  int64_t steps_per_epoch() const { return steps_per_epoch_; }
  int64_t total_steps() const { return total_steps_; }
  // A resumed run that had not saved anything yet.
  bool restarted() const { return restarted_; }

 private:
  Trainer(const TrainOptions& options, std::string out, Context& ctx);
  // trainer_setup.cc
  absl::Status LoadData();
  absl::Status MakePlans();
  absl::Status MakeStates(bool resume);
  absl::Status Resume(const RunConfig& config);
  nlohmann::json Config(const nlohmann::json& extra_config) const;

  // trainer.cc
  absl::StatusOr<TrainOutcome> RunToTheEnd(const TrainCallbacks& callbacks);
  absl::Status RunStep();
  absl::Status MeasureGradients();
  absl::Status EvaluateEpoch(const TrainCallbacks& callbacks, EpochResult* result);
  absl::Status LogStep();
  absl::Status LogEpoch(const EpochResult& result);
  absl::Status Save();
  absl::Status UpdateExports();
  absl::Status ExportBest();
  absl::Status Export(const char* name, const ModelState& state);
  absl::Status DescribeNonFinite(int64_t step, const std::string& what);
  std::string WhatIsKept() const;

  ModelState& exported() { return ema_ != nullptr ? *ema_ : *state_; }
  bool finished() const {
    return position_.step >= total_steps_ && position_.evaluated_step == position_.step;
  }
  UpdateParams UpdateAt(int64_t step) const;
  std::string Path(const char* name) const { return out_ + "/" + name; }

  TrainOptions options_;
  std::string out_;
  Context& ctx_;
  Graph graph_;
  Dataset data_;
  MeanStd normalization_;
  Augmentation augmentation_;
  Schedule schedule_;
  Plan plan_;
  int64_t batch_ = 0;  // of a step: smaller than asked for where the data is
  int64_t steps_per_epoch_ = 0;
  int64_t total_steps_ = 0;  // where the run ends
  int64_t memory_limit_ = 0;
  int64_t state_bytes_ = 0;  // everything beside a plan's arena
  bool resumed_ = false;
  bool restarted_ = false;
  int64_t saved_step_ = -1;     // of state.safetensors; -1: there is none
  int64_t exported_step_ = -1;  // of last.safetensors, as far as this run knows
  bool best_changed_ = false;

  std::unique_ptr<RunLock> lock_;
  std::unique_ptr<ModelState> state_, ema_, best_;
  std::unique_ptr<Executor> executor_;  // only while training, not while evaluating
  std::unique_ptr<BatchMaker> batches_;
  std::unique_ptr<MetricsLog> metrics_;
  TrainPosition position_;
  std::vector<int64_t> order_;  // of the epoch's images
  double step_loss_ = 0;        // of the last step
  double step_lr_ = 0;
  std::vector<double> gradient_norms_;  // by parameter, of the last step; empty with fused updates
};

// The images of an epoch in the order they are taken: a permutation that depends on seed and epoch
// alone (Fisher and Yates).
std::vector<int64_t> ShuffledOrder(int64_t count, uint64_t seed, int64_t epoch);

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_TRAIN_TRAINER_H_
