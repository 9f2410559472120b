#include "benches/model_runner.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "benches/harness.h"
#include "benches/malloc_counter.h"
#include "benches/model_check.h"
#include "benches/process_memory.h"
#include "benches/profile.h"
#include "core/isa.h"

namespace classicnn {

const char* BenchPhaseName(BenchPhase phase) {
  switch (phase) {
    case BenchPhase::kInference:
      return "inference";
    case BenchPhase::kForward:
      return "forward";
    case BenchPhase::kBackward:
      return "backward";
    case BenchPhase::kTrainStep:
      return "train_step";
  }
  return "?";
}

std::string ModelBenchmark::Name() const {
  return absl::StrCat(BenchPhaseName(phase), "/", graph->model(), "/f32/",
                      reference ? "reference" : "optimized", "/batch:", batch,
                      "/threads:", threads);
}

PlanOptions ModelBenchmark::plan_options() const {
  const bool training = phase != BenchPhase::kInference;
  PlanOptions options;
  options.batch = batch;
  options.training = training;
  options.loss = training;
  options.backward = training;
  options.update = phase == BenchPhase::kTrainStep ? update : Update::kNone;
  options.fusion = fusion;
  options.winograd = winograd;
  options.num_threads = threads;
  options.memory_limit = memory_limit;
  return options;
}

absl::StatusOr<Plan> ModelBenchmark::MakePlan() const {
  return classicnn::MakePlan(*graph, plan_options(), Total(ModelState::Bytes(*graph, optimizer())));
}

int64_t ModelBenchmark::reference_bytes() const {
  int64_t floats = 3 * graph->parameter_count();
  for (size_t i = 0; i < graph->nodes().size(); ++i) {
    const auto id = static_cast<NodeId>(i);
    floats += 2 * graph->shape(id, batch).size();
    for (const NodeId input : graph->node(id).inputs) floats += graph->shape(input, batch).size();
  }
  return 4 * floats;
}

int64_t ModelBenchmark::macs() const {
  const int64_t forward = graph->macs_per_image() * batch;
  switch (phase) {
    case BenchPhase::kBackward:
      return 2 * forward;
    case BenchPhase::kTrainStep:
      return 3 * forward;
    default:
      return forward;
  }
}

void ModelRunner::TearDown() {
  current_.clear();
  executor_.reset();
  reference_.reset();
  state_.reset();
}

absl::Status ModelRunner::Check(const ModelBenchmark& b) {
  const PlanOptions options = b.plan_options();
  // Not by threads: results have the same bits on any number of them. By batch only as far as other
  // algorithms run.
  const absl::StatusOr<Plan> plan = b.MakePlan();
  if (!plan.ok()) return plan.status();
  std::string what =
      absl::StrCat(b.graph->model(), "/", options.training, "/", static_cast<int>(options.update));
  for (const classicnn::Step& step : plan->steps) {
    if (step.macs > 0) absl::StrAppend(&what, ",", Conv2dAlgorithmName(step.algorithm));
    if (step.recomputed) what += "+";
  }
  if (checked_.count(what) > 0) return absl::OkStatus();
  if (absl::Status status = CheckModel(*b.graph, options, *ctx_); !status.ok()) return status;
  checked_.insert(what);
  return absl::OkStatus();
}

absl::Status ModelRunner::SetUp(const ModelBenchmark& b) {
  TearDown();
  if (ctx_ == nullptr || ctx_->num_threads() != b.threads) {
    ctx_.reset();
    ctx_ = std::make_unique<Context>(b.threads);
  }
  if (!b.reference) {
    if (absl::Status status = Check(b); !status.ok()) return status;
  }
  ctx_->memory().ResetPeak();
  ForgetPeakResident();

  auto state = ModelState::Create(*b.graph, b.optimizer(), &ctx_->memory());
  if (!state.ok()) return state.status();
  state_ = *std::move(state);
  state_->Initialize(*b.graph, kModelBenchSeed);
  step_ = 0;
  // The same batch over and over, so a rate low enough not to diverge on random labels.
  update_.sgd.lr = 0.01;
  if (b.reference) {
    reference_ = std::make_unique<ReferenceModel<float>>(*b.graph, b.batch,
                                                         b.phase != BenchPhase::kInference);
    reference_->CopyState(*state_);
    state_.reset();
    FillModelInputs(reference_->input(), reference_->labels().data(), b.graph->num_classes());
    return absl::OkStatus();
  }
  absl::StatusOr<Plan> plan = b.MakePlan();
  if (!plan.ok()) return plan.status();
  const bool has_labels = plan->options.loss;
  auto executor = Executor::Create(*b.graph, *std::move(plan), state_.get(), *ctx_);
  if (!executor.ok()) return executor.status();
  executor_ = *std::move(executor);
  FillModelInputs(executor_->input(), has_labels ? executor_->labels() : nullptr,
                  b.graph->num_classes());
  executor_->SetUpdate(update_);
  // The first step touches all memory; those that are measured are steps 2 to N.
  Prepare(b);
  Step(b);
  return absl::OkStatus();
}

void ModelRunner::Prepare(const ModelBenchmark& b) {
  ++step_;
  if (b.reference) {
    reference_->SetDropoutPosition(kModelBenchSeed, step_);
    if (b.phase == BenchPhase::kBackward) reference_->Forward();
  } else {
    executor_->SetDropoutPosition(kModelBenchSeed, step_);
    if (b.phase == BenchPhase::kBackward) executor_->Forward();
  }
}

void ModelRunner::Step(const ModelBenchmark& b) {
  switch (b.phase) {
    case BenchPhase::kInference:
    case BenchPhase::kForward:
      return b.reference ? reference_->Forward() : executor_->Forward();
    case BenchPhase::kBackward:
      return b.reference ? reference_->Backward() : executor_->Backward();
    case BenchPhase::kTrainStep:
      if (!b.reference) return executor_->TrainStep(update_);
      reference_->Forward();
      reference_->Backward();
      reference_->SgdStep(update_);
  }
}

double ModelRunner::loss() const {
  return reference_ != nullptr ? reference_->loss() : executor_->loss();
}

void ModelRunner::Run(const ModelBenchmark& b, benchmark::State& state) {
  if (b.Name() != current_) {
    if (absl::Status status = SetUp(b); !status.ok()) {
      TearDown();
      return Fail(state, status);
    }
    current_ = b.Name();
  }
  int64_t mallocs = 0;
  int64_t steps = 0;
  if (b.phase == BenchPhase::kBackward) {
    for (auto _ : state) {
      Prepare(b);
      const int64_t mallocs_before = MallocCalls();
      const int64_t begin = NowNanos();
      Step(b);
      state.SetIterationTime(static_cast<double>(NowNanos() - begin) * 1e-9);
      mallocs += MallocCalls() - mallocs_before;
      ++steps;
    }
  } else {
    int64_t mallocs_before = 0;
    for (auto _ : state) {
      if (steps == 0) mallocs_before = MallocCalls();
      Prepare(b);
      Step(b);
      ++steps;
      mallocs = MallocCalls() - mallocs_before;
    }
  }
  if (b.phase != BenchPhase::kInference && !std::isfinite(loss())) {
    return Fail(state, absl::InternalError(absl::StrCat("the loss became ", loss())));
  }
  Report(b, state, mallocs, steps);
  if (!b.reference && inspected_.insert(current_).second) Inspect(b);
}

void ModelRunner::Report(const ModelBenchmark& b, benchmark::State& state, int64_t mallocs,
                         int64_t steps) {
  const auto nominal = 2 * static_cast<double>(b.macs());
  double executed = nominal;
  auto& counters = state.counters;
  const auto set = [&counters](const char* name, int64_t value) {
    counters[name] = static_cast<double>(value);
  };
  if (b.reference) {
    // It keeps its tensors itself, so they are counted from the graph.
    const int64_t parameters = 4 * b.graph->parameter_count();
    BytesByCategory bytes = ModelState::Bytes(*b.graph, Optimizer::kSgd);
    set("peak_bytes", reference_->bytes());
    set("weight_bytes", At(bytes, MemoryCategory::kWeights));
    set("gradient_bytes", parameters);
    set("optimizer_bytes", At(bytes, MemoryCategory::kOptimizer));
    set("activation_bytes", reference_->bytes() - At(bytes, MemoryCategory::kWeights) - parameters -
                                At(bytes, MemoryCategory::kOptimizer));
    set("workspace_bytes", 0);
  } else {
    const bool forward = b.phase != BenchPhase::kBackward;
    const bool backward = b.phase == BenchPhase::kBackward || b.phase == BenchPhase::kTrainStep;
    executed = 0;
    for (const classicnn::Step& step : executor_->plan().steps) {
      const bool ran = step.phase <= Phase::kLoss ? forward : backward;
      if (ran) executed += 2 * static_cast<double>(step.executed_macs);
    }
    const MemoryTracker& memory = ctx_->memory();
    set("peak_bytes", memory.peak());
    set("weight_bytes", memory.current(MemoryCategory::kWeights));
    set("gradient_bytes", memory.current(MemoryCategory::kGradients));
    set("optimizer_bytes", memory.current(MemoryCategory::kOptimizer));
    set("activation_bytes", memory.current(MemoryCategory::kActivations));
    set("workspace_bytes", memory.current(MemoryCategory::kWorkspace));
    set("data_bytes", memory.current(MemoryCategory::kData));
  }
  set("process_peak_bytes", PeakResidentBytes());
  set("num_threads", b.threads);
  set("batch", b.batch);
  counters["images_per_second"] = Rate(static_cast<double>(b.batch));
  counters["gflops"] = Rate(nominal * 1e-9);
  counters["executed_gflops"] = Rate(executed * 1e-9);
  if (const MachinePeaks* peaks = PeaksAt(b.threads); peaks != nullptr) {
    counters["peak_fraction"] = Rate(nominal / peaks->fma_flops);
  }
  if (MallocCallsAreCounted() && steps > 0) {
    counters["allocs_per_step"] = static_cast<double>(mallocs) / static_cast<double>(steps);
  }
  state.SetLabel(b.reference ? "naive" : ActiveTarget());
}

void ModelRunner::Inspect(const ModelBenchmark& b) {
  if (profile_) {
    constexpr int kRuns = 3;
    StepTimes times;
    for (int run = 0; run < kRuns; ++run) {
      Prepare(b);
      executor_->set_step_times(&times);
      Step(b);
      executor_->set_step_times(nullptr);
    }
    times.runs = kRuns;  // of the phase that is measured, whichever it is
    absl::StrAppend(&profiles_, "\nProfile of ", b.Name(), ", the mean of ", kRuns,
                    " steps, slowest first\n", FormatProfile(*b.graph, executor_->plan(), times));
  }
  if (tracer_ != nullptr) {
    constexpr int kTraced = 2;
    for (int run = 0; run < kTraced; ++run) {
      Prepare(b);
      ctx_->set_tracer(tracer_);
      Step(b);
      ctx_->set_tracer(nullptr);
    }
    tracer_->KeepNames();  // they are the plan's, which is about to go
  }
}

}  // namespace classicnn
