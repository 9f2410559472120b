#include "models/train/evaluate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <utility>

#include "core/check.h"
#include "models/executor.h"
#include "models/plan.h"
#include "models/train/augment.h"

namespace classicnn {
namespace {

absl::StatusOr<std::unique_ptr<Executor>> MakeExecutor(const Graph& graph, ModelState* state,
                                                       int64_t batch,
                                                       const EvaluateOptions& options,
                                                       Context& ctx) {
  PlanOptions plan_options;
  plan_options.batch = batch;
  plan_options.training = false;
  plan_options.loss = false;
  plan_options.backward = false;
  plan_options.update = Update::kNone;
  plan_options.num_threads = ctx.num_threads();
  plan_options.memory_limit = options.memory_limit;
  auto plan = MakePlan(graph, plan_options, options.state_bytes);
  if (!plan.ok()) return plan.status();
  return Executor::Create(graph, *std::move(plan), state, ctx);
}

// log((exp(a) + exp(b)) / 2).
double LogMeanExp(double a, double b) {
  const double larger = std::max(a, b);
  if (!(larger > -std::numeric_limits<double>::infinity())) return larger + (a + b);
  return larger + std::log((std::exp(a - larger) + std::exp(b - larger)) / 2);
}

// Logarithms of probabilities by image; with `flip` of the mean over the image and its mirror
// image.
std::vector<std::vector<double>> Predict(Executor& executor, BatchMaker& maker,
                                         const std::vector<int64_t>& indices, bool flip,
                                         Context& ctx) {
  std::vector<std::vector<double>> result(indices.size());
  for (int pass = 0; pass < (flip ? 2 : 1); ++pass) {
    BatchRequest request;
    request.images = indices;
    request.mirrored = pass == 1;
    maker.Fill(request, executor.input(), nullptr, ctx);
    executor.Forward();
    const ConstTensor logits = executor.logits();
    for (size_t i = 0; i < indices.size(); ++i) {
      std::vector<double> p = LogSoftmax(logits.Pixel(static_cast<int64_t>(i)), logits.c);
      if (pass == 1) {
        for (size_t c = 0; c < p.size(); ++c) p[c] = LogMeanExp(result[i][c], p[c]);
      }
      result[i] = std::move(p);
    }
  }
  return result;
}

}  // namespace

int64_t Evaluation::count(int64_t actual) const {
  const auto row = confusion.begin() + actual * classes;
  return std::accumulate(row, row + classes, int64_t{0});
}

double Evaluation::class_accuracy(int64_t actual) const {
  return Part(confused(actual, actual), count(actual));
}

std::vector<double> LogSoftmax(const float* logits, int64_t classes) {
  std::vector<double> p(logits, logits + classes);
  const double largest = *std::max_element(p.begin(), p.end());
  double sum = 0;
  for (const double v : p) sum += std::exp(v - largest);
  const double log_sum = largest + std::log(sum);
  for (double& v : p) v -= log_sum;
  return p;
}

void AddPrediction(const std::vector<double>& log_probabilities, int32_t label,
                   Evaluation* result) {
  const auto classes = static_cast<int64_t>(log_probabilities.size());
  if (result->confusion.empty()) {
    result->classes = classes;
    result->confusion.assign(static_cast<size_t>(classes * classes), 0);
  }
  const double p = log_probabilities[static_cast<size_t>(label)];
  int64_t before = 0;  // classes that rank above the label; of equals the first one does
  int64_t predicted = 0;
  for (int64_t c = 0; c < classes; ++c) {
    const double q = log_probabilities[static_cast<size_t>(c)];
    if (!(q < p) && c != label && (q != p || c < label)) ++before;
    if (q > log_probabilities[static_cast<size_t>(predicted)]) predicted = c;
  }
  ++result->images;
  result->loss -= p;
  if (before < 1) ++result->top1;
  if (before < 5) ++result->top5;
  ++result->confusion[static_cast<size_t>(label * classes + predicted)];
}

absl::StatusOr<Evaluation> Evaluate(const Graph& graph, ModelState* state, const ImageSet& images,
                                    const EvaluateOptions& options, Context& ctx) {
  CNN_CHECK(options.batch > 0);
  const Shape4 shape = graph.node(graph.input()).shape;
  BatchMaker maker(images, shape.h, shape.w, options.normalization);
  if (graph.num_classes() > kMaxEvaluatedClasses) {
    return absl::InvalidArgumentError(absl::StrCat(graph.num_classes(), " classes: at most ",
                                                   kMaxEvaluatedClasses, " can be evaluated"));
  }
  Evaluation result;
  std::unique_ptr<Executor> executor;
  std::vector<int64_t> indices;
  for (int64_t begin = 0; begin < images.count(); begin += options.batch) {
    const int64_t batch = std::min(options.batch, images.count() - begin);
    if (static_cast<int64_t>(indices.size()) != batch) {
      indices.resize(static_cast<size_t>(batch));
      executor.reset();  // the whole batches' memory before the rest's
      auto made = MakeExecutor(graph, state, batch, options, ctx);
      if (!made.ok()) return made.status();
      executor = *std::move(made);
    }
    std::iota(indices.begin(), indices.end(), begin);
    const auto predictions = Predict(*executor, maker, indices, options.flip, ctx);
    for (int64_t i = 0; i < batch; ++i) {
      AddPrediction(predictions[static_cast<size_t>(i)], images.label(begin + i), &result);
    }
    if (options.progress) options.progress(begin + batch, images.count());
    if (options.cancelled && options.cancelled()) {
      return absl::CancelledError("evaluation interrupted");
    }
  }
  result.loss /= static_cast<double>(std::max<int64_t>(result.images, 1));
  return result;
}

absl::StatusOr<std::vector<double>> ClassProbabilities(const Graph& graph, ModelState* state,
                                                       const ImageSet& images,
                                                       const MeanStd& normalization, bool flip,
                                                       Context& ctx) {
  const Shape4 shape = graph.node(graph.input()).shape;
  BatchMaker maker(images, shape.h, shape.w, normalization);
  auto executor = MakeExecutor(graph, state, 1, {}, ctx);
  if (!executor.ok()) return executor.status();
  std::vector<double> p = Predict(**executor, maker, {0}, flip, ctx).front();
  for (double& v : p) v = std::exp(v);
  return p;
}

}  // namespace classicnn
