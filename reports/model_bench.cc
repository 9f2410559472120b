#include "reports/model_bench.h"

#include <chrono>
#include <cmath>
#include <utility>

#include "core/check.h"
#include "core/random.h"

namespace classicnn {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A fixed batch of standard normal pixels and evenly spread labels.
void FillBatch(const Graph& graph, uint64_t seed, Executor* executor) {
  const Tensor x = executor->input();
  const RandomStream random(seed, "report input");
  uint64_t index = 0;
  for (int64_t pixel = 0; pixel < x.pixels(); ++pixel) {
    for (int64_t c = 0; c < x.c; ++c) x.Pixel(pixel)[c] = random.Normal(index++);
  }
  int32_t* labels = executor->labels();
  for (int64_t n = 0; labels != nullptr && n < x.n; ++n) {
    labels[n] = static_cast<int32_t>(n % graph.num_classes());
  }
}

// Small enough that many steps on the same batch stay far from overflow.
UpdateParams StepParams() {
  UpdateParams params;
  params.sgd.lr = 0.01;
  params.sgd.momentum = 0.9;
  params.sgd.weight_decay = 5e-4;
  return params;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelBench>> ModelBench::Create(Graph graph) {
  std::unique_ptr<ModelBench> bench(new ModelBench(std::move(graph)));
  auto state = ModelState::Create(bench->graph_, Optimizer::kSgd, &bench->state_memory_);
  if (!state.ok()) return state.status();
  bench->state_ = *std::move(state);
  bench->state_->Initialize(bench->graph_, /*seed=*/1);
  return bench;
}

absl::StatusOr<ModelBench::MemoryRange> ModelBench::TrainMemory(int64_t batch, int threads) const {
  PlanOptions options;
  options.batch = batch;
  options.num_threads = threads;
  const int64_t state = Total(ModelState::Bytes(graph_, Optimizer::kSgd));
  const absl::StatusOr<Plan> plan = MakePlan(graph_, options, state);
  if (!plan.ok()) return plan.status();
  const absl::StatusOr<int64_t> least = LeastPlanBytes(graph_, options, state);
  if (!least.ok()) return least.status();
  return MemoryRange{*least, plan->arena_bytes + state, plan->peak_activation_bytes};
}

absl::Status ModelBench::Visit(const VisitLimits& limits, MeasuredPass* pass) {
  PlanOptions options;
  options.batch = pass->batch;
  options.num_threads = pass->threads;
  options.training = options.loss = options.backward = pass->train;
  options.update = pass->train ? Update::kFused : Update::kNone;
  options.memory_limit = pass->memory_limit;
  absl::StatusOr<Plan> plan =
      MakePlan(graph_, options, Total(ModelState::Bytes(graph_, Optimizer::kSgd)));
  if (!plan.ok()) return plan.status();
  pass->plan = *plan;

  Context ctx(pass->threads);
  auto executor = Executor::Create(graph_, *std::move(plan), state_.get(), ctx);
  if (!executor.ok()) return executor.status();
  FillBatch(graph_, /*seed=*/1, executor->get());

  const UpdateParams params = StepParams();
  const auto run = [&] {
    if (pass->train) {
      (*executor)->TrainStep(params);
    } else {
      (*executor)->Forward();
    }
  };
  run();  // touches the memory and fills the caches

  double used = 0;
  for (int sample = 0; sample == 0 || (used < limits.most_seconds &&
                                       (sample < limits.samples || used < limits.seconds));
       ++sample) {
    StepTimes times;
    times.nanos.assign(pass->plan.steps.size(), 0);
    (*executor)->set_step_times(&times);
    const double start = Now();
    run();
    const double seconds = Now() - start;
    (*executor)->set_step_times(nullptr);
    pass->seconds.push_back(seconds);
    pass->nanos.push_back(std::move(times.nanos));
    used += seconds;
  }
  pass->peak_bytes = std::max(pass->peak_bytes, ctx.memory().peak() + state_memory_.current());
  return absl::OkStatus();
}

absl::StatusOr<std::pair<double, double>> ModelBench::GradientRms() {
  PlanOptions options;
  options.batch = 16;
  options.update = Update::kNone;
  absl::StatusOr<Plan> plan = MakePlan(graph_, options);
  if (!plan.ok()) return plan.status();
  // Its own state: the one on the bench has been trained by the samples.
  auto state = ModelState::Create(graph_, Optimizer::kNone, nullptr);
  if (!state.ok()) return state.status();
  (*state)->Initialize(graph_, /*seed=*/1);
  Context ctx(1);
  auto executor = Executor::Create(graph_, *std::move(plan), state->get(), ctx);
  if (!executor.ok()) return executor.status();
  FillBatch(graph_, /*seed=*/2, executor->get());
  (*executor)->Forward();
  (*executor)->Backward();

  std::pair<double, double> rms{0, 0};
  bool first = true;
  for (size_t i = 0; i < graph_.parameters().size(); ++i) {
    const Parameter& parameter = graph_.parameters()[i];
    if (parameter.kind != ParameterKind::kConvWeight) continue;
    const float* gradient = (*executor)->gradient(static_cast<int>(i));
    double sum = 0;
    for (int64_t k = 0; k < parameter.count(); ++k) sum += double{gradient[k]} * gradient[k];
    rms.second = std::sqrt(sum / static_cast<double>(parameter.count()));
    if (first) rms.first = rms.second;
    first = false;
  }
  return rms;
}

}  // namespace classicnn
