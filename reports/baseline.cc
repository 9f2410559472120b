#include "reports/baseline.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "reports/format.h"
#include "reports/speedups.h"

namespace classicnn {
namespace {

class FigureList {
 public:
  explicit FigureList(std::map<std::string, Figure>* figures) : figures_(*figures) {}

  void Time(const std::string& key, const Timing& timing, bool gated = false) {
    if (!timing.empty()) figures_[key] = {timing.median(), RelativeNoise(timing), true, gated};
  }
  // Higher is better; as noisy as the timing it was computed from.
  void Rate(const std::string& key, double value, const Timing& timing) {
    figures_[key] = {value, RelativeNoise(timing), false, false};
  }
  void Count(const std::string& key, int64_t value, bool gated = false) {
    figures_[key] = {static_cast<double>(value), 0, true, gated};
  }

 private:
  std::map<std::string, Figure>& figures_;
};

// Samples of several timings added up, so that the spread of the sum is known. Timings of one pass
// have as many samples each.
Timing Sum(const Timing& a, const Timing& b) {
  if (a.empty()) return b;
  Timing sum = a;
  for (size_t i = 0; i < std::min(a.samples.size(), b.samples.size()); ++i) {
    sum.samples[i] += b.samples[i];
  }
  return sum;
}

void ListModel(const std::string& name, const ModelResult& m, FigureList* list) {
  list->Count(name + "/parameters", m.parameters);
  list->Count(name + "/macs", m.macs);
  list->Count(name + "/weight_bytes", m.weight_bytes);
  const PassResult& train = m.train_step;
  list->Time(name + "/train_step/seconds", train.seconds, /*gated=*/true);
  list->Time(name + "/train_step/forward", train.forward);
  list->Time(name + "/train_step/backward", train.backward);
  list->Time(name + "/train_step/update", train.update);
  list->Rate(name + "/train_step/images_per_second", train.images_per_second, train.seconds);
  list->Rate(name + "/train_step/flops_per_second", train.flops_per_second, train.seconds);
  list->Rate(name + "/train_step/peak_fraction", train.peak_fraction, train.seconds);
  const PassResult* const inferences[] = {&m.inference, &m.inference_one};
  const char* const names[] = {"/inference", "/inference_one"};
  for (int i = 0; i < 2; ++i) {
    list->Time(absl::StrCat(name, names[i], "/seconds"), inferences[i]->seconds, /*gated=*/true);
    list->Rate(absl::StrCat(name, names[i], "/images_per_second"), inferences[i]->images_per_second,
               inferences[i]->seconds);
  }
  list->Count(name + "/memory/peak_bytes", m.memory.peak_bytes, /*gated=*/true);
  list->Count(name + "/memory/weights", m.memory.weights);
  list->Count(name + "/memory/gradients", m.memory.gradients);
  list->Count(name + "/memory/optimizer", m.memory.optimizer);
  list->Count(name + "/memory/activations", m.memory.activations);
  list->Count(name + "/memory/workspace", m.memory.workspace);
  for (const MemoryLimitResult& point : m.memory_limits) {
    list->Time(LimitKey(name, point) + "/seconds", point.seconds);
    list->Count(LimitKey(name, point) + "/bytes", point.plan_bytes);
    list->Count(LimitKey(name, point) + "/activations", point.activation_bytes);
  }
  for (const BoundResult& bound : train.bounds) {
    list->Time(absl::StrCat(name, "/bound/", bound.bound, "/seconds"), bound.seconds);
    const double seconds = bound.seconds.median();
    if (!(seconds > 0)) continue;
    list->Rate(absl::StrCat(name, "/bound/", bound.bound, "/flops_per_second"),
               2.0 * static_cast<double>(bound.executed_macs) / seconds, bound.seconds);
    list->Rate(absl::StrCat(name, "/bound/", bound.bound, "/bytes_per_second"),
               static_cast<double>(bound.bytes) / seconds, bound.seconds);
  }
  for (const PassResult& pass : m.scaling) {
    list->Time(absl::StrCat(name, "/threads/", pass.threads, "/seconds"), pass.seconds);
  }
  std::map<std::string, Timing> types;
  for (const TypeResult& type : train.types) {
    types[type.type] = Sum(types[type.type], type.seconds);
  }
  for (const auto& [type, timing] : types) {
    list->Time(absl::StrCat(name, "/type/", type, "/seconds"), timing);
  }
  for (const LayerResult& layer : m.layers) {
    list->Time(absl::StrCat(name, "/layer/", layer.name, "/seconds"),
               Sum(Sum(layer.forward, layer.backward), layer.update));
  }
}

double NoiseOf(const Figure& before, const Figure& after) {
  return before.relative_noise + after.relative_noise;
}

}  // namespace

std::string LimitKey(const std::string& model, const MemoryLimitResult& point) {
  return absl::StrCat(model, "/limit/", point.limit_bytes);
}

std::map<std::string, Figure> ListFigures(const Results& results) {
  std::map<std::string, Figure> figures;
  FigureList list(&figures);
  for (const auto& [name, model] : results.models) ListModel(name, model, &list);
  for (const SpeedupSummary& s : SummarizeSpeedups(results)) {
    // The mean over problems of which each has its noise; which problems were reached differs too.
    figures[absl::StrCat("speedup/", s.type)] = {s.geometric_mean, 0.1, false, false};
  }
  return figures;
}

Comparison::Comparison(const Results& before, const Results& after)
    : before_(ListFigures(before)), after_(ListFigures(after)) {
  for (const auto& [key, now] : after_) {
    const auto was = before_.find(key);
    if (was == before_.end() || was->second.value == 0) continue;
    Change change;
    change.before = was->second.value;
    change.after = now.value;
    change.relative = now.value / was->second.value - 1;
    change.beyond_noise = std::fabs(change.relative) > NoiseOf(was->second, now);
    change.worse = now.lower_is_better ? change.relative > 0 : change.relative < 0;
    changes_[key] = change;
  }
}

const Change* Comparison::Find(const std::string& key) const {
  const auto it = changes_.find(key);
  return it == changes_.end() ? nullptr : &it->second;
}

std::vector<std::string> Comparison::Regressions(double percent) const {
  std::vector<std::string> regressions;
  for (const auto& [key, change] : changes_) {
    if (!after_.at(key).gated || !change.worse || !change.beyond_noise) continue;
    if (100 * std::fabs(change.relative) <= percent) continue;
    regressions.push_back(
        absl::StrFormat("%s: %s → %s (%s, noise %s)", key, FormatDigits(change.before, 3),
                        FormatDigits(change.after, 3), FormatSignedPercent(change.relative),
                        FormatPercent(NoiseOf(before_.at(key), after_.at(key)))));
  }
  return regressions;
}

absl::Status CheckComparable(const std::string& path, const Results& before, int64_t batch,
                             int threads, int64_t image_size, int64_t num_classes,
                             const std::vector<std::string>& models) {
  const auto differs = [&](const char* what, int64_t was, int64_t is) {
    return absl::InvalidArgumentError(absl::StrCat("--baseline: '", path, "' was measured with ",
                                                   what, "=", was, ", this run has ", what, "=",
                                                   is));
  };
  if (before.batch != batch) return differs("--batch", before.batch, batch);
  if (before.threads != threads) return differs("--threads", before.threads, threads);
  if (before.image_size != image_size) {
    return differs("--image_size", before.image_size, image_size);
  }
  if (before.num_classes != num_classes) {
    return differs("--num_classes", before.num_classes, num_classes);
  }
  for (const std::string& model : models) {
    if (before.models.count(model) != 0) return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--baseline: '", path, "' holds none of the models of this run"));
}

}  // namespace classicnn
