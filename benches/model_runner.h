// One benchmark of a whole model: a phase of a model at a batch size, on a number of threads.
#ifndef CLASSICNN_BENCHES_MODEL_RUNNER_H_
#define CLASSICNN_BENCHES_MODEL_RUNNER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "core/context.h"
#include "core/trace.h"
#include "models/executor.h"
#include "models/graph.h"
#include "models/model_state.h"
#include "models/plan.h"
#include "models/reference_model.h"

namespace classicnn {

enum class BenchPhase { kInference, kForward, kBackward, kTrainStep };
const char* BenchPhaseName(BenchPhase phase);  // "inference", "forward", "backward", "train_step"

struct ModelBenchmark {
  const Graph* graph = nullptr;  // must outlive the runner
  BenchPhase phase = BenchPhase::kTrainStep;
  bool reference = false;  // the naive layers, on one thread
  int64_t batch = 64;
  int threads = 1;
  bool fusion = true;
  bool winograd = true;
  Update update = Update::kFused;  // of train_step
  int64_t memory_limit = 0;        // 0: none

  // "train_step/resnet18/f32/optimized/batch:64/threads:2"
  std::string Name() const;
  // inference: running statistics, nothing kept for backward. forward and backward: the two halves
  // of a training step, all gradients kept. train_step: with loss and update.
  PlanOptions plan_options() const;
  Optimizer optimizer() const {
    return phase == BenchPhase::kTrainStep ? Optimizer::kSgd : Optimizer::kNone;
  }
  // The plan that will be measured, or why there is none.
  absl::StatusOr<Plan> MakePlan() const;
  // What the reference model of this benchmark keeps: it frees and shares nothing.
  int64_t reference_bytes() const;
  // Nominal multiply-adds: direct algorithms, a step counted as three forward passes, of which
  // backward is two.
  int64_t macs() const;
};

class ModelRunner {
 public:
  // With a tracer (may be null) two more steps of each benchmark are traced after they were timed;
  // with `profile` three more are timed step by step. Neither costs the measured steps anything.
  ModelRunner(Tracer* tracer, bool profile) : tracer_(tracer), profile_(profile) {}

  // Checks the model (once for each model, mode and kind of update), sets up and measures.
  void Run(const ModelBenchmark& b, benchmark::State& state);

  // Tables of what ran with `profile`.
  const std::string& profiles() const { return profiles_; }

 private:
  absl::Status SetUp(const ModelBenchmark& b);
  absl::Status Check(const ModelBenchmark& b);
  void TearDown();
  // What is before the timed part of an iteration, and the timed part.
  void Prepare(const ModelBenchmark& b);
  void Step(const ModelBenchmark& b);
  void Inspect(const ModelBenchmark& b);
  void Report(const ModelBenchmark& b, benchmark::State& state, int64_t mallocs, int64_t steps);
  double loss() const;

  Tracer* tracer_;
  bool profile_;
  std::string profiles_;
  std::set<std::string> checked_;
  std::set<std::string> inspected_;

  // Of the benchmark named current_; Google Benchmark calls one several times.
  std::string current_;
  std::unique_ptr<Context> ctx_;
  std::unique_ptr<ModelState> state_;
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<ReferenceModel<float>> reference_;
  UpdateParams update_;
  uint64_t step_ = 0;
};

}  // namespace classicnn

#endif  // CLASSICNN_BENCHES_MODEL_RUNNER_H_
