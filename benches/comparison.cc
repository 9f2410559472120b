#include "benches/comparison.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "models/model.h"
#include "nlohmann/json.hpp"

namespace classicnn {
namespace {

constexpr char kAllPasses[] = "all passes";
constexpr LayerPass kConvPasses[] = {LayerPass::kForward, LayerPass::kBackwardData,
                                     LayerPass::kBackwardWeights};

// A group's place in the table, and its name.
using GroupKey = std::pair<int, std::string>;
constexpr int kRanksPerKind = 10;

GroupKey KeyOf(const LayerShape& shape) {
  const int rank = static_cast<int>(shape.kind) * kRanksPerKind;
  if (shape.kind == LayerKind::kBatchNorm2d) {
    if (shape.training) return {rank, "batch_norm2d training"};
    return {rank + 1, "batch_norm2d inference"};
  }
  if (shape.kind != LayerKind::kConv2d) return {rank, LayerKindName(shape.kind)};
  const Conv2dShape& s = shape.conv2d;
  if (s.depthwise() && s.groups > 1) return {rank + 4, "conv2d depthwise"};
  if (s.groups == 1) {
    if (s.kernel == 1) return {rank + 2, "conv2d pointwise"};
    if (s.kernel == 5) return {rank + 3, "conv2d 5x5"};
    if (s.kernel == 3) {
      const bool large = std::min(s.in_channels, s.out_channels) >= 32 && std::min(s.h, s.w) >= 4;
      if (large && s.stride == 1) return {rank, "conv2d 3x3 stride 1, 32+ channels, 4x4+"};
      return {rank + 1, "conv2d other 3x3"};
    }
  }
  return {rank + 5, "conv2d other"};
}

const GroupKey kAllConvolutions = {kRanksPerKind - 1, "conv2d, all"};

// Ratios as they come in.
struct Ratios {
  int count = 0;
  double log_sum = 0;
  double least = 0;
  const ComparisonRow* least_row = nullptr;

  void Add(const ComparisonRow& row) {
    ++count;
    log_sum += std::log(row.ratio());
    if (least_row == nullptr || row.ratio() < least) {
      least = row.ratio();
      least_row = &row;
    }
  }
  // Fills the members that groups and models have in common.
  template <typename Result>
  void Put(Result& result) const {
    result.count = count;
    if (count == 0) return;
    result.geometric_mean = std::exp(log_sum / count);
    result.least = least;
    result.least_at =
        absl::StrCat(least_row->shape.ToString(), " ", LayerPassName(least_row->pass));
  }
};

double Flops(const ComparisonRow& row) { return 2 * static_cast<double>(row.shape.macs()); }
double Bytes(const ComparisonRow& row) {
  return 4 * static_cast<double>(row.shape.traffic(row.pass) + row.fused_traffic);
}

// What a row's rates count: operations, or bytes where a layer has no multiply-adds.
double Work(const ComparisonRow& row) { return row.shape.macs() > 0 ? Flops(row) : Bytes(row); }

// The time that the machine's peaks allow, over the time taken. 0: not known.
double RooflineFraction(const Comparison& comparison, const ComparisonRow& row) {
  if (comparison.fma_flops <= 0 || comparison.copy_bytes_per_second <= 0) return 0;
  const double compute = 2 * static_cast<double>(row.executed_macs) / comparison.fma_flops;
  return std::max(compute, Bytes(row) / comparison.copy_bytes_per_second) / row.seconds;
}

std::string CaseName(const ComparisonRow& row) {
  return absl::StrCat(LayerKindName(row.shape.kind), "_", LayerPassName(row.pass));
}

int Calls(const ComparisonRow& row, absl::string_view model) {
  for (const LayerUse& use : row.uses) {
    if (use.model != model) continue;
    return row.pass == LayerPass::kBackwardData ? use.with_input_gradient : use.count;
  }
  return 0;
}

std::string FormatRows(const Comparison& comparison) {
  size_t width = 5;
  for (const ComparisonRow& row : comparison.rows) {
    width = std::max(width, row.shape.ToString().size());
  }
  const int shape_width = static_cast<int>(width);
  std::string text =
      absl::StrFormat("%-26s %-*s %11s %11s %9s %9s %-7s %6s %7s  %s\n", "layer and pass",
                      shape_width, "shape", comparison.ours + " us", "peer us", comparison.ours,
                      "peer", "", "ratio", "of roof", comparison.ours + " / peer");
  for (const ComparisonRow& row : comparison.rows) {
    if (!row.measured()) {
      if (row.error.empty()) continue;
      absl::StrAppendFormat(&text, "%-26s %-*s %s\n", CaseName(row), shape_width,
                            row.shape.ToString(), row.error);
      continue;
    }
    const double roof = RooflineFraction(comparison, row);
    absl::StrAppendFormat(
        &text, "%-26s %-*s %11.1f %11.1f %9.1f %9.1f %-7s %6.2f %7s  %s / %s\n", CaseName(row),
        shape_width, row.shape.ToString(), row.seconds * 1e6, row.peer_seconds * 1e6,
        Work(row) / row.seconds * 1e-9, Work(row) / row.peer_seconds * 1e-9,
        row.shape.macs() > 0 ? "GFLOP/s" : "GB/s", row.ratio(),
        roof > 0 ? absl::StrFormat("%.0f%%", 100 * roof) : "", row.label, row.peer_label);
  }
  return text;
}

}  // namespace

std::vector<ComparisonGroup> CompareGroups(const std::vector<ComparisonRow>& rows) {
  // By group, then by pass; passes in the order of the enumeration, all of them last.
  constexpr int kAll = static_cast<int>(LayerPass::kBackwardWeights) + 1;
  std::map<GroupKey, std::map<int, Ratios>> groups;
  std::map<int, Ratios> convolutions;
  int convolution_groups = 0;
  for (const ComparisonRow& row : rows) {
    if (!row.measured()) continue;
    std::map<int, Ratios>& group = groups[KeyOf(row.shape)];
    const bool convolution = row.shape.kind == LayerKind::kConv2d;
    if (convolution && group.empty()) ++convolution_groups;
    for (const int pass : {static_cast<int>(row.pass), kAll}) {
      group[pass].Add(row);
      if (convolution) convolutions[pass].Add(row);
    }
  }
  if (convolution_groups > 1) groups[kAllConvolutions] = std::move(convolutions);

  std::vector<ComparisonGroup> result;
  for (const auto& [key, passes] : groups) {
    for (const auto& [pass, ratios] : passes) {
      if (pass == kAll && passes.size() == 2) continue;  // the same rows again
      ComparisonGroup group;
      group.name = key.second;
      group.pass = pass == kAll ? kAllPasses : LayerPassName(static_cast<LayerPass>(pass));
      ratios.Put(group);
      result.push_back(std::move(group));
    }
  }
  return result;
}

std::vector<ModelComparison> CompareModels(const std::vector<ComparisonRow>& rows) {
  std::vector<ModelComparison> result;
  for (const std::string& model : ModelNames()) {
    ModelComparison all;
    all.model = model;
    all.what = kAllPasses;
    Ratios all_ratios;
    for (const LayerPass pass : kConvPasses) {
      ModelComparison sum;
      sum.model = model;
      sum.what = LayerPassName(pass);
      Ratios ratios;
      for (const ComparisonRow& row : rows) {
        const int calls = Calls(row, model);
        if (row.shape.kind != LayerKind::kConv2d || row.pass != pass || calls == 0) continue;
        sum.calls_in_model += calls;
        if (!row.measured()) continue;
        sum.calls += calls;
        sum.seconds += calls * row.seconds;
        sum.peer_seconds += calls * row.peer_seconds;
        ratios.Add(row);
        all_ratios.Add(row);
      }
      ratios.Put(sum);
      all.calls += sum.calls;
      all.calls_in_model += sum.calls_in_model;
      all.seconds += sum.seconds;
      all.peer_seconds += sum.peer_seconds;
      if (sum.count > 0) result.push_back(std::move(sum));
    }
    all_ratios.Put(all);
    if (all.count > 0) result.push_back(std::move(all));

    ModelComparison others;
    others.model = model;
    others.what = "other layers";
    Ratios ratios;
    for (const ComparisonRow& row : rows) {
      const bool convolution = row.shape.kind == LayerKind::kConv2d;
      if (!convolution && row.measured() && Calls(row, model) > 0) ratios.Add(row);
    }
    ratios.Put(others);
    if (others.count > 0) result.push_back(std::move(others));
  }
  return result;
}

std::string FormatComparison(const Comparison& comparison) {
  std::string text = comparison.ours;
  text[0] = absl::ascii_toupper(static_cast<unsigned char>(text[0]));
  absl::StrAppend(&text, " against ", comparison.peer, ", threads: ", comparison.num_threads);
  if (comparison.fma_flops > 0) {
    absl::StrAppendFormat(&text, ", peaks: %.1f GFLOP/s, copy %.1f GB/s",
                          comparison.fma_flops * 1e-9, comparison.copy_bytes_per_second * 1e-9);
  }
  absl::StrAppend(&text, "\nMedian times; ratio: how many times as fast as the peer.\n\n",
                  FormatRows(comparison));

  absl::StrAppendFormat(&text, "\n%-40s %-17s %6s %8s %6s  %s\n", "kind of layer", "pass", "shapes",
                        "geo.mean", "least", "at");
  for (const ComparisonGroup& group : CompareGroups(comparison.rows)) {
    absl::StrAppendFormat(&text, "%-40s %-17s %6d %8.2f %6.2f  %s\n", group.name, group.pass,
                          group.count, group.geometric_mean, group.least, group.least_at);
  }

  const std::vector<ModelComparison> models = CompareModels(comparison.rows);
  if (models.empty()) return text;
  absl::StrAppendFormat(&text, "\n%-12s %-17s %6s %8s %6s %9s %10s %10s %9s  %s\n", "model",
                        "convolutions", "shapes", "geo.mean", "least", "calls", "sum ms", "peer ms",
                        "sum ratio", "least at");
  for (const ModelComparison& m : models) {
    absl::StrAppendFormat(&text, "%-12s %-17s %6d %8.2f %6.2f", m.model, m.what, m.count,
                          m.geometric_mean, m.least);
    if (m.calls > 0) {
      absl::StrAppendFormat(&text, " %9s %10.2f %10.2f %9.2f",
                            absl::StrCat(m.calls, "/", m.calls_in_model), m.seconds * 1e3,
                            m.peer_seconds * 1e3, m.peer_seconds / m.seconds);
    } else {
      absl::StrAppendFormat(&text, " %41s", "");
    }
    absl::StrAppend(&text, "  ", m.least_at, "\n");
  }
  return text;
}

void to_json(nlohmann::json& j, const Comparison& comparison) {
  j = {{"ours", comparison.ours},
       {"peer", comparison.peer},
       {"threads", comparison.num_threads},
       {"fma_flops", comparison.fma_flops},
       {"copy_bytes_per_second", comparison.copy_bytes_per_second},
       {"rows", nlohmann::json::array()},
       {"groups", nlohmann::json::array()},
       {"models", nlohmann::json::array()}};
  for (const ComparisonRow& row : comparison.rows) {
    nlohmann::json entry = {{"layer", LayerKindName(row.shape.kind)},
                            {"pass", LayerPassName(row.pass)},
                            {"shape", row.shape.ToString()},
                            {"label", row.label},
                            {"peer_label", row.peer_label}};
    if (!row.error.empty()) entry["error"] = row.error;
    if (row.measured()) {
      entry["seconds"] = row.seconds;
      entry["peer_seconds"] = row.peer_seconds;
      entry["ratio"] = row.ratio();
      entry["flops"] = Flops(row);
      entry["bytes"] = Bytes(row);
      entry["roofline_fraction"] = RooflineFraction(comparison, row);
    } else if (row.error.empty()) {
      continue;
    }
    j["rows"].push_back(std::move(entry));
  }
  const auto mean = [](const auto& result) -> nlohmann::json {
    return {{"shapes", result.count},
            {"geometric_mean", result.geometric_mean},
            {"least", result.least},
            {"least_at", result.least_at}};
  };
  for (const ComparisonGroup& group : CompareGroups(comparison.rows)) {
    nlohmann::json entry = mean(group);
    entry["name"] = group.name;
    entry["pass"] = group.pass;
    j["groups"].push_back(std::move(entry));
  }
  for (const ModelComparison& model : CompareModels(comparison.rows)) {
    nlohmann::json entry = mean(model);
    entry["model"] = model.model;
    entry["what"] = model.what;
    if (model.calls > 0) {
      entry["calls"] = model.calls;
      entry["calls_in_model"] = model.calls_in_model;
      entry["seconds"] = model.seconds;
      entry["peer_seconds"] = model.peer_seconds;
    }
    j["models"].push_back(std::move(entry));
  }
}

}  // namespace classicnn
