// Memory, and the machine's roofs.
#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/program.h"
#include "reports/charts.h"
#include "reports/format.h"
#include "reports/layer_types.h"
#include "reports/sections.h"

namespace classicnn {
namespace {

struct Category {
  const char* name;
  const char* color;
  int64_t MemoryResult::*total;
  int64_t MemoryPoint::*point;
};
constexpr Category kCategories[] = {
    {"weights", "#4269d0", &MemoryResult::weights, &MemoryPoint::weights},
    {"optimizer", "#97bbf5", &MemoryResult::optimizer, &MemoryPoint::optimizer},
    {"gradients", "#a463f2", &MemoryResult::gradients, &MemoryPoint::gradients},
    {"activations", "#efb118", &MemoryResult::activations, &MemoryPoint::activations},
    {"workspace", "#9498a0", &MemoryResult::workspace, &MemoryPoint::workspace},
};

// A layer type in one pass, beside the roofs.
struct RoofPoint {
  std::string model, type, pass;
  double seconds = 0, flops = 0, bytes = 0;
  double intensity() const { return bytes > 0 ? flops / bytes : 0; }
};

std::vector<RoofPoint> RoofPoints(const Results& r, const std::string& model) {
  std::vector<RoofPoint> points;
  const PassResult& pass = r.model(model).train_step;
  const double all = pass.seconds.median();
  for (const TypeResult& type : pass.types) {
    const double seconds = type.seconds.median();
    if (seconds < 0.002 * all || type.bytes == 0) continue;  // too short to say anything
    points.push_back({model, type.type, type.pass, seconds,
                      2.0 * static_cast<double>(type.executed_macs),
                      static_cast<double>(type.bytes)});
  }
  return points;
}

// Seconds that the roofs allow, at least.
double RoofSeconds(const RoofPoint& p, const MachinePeaks& peaks) {
  return std::max(p.flops / std::max(1.0, peaks.fma_flops),
                  p.bytes / std::max(1.0, peaks.copy_bytes_per_second));
}

Chart RooflineChart(const Results& r, const MachinePeaks& peaks) {
  std::vector<PointSeries> series;
  double least = 1, most = 100;
  for (const std::string& model : r.model_order) {
    PointSeries s{model, ModelColor(model), {}};
    for (const RoofPoint& p : RoofPoints(r, model)) {
      if (p.flops == 0) continue;
      s.points.push_back({p.intensity(), p.flops / p.seconds});
      s.point_labels.push_back(absl::StrCat(model, " ", p.type, " ", p.pass));
      s.point_styles.push_back(p.pass == "forward"         ? "circle"
                               : p.pass == "backward_data" ? "triangle"
                                                           : "rect");
      least = std::min(least, p.intensity());
      most = std::max(most, p.intensity());
    }
    series.push_back(std::move(s));
  }
  least /= 1.5;
  most *= 1.5;
  const double ridge = peaks.fma_flops / std::max(1.0, peaks.copy_bytes_per_second);
  PointSeries roof{"measured roofs", "#1d2430", {}};
  roof.points = {{least, least * peaks.copy_bytes_per_second},
                 {ridge, peaks.fma_flops},
                 {std::max(most, 2 * ridge), peaks.fma_flops}};
  roof.line = true;
  series.push_back(std::move(roof));
  Chart chart = PointChart("chart-roofline", series,
                           {"executed FLOPs per byte moved (at least)", "number", true},
                           {"executed FLOP/s", "flops", true});
  chart.height = 460;
  chart.caption = absl::StrCat(
      "Each point is a layer type in one pass of a training step (hover for which): circles are "
      "forward, triangles backward by data, squares backward by weights. The slanted "
      "line "
      "is what the measured copy bandwidth allows, the flat one the measured multiply-add peak, "
      "both "
      "on ",
      FormatThreads(r.threads),
      "; how far a point lies below the line is what is left to gain. "
      "Points above the slanted line worked on data that was still in the cache.");
  return chart;
}

std::string PointsOfInterest(const Results& r, const std::string& model) {
  const MemoryResult& m = r.model(model).memory;
  const double state = static_cast<double>(m.weights + m.optimizer + m.gradients);
  return absl::StrCat(
      ModelTitle(model), ": ",
      FormatPercent(static_cast<double>(m.activations) /
                    static_cast<double>(std::max<int64_t>(1, m.peak_bytes))),
      " of the peak are activations, ",
      FormatPercent(state / static_cast<double>(std::max<int64_t>(1, m.peak_bytes))),
      " weights, gradients and momentum.");
}

}  // namespace

Section MemorySection(const ReportInput& input) {
  const Results& r = input.results;
  Section s{"memory", "Memory", {}};
  Table table;
  table.caption = absl::StrCat("Peak memory of a training step at batch ", r.batch);
  table.header = {"model"};
  for (const Category& c : kCategories) table.header.push_back(c.name);
  for (const char* column : {"peak", "largest live set", "activations an image"}) {
    table.header.push_back(column);
  }
  std::vector<Series> series;
  for (const Category& c : kCategories) series.push_back({c.name, c.color, {}});
  double largest = 0;
  for (const std::string& name : r.model_order) {
    const MemoryResult& m = r.model(name).memory;
    largest = std::max(largest, static_cast<double>(m.peak_bytes));
    std::vector<Cell> row = {name};
    for (size_t i = 0; i < std::size(kCategories); ++i) {
      const int64_t bytes = m.*kCategories[i].total;
      row.push_back(FigureCell(input, absl::StrCat(name, "/memory/", kCategories[i].name),
                               FormatBytes(bytes)));
      series[i].values.push_back(static_cast<double>(bytes));
    }
    row.push_back(
        FigureCell(input, absl::StrCat(name, "/memory/peak_bytes"), FormatBytes(m.peak_bytes)));
    row.push_back(FormatBytes(m.least_bytes));
    row.push_back(FormatBytes(m.activations / r.batch));
    table.rows.push_back(std::move(row));
  }
  s.blocks.push_back(std::move(table));
  Chart bars = BarChart("chart-memory", r.model_order, series,
                        {"bytes at the peak", "bytes", false, 0, 0, ByteStep(largest)}, true, true);
  bars.caption = "By category, at the fullest moment of a step.";
  s.blocks.push_back(std::move(bars));
  s.Text(
      "Weights include running statistics; the optimizer keeps one momentum for each weight. "
      "Gradients live only until the update that is fused behind each of them. The largest live "
      "set "
      "is the most that is alive at the same time: no placement of this plan's values goes below "
      "it. A plan that drops values and computes them again does (the next section, where it was "
      "measured).");
  List notes;
  for (const std::string& name : r.model_order) notes.items.push_back(PointsOfInterest(r, name));
  s.blocks.push_back(std::move(notes));
  for (const std::string& name : r.model_order) {
    const std::vector<MemoryPoint>& timeline = r.model(name).memory.timeline;
    if (timeline.empty()) continue;
    std::vector<PointSeries> areas;
    for (const Category& c : kCategories) {
      PointSeries area{c.name, c.color, {}};
      area.filled = true;
      area.stepped = true;
      area.points.push_back({0, static_cast<double>(timeline[0].*c.point)});
      for (const MemoryPoint& p : timeline) {
        area.points.push_back({1e3 * p.seconds, static_cast<double>(p.*c.point)});
      }
      areas.push_back(std::move(area));
    }
    Chart chart = PointChart(
        absl::StrCat("chart-timeline-", name), areas,
        {"milliseconds since the step began", "number", false, 0, 1e3 * timeline.back().seconds},
        {"bytes in use", "bytes", false, 0, 0,
         ByteStep(static_cast<double>(r.model(name).memory.peak_bytes))});
    chart.height = 280;
    const auto turn = std::find_if(timeline.begin(), timeline.end(),
                                   [](const MemoryPoint& p) { return p.phase != "forward"; });
    chart.caption = absl::StrCat(
        ModelTitle(name), " over one training step: activations pile up in the forward pass",
        turn == timeline.end() ? std::string()
                               : absl::StrCat(" (to ", FormatSeconds(turn->seconds), ")"),
        " and are released one after the other as the backward pass comes back through them.");
    s.blocks.push_back(std::move(chart));
  }
  return s;
}

Section RooflineSection(const ReportInput& input) {
  const Results& r = input.results;
  const MachinePeaks peaks = r.PeaksAt(r.threads);
  Section s{"roofline", "Roofline", {}};
  s.blocks.push_back(RooflineChart(r, peaks));
  Table table;
  table.caption = "Layer types in a training step against the measured roofs, longest first";
  table.header = {"model",           "layer type", "pass",     "time",       "FLOPs/byte",
                  "executed FLOP/s", "bytes/s",    "bound by", "of its roof"};
  table.text_columns = 3;
  for (const std::string& model : r.model_order) {
    std::vector<RoofPoint> points = RoofPoints(r, model);
    std::sort(points.begin(), points.end(),
              [](const RoofPoint& a, const RoofPoint& b) { return a.seconds > b.seconds; });
    for (size_t i = 0; i < std::min<size_t>(8, points.size()); ++i) {
      const RoofPoint& p = points[i];
      const bool compute = p.flops / std::max(1.0, peaks.fma_flops) >
                           p.bytes / std::max(1.0, peaks.copy_bytes_per_second);
      table.rows.push_back({model, p.type, p.pass, FormatSeconds(p.seconds),
                            p.flops > 0 ? FormatDigits(p.intensity(), 3) : "–",
                            p.flops > 0 ? FormatFlops(p.flops / p.seconds) : "–",
                            FormatBandwidth(p.bytes / p.seconds), compute ? "arithmetic" : "memory",
                            FormatPercent(RoofSeconds(p, peaks) / p.seconds)});
    }
  }
  s.blocks.push_back(std::move(table));
  s.Text(
      "Only multiply-adds of convolutions and linear layers count as FLOPs, not what is fused into "
      "them; the other layers are held against the bandwidth alone. \"recompute\" is a forward "
      "kernel that runs again in backward because keeping its result would cost more than that. "
      "Types below 0.2% of a step are left out.");
  return s;
}

}  // namespace classicnn
