// One model on the bench: runs its passes and turns their times into results.
#ifndef CLASSICNN_REPORTS_MODEL_BENCH_H_
#define CLASSICNN_REPORTS_MODEL_BENCH_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/context.h"
#include "models/executor.h"
#include "models/graph.h"
#include "models/model_state.h"
#include "models/plan.h"
#include "reports/results.h"

namespace classicnn {

// One pass under measurement: the plan, and the samples of all visits so far.
struct MeasuredPass {
  bool train = true;
  int64_t batch = 0;
  int threads = 0;
  int64_t memory_limit = 0;  // of a training step; 0: none

  Plan plan;                                // of the last visit
  std::vector<double> seconds;              // by sample
  std::vector<std::vector<int64_t>> nanos;  // by sample, then by step of the plan
  int64_t peak_bytes = 0;
};

struct VisitLimits {
  double seconds = 0.4;      // samples are taken until this time is used,
  int samples = 2;           // at least so many,
  double most_seconds = 20;  // but none is begun after this time, beyond the first
};

class ModelBench {
 public:
  static absl::StatusOr<std::unique_ptr<ModelBench>> Create(Graph graph);

  const Graph& graph() const { return graph_; }

  // Plans and allocates the pass, runs it once unmeasured, takes samples, frees everything but the
  // model's state. Memory is held only during a visit, so that models can take turns.
  absl::Status Visit(const VisitLimits& limits, MeasuredPass* pass);

  // What a training step needs at least, and without a limit: the model's state included.
  struct MemoryRange {
    int64_t least = 0, unlimited = 0;
    int64_t activations = 0;  // of the unlimited plan, at their fullest
  };
  absl::StatusOr<MemoryRange> TrainMemory(int64_t batch, int threads) const;

  // RMS of the gradient of the first and of the last convolution's weights on random data at the
  // initial weights, the mean over a small batch.
  absl::StatusOr<std::pair<double, double>> GradientRms();

 private:
  explicit ModelBench(Graph graph) : graph_(std::move(graph)) {}

  Graph graph_;
  MemoryTracker state_memory_;
  std::unique_ptr<ModelState> state_;
};

// Counts and sizes that need no measuring.
ModelResult DescribeModel(const Graph& graph);
PassResult SummarizePass(const Graph& graph, const MeasuredPass& pass, const MachinePeaks& peaks);
std::vector<LayerResult> SummarizeLayers(const Graph& graph, const MeasuredPass& pass);
MemoryResult SummarizeMemory(const Graph& graph, const MeasuredPass& pass);
MemoryLimitResult SummarizeMemoryLimit(const Graph& graph, const MeasuredPass& pass);

}  // namespace classicnn

#endif  // CLASSICNN_REPORTS_MODEL_BENCH_H_
