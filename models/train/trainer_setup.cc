// How a run begins: data, plans, weights, and the run's folder.
#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/divide.h"
#include "core/program.h"
#include "layers/conv2d/conv2d.h"
#include "models/model.h"
#include "models/train/trainer.h"
#include "models/weights_file.h"
#include "nlohmann/json.hpp"

namespace classicnn {
namespace {

Optimizer OptimizerOf(const TrainOptions& options) {
  return options.optimizer == "adamw" ? Optimizer::kAdamW : Optimizer::kSgd;
}

}  // namespace

Trainer::Trainer(const TrainOptions& options, std::string out, Context& ctx)
    : options_(options), out_(std::move(out)), ctx_(ctx) {}

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(const TrainOptions& options,
                                                         const std::string& out, bool resume,
                                                         const nlohmann::json& extra_config,
                                                         Context& ctx) {
  auto trainer = std::unique_ptr<Trainer>(new Trainer(options, out, ctx));
  RunConfig config;
  if (resume) {
    auto read = ReadRunConfig(out);
    if (!read.ok()) return read.status();
    config = *std::move(read);
    auto lock = RunLock::Take(out);
    if (!lock.ok()) return lock.status();
    trainer->lock_ = *std::move(lock);
  }
  ModelOptions model_options;
  model_options.image_h = model_options.image_w = options.image_size;
  model_options.num_classes = options.num_classes;
  model_options.dropout = options.dropout;
  auto graph = BuildModel(options.model, model_options);
  if (!graph.ok()) {
    return absl::Status(graph.status().code(), absl::StrCat("--image_size=", options.image_size,
                                                            ": ", graph.status().message()));
  }
  trainer->graph_ = *std::move(graph);

  for (const auto step : {&Trainer::LoadData, &Trainer::MakePlans}) {
    if (absl::Status s = (trainer.get()->*step)(); !s.ok()) return s;
  }
  if (absl::Status s = trainer->MakeStates(resume); !s.ok()) return s;
  if (resume) {
    if (absl::Status s = trainer->Resume(config); !s.ok()) return s;
  } else {
    const absl::Status s = StartRunFolder(out, trainer->Config(extra_config));
    if (!s.ok()) return s;
    auto lock = RunLock::Take(out);
    if (!lock.ok()) return lock.status();
    trainer->lock_ = *std::move(lock);
    auto metrics = MetricsLog::Open(trainer->Path(kMetricsFile));
    if (!metrics.ok()) return metrics.status();
    trainer->metrics_ = *std::move(metrics);
  }
  return trainer;
}

absl::Status Trainer::LoadData() {
  DataOptions data_options;
  data_options.source = options_.data;
  data_options.num_classes = options_.num_classes;
  data_options.synthetic_images = options_.synthetic_images;
  data_options.seed = options_.seed;
  auto data = LoadDataset(data_options, &ctx_.memory());
  if (!data.ok()) return data.status();
  data_ = *std::move(data);
  MeanStd measured;
  if (options_.mean == "measure" || options_.std == "measure") {
    measured = MeasureMeanStd(*data_.train);
    if (options_.std == "measure" &&
        *std::min_element(measured.std.begin(), measured.std.end()) <= 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("--std=measure: all pixels of ", options_.data, " are the same"));
    }
  }
  auto mean = ParseChannels("mean", options_.mean, measured.mean, false);
  auto std = ParseChannels("std", options_.std, measured.std, true);
  if (!mean.ok()) return mean.status();
  if (!std.ok()) return std.status();
  normalization_.mean = *mean;
  normalization_.std = *std;
  const Shape4 shape = graph_.node(graph_.input()).shape;
  batches_ = std::make_unique<BatchMaker>(*data_.train, shape.h, shape.w, normalization_);
  return absl::OkStatus();
}

absl::Status Trainer::MakePlans() {
  if (data_.test != nullptr && graph_.num_classes() > kMaxEvaluatedClasses) {
    return absl::InvalidArgumentError(absl::StrCat("--num_classes=", graph_.num_classes(),
                                                   ": evaluation can count confusions of at most ",
                                                   kMaxEvaluatedClasses));
  }
  // The last partial batch is dropped, unless it is the only one.
  const int64_t images = data_.train->count();
  batch_ = std::min(options_.batch, images);
  steps_per_epoch_ = images / batch_;
  if (options_.epochs == 0) {
    options_.epochs = DivideUp(options_.max_steps, steps_per_epoch_);
  }
  const int64_t scheduled = options_.epochs * steps_per_epoch_;
  total_steps_ = options_.max_steps > 0 ? std::min(options_.max_steps, scheduled) : scheduled;

  auto augmentation = ParseAugmentation(options_.augment);
  if (!augmentation.ok()) return augmentation.status();
  augmentation_ = *augmentation;
  auto kind = ParseSchedule(options_.schedule);
  if (!kind.ok()) return kind.status();
  if (options_.warmup_epochs < 0) {
    options_.warmup_epochs =
        *kind == ScheduleKind::kOneCycle ? 0.25 * static_cast<double>(options_.epochs) : 0;
  }
  if (options_.warmup_epochs >= static_cast<double>(options_.epochs)) {
    return absl::InvalidArgumentError(absl::StrCat("bad value \"", options_.warmup_epochs,
                                                   "\" for --warmup_epochs: the run has ",
                                                   options_.epochs, " epochs"));
  }
  if (options_.lr < 0) options_.lr = DefaultLr(options_, batch_);
  schedule_.kind = *kind;
  schedule_.lr = options_.lr;
  schedule_.total_steps = scheduled;
  schedule_.warmup_steps =
      static_cast<int64_t>(options_.warmup_epochs * static_cast<double>(steps_per_epoch_));

  if (!options_.memory_limit.empty()) {
    auto limit = ParseSize(options_.memory_limit);
    if (!limit.ok()) return limit.status();
    memory_limit_ = *limit;
  }
  // Everything that is there beside a plan's arena: weights and optimizer, their average, the best
  // ones, the data.
  const int64_t weights = Total(ModelState::Bytes(graph_, Optimizer::kNone));
  state_bytes_ = Total(ModelState::Bytes(graph_, OptimizerOf(options_))) + data_.train->bytes();
  if (options_.ema > 0) state_bytes_ += weights;
  if (data_.test != nullptr) state_bytes_ += weights + data_.test->bytes();

  PlanOptions plan_options;
  plan_options.batch = batch_;
  plan_options.update =
      options_.update == "after_backward" ? Update::kAfterBackward : Update::kFused;
  plan_options.num_threads = ctx_.num_threads();
  plan_options.label_smoothing = options_.label_smoothing;
  plan_options.memory_limit = memory_limit_;
  auto plan = MakePlan(graph_, plan_options, state_bytes_);
  if (!plan.ok()) {
    // Name the flag that is to be changed.
    const bool memory = absl::IsResourceExhausted(plan.status());
    return absl::Status(plan.status().code(),
                        absl::StrCat(memory ? "--memory_limit=" : "--batch=",
                                     memory ? options_.memory_limit : absl::StrCat(batch_), ": ",
                                     plan.status().message()));
  }
  plan_ = *std::move(plan);
  return absl::OkStatus();
}

absl::Status Trainer::MakeStates(bool resume) {
  const auto make = [this](Optimizer optimizer, std::unique_ptr<ModelState>* to) {
    auto state = ModelState::Create(graph_, optimizer, &ctx_.memory());
    if (!state.ok()) return state.status();
    *to = *std::move(state);
    return absl::OkStatus();
  };
  if (absl::Status s = make(OptimizerOf(options_), &state_); !s.ok()) return s;
  if (options_.ema > 0) {
    if (absl::Status s = make(Optimizer::kNone, &ema_); !s.ok()) return s;
  }
  if (data_.test != nullptr) {
    if (absl::Status s = make(Optimizer::kNone, &best_); !s.ok()) return s;
  }
  position_.seed = options_.seed;
  std::error_code error;
  if (resume && std::filesystem::exists(Path(kStateFile), error)) return absl::OkStatus();
  state_->Initialize(graph_, options_.seed);
  if (!options_.init.empty()) {
    if (absl::Status s = LoadWeights(options_.init, graph_, state_.get()); !s.ok()) {
      return absl::Status(s.code(), absl::StrCat("--init: ", s.message()));
    }
  }
  if (ema_ != nullptr) CopyWeights(graph_, *state_, ema_.get());
  // Everything the run will need of the system, before its folder is touched.
  auto executor = Executor::Create(graph_, plan_, state_.get(), ctx_);
  if (executor.ok()) return absl::OkStatus();
  return absl::Status(executor.status().code(),
                      absl::StrCat("--batch=", batch_, ": ", executor.status().message()));
}

absl::Status Trainer::Resume(const RunConfig& config) {
  resumed_ = true;
  if (config.train_fingerprint != data_.train->Fingerprint()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--data=", options_.data, " is not what the run in ", out_, " began with"));
  }
  // Accuracies on other images could not be compared with those that chose the best weights.
  const int64_t test_images = data_.test != nullptr ? data_.test->count() : 0;
  if (test_images != config.test_images ||
      (config.test_fingerprint && data_.test != nullptr &&
       *config.test_fingerprint != data_.test->Fingerprint())) {
    return absl::InvalidArgumentError(absl::StrCat("--data=", options_.data, ": the ", test_images,
                                                   " test images are not the ", config.test_images,
                                                   " that the run in ", out_, " began with"));
  }
  std::error_code error;
  if (!std::filesystem::exists(Path(kStateFile), error)) {
    restarted_ = true;
    RemoveTemporaries(out_);
    return MakeWritableFolder(out_);
  }
  auto position = LoadTrainState(Path(kStateFile), graph_, {state_.get(), ema_.get(), best_.get()});
  if (!position.ok()) return position.status();
  const int64_t finished_steps = position->epochs * steps_per_epoch_;
  if (position->seed != options_.seed || position->step < finished_steps ||
      position->step > finished_steps + steps_per_epoch_ ||
      position->step > schedule_.total_steps) {
    return absl::InvalidArgumentError(absl::StrCat(Path(kStateFile), ": is not of the run that ",
                                                   Path(kConfigFile), " describes (seed ",
                                                   position->seed, ", step ", position->step, ")"));
  }
  position_ = *position;
  saved_step_ = position_.step;
  if (finished()) return absl::OkStatus();
  RemoveTemporaries(out_);
  return MakeWritableFolder(out_);
}

nlohmann::json Trainer::Config(const nlohmann::json& extra_config) const {
  nlohmann::json config = extra_config;
  config["flags"] = options_;
  nlohmann::json& data = config["data"];
  data["kind"] = data_.kind;
  data["source"] = options_.data;
  data["train_images"] = data_.train->count();
  data["test_images"] = data_.test != nullptr ? data_.test->count() : 0;
  data["classes"] = data_.num_classes;
  data["class_names"] = data_.class_names;
  data["train_fingerprint"] = data_.train->Fingerprint();
  if (data_.test != nullptr) data["test_fingerprint"] = data_.test->Fingerprint();
  data["mean"] = normalization_.mean;
  data["std"] = normalization_.std;
  nlohmann::json& run = config["run"];
  run["batch"] = batch_;
  run["epochs"] = options_.epochs;
  run["steps_per_epoch"] = steps_per_epoch_;
  run["total_steps"] = total_steps_;
  run["warmup_steps"] = schedule_.warmup_steps;
  run["parameters"] = graph_.parameter_count();
  run["macs_per_image"] = graph_.macs_per_image();
  nlohmann::json& memory = config["memory"];
  memory["arena_bytes"] = plan_.arena_bytes;
  memory["state_and_data_bytes"] = state_bytes_;
  nlohmann::json& algorithms = config["algorithms"];
  for (const Step& step : plan_.steps) {
    if (!IsConv2d(step.kind)) continue;
    algorithms[step.name] = Conv2dAlgorithmName(step.algorithm);
  }
  return config;
}

}  // namespace classicnn
