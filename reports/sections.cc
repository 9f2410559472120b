#include "reports/sections.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/program.h"
#include "reports/charts.h"
#include "reports/claims.h"
#include "reports/format.h"

namespace classicnn {
namespace {

// Text of a JSON value that may be missing.
std::string TextOf(const nlohmann::json& j, const char* key) {
  if (!j.contains(key)) return "unknown";
  return j[key].is_string() ? j[key].get<std::string>() : j[key].dump();
}

int64_t NumberOf(const nlohmann::json& j, const char* key) {
  return j.contains(key) && j[key].is_number() ? j[key].get<int64_t>() : 0;
}

using Value = double (*)(const ModelResult&);

// The model that has the largest (or smallest) value.
std::string Extreme(const Results& results, Value value, bool smallest) {
  const auto& order = results.model_order;
  const auto less = [&](const std::string& a, const std::string& b) {
    return value(results.model(a)) < value(results.model(b));
  };
  const auto it = smallest ? std::min_element(order.begin(), order.end(), less)
                           : std::max_element(order.begin(), order.end(), less);
  return *it;
}

}  // namespace

std::string ModelTitle(const std::string& model) {
  static const std::map<std::string, std::string> kTitles = {{"vgg16", "VGG-16"},
                                                             {"resnet18", "ResNet-18"},
                                                             {"googlenet", "GoogLeNet"},
                                                             {"mobilenetv1", "MobileNetV1"},
                                                             {"densenet121", "DenseNet-121"}};
  const auto it = kTitles.find(model);
  return it == kTitles.end() ? model : it->second;
}

Cell FigureCell(const ReportInput& input, const std::string& key, const std::string& text) {
  const Change* change = input.comparison.Find(key);
  if (change == nullptr || change->relative == 0) return text;
  Tone tone = Tone::kMuted;
  if (change->beyond_noise) tone = change->worse ? Tone::kBad : Tone::kGood;
  return {text, FormatSignedPercent(change->relative), tone};
}

std::vector<std::pair<std::string, double>> SecondsByType(const PassResult& pass) {
  std::map<std::string, double> sums;
  for (const TypeResult& type : pass.types) sums[type.type] += type.seconds.median();
  std::vector<std::pair<std::string, double>> result(sums.begin(), sums.end());
  std::sort(result.begin(), result.end(),
            [](const auto& a, const auto& b) { return a.second > b.second; });
  return result;
}

double BetweenKernels(const PassResult& pass) {
  std::vector<double> rest = pass.seconds.samples;
  for (const TypeResult& type : pass.types) {
    if (type.seconds.samples.size() != rest.size()) return 0;  // not of the same steps
    for (size_t i = 0; i < rest.size(); ++i) rest[i] -= type.seconds.samples[i];
  }
  return rest.empty() ? 0 : std::max(0.0, Quantile(rest, 0.5));
}

Table ComparisonTable(const ReportInput& input) {
  Table table;
  table.header = {"model",   "parameters", "MACs/image",  "train step",         "images/s",
                  "GFLOP/s", "of peak",    "peak memory", "inference images/s", "one image"};
  for (const std::string& name : input.results.model_order) {
    const ModelResult& m = input.results.model(name);
    const auto cell = [&](const char* key, const std::string& text) {
      return FigureCell(input, absl::StrCat(name, "/", key), text);
    };
    table.rows.push_back(
        {name, cell("parameters", FormatScaled(static_cast<double>(m.parameters))),
         cell("macs", FormatScaled(static_cast<double>(m.macs))),
         cell("train_step/seconds", FormatTiming(m.train_step.seconds)),
         cell("train_step/images_per_second", FormatDigits(m.train_step.images_per_second, 3)),
         cell("train_step/flops_per_second", FormatDigits(m.train_step.flops_per_second / 1e9, 3)),
         cell("train_step/peak_fraction", FormatPercent(m.train_step.peak_fraction)),
         cell("memory/peak_bytes", FormatBytes(m.memory.peak_bytes)),
         cell("inference/images_per_second", FormatDigits(m.inference.images_per_second, 3)),
         cell("inference_one/seconds", FormatSeconds(m.inference_one.seconds.median()))});
  }
  return table;
}

Section OverviewSection(const ReportInput& input) {
  const Results& r = input.results;
  Section s{"overview", "At a glance", {}};
  Table table = ComparisonTable(input);
  table.caption =
      absl::StrCat("Batch ", r.batch, ", ", FormatThreads(r.threads), ", f32, ", r.image_size,
                   " × ", r.image_size, " images, ", r.num_classes, " classes");
  s.blocks.push_back(std::move(table));
  s.Text(
      "A MAC is one multiply-add, a FLOP half of it: a model's FLOPs are twice its MACs. A "
      "training step (forward, loss, backward, SGD update) is counted as three forward passes. "
      "\"Of peak\" sets these nominal FLOPs in relation to the measured multiply-add peak of the "
      "machine; algorithms that need fewer multiplications than the direct one can pass 100%.");
  std::vector<Series> series = {{"training", PaletteColor(0), {}},
                                {"inference", PaletteColor(3), {}}};
  for (const std::string& name : r.model_order) {
    series[0].values.push_back(r.model(name).train_step.images_per_second);
    series[1].values.push_back(r.model(name).inference.images_per_second);
  }
  Chart chart = BarChart("chart-images", r.model_order, series,
                         {"images per second (logarithmic)", "images", true}, false, true);
  chart.caption = "Images per second; longer is faster. Equal distances are equal factors.";
  s.blocks.push_back(std::move(chart));
  return s;
}

Section ConditionsSection(const ReportInput& input) {
  const Results& r = input.results;
  Section s{"conditions", "Machine and conditions", {}};
  Table machine;
  machine.text_columns = 2;
  machine.header = {"what", "value"};
  const auto bytes = [&](const char* key) { return FormatBytes(NumberOf(r.machine, key)); };
  machine.rows = {
      {"CPU", TextOf(r.machine, "cpu_model")},
      {"CPUs seen, threads available", absl::StrCat(TextOf(r.machine, "logical_cpus"), ", ",
                                                    TextOf(r.machine, "available_threads"))},
      {"instruction set used", TextOf(r.machine, "active_target")},
      {"caches (L1d and L2 of a core, L3)",
       absl::StrCat(bytes("l1d_bytes"), ", ", bytes("l2_bytes"), ", ", bytes("l3_bytes"))},
      {"memory", bytes("memory_bytes")},
      {"compiler", TextOf(r.build, "compiler")},
      {"flags", TextOf(r.build, "flags")},
      {"build",
       absl::StrCat(TextOf(r.build, "build_type"), ", commit ", TextOf(r.build, "commit"))},
      {"measured", absl::StrCat("batch ", r.batch, ", ", FormatThreads(r.threads), ", ", r.mode,
                                " mode, ", FormatDigits(r.measured_seconds, 3), " s in all")}};
  s.blocks.push_back(std::move(machine));
  Table peaks;
  peaks.caption = "Peaks, measured on this machine";
  peaks.header = {"threads", "multiply-add peak", "copy bandwidth", "FLOPs a byte at the ridge"};
  for (const MachinePeaks& p : r.peaks) {
    peaks.rows.push_back({absl::StrCat(p.num_threads), FormatFlops(p.fma_flops),
                          FormatBandwidth(p.copy_bytes_per_second),
                          FormatDigits(p.fma_flops / std::max(1.0, p.copy_bytes_per_second), 3)});
  }
  s.blocks.push_back(std::move(peaks));
  s.Text(absl::StrCat(
      "The models took turns (A B C A B C), so that a machine whose clock drifts shifts all of "
      "them "
      "alike. Every pass ran once unmeasured before its samples were taken. Times are medians; ± "
      "is "
      "half the distance between the 10th and the 90th percentile of the samples, relative to the "
      "median. All samples are in `results.json`."));
  return s;
}

Section ReadingSection(const ReportInput&) {
  Section s{"reading", "How to read the figures, and their limits", {}};
  s.blocks.push_back(List{{
      "Times are by the clock on the wall, of whole passes; the times of layers are taken inside "
      "such a pass, step by step, so caches are as warm as they are in training. What lies between "
      "two steps is in the pass but in no layer.",
      "In a training step a batch normalization has no pass over its tensor where its neighbours "
      "can do the work: the convolution before it takes the statistics of what it stores, its "
      "readers scale, shift and rectify what they load, and in backward the neighbours mask and "
      "correct gradients likewise. That time is the neighbours'; under `batch_norm2d` is what is "
      "left, arithmetic on a few numbers for each channel and the passes no neighbour could take. "
      "In inference it runs as a layer of its own, with running statistics.",
      "ReLU runs inside the batch normalization or addition before it; its time is then that "
      "layer's, or goes where that layer's went. Concatenations whose inputs are written into "
      "slices of the whole cost nothing and show no time.",
      "GFLOP/s and \"of peak\" are nominal: the FLOPs of direct algorithms. Executed FLOPs, what "
      "the chosen algorithms really multiply, are used for the roofline.",
      "Bytes in the roofline are the least a step can move: every operand read or written once. "
      "Operands that are still in the cache make a step faster than that, beyond its roof; reading "
      "something twice makes it slower.",
      "Memory is what the program asked for by category, from the plan: activations are kept "
      "values "
      "and gradients of values, workspace is the kernels' scratch and what alignment costs. The "
      "peak is the high-water mark while it ran. The process has its code and libraries beside it.",
      "The input is random numbers of one fixed batch. Speed does not depend on it; accuracies "
      "come from training runs only (`--runs`).",
      "A measured ratio between two models holds for this machine, thread count, batch and image "
      "size. With few samples on a shared machine the spread can understate what another day "
      "shows.",
  }});
  return s;
}

namespace {

// What stands at the top: the first of the models in each respect, or of one model its figures.
std::vector<std::pair<std::string, std::string>> Facts(const Results& r) {
  const auto speed = [](const ModelResult& m) { return m.train_step.images_per_second; };
  const auto parameters = [](const ModelResult& m) { return static_cast<double>(m.parameters); };
  const auto work = [](const ModelResult& m) { return m.train_step.peak_fraction; };
  const auto memory = [](const ModelResult& m) { return static_cast<double>(m.memory.peak_bytes); };
  const std::string fastest = Extreme(r, speed, false), smallest = Extreme(r, parameters, true);
  const std::string fullest = Extreme(r, work, false), leanest = Extreme(r, memory, true);
  const std::string images = absl::StrCat(FormatDigits(speed(r.model(fastest)), 3), " images/s");
  const std::string count = FormatScaled(parameters(r.model(smallest)));
  const std::string peak = FormatPercent(work(r.model(fullest)));
  const std::string bytes = FormatBytes(r.model(leanest).memory.peak_bytes);
  if (r.model_order.size() == 1) {
    return {{images, "in training"},
            {count, "parameters"},
            {peak, "of the machine's peak, counted as direct convolutions"},
            {bytes, "at the fullest moment of a training step"}};
  }
  return {{ModelTitle(fastest), absl::StrCat("trains fastest: ", images)},
          {ModelTitle(smallest), absl::StrCat("has the fewest parameters: ", count)},
          {ModelTitle(fullest), absl::StrCat("does the most work in a second: ", peak,
                                             " of the peak, counted as direct convolutions")},
          {ModelTitle(leanest), absl::StrCat("trains in the least memory: ", bytes)}};
}

}  // namespace

Document BuildDocument(const ReportInput& input) {
  const Results& r = input.results;
  Document d;
  std::vector<std::string> titles;
  for (const std::string& name : r.model_order) titles.push_back(ModelTitle(name));
  d.title = titles.size() == 5   ? "Five classic CNNs, measured"
            : titles.size() == 1 ? absl::StrCat(titles[0], ", measured")
                                 : "Classic CNNs, measured";
  d.subtitle = absl::StrCat(absl::StrJoin(titles, ", "), " on ", TextOf(r.machine, "cpu_model"),
                            ", ", FormatThreads(r.threads), ", batch ", r.batch);
  d.facts = Facts(r);

  d.sections = {OverviewSection(input), ConditionsSection(input)};
  if (!input.baseline_path.empty()) d.sections.push_back(ChangesSection(input));
  for (const auto& section : {ComparisonSection, LayerTypesSection, LayersSection, MemorySection}) {
    d.sections.push_back(section(input));
  }
  if (HasMemoryLimits(r)) d.sections.push_back(MemoryLimitsSection(input));
  if (HasBounds(r)) d.sections.push_back(BoundsSection(input));
  d.sections.push_back(RooflineSection(input));
  d.sections.push_back(ScalingSection(input));
  if (!r.speedups.empty()) d.sections.push_back(SpeedupSection(input));
  if (!input.peer.empty()) d.sections.push_back(PeerSection(input));
  d.sections.push_back(InnovationsSection(input));
  d.sections.push_back(ClaimsSection(input));
  if (!input.runs.empty()) d.sections.push_back(AccuracySection(input));
  d.sections.push_back(ReadingSection(input));
  return d;
}

}  // namespace classicnn
