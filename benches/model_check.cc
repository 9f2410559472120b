#include "benches/model_check.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "benches/layer_case.h"
#include "core/random.h"
#include "models/executor.h"
#include "models/model_state.h"

namespace classicnn {
namespace {

constexpr int64_t kCheckBatch = 2;
constexpr double kBound = 1e-3;
constexpr double kGradientBound = 0.25;
constexpr double kMedianGradientBound = 0.1;

class Checker {
 public:
  explicit Checker(const Graph& graph) : graph_(graph) {}

  // The first error found stays.
  void Compare(const std::string& name, const float* actual, const float* expected, int64_t count,
               double bound, std::vector<double>* errors = nullptr) {
    if (!status_.ok()) return;
    const absl::StatusOr<double> error = RelativeError(actual, expected, count);
    if (!error.ok()) return Wrong(absl::StrCat(name, ": ", error.status().message()));
    if (errors != nullptr) errors->push_back(*error);
    if (*error > bound) Differs(name, *error, bound);
  }
  void CompareMedian(std::vector<double> errors) {
    if (!status_.ok() || errors.empty()) return;
    std::nth_element(errors.begin(), errors.begin() + static_cast<int64_t>(errors.size() / 2),
                     errors.end());
    const double median = errors[errors.size() / 2];
    if (median > kMedianGradientBound) {
      Differs("the median of the gradients", median, kMedianGradientBound);
    }
  }
  const absl::Status& status() const { return status_; }

 private:
  void Differs(const std::string& name, double error, double bound) {
    Wrong(absl::StrCat(name, " differs from the reference by ", error, ", allowed ", bound));
  }
  void Wrong(const std::string& what) {
    status_ =
        absl::FailedPreconditionError(absl::StrCat("wrong result: ", graph_.model(), ": ", what));
  }

  const Graph& graph_;
  absl::Status status_;
};

}  // namespace

void FillModelInputs(Tensor images, int32_t* labels, int64_t num_classes) {
  const RandomStream pixels(kModelBenchSeed, "images");
  const int64_t per_pixel = images.c;
  for (int64_t p = 0; p < images.pixels(); ++p) {
    for (int64_t c = 0; c < per_pixel; ++c) {
      images.Pixel(p)[c] = pixels.Normal(static_cast<uint64_t>(p * per_pixel + c));
    }
  }
  if (labels == nullptr) return;
  const RandomStream classes(kModelBenchSeed, "labels");
  for (int64_t i = 0; i < images.n; ++i) {
    labels[i] = static_cast<int32_t>(
        classes.Below(static_cast<uint64_t>(i), static_cast<uint64_t>(num_classes)));
  }
}

absl::Status CheckModel(const Graph& graph, PlanOptions options, Context& ctx) {
  options.algorithm_batch = options.batch;
  options.batch = kCheckBatch;
  options.num_threads = ctx.num_threads();
  if (options.memory_limit > 0) {  // of another batch: then all that can be computed again is
    const absl::StatusOr<int64_t> least = LeastPlanBytes(graph, options);
    if (!least.ok()) return least.status();
    options.memory_limit = *least;
  }
  const bool updates = options.update != Update::kNone;

  auto state =
      ModelState::Create(graph, updates ? Optimizer::kSgd : Optimizer::kNone, &ctx.memory());
  if (!state.ok()) return state.status();
  (*state)->Initialize(graph, kModelBenchSeed);
  ReferenceModel<float> reference(graph, kCheckBatch, options.training, options.label_smoothing);
  reference.CopyState(**state);
  return CompareWithReference(graph, options, state->get(), &reference, ctx);
}

absl::Status CompareWithReference(const Graph& graph, const PlanOptions& options, ModelState* state,
                                  ReferenceModel<float>* reference, Context& ctx) {
  reference->SetDropoutPosition(kModelBenchSeed, 0);
  FillModelInputs(reference->input(), reference->labels().data(), graph.num_classes());
  reference->Forward();

  absl::StatusOr<Plan> plan = MakePlan(graph, options);
  if (!plan.ok()) return plan.status();
  auto created = Executor::Create(graph, *std::move(plan), state, ctx);
  if (!created.ok()) return created.status();
  Executor& executor = **created;
  executor.SetDropoutPosition(kModelBenchSeed, 0);
  FillModelInputs(executor.input(), options.loss ? executor.labels() : nullptr,
                  graph.num_classes());
  executor.Forward();

  Checker checker(graph);
  const ConstTensor logits = executor.logits();
  for (int64_t n = 0; n < logits.n; ++n) {
    checker.Compare("logits", logits.Pixel(n), reference->logits().Pixel(n), logits.c, kBound);
  }
  if (options.loss) {
    const float loss = executor.loss();
    const float expected = reference->loss();
    checker.Compare("loss", &loss, &expected, 1, kBound);
  }
  if (options.training) {
    for (size_t i = 0; i < graph.buffers().size(); ++i) {
      const Buffer& buffer = graph.buffers()[i];
      const int index = static_cast<int>(i);
      checker.Compare(buffer.name, state->buffer(index), reference->buffer(index).data(),
                      buffer.count, kBound);
    }
  }
  if (!options.backward || !checker.status().ok()) return checker.status();

  const bool updates = options.update != Update::kNone;
  // Without decay, and with a momentum that was zero, one update leaves the gradient in it.
  UpdateParams update;
  update.sgd.lr = 0;
  update.sgd.weight_decay = 0;
  executor.SetUpdate(update);
  executor.Backward();
  if (options.update == Update::kAfterBackward) executor.ApplyUpdate();
  reference->Backward();
  std::vector<double> errors;
  for (size_t i = 0; i < graph.parameters().size(); ++i) {
    const Parameter& parameter = graph.parameters()[i];
    const int index = static_cast<int>(i);
    checker.Compare(absl::StrCat("gradient of ", parameter.name),
                    updates ? state->momentum(index) : executor.gradient(index),
                    reference->gradient(index).data(), parameter.count(), kGradientBound, &errors);
  }
  checker.CompareMedian(std::move(errors));
  return checker.status();
}

}  // namespace classicnn
