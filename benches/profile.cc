#include "benches/profile.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/check.h"

namespace classicnn {
namespace {

struct Row {
  std::string name, layer, notes;
  double forward_ms = 0, backward_ms = 0, update_ms = 0;
  int64_t macs = 0, executed_macs = 0, bytes = 0;

  double total_ms() const { return forward_ms + backward_ms + update_ms; }
};

void AddNote(Row& row, const std::string& note) {
  if (!absl::StrContains(row.notes, note)) {
    absl::StrAppend(&row.notes, row.notes.empty() ? "" : ", ", note);
  }
}

// Which part of the batch norms around it a step does (layers/fusion.h).
void AddFusions(const Step& step, Row& row) {
  if (step.kind == StepKind::kBatchNorm2dFoldForward ||
      step.kind == StepKind::kBatchNorm2dFoldBackward) {
    AddNote(row, "fused");
    return;
  }
  for (size_t i = 0; i < step.activations.size(); ++i) {
    if (step.activates(i)) AddNote(row, "activation");
  }
  if (step.mean.valid()) AddNote(row, "statistics");
  if (step.gradient.active()) AddNote(row, "gradient prologue");
  if (step.updates) AddNote(row, "update");
  if (step.has_epilogue()) AddNote(row, "gradient epilogue");
}

std::string Format(const Row& row, double total_ms, size_t name_width) {
  const double ms = row.total_ms();
  const auto rate = [ms](double amount, double unit) { return ms > 0 ? amount / ms / unit : 0; };
  return absl::StrFormat(
      "%-*s  %-17s %9.3f %9.3f %9.3f %6.2f%% %10.1f %9.1f %9.1f %9.2f %7.1f  %s\n",
      static_cast<int>(name_width), row.name, row.layer, row.forward_ms, row.backward_ms,
      row.update_ms, total_ms > 0 ? 100 * ms / total_ms : 0, static_cast<double>(row.macs) * 1e-6,
      rate(2 * static_cast<double>(row.macs), 1e6),
      rate(2 * static_cast<double>(row.executed_macs), 1e6), static_cast<double>(row.bytes) * 1e-6,
      rate(static_cast<double>(row.bytes), 1e6), row.notes);
}

}  // namespace

std::string FormatProfile(const Graph& graph, const Plan& plan, const StepTimes& times) {
  CNN_CHECK(times.runs > 0 && times.nanos.size() == plan.steps.size(), times.nanos.size(),
            " times of ", plan.steps.size(), " steps in ", times.runs, " runs");
  std::vector<Row> rows(graph.nodes().size());
  Row loss;
  loss.name = "(loss)";
  loss.layer = "cross_entropy";
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    if (times.nanos[i] == 0) continue;  // not of the phase that ran
    const Step& step = plan.steps[i];
    const bool is_loss = step.kind == StepKind::kCrossEntropy;
    Row& row = is_loss ? loss : rows[static_cast<size_t>(step.node)];
    const double ms = static_cast<double>(times.nanos[i]) * 1e-6 / static_cast<double>(times.runs);
    if (step.kind == StepKind::kUpdateParameter) {
      row.update_ms += ms;
    } else if (step.phase == Phase::kBackward) {
      row.backward_ms += ms;
    } else {
      row.forward_ms += ms;
    }
    row.macs += step.macs;
    row.executed_macs += step.executed_macs;
    row.bytes += step.bytes;
    if (IsConv2d(step.kind)) AddNote(row, Conv2dAlgorithmName(step.algorithm));
    if (step.fused_relu != kNoNode) AddNote(row, "+" + graph.node(step.fused_relu).name);
    AddFusions(step, row);
  }

  Row sum;
  sum.name = "sum";
  std::vector<Row> timed;
  size_t name_width = 4;
  for (size_t i = 0; i <= rows.size(); ++i) {
    Row& row = i < rows.size() ? rows[i] : loss;
    if (row.total_ms() == 0) continue;
    if (i < rows.size()) {
      row.name = graph.nodes()[i].name;
      row.layer = OpName(graph.nodes()[i].op);
    }
    name_width = std::max(name_width, row.name.size());
    sum.forward_ms += row.forward_ms;
    sum.backward_ms += row.backward_ms;
    sum.update_ms += row.update_ms;
    sum.macs += row.macs;
    sum.executed_macs += row.executed_macs;
    sum.bytes += row.bytes;
    timed.push_back(row);
  }
  std::stable_sort(timed.begin(), timed.end(),
                   [](const Row& a, const Row& b) { return a.total_ms() > b.total_ms(); });
  std::string table = absl::StrFormat("%-*s  %-17s %9s %9s %9s %7s %10s %9s %9s %9s %7s  %s\n",
                                      static_cast<int>(name_width), "node", "layer", "forw. ms",
                                      "backw. ms", "update ms", "share", "MMACs", "GFLOP/s",
                                      "executed", "MB", "GB/s", "algorithms, +fused");
  for (const Row& row : timed) table += Format(row, sum.total_ms(), name_width);
  return table + Format(sum, sum.total_ms(), name_width);
}

}  // namespace classicnn
