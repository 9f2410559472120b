#include "models/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <numeric>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/random.h"
#include "core/trace.h"
#include "models/weights_file.h"
#include "nlohmann/json.hpp"

namespace classicnn {
namespace {

double Seconds(int64_t nanos) { return static_cast<double>(nanos) * 1e-9; }

// Rows of `logits` whose largest value is the label's; of equals the first one counts.
int64_t CountCorrect(ConstTensor logits, const int32_t* labels) {
  int64_t correct = 0;
  for (int64_t i = 0; i < logits.n; ++i) {
    const float* row = logits.Pixel(i);
    if (std::max_element(row, row + logits.c) - row == labels[i]) ++correct;
  }
  return correct;
}

double SumOfSquares(const float* values, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    sum += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  }
  return sum;
}

bool AllFinite(ConstTensor values) {
  for (int64_t p = 0; p < values.pixels(); ++p) {
    const float* pixel = values.Pixel(p);
    if (!std::all_of(pixel, pixel + values.c, [](float v) { return std::isfinite(v); })) {
      return false;
    }
  }
  return true;
}

}  // namespace

std::vector<int64_t> ShuffledOrder(int64_t count, uint64_t seed, int64_t epoch) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  const RandomStream random(seed, "shuffle", static_cast<uint64_t>(epoch));
  for (size_t i = order.size(); i > 1; --i) {
    std::swap(order[i - 1], order[static_cast<size_t>(random.Below(i, i))]);
  }
  return order;
}

UpdateParams Trainer::UpdateAt(int64_t step) const {
  UpdateParams update;
  const double lr = schedule_.At(step);
  update.sgd.lr = update.adamw.lr = lr;
  update.sgd.momentum = options_.momentum;
  update.sgd.nesterov = options_.nesterov;
  update.sgd.weight_decay = update.adamw.weight_decay = options_.weight_decay;
  update.decay_norm_and_bias = options_.decay_norm_and_bias;
  update.decay_depthwise = options_.decay_depthwise;
  return update;
}

absl::StatusOr<TrainOutcome> Trainer::Run(const TrainCallbacks& callbacks) {
  auto outcome = RunToTheEnd(callbacks);
  if (outcome.ok() || absl::IsAborted(outcome.status())) return outcome;
  return absl::Status(
      outcome.status().code(),
      absl::StrCat(outcome.status().message(), "\n", WhatIsKept(),
                   "\nset that right and go on with: cnn-train --resume --out=", out_));
}

std::string Trainer::WhatIsKept() const {
  if (saved_step_ < 0) {
    return absl::StrCat("nothing had been saved yet: ", out_, " holds ", kConfigFile, " and ",
                        kMetricsFile, ", but no weights");
  }
  const bool exported = exported_step_ == saved_step_;
  return absl::StrCat(out_, " keeps, whole, the state", exported ? " and weights" : "",
                      " saved last, of step ", saved_step_,
                      exported ? "" : "; its weights are exported when the run goes on");
}

absl::StatusOr<TrainOutcome> Trainer::RunToTheEnd(const TrainCallbacks& callbacks) {
  if (resumed_) {
    if (finished()) {
      if (absl::Status s = UpdateExports(); !s.ok()) return s;
      return TrainOutcome::kAlreadyFinished;
    }
    const absl::Status s = CutMetrics(Path(kMetricsFile), restarted_ ? -1 : position_.step,
                                      restarted_ ? -1 : position_.epochs);
    if (!s.ok()) return s;
    auto metrics = MetricsLog::Open(Path(kMetricsFile));
    if (!metrics.ok()) return metrics.status();
    metrics_ = *std::move(metrics);
  }
  if (resumed_ && !restarted_) {
    position_.stop_epoch = -1;  // the limit was lifted: that evaluation never was
    if (absl::Status s = UpdateExports(); !s.ok()) return s;
  }
  const auto stop = [&] { return callbacks.stop_requested && callbacks.stop_requested(); };

  while (!finished()) {
    const int64_t epoch_begin = position_.epochs * steps_per_epoch_;
    const int64_t epoch_end = std::min(epoch_begin + steps_per_epoch_, total_steps_);
    if (options_.shuffle) {
      order_ = ShuffledOrder(data_.train->count(), options_.seed, position_.epochs);
    } else {
      order_.resize(static_cast<size_t>(data_.train->count()));
      std::iota(order_.begin(), order_.end(), 0);
    }
    const int64_t began_ns = NowNanos(), began_step = position_.step;
    const auto rate = [&](int64_t now) {
      return static_cast<double>((position_.step - began_step) * batch_) /
             std::max(Seconds(now - began_ns), 1e-9);
    };
    while (position_.step < epoch_end) {
      if (absl::Status s = RunStep(); !s.ok()) return s;
      if (callbacks.on_step) {
        const auto images = static_cast<double>(position_.images);
        callbacks.on_step({position_.step, total_steps_, position_.epochs + 1, options_.epochs,
                           position_.loss_sum / images,
                           static_cast<double>(position_.correct) / images, rate(NowNanos())});
      }
      const bool stopping = stop();
      if (stopping || (options_.save_every > 0 && position_.step % options_.save_every == 0 &&
                       position_.step < epoch_end)) {
        if (absl::Status s = Save(); !s.ok()) return s;
      }
      if (stopping) return TrainOutcome::kInterrupted;
    }

    EpochResult result;
    result.images_per_second = rate(NowNanos());
    executor_.reset();  // its memory is evaluation's meanwhile
    const absl::Status evaluated = EvaluateEpoch(callbacks, &result);
    if (absl::IsCancelled(evaluated)) {
      if (absl::Status s = Save(); !s.ok()) return s;
      return TrainOutcome::kInterrupted;
    }
    if (!evaluated.ok()) return evaluated;
    result.seconds = Seconds(NowNanos() - began_ns);
    result.timed_steps = position_.step - began_step;
    result.peak_bytes = ctx_.memory().peak();
    // The line first: a crash before the state is written takes it back (CutMetrics).
    if (absl::Status s = LogEpoch(result); !s.ok()) return s;
    position_.evaluated_step = position_.step;
    if (position_.step == epoch_begin + steps_per_epoch_) {
      ++position_.epochs;
      position_.loss_sum = 0;
      position_.correct = position_.images = 0;
    }
    if (absl::Status s = Save(); !s.ok()) return s;
    if (callbacks.on_epoch) callbacks.on_epoch(result);
  }
  return TrainOutcome::kFinished;
}

absl::Status Trainer::RunStep() {
  if (executor_ == nullptr) {
    auto executor = Executor::Create(graph_, plan_, state_.get(), ctx_);
    if (!executor.ok()) return executor.status();
    executor_ = *std::move(executor);
  }
  const int64_t in_epoch = position_.step - position_.epochs * steps_per_epoch_;
  BatchRequest request;
  request.images = absl::MakeConstSpan(order_).subspan(static_cast<size_t>(in_epoch * batch_),
                                                       static_cast<size_t>(batch_));
  request.augmentation = augmentation_;
  request.seed = options_.seed;
  request.epoch = static_cast<uint64_t>(position_.epochs);
  batches_->Fill(request, executor_->input(), executor_->labels(), ctx_);

  const UpdateParams update = UpdateAt(position_.step);
  executor_->SetDropoutPosition(options_.seed, static_cast<uint64_t>(position_.step));
  executor_->SetUpdate(update);
  executor_->Forward();
  const auto loss = static_cast<double>(executor_->loss());
  if (!std::isfinite(loss)) return DescribeNonFinite(position_.step + 1, "the loss");
  const int64_t correct = CountCorrect(executor_->logits(), executor_->labels());
  executor_->Backward();
  if (plan_.options.update == Update::kAfterBackward) {
    if (absl::Status s = MeasureGradients(); !s.ok()) return s;
    executor_->ApplyUpdate();
  }
  ++position_.step;
  if (ema_ != nullptr) {
    // The average follows quickly at first: it would hold on to the initial weights otherwise.
    const auto t = static_cast<double>(position_.step);
    UpdateAverage(graph_, *state_, std::min(options_.ema, (1 + t) / (10 + t)), ema_.get(), ctx_);
  }
  if (const std::string bad = FirstNonFinite(graph_, *state_, FiniteCheck::kVectors);
      !bad.empty()) {
    return DescribeNonFinite(position_.step, absl::StrCat("after it ", bad));
  }
  position_.loss_sum += loss * static_cast<double>(batch_);
  position_.correct += correct;
  position_.images += batch_;
  step_loss_ = loss;
  step_lr_ = update.sgd.lr;
  if (options_.log_every > 0 && position_.step % options_.log_every == 0) return LogStep();
  return absl::OkStatus();
}

absl::Status Trainer::MeasureGradients() {
  const auto count = static_cast<int64_t>(graph_.parameters().size());
  gradient_norms_.resize(graph_.parameters().size());
  ctx_.ParallelFor("train.gradient_norm", count, [&](int64_t i, int) {
    const auto index = static_cast<size_t>(i);
    gradient_norms_[index] = std::sqrt(
        SumOfSquares(executor_->gradient(static_cast<int>(i)), graph_.parameters()[index].count()));
  });
  // Backward goes from the last parameter to the first: the last bad one is where it began.
  for (size_t i = gradient_norms_.size(); i-- > 0;) {
    if (!std::isfinite(gradient_norms_[i])) {
      return DescribeNonFinite(position_.step + 1,
                               absl::StrCat("the gradient of ", graph_.parameters()[i].name));
    }
  }
  return absl::OkStatus();
}

absl::Status Trainer::DescribeNonFinite(int64_t step, const std::string& what) {
  std::string where;
  const std::string tensor = FirstNonFinite(graph_, *state_, FiniteCheck::kAll);
  const auto& parameters = graph_.parameters();
  const bool updated = std::any_of(parameters.begin(), parameters.end(),
                                   [&](const Parameter& p) { return p.name == tensor; });
  if (!updated && executor_ != nullptr) {
    // Once more, step by step: the first layer whose output is not finite.
    for (size_t i = 0; i < plan_.steps.size() && where.empty(); ++i) {
      const Step& planned = plan_.steps[i];
      if (planned.phase != Phase::kForward) continue;
      executor_->RunStep(static_cast<int>(i));
      for (const Operand& output : planned.outputs) {
        if (output.role == Role::kValue && !AllFinite(executor_->view(output))) {
          where = absl::StrCat("; first in the output of ", graph_.node(planned.node).name);
        }
      }
    }
  }
  if (where.empty() && !tensor.empty() && !absl::EndsWith(what, tensor)) {
    where = absl::StrCat("; first in ", tensor);
  }
  if (updated) absl::StrAppend(&where, ": its gradient was not finite, or the rate too high");
  // What is saved was checked then: nothing is written over it. Going on from it would end here
  // again, bit for bit.
  return absl::AbortedError(
      absl::StrCat("step ", step, ": ", what, " is not finite", where, "\n", WhatIsKept(),
                   "\na lower --lr or a longer --warmup_epochs may help, in another --out folder"));
}

absl::Status Trainer::EvaluateEpoch(const TrainCallbacks& callbacks, EpochResult* result) {
  const auto images = static_cast<double>(position_.images);
  result->epoch = position_.epochs + 1;
  result->epochs = options_.epochs;
  result->step = position_.step;
  result->train_loss = position_.loss_sum / images;
  result->train_accuracy = static_cast<double>(position_.correct) / images;
  result->lr = schedule_.At(position_.step - 1);
  const bool due = result->epoch % options_.eval_every == 0 || position_.step >= total_steps_;
  if (data_.test == nullptr || !due) return absl::OkStatus();

  EvaluateOptions options;
  options.normalization = normalization_;
  options.batch = batch_;
  options.memory_limit = memory_limit_;
  options.state_bytes = state_bytes_;
  options.cancelled = callbacks.stop_requested;
  options.progress = callbacks.on_evaluation;
  const auto evaluation = Evaluate(graph_, &exported(), *data_.test, options, ctx_);
  if (!evaluation.ok()) return evaluation.status();
  if (!std::isfinite(evaluation->loss)) {
    return DescribeNonFinite(position_.step, "the loss on the test set");
  }
  result->test_loss = evaluation->loss;
  result->test_accuracy = evaluation->accuracy();
  // Would a run without a limit on its steps evaluate here, too?
  const bool epoch_ends = position_.step == result->epoch * steps_per_epoch_;
  const bool regular = epoch_ends && (result->epoch % options_.eval_every == 0 ||
                                      position_.step == schedule_.total_steps);
  if (!regular) {
    position_.stop_epoch = result->epoch;
    position_.stop_accuracy = evaluation->accuracy();
    position_.stop_loss = evaluation->loss;
    best_changed_ = true;
    return absl::OkStatus();
  }
  if (evaluation->accuracy() > position_.best_accuracy) {
    position_.best_accuracy = evaluation->accuracy();
    position_.best_loss = evaluation->loss;
    position_.best_epoch = result->epoch;
    position_.best_step = position_.step;
    CopyWeights(graph_, exported(), best_.get());
    best_changed_ = true;
  }
  return absl::OkStatus();
}

absl::Status Trainer::LogStep() {
  nlohmann::json line;
  line["kind"] = "step";
  line["step"] = position_.step;
  line["train_loss"] = step_loss_;
  line["lr"] = step_lr_;
  if (options_.log_gradients) {
    double squares = 0;
    nlohmann::json& norms = line["gradient_norms"];
    for (size_t i = 0; i < gradient_norms_.size(); ++i) {
      squares += gradient_norms_[i] * gradient_norms_[i];
      norms[graph_.parameters()[i].name] = gradient_norms_[i];
      line["weight_norms"][graph_.parameters()[i].name] = std::sqrt(
          SumOfSquares(state_->parameter(static_cast<int>(i)), graph_.parameters()[i].count()));
    }
    line["gradient_norm"] = std::sqrt(squares);
  }
  return metrics_->Append(line);
}

absl::Status Trainer::LogEpoch(const EpochResult& result) {
  const auto optional = [](const std::optional<double>& v) {
    return v ? nlohmann::json(*v) : nlohmann::json(nullptr);
  };
  nlohmann::json line;
  line["kind"] = "epoch";
  line["epoch"] = result.epoch;
  line["step"] = result.step;
  line["train_loss"] = result.train_loss;
  line["train_accuracy"] = result.train_accuracy;
  line["test_loss"] = optional(result.test_loss);
  line["test_accuracy"] = optional(result.test_accuracy);
  line["images_per_second"] = result.images_per_second;
  line["seconds"] = result.seconds;
  // An epoch that a resumed run went on with: its time is that of its last steps.
  const int64_t steps = result.step - (result.epoch - 1) * steps_per_epoch_;
  if (result.timed_steps < steps) line["timed_steps"] = result.timed_steps;
  line["lr"] = result.lr;
  line["peak_bytes"] = result.peak_bytes;
  if (absl::Status s = metrics_->Append(line); !s.ok()) return s;
  return metrics_->Sync();
}

absl::Status Trainer::Save() {
  for (const ModelState* state : {state_.get(), ema_.get()}) {
    const std::string bad =
        state != nullptr ? FirstNonFinite(graph_, *state, FiniteCheck::kAll) : "";
    if (!bad.empty()) return DescribeNonFinite(position_.step, absl::StrCat("after it ", bad));
  }
  absl::Status s =
      SaveTrainState(Path(kStateFile), graph_, {state_.get(), ema_.get(), best_.get()}, position_);
  if (s.ok()) saved_step_ = position_.step;
  if (s.ok()) s = KeepStates(out_, position_.step, options_.keep);
  if (s.ok()) s = Export(kLastFile, exported());
  if (s.ok() && best_changed_) s = ExportBest();
  if (s.ok()) exported_step_ = saved_step_;
  return s;
}

// A crash or a full disk may have come between the state and what is exported from it.
absl::Status Trainer::UpdateExports() {
  absl::Status s = Export(kLastFile, exported());
  if (s.ok()) s = ExportBest();
  if (s.ok()) exported_step_ = saved_step_;
  return s;
}

absl::Status Trainer::ExportBest() {
  best_changed_ = false;
  if (position_.stop_is_best()) return Export(kBestFile, exported());
  if (position_.best_step >= 0) return Export(kBestFile, *best_);
  std::error_code error;
  std::filesystem::remove(Path(kBestFile), error);  // of a stop before the first evaluation
  return absl::OkStatus();
}

absl::Status Trainer::Export(const char* name, const ModelState& state) {
  std::map<std::string, std::string> metadata;
  metadata["mean"] = FormatChannels(normalization_.mean);
  metadata["std"] = FormatChannels(normalization_.std);
  if (!data_.class_names.empty()) metadata["classes"] = absl::StrJoin(data_.class_names, ",");
  if (name == kBestFile) metadata["chosen_on"] = "test set";
  // What an earlier run left may be right already.
  const auto write = exported_step_ < 0 ? UpdateWeights : SaveWeights;
  return write(Path(name), graph_, state, metadata);
}

}  // namespace classicnn
