#include "reports/results.h"

#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/file.h"
#include "reports/json_shape.h"

namespace classicnn {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(TypeResult, type, pass, seconds, steps, macs, executed_macs,
                                   bytes)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(BoundResult, bound, seconds, steps, executed_macs, bytes,
                                   roof_seconds)
// With defaults: what must be there is checked by Pattern() before anything is read.
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(PassResult, batch, threads, seconds, forward,
                                                backward, update, images_per_second,
                                                flops_per_second, peak_fraction,
                                                executed_flops_per_second, types, bounds)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(LayerResult, name, type, input, output, algorithms, parameters,
                                   macs, output_bytes, forward, backward, update)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(MemoryPoint, seconds, phase, weights, gradients, optimizer,
                                   activations, workspace)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(MemoryResult, peak_bytes, arena_bytes, least_bytes, weights,
                                   gradients, optimizer, activations, workspace, timeline)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(MemoryLimitResult, limit_bytes, plan_bytes, peak_bytes,
                                   activation_bytes, executed_macs, recomputed_macs,
                                   recomputed_steps, seconds)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(ModelResult, parameters, conv_parameters,
                                                norm_parameters, linear_parameters, convolutions,
                                                linear_layers, parameter_tensors, nodes, plan_steps,
                                                macs, weight_bytes, receptive_field, train_step,
                                                inference, inference_one, scaling, batches, memory,
                                                memory_limits, layers)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(SpeedupResult, type, pass, shape, optimized, reference)

MachinePeaks Results::PeaksAt(int thread_count) const {
  for (const MachinePeaks& p : peaks) {
    if (p.num_threads == thread_count) return p;
  }
  return {};
}

namespace {

void PeaksFromJson(const nlohmann::json& j, MachinePeaks* p) {
  j.at("num_threads").get_to(p->num_threads);
  j.at("target").get_to(p->target);
  j.at("fma_flops").get_to(p->fma_flops);
  j.at("copy_bytes_per_second").get_to(p->copy_bytes_per_second);
}

// Keys that older versions did not write need not be there: CheckShape's "key?".
void MakeOptional(const std::set<std::string>& keys, nlohmann::json* pattern) {
  if (pattern->is_array()) {
    for (nlohmann::json& element : *pattern) MakeOptional(keys, &element);
  }
  if (!pattern->is_object()) return;
  nlohmann::json renamed = nlohmann::json::object();
  for (auto& [key, value] : pattern->items()) {
    MakeOptional(keys, &value);
    renamed[keys.count(key) > 0 ? key + "?" : key] = value;
  }
  *pattern = std::move(renamed);
}

// What a file must have, as CheckShape takes it: all that to_json writes, each list with an
// element.
nlohmann::json Pattern() {
  Timing timing;
  timing.samples = {1};
  TypeResult type;
  type.seconds = timing;
  PassResult pass;
  pass.seconds = pass.forward = pass.backward = pass.update = timing;
  pass.types = {type};
  pass.bounds.emplace_back().seconds = timing;
  LayerResult layer;
  layer.forward = layer.backward = layer.update = timing;
  ModelResult model;
  model.train_step = model.inference = model.inference_one = pass;
  model.scaling = model.batches = {pass};
  model.memory.timeline = {MemoryPoint()};
  model.memory_limits.emplace_back().seconds = timing;
  model.layers = {layer};
  SpeedupResult speedup;
  speedup.optimized = speedup.reference = timing;
  Results results;
  results.machine = results.build = nlohmann::json::object();
  results.peaks = {MachinePeaks()};
  results.model_order = {""};
  results.models["*"] = model;
  results.speedups = {speedup};
  results.extra["*"] = 0;
  nlohmann::json pattern = results;
  MakeOptional({"bounds", "memory_limits"}, &pattern);
  return pattern;
}

}  // namespace

void to_json(nlohmann::json& j, const Results& r) {
  j = nlohmann::json{{"schema", r.schema},
                     {"machine", r.machine},
                     {"build", r.build},
                     {"mode", r.mode},
                     {"batch", r.batch},
                     {"threads", r.threads},
                     {"image_size", r.image_size},
                     {"num_classes", r.num_classes},
                     {"measured_seconds", r.measured_seconds},
                     {"model_order", r.model_order},
                     {"models", r.models},
                     {"speedups", r.speedups},
                     {"speedup_shapes_total", r.speedup_shapes_total},
                     {"extra", r.extra}};
  j["machine"]["peaks"] = nlohmann::json::array();
  for (const MachinePeaks& p : r.peaks) {
    j["machine"]["peaks"].push_back({{"num_threads", p.num_threads},
                                     {"target", p.target},
                                     {"fma_flops", p.fma_flops},
                                     {"copy_bytes_per_second", p.copy_bytes_per_second}});
  }
}

absl::StatusOr<Results> ParseResults(const std::string& path, const std::string& text) {
  const nlohmann::json j = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (j.is_discarded() || !j.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat("'", path, "' is not a JSON object"));
  }
  const auto schema = j.find("schema");
  if (schema == j.end() || *schema != kResultsSchema) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", path, "' is not a results.json of cnn-report (its \"schema\" must be \"",
                     kResultsSchema, "\")"));
  }
  if (absl::Status s = CheckShape(j, Pattern()); !s.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("'", path, "': ", s.message()));
  }
  Results r;
  try {
    j.at("machine").get_to(r.machine);
    j.at("build").get_to(r.build);
    j.at("mode").get_to(r.mode);
    j.at("batch").get_to(r.batch);
    j.at("threads").get_to(r.threads);
    j.at("image_size").get_to(r.image_size);
    j.at("num_classes").get_to(r.num_classes);
    j.at("measured_seconds").get_to(r.measured_seconds);
    j.at("model_order").get_to(r.model_order);
    j.at("models").get_to(r.models);
    j.at("speedups").get_to(r.speedups);
    j.at("speedup_shapes_total").get_to(r.speedup_shapes_total);
    j.at("extra").get_to(r.extra);
    for (const nlohmann::json& p : j.at("machine").at("peaks")) {
      PeaksFromJson(p, &r.peaks.emplace_back());
    }
    for (const std::string& name : r.model_order) {
      if (r.models.count(name) == 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("'", path, "' lists the model ", name, " but does not hold it"));
      }
    }
  } catch (const nlohmann::json::exception&) {  // what the pattern does not tell apart
    return absl::InvalidArgumentError(
        absl::StrCat("'", path, "' is not as cnn-report writes it: it was changed or is damaged"));
  }
  return r;
}

absl::StatusOr<Results> ReadResults(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(path);
  if (!text.ok()) return text.status();
  return ParseResults(path, *text);
}

}  // namespace classicnn
