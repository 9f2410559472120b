// Whether a model's plan computes what the naive reference does: what is asked before it is timed.
#ifndef CLASSICNN_BENCHES_MODEL_CHECK_H_
#define CLASSICNN_BENCHES_MODEL_CHECK_H_

#include <cstdint>

#include "absl/status/status.h"
#include "core/context.h"
#include "models/graph.h"
#include "models/model_state.h"
#include "models/plan.h"
#include "models/reference_model.h"

namespace classicnn {

// Seed of weights, images, labels and dropout in the model benchmarks.
inline constexpr uint64_t kModelBenchSeed = 20140901;

// Images with mean 0 and variance 1, and labels: functions of the seed alone.
void FillModelInputs(Tensor images, int32_t* labels, int64_t num_classes);

// Runs one pass of a plan with these options, but at a batch of 2 (with the algorithms of their own
// batch), with the least limit instead of any other, and on freshly initialized weights, and the
// same on ReferenceModel<float>. Compares, as ||optimized - reference|| / ||reference||, with the
// bounds of cnn-verify for models in f32:
//   logits; with a loss the loss; in training the running statistics    1e-3
//   with a backward pass the gradient of every parameter 0.25, and the median of these errors 0.1
// With an update the gradients are read from the momentum that the first step leaves. Everything is
// freed on return. FailedPrecondition names the tensor.
absl::Status CheckModel(const Graph& graph, PlanOptions options, Context& ctx);

// The same for the weights in `state` on the optimized side and those in `reference` on the other;
// options.batch is the reference's.
absl::Status CompareWithReference(const Graph& graph, const PlanOptions& options, ModelState* state,
                                  ReferenceModel<float>* reference, Context& ctx);

}  // namespace classicnn

#endif  // CLASSICNN_BENCHES_MODEL_CHECK_H_
