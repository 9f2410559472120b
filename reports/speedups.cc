#include "reports/speedups.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "benches/layer_case.h"
#include "core/context.h"
#include "core/random.h"
#include "models/layer_shapes.h"
#include "models/model.h"
#include "reports/layer_types.h"

namespace classicnn {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Problem {
  std::string type;
  LayerShape shape;
  LayerPass pass;
  uint64_t order;  // pseudo-random, from the problem's name
};

// One from each type in turn, until none is left.
std::vector<Problem> TakeTurns(std::vector<Problem> problems) {
  std::map<std::string, std::vector<Problem>> by_type;
  for (Problem& p : problems) by_type[p.type].push_back(std::move(p));
  size_t longest = 0;
  for (auto& [type, list] : by_type) {
    std::sort(list.begin(), list.end(),
              [](const Problem& a, const Problem& b) { return a.order < b.order; });
    longest = std::max(longest, list.size());
  }
  std::vector<Problem> result;
  for (size_t i = 0; i < longest; ++i) {
    for (auto& [type, list] : by_type) {
      if (i < list.size()) result.push_back(list[i]);
    }
  }
  return result;
}

absl::StatusOr<std::vector<Problem>> ListProblems(const MeasureOptions& options) {
  ModelOptions model_options;
  model_options.image_h = model_options.image_w = options.image_size;
  model_options.num_classes = options.num_classes;
  const auto shapes = ModelLayerShapes(options.models, options.speedup_batch, model_options);
  if (!shapes.ok()) return shapes.status();
  std::vector<Problem> problems;
  for (const ModelLayerShape& s : *shapes) {
    const bool has_input_gradient =
        std::any_of(s.uses.begin(), s.uses.end(),
                    [](const LayerUse& use) { return use.with_input_gradient > 0; });
    for (const LayerPass pass : LayerPasses(s.shape.kind)) {
      if (pass == LayerPass::kBackwardData && !has_input_gradient) continue;
      const std::string type = LayerType(s.shape);
      problems.push_back({type, s.shape, pass,
                          StreamId(absl::StrCat(type, LayerPassName(pass), s.shape.ToString()))});
    }
  }
  return TakeTurns(std::move(problems));
}

// At least `count` samples, and more while they are short.
template <typename F>
Timing TimeCalls(int count, double seconds, const F& call) {
  Timing timing;
  double used = 0;
  while (static_cast<int>(timing.samples.size()) < count ||
         (used < seconds && timing.samples.size() < 20)) {
    const double start = Now();
    call();
    timing.samples.push_back(Now() - start);
    used += timing.samples.back();
  }
  return timing;
}

SpeedupSummary Summarize(const std::string& type, const std::vector<const SpeedupResult*>& list) {
  SpeedupSummary summary;
  summary.type = type;
  summary.problems = static_cast<int64_t>(list.size());
  std::vector<double> ratios;
  for (const SpeedupResult* s : list) {
    const double ratio = s->reference.median() / s->optimized.median();
    if (ratios.empty() || ratio < summary.least) {
      summary.least = ratio;
      summary.least_shape = absl::StrCat(s->pass, " ", s->shape);
    }
    summary.most = std::max(summary.most, ratio);
    ratios.push_back(ratio);
  }
  summary.geometric_mean = GeometricMean(ratios);
  return summary;
}

}  // namespace

absl::Status MeasureSpeedups(const MeasureOptions& options, Results* results, Progress* progress) {
  if (options.speedup_seconds <= 0) return absl::OkStatus();
  const absl::StatusOr<std::vector<Problem>> problems = ListProblems(options);
  if (!problems.ok()) return problems.status();
  results->speedup_shapes_total = static_cast<int64_t>(problems->size());

  Context ctx(1);
  const double started = Now();
  for (const Problem& problem : *problems) {
    if (Now() - started > options.speedup_seconds) break;
    progress->Update(static_cast<int64_t>(results->speedups.size()), results->speedup_shapes_total,
                     absl::StrCat("optimized against reference, ", problem.type));
    auto layer = LayerCase::Create(problem.shape, problem.pass, {}, ctx);
    if (!layer.ok()) return layer.status();
    SpeedupResult result;
    result.type = problem.type;
    result.pass = LayerPassName(problem.pass);
    result.shape = problem.shape.ToString();
    (*layer)->RunOptimized();
    result.optimized = TimeCalls(3, 0.002, [&] { (*layer)->RunOptimized(); });
    // The first call of the reference is as warm as any: its tensors were just used.
    result.reference = TimeCalls(1, 0.005, [&] { (*layer)->RunNaive(); });
    results->speedups.push_back(std::move(result));
  }
  return absl::OkStatus();
}

std::vector<SpeedupSummary> SummarizeSpeedups(const Results& results) {
  std::map<std::string, std::vector<const SpeedupResult*>> by_type;
  std::vector<const SpeedupResult*> products, others;
  for (const SpeedupResult& s : results.speedups) {
    if (s.optimized.median() <= 0 || s.reference.median() <= 0) continue;  // below the clock
    by_type[s.type].push_back(&s);
    const bool product = absl::StartsWith(s.type, "conv2d") || s.type == "linear";
    (product ? products : others).push_back(&s);
  }
  std::vector<SpeedupSummary> result;
  for (const auto& [type, list] : by_type) result.push_back(Summarize(type, list));
  std::sort(result.begin(), result.end(), [](const SpeedupSummary& a, const SpeedupSummary& b) {
    return TypeBefore(a.type, b.type);
  });
  if (!products.empty()) result.push_back(Summarize("all convolutions and linear", products));
  if (!others.empty()) result.push_back(Summarize("all other layers", others));
  return result;
}

double MeanSpeedup(const Results& results, const std::string& type, const std::string& pass) {
  std::vector<double> ratios;
  for (const SpeedupResult& s : results.speedups) {
    if (s.type != type || (!pass.empty() && s.pass != pass)) continue;
    if (s.optimized.median() <= 0 || s.reference.median() <= 0) continue;
    ratios.push_back(s.reference.median() / s.optimized.median());
  }
  return GeometricMean(ratios);
}

}  // namespace classicnn
