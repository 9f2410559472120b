// What saving memory costs in time, and what bounds a step's time.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/program.h"
#include "reports/charts.h"
#include "reports/format.h"
#include "reports/sections.h"

namespace classicnn {
namespace {

double Ratio(double a, double b) { return b > 0 ? a / b : 0; }
double Ratio(int64_t a, int64_t b) { return Ratio(static_cast<double>(a), static_cast<double>(b)); }

// A curve needs a step without a limit, which it is measured against, and one under a limit.
bool HasCurve(const ModelResult& m) {
  return m.memory_limits.size() >= 2 && m.memory_limits[0].plan_bytes > 0 &&
         m.memory_limits[0].seconds.median() > 0;
}

// Of the fastest samples: there are few, and what disturbs one only makes it slower.
double TimeRatio(const ModelResult& m, const MemoryLimitResult& point) {
  const auto fastest = [](const Timing& t) { return t.empty() ? 0 : Quantile(t.samples, 0); };
  return Ratio(fastest(point.seconds), fastest(m.memory_limits[0].seconds));
}

double MemoryRatio(const ModelResult& m, const MemoryLimitResult& point) {
  return Ratio(point.plan_bytes, m.memory_limits[0].plan_bytes);
}

// Of the multiply-adds that the step needs without a limit.
double AgainRatio(const MemoryLimitResult& point) {
  return Ratio(point.recomputed_macs, point.executed_macs - point.recomputed_macs);
}

std::string SizeText(const ModelResult& m, const MemoryLimitResult& point) {
  return absl::StrCat(FormatBytes(point.plan_bytes), " (", FormatPercent(MemoryRatio(m, point)),
                      ")");
}

constexpr double kNearlyFree = 1.05;

// Whether times scatter so much that they do not show what a limit costs: computing something
// again makes no step faster.
bool Disturbed(const ModelResult& m) {
  return std::any_of(m.memory_limits.begin(), m.memory_limits.end(),
                     [&](const MemoryLimitResult& point) {
                       return point.seconds.relative_spread() > 2 * (kNearlyFree - 1) ||
                              TimeRatio(m, point) < 2 - kNearlyFree;
                     });
}

std::string CurveSentence(const std::string& name, const ModelResult& m) {
  const std::vector<MemoryLimitResult>& points = m.memory_limits;
  const MemoryLimitResult& least = points.back();
  std::string text = absl::StrCat(ModelTitle(name), " takes ", FormatBytes(points[0].plan_bytes),
                                  " without a limit. ");
  if (Disturbed(m)) {
    return absl::StrCat(text, "The least that can be met is ", SizeText(m, least), ", with ",
                        FormatPercent(AgainRatio(least)),
                        " of the multiply-adds computed a second time. What limits cost in time "
                        "cannot be told from these samples: the machine was busy.");
  }
  // The smallest plan that is nearly free, as are all those above it.
  size_t free = 0;
  while (free + 1 < points.size() && TimeRatio(m, points[free + 1]) <= kNearlyFree) ++free;
  const auto change = [&](const MemoryLimitResult& point) {
    return FormatSignedPercent(TimeRatio(m, point) - 1);
  };
  if (free + 1 == points.size()) {
    absl::StrAppend(&text, "Saving memory is nearly free: even");
  } else if (free == 0) {
    absl::StrAppend(&text, "Every limit costs time: ", SizeText(m, points[1]), " ",
                    change(points[1]), ", and");
  } else {
    absl::StrAppend(&text, "Down to ", SizeText(m, points[free]), " a step is at most ",
                    FormatPercent(kNearlyFree - 1), " slower;");
  }
  absl::StrAppend(&text, " at the least that can be met, ", SizeText(m, least),
                  ", its time changes by ", change(least), ", with ",
                  FormatPercent(AgainRatio(least)),
                  " of the multiply-adds computed a second time.");
  for (const MemoryLimitResult& point : points) {
    if (point.activation_bytes > points[0].activation_bytes / 2) continue;
    absl::StrAppend(&text, " Keeping ",
                    FormatPercent(Ratio(point.activation_bytes, points[0].activation_bytes)),
                    " of the activations changes it by ", change(point), ".");
    break;
  }
  return text;
}

// The steps of one bound; zeros without any.
BoundResult FindBound(const PassResult& pass, const std::string& bound) {
  for (const BoundResult& b : pass.bounds) {
    if (b.bound == bound) return b;
  }
  return {};
}

double RoofSeconds(const PassResult& pass) {
  double sum = 0;
  for (const BoundResult& b : pass.bounds) sum += b.roof_seconds;
  return sum;
}

double FlopRate(const BoundResult& b) {
  return Ratio(2.0 * static_cast<double>(b.executed_macs), b.seconds.median());
}

double ByteRate(const BoundResult& b) {
  return Ratio(static_cast<double>(b.bytes), b.seconds.median());
}

std::string BoundSentence(const std::string& name, const PassResult& pass,
                          const MachinePeaks& peaks) {
  const BoundResult arithmetic = FindBound(pass, "arithmetic"), memory = FindBound(pass, "memory");
  const double step = pass.seconds.median(), roof = RoofSeconds(pass);
  const bool by_arithmetic = arithmetic.seconds.median() >= memory.seconds.median();
  std::string text = absl::StrCat(ModelTitle(name), " is bound by ",
                                  by_arithmetic ? "arithmetic" : "memory", " for the most part. ");
  if (arithmetic.steps > 0) {
    absl::StrAppend(&text, FormatPercent(Ratio(arithmetic.seconds.median(), step)),
                    " of a step goes to kernels that the multiply-add peak bounds; they execute ",
                    FormatFlops(FlopRate(arithmetic)), ", ",
                    FormatPercent(Ratio(FlopRate(arithmetic), peaks.fma_flops)), " of it. ");
  }
  if (memory.steps > 0) {
    absl::StrAppend(&text, FormatPercent(Ratio(memory.seconds.median(), step)),
                    " goes to kernels that copy bandwidth bounds; they move ",
                    FormatBandwidth(ByteRate(memory)), ", ",
                    FormatPercent(Ratio(ByteRate(memory), peaks.copy_bytes_per_second)),
                    " of it. ");
  }
  if (roof > step) {
    absl::StrAppend(&text,
                    "That is more than the probe found possible, so the machine was busy while it "
                    "was probed, and these shares say little.");
    return text;
  }
  absl::StrAppend(&text, "With every kernel at its roof the step would take ", FormatSeconds(roof),
                  " instead of ", FormatSeconds(step), ": ", FormatTimes(Ratio(step, roof)),
                  " as fast is the limit of this plan's algorithms on this machine.");
  return text;
}

}  // namespace

bool HasMemoryLimits(const Results& results) {
  return std::any_of(results.models.begin(), results.models.end(),
                     [](const auto& entry) { return HasCurve(entry.second); });
}

Section MemoryLimitsSection(const ReportInput& input) {
  const Results& r = input.results;
  Section s{"limits", "Time against memory", {}};
  s.Text(
      "Under a limit of memory (`--memory_limit` of `cnn-train` and `cnn-bench-models`) the plan "
      "drops values after forward and computes them again in backward, those first that take the "
      "least work for each byte. The results keep their bits; what changes is time.");
  Table table;
  table.caption = absl::StrCat("A training step at batch ", r.batch, ", ", FormatThreads(r.threads),
                               ", without a limit and down to the least that can be met");
  table.header = {"model",         "limit",
                  "memory",        "of unlimited",
                  "measured peak", "most activations",
                  "time",          "against unlimited",
                  "MACs again",    "kernels again"};
  std::vector<PointSeries> curves;
  List list;
  int64_t limited = 0, exceeded = 0;
  for (const std::string& name : r.model_order) {
    const ModelResult& m = r.model(name);
    if (!HasCurve(m)) continue;
    PointSeries curve{name, ModelColor(name), {}};
    curve.marked_line = true;
    for (const MemoryLimitResult& point : m.memory_limits) {
      const double time = TimeRatio(m, point);
      curve.points.push_back({MemoryRatio(m, point), time});
      curve.point_labels.push_back(absl::StrCat(name, ", ", FormatBytes(point.plan_bytes), ", ",
                                                FormatPercent(AgainRatio(point)),
                                                " of the MACs again"));
      if (point.limit_bytes > 0) {
        ++limited;
        exceeded += point.peak_bytes > point.limit_bytes ? 1 : 0;
      }
      const std::string bytes = FormatBytes(point.plan_bytes);
      const std::string seconds = FormatTiming(point.seconds);
      table.rows.push_back({name, point.limit_bytes == 0 ? "none" : FormatBytes(point.limit_bytes),
                            FigureCell(input, LimitKey(name, point) + "/bytes", bytes),
                            FormatPercent(MemoryRatio(m, point)), FormatBytes(point.peak_bytes),
                            FigureCell(input, LimitKey(name, point) + "/activations",
                                       FormatBytes(point.activation_bytes)),
                            FigureCell(input, LimitKey(name, point) + "/seconds", seconds),
                            FormatSignedPercent(time - 1), FormatPercent(AgainRatio(point)),
                            FormatCount(point.recomputed_steps)});
    }
    curves.push_back(std::move(curve));
    list.items.push_back(CurveSentence(name, m));
  }
  Chart chart = PointChart("chart-limits", curves,
                           {"memory, of what the plan takes without a limit", "percent"},
                           {"time of a step, of that without a limit", "percent"});
  for (const char* axis : {"x", "y"}) {
    chart.config["options"]["scales"][axis]["beginAtZero"] = false;
  }
  chart.caption =
      "From right to left memory is taken away, and a line that stays flat gives it up at no cost. "
      "Its left end is the least that can be met.";
  s.blocks.push_back(std::move(chart));
  s.blocks.push_back(std::move(list));
  s.blocks.push_back(std::move(table));
  s.Text(absl::StrCat(
      exceeded == 0
          ? "The measured peak stayed within every limit. "
          : absl::StrCat("The measured peak exceeded ", exceeded, " of ", limited, " limits. "),
      "Memory is the plan's arena, weights and momentum; activations are the most that are alive "
      "at "
      "once, input images left out (the section on memory counts those of the fullest moment, "
      "input "
      "included). \"MACs again\" are the multiply-adds that "
      "run a second time, in relation to those of a step without a limit. Where kernels run again "
      "without a limit as well, they are pooling that costs less than keeping its result. "
      "\"Against "
      "unlimited\" compares the fastest samples of each, which are few: differences of a few "
      "percent "
      "may be noise."));
  return s;
}

bool HasBounds(const Results& results) {
  return std::any_of(results.models.begin(), results.models.end(),
                     [](const auto& entry) { return RoofSeconds(entry.second.train_step) > 0; });
}

Section BoundsSection(const ReportInput& input) {
  const Results& r = input.results;
  const MachinePeaks peaks = r.PeaksAt(r.threads);
  Section s{"bounds", "What bounds a training step", {}};
  Table table;
  table.caption = absl::StrCat("A training step by what its kernels are bound by, against ",
                               FormatFlops(peaks.fma_flops), " and ",
                               FormatBandwidth(peaks.copy_bytes_per_second));
  table.header = {"model",
                  "step",
                  "by arithmetic",
                  "executed FLOP/s",
                  "of the peak",
                  "by memory",
                  "bytes/s",
                  "of copy bandwidth",
                  "small kernels",
                  "between kernels",
                  "all at their roofs",
                  "roofs / step"};
  std::vector<Series> series = {{"bound by arithmetic", PaletteColor(0), {}},
                                {"bound by memory", PaletteColor(1), {}},
                                {"small kernels", PaletteColor(3), {}},
                                {"between kernels", PaletteColor(9), {}}};
  std::vector<std::string> labels;
  List list;
  for (const std::string& name : r.model_order) {
    const PassResult& pass = r.model(name).train_step;
    const double roof = RoofSeconds(pass), step = pass.seconds.median();
    if (!(roof > 0) || !(step > 0)) continue;
    const BoundResult arithmetic = FindBound(pass, "arithmetic"),
                      memory = FindBound(pass, "memory"), small = FindBound(pass, "small");
    const double between = BetweenKernels(pass);
    const double shares[] = {arithmetic.seconds.median() / step, memory.seconds.median() / step,
                             small.seconds.median() / step, between / step};
    for (size_t i = 0; i < series.size(); ++i) series[i].values.push_back(shares[i]);
    labels.push_back(name);
    const auto cell = [&](const char* key, const std::string& text) {
      return FigureCell(input, absl::StrCat(name, "/", key), text);
    };
    table.rows.push_back(
        {name, cell("train_step/seconds", FormatSeconds(step)), FormatPercent(shares[0]),
         cell("bound/arithmetic/flops_per_second", FormatFlops(FlopRate(arithmetic))),
         FormatPercent(Ratio(FlopRate(arithmetic), peaks.fma_flops)), FormatPercent(shares[1]),
         cell("bound/memory/bytes_per_second", FormatBandwidth(ByteRate(memory))),
         FormatPercent(Ratio(ByteRate(memory), peaks.copy_bytes_per_second)),
         FormatPercent(shares[2]), FormatPercent(shares[3]), FormatSeconds(roof),
         FormatPercent(roof / step)});
    list.items.push_back(BoundSentence(name, pass, peaks));
  }
  Chart chart = BarChart("chart-bounds", labels, series,
                         {"share of a training step", "percent", false, 0, 1}, true, true);
  chart.caption = "Kernels by their bound. Small ones would take microseconds at their roof.";
  s.blocks.push_back(std::move(chart));
  s.blocks.push_back(std::move(list));
  s.blocks.push_back(std::move(table));
  s.Text(
      "A kernel's roof is the longer of its executed FLOPs at the measured multiply-add peak and "
      "of "
      "its operands, read or written once, at the measured copy bandwidth. What batch "
      "normalization, ReLU and Winograd's transforms add to a convolution is not counted as FLOPs, "
      "so that a convolution that does such work stays below the peak by what it takes. A kernel "
      "whose operands are still in the cache can be faster than copy bandwidth allows.");
  return s;
}

}  // namespace classicnn
