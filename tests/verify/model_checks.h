// Checks of whole models: end to end, and node by node.
#ifndef CLASSICNN_TESTS_VERIFY_MODEL_CHECKS_H_
#define CLASSICNN_TESTS_VERIFY_MODEL_CHECKS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/executor.h"
#include "models/graph.h"
#include "models/model.h"
#include "models/model_state.h"
#include "models/plan.h"
#include "models/reference_model.h"
#include "tests/verify/array.h"
#include "tests/verify/results.h"
#include "tests/verify/runner.h"

namespace classicnn::verify {

// Of logits, loss and running statistics; of a gradient; of the median over gradients. Noise of
// 1e-6 flips ReLU and pooling choices, which one gradient shows far more than the loss.
struct ModelBounds {
  double value = 1e-3;
  double gradient = 0.25;
  double median = 0.1;  // 0: not judged
  // Of parameters after an update, given the gradient that was applied.
  double update = 1e-4;
};
// Off the kinks of ReLU; those of max pooling are still there.
inline constexpr ModelBounds kFewKinksBounds = {1e-3, 0.05, 0.01, 1e-4};
// Of one node on the reference's inputs: kLayerBound, or kWinogradBound.

// A network with a state and a batch: everything that decides a pass.
struct ModelCase {
  Graph graph;
  bool training = true;
  int64_t batch = 0;
  std::unique_ptr<ModelState> state;  // before the pass, momentum zero
  std::vector<float> input;           // n, h, w, c
  std::vector<int32_t> labels;
  uint64_t dropout_seed = 0;
};

// Values from the seed. No parameter is left where it hides mistakes (batch norm at 1 and 0), and
// in eval mode the running statistics fit the network's activations.
absl::StatusOr<ModelCase> MakeModelCase(const std::string& model, const ModelOptions& options,
                                        bool training, int64_t batch, uint64_t seed);
// The same for any graph.
ModelCase MakeGraphCase(Graph graph, bool training, int64_t batch, uint64_t seed);
// Gives each batch norm channel a bias so large that its ReLU passes nearly all of its values or
// nearly none, whatever the rounding: no flips, so that gradients can be held to a narrow bound.
void MoveOffTheKinks(ModelCase* c, uint64_t seed);
std::unique_ptr<ModelState> CloneState(const Graph& graph, const ModelState& state);

// What one pass, forward, backward and update, leaves behind. Names: "logits", "loss",
// "grad.NAME", "buffer.NAME"; values in the layers' layout.
template <typename T>
Arrays RunReferenceModel(const ModelCase& c, ReferenceModel<T>* model);
// Gradients are read from the momentum after one step from zero without weight decay.
// "updated.NAME" is a parameter's new value.
Arrays RunOptimizedModel(const ModelCase& c, const PlanOptions& options,
                         OptimizedThreads& optimized);

// Judges logits, loss, buffers, gradients and their median, and (where `actual` has them) updates:
// a row for each, as parts of the one that is returned. In eval mode buffers are compared with ==.
Row CompareModel(const std::string& what, const std::string& impl, const ModelCase& c,
                 const Arrays& actual, const Arrays& expected, const ModelBounds& model_bounds,
                 Bounds bounds, const std::string& command);

// Every step of a plan alone, on the reference's values, gradients and what a fused plan makes of
// them (tests/verify/reference_operands.h); all else in memory is not a number. `reference` has
// run.
Row CheckPlan(const std::string& what, const ModelCase& c, ReferenceModel<double>& reference,
              Plan plan, Bounds bounds, const std::string& command, OptimizedThreads& optimized);
// The plan that these options make.
Row CheckNodeByNode(const std::string& what, const ModelCase& c, ReferenceModel<double>& reference,
                    const PlanOptions& options, Bounds bounds, const std::string& command,
                    OptimizedThreads& optimized);

// Both, for the plans with and without fusion, Winograd and the update's fusion; in training end to
// end off the kinks as well.
std::vector<Row> CheckModel(const std::string& model, const ModelOptions& options, bool training,
                            uint64_t seed, Bounds bounds, OptimizedThreads& optimized);

}  // namespace classicnn::verify

#endif  // CLASSICNN_TESTS_VERIFY_MODEL_CHECKS_H_
