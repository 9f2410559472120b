// Where the time goes: phases, layer types, single layers, threads, references.
#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/program.h"
#include "reports/charts.h"
#include "reports/claims.h"
#include "reports/format.h"
#include "reports/layer_types.h"
#include "reports/sections.h"
#include "reports/speedups.h"

namespace classicnn {
namespace {

// Every layer type of any model, in the order of tables.
std::vector<std::string> AllTypes(const Results& results) {
  std::set<std::string> types;
  for (const auto& [name, model] : results.models) {
    for (const TypeResult& type : model.train_step.types) types.insert(type.type);
  }
  std::vector<std::string> result(types.begin(), types.end());
  std::sort(result.begin(), result.end(), TypeBefore);
  return result;
}

double TypeSeconds(const PassResult& pass, const std::string& type) {
  double sum = 0;
  for (const TypeResult& t : pass.types) {
    if (t.type == type) sum += t.seconds.median();
  }
  return sum;
}

double LayerSeconds(const LayerResult& layer) {
  return layer.forward.median() + layer.backward.median() + layer.update.median();
}

Table PhaseTable(const ReportInput& input) {
  Table table;
  table.caption = "A training step by phase";
  table.header = {"model", "forward + loss", "backward",          "update",
                  "step",  "inference",      "backward / forward"};
  for (const std::string& name : input.results.model_order) {
    const ModelResult& m = input.results.model(name);
    const PassResult& t = m.train_step;
    const auto cell = [&](const char* key, const Timing& timing) {
      return FigureCell(input, absl::StrCat(name, "/", key), FormatTiming(timing));
    };
    table.rows.push_back(
        {name, cell("train_step/forward", t.forward), cell("train_step/backward", t.backward),
         cell("train_step/update", t.update), cell("train_step/seconds", t.seconds),
         cell("inference/seconds", m.inference.seconds),
         FormatTimes(t.backward.median() / std::max(1e-12, t.forward.median()))});
  }
  return table;
}

Table SizeTable(const ReportInput& input) {
  Table table;
  table.caption = "Size and work";
  table.header = {"model", "parameters", "conv",       "batch norm", "linear", "weights",
                  "MACs",  "FLOPs",      "MACs/param", "convs",      "nodes",  "sees"};
  for (const std::string& name : input.results.model_order) {
    const ModelResult& m = input.results.model(name);
    table.rows.push_back(
        {name, FormatCount(m.parameters), FormatCount(m.conv_parameters),
         FormatCount(m.norm_parameters), FormatCount(m.linear_parameters),
         FormatMegabytes(static_cast<double>(m.weight_bytes)), FormatCount(m.macs),
         FormatCount(2 * m.macs),
         FormatDigits(static_cast<double>(m.macs) / static_cast<double>(m.parameters), 3),
         absl::StrCat(m.convolutions), absl::StrCat(m.nodes),
         absl::StrCat(m.receptive_field, " px")});
  }
  return table;
}

// Where batch normalization's time is.
std::string NormText(const Results& r) {
  const std::string type = "batch_norm2d";
  double least = 1, most = 0;
  for (const auto& [name, model] : r.models) {
    const double share =
        TypeSeconds(model.train_step, type) / std::max(1e-12, model.train_step.seconds.median());
    least = std::min(least, share);
    most = std::max(most, share);
  }
  const std::string range = r.models.size() > 1
                                ? absl::StrCat(FormatPercent(least), " to ", FormatPercent(most))
                                : FormatPercent(most);
  return absl::StrCat(
      "`", type, "` holds kernels that do nothing else, ", range,
      " of a step. Most of batch normalization, and of the ReLUs behind it, is done by other "
      "layers "
      "as they load and store: its time is in the rows of convolution, addition and pooling.");
}

Table RankTable(const ReportInput& input) {
  const Results& r = input.results;
  static constexpr struct {
    const char* name;
    double (*value)(const ModelResult&);
    bool smallest_first;
  } kColumns[] = {
      {"training speed", [](const ModelResult& m) { return m.train_step.images_per_second; },
       false},
      {"inference speed", [](const ModelResult& m) { return m.inference.images_per_second; },
       false},
      {"latency of one image",
       [](const ModelResult& m) { return m.inference_one.seconds.median(); }, true},
      {"parameters", [](const ModelResult& m) { return static_cast<double>(m.parameters); }, true},
      {"MACs", [](const ModelResult& m) { return static_cast<double>(m.macs); }, true},
      {"peak memory", [](const ModelResult& m) { return static_cast<double>(m.memory.peak_bytes); },
       true},
      {"fraction of peak", [](const ModelResult& m) { return m.train_step.peak_fraction; }, false},
  };
  Table table;
  table.caption = "Ranks (1 is fastest, smallest, or does the most nominal work for the peak)";
  table.header = {"model"};
  for (const auto& column : kColumns) table.header.push_back(column.name);
  for (const std::string& name : r.model_order) {
    std::vector<Cell> row = {name};
    for (const auto& column : kColumns) {
      const int rank = Rank(r, name, column.value, column.smallest_first);
      row.push_back({absl::StrCat(rank), "", rank == 1 ? Tone::kGood : Tone::kNeutral});
    }
    table.rows.push_back(std::move(row));
  }
  return table;
}

}  // namespace

Section ComparisonSection(const ReportInput& input) {
  const Results& r = input.results;
  Section s{"comparison", "Side by side", {}};
  s.blocks.push_back(SizeTable(input));
  s.blocks.push_back(PhaseTable(input));
  std::vector<Series> series = {{"forward + loss", PaletteColor(0), {}},
                                {"backward", PaletteColor(7), {}},
                                {"update", PaletteColor(9), {}}};
  for (const std::string& name : r.model_order) {
    const PassResult& t = r.model(name).train_step;
    series[0].values.push_back(1e3 * t.forward.median());
    series[1].values.push_back(1e3 * t.backward.median());
    series[2].values.push_back(1e3 * t.update.median());
  }
  Chart chart = BarChart("chart-phases", r.model_order, series,
                         {"milliseconds a training step", "ms"}, true, true);
  chart.caption = absl::StrCat("One training step of ", r.batch, " images.");
  s.blocks.push_back(std::move(chart));
  if (r.model_order.size() > 1) s.blocks.push_back(RankTable(input));

  Table batches;
  batches.caption = "Training speed by batch size (images/s)";
  batches.header = {"model"};
  const ModelResult& first = r.model(r.model_order[0]);
  for (const PassResult& pass : first.batches) {
    batches.header.push_back(absl::StrCat("batch ", pass.batch));
  }
  for (const std::string& name : r.model_order) {
    std::vector<Cell> row = {name};
    for (const PassResult& pass : r.model(name).batches) {
      row.push_back(FormatDigits(pass.images_per_second, 3));
    }
    batches.rows.push_back(std::move(row));
  }
  if (!first.batches.empty()) s.blocks.push_back(std::move(batches));
  return s;
}

Section LayerTypesSection(const ReportInput& input) {
  const Results& r = input.results;
  Section s{"types", "Time by layer type", {}};
  const std::vector<std::string> types = AllTypes(r);
  Table table;
  table.caption = "Milliseconds of a training step, and their share";
  table.header = {"layer type"};
  for (const std::string& name : r.model_order) table.header.push_back(name);
  std::vector<Series> series;
  for (const std::string& type : types) {
    std::vector<Cell> row = {type};
    Series bar{type, TypeColor(type), {}};
    for (const std::string& name : r.model_order) {
      const PassResult& pass = r.model(name).train_step;
      const double seconds = TypeSeconds(pass, type);
      const double share = seconds / std::max(1e-12, pass.seconds.median());
      bar.values.push_back(share);
      if (seconds == 0) {
        row.push_back({"–", "", Tone::kMuted});
      } else {
        row.push_back(
            FigureCell(input, absl::StrCat(name, "/type/", type, "/seconds"),
                       absl::StrCat(FormatDigits(1e3 * seconds, 3), " · ", FormatPercent(share))));
      }
    }
    table.rows.push_back(std::move(row));
    series.push_back(std::move(bar));
  }
  Chart chart = BarChart("chart-types", r.model_order, series,
                         {"share of a training step", "percent", false, 0, 1}, true, true);
  chart.height += 40;
  chart.caption =
      "All passes of a layer type together: forward, backward, what runs again in backward, and "
      "for the optimizer the update.";
  s.blocks.push_back(std::move(chart));
  s.blocks.push_back(std::move(table));
  s.Text(NormText(r));
  return s;
}

Section LayersSection(const ReportInput& input) {
  const Results& r = input.results;
  Section s{"layers", "The ten most expensive layers of each model", {}};
  for (const std::string& name : r.model_order) {
    const ModelResult& m = r.model(name);
    std::vector<const LayerResult*> layers;
    for (const LayerResult& layer : m.layers) layers.push_back(&layer);
    std::stable_sort(layers.begin(), layers.end(), [](const auto* a, const auto* b) {
      return LayerSeconds(*a) > LayerSeconds(*b);
    });
    const double all = m.train_step.seconds.median();
    double ten = 0;
    Table table;
    table.header = {"layer", "type",    "input",    "output", "algorithm", "parameters",
                    "MACs",  "forward", "backward", "update", "share",     "GFLOP/s"};
    table.text_columns = 5;
    for (size_t i = 0; i < std::min<size_t>(10, layers.size()); ++i) {
      const LayerResult& l = *layers[i];
      const double seconds = LayerSeconds(l);
      const double flops = 2.0 * 3.0 * static_cast<double>(l.macs * r.batch);
      ten += seconds;
      table.rows.push_back({absl::StrCat("`", l.name, "`"), l.type, l.input, l.output, l.algorithms,
                            l.parameters > 0 ? FormatCount(l.parameters) : "–",
                            l.macs > 0 ? FormatScaled(static_cast<double>(l.macs)) : "–",
                            FormatSeconds(l.forward.median()), FormatSeconds(l.backward.median()),
                            l.update.empty() ? "–" : FormatSeconds(l.update.median()),
                            FigureCell(input, absl::StrCat(name, "/layer/", l.name, "/seconds"),
                                       FormatPercent(seconds / std::max(1e-12, all))),
                            l.macs > 0 ? FormatDigits(flops / seconds / 1e9, 3) : "–"});
    }
    table.caption = absl::StrCat(ModelTitle(name), ": these ten of ", m.layers.size(), " take ",
                                 FormatPercent(ten / std::max(1e-12, all)), " of a training step");
    s.blocks.push_back(std::move(table));
  }
  s.Text(
      "Shapes are channels × height × width of one image. The algorithms of a convolution are "
      "those of forward, backward by weights and backward by data, in this order, or one name "
      "where all are the same. GFLOP/s are nominal, of all three passes; the time includes what a "
      "convolution does of the batch normalizations and ReLUs around it.");
  return s;
}

Section ScalingSection(const ReportInput& input) {
  const Results& r = input.results;
  Section s{"scaling", "From one thread to all cores", {}};
  const std::vector<PassResult>& first = r.model(r.model_order[0]).scaling;
  if (first.size() < 2) {
    s.Text("Only one thread count was measured.");
    return s;
  }
  Table table;
  table.caption = "A training step by thread count, and the speed-up over one thread";
  table.header = {"model"};
  for (const PassResult& pass : first) {
    table.header.push_back(absl::StrCat(pass.threads, pass.threads == 1 ? " thread" : " threads"));
  }
  table.header.push_back("speed-up");
  table.header.push_back("efficiency");
  std::vector<PointSeries> lines;
  for (const std::string& name : r.model_order) {
    const std::vector<PassResult>& scaling = r.model(name).scaling;
    const double one = scaling.front().seconds.median() * scaling.front().threads;
    std::vector<Cell> row = {name};
    PointSeries line{name, ModelColor(name), {}};
    line.marked_line = true;
    for (const PassResult& pass : scaling) {
      row.push_back(FigureCell(input, absl::StrCat(name, "/threads/", pass.threads, "/seconds"),
                               FormatTiming(pass.seconds)));
      line.points.push_back({pass.threads, one / pass.seconds.median()});
    }
    const PassResult& last = scaling.back();
    const double speedup = one / last.seconds.median();
    row.push_back(FormatTimes(speedup));
    row.push_back(FormatPercent(speedup / last.threads));
    table.rows.push_back(std::move(row));
    lines.push_back(std::move(line));
  }
  s.blocks.push_back(std::move(table));
  const double most = first.back().threads;
  if (first.size() > 2) {  // two points make no curve
    PointSeries ideal{"ideal", "#9498a0", {{1, 1}, {most, most}}};
    ideal.line = true;
    lines.push_back(std::move(ideal));
    Chart chart = PointChart("chart-scaling", lines, {"threads", "number", false, 1, most},
                             {"speed-up over one thread", "times"});
    chart.caption = "Speed-up of a training step.";
    s.blocks.push_back(std::move(chart));
  }

  Table types;
  types.caption = absl::StrCat("Speed-up of each layer type from 1 to ", first.back().threads,
                               " threads (all passes of a training step)");
  types.header = {"layer type"};
  for (const std::string& name : r.model_order) types.header.push_back(name);
  std::vector<std::string> labels;
  std::map<std::string, Series> bars;
  for (const std::string& type : AllTypes(r)) {
    std::vector<Cell> row = {type};
    labels.push_back(type);
    for (const std::string& name : r.model_order) {
      const std::vector<PassResult>& scaling = r.model(name).scaling;
      const double before = TypeSeconds(scaling.front(), type);
      const double after = TypeSeconds(scaling.back(), type);
      Series& bar = bars[name];
      bar.values.push_back(after > 0 ? before / after : 0);
      // Ratios of a few microseconds say nothing.
      const bool shown = after > 0 && after > 1e-3 * scaling.back().seconds.median();
      row.push_back(shown ? Cell(FormatTimes(before / after)) : Cell("–", "", Tone::kMuted));
    }
    types.rows.push_back(std::move(row));
  }
  s.blocks.push_back(std::move(types));
  s.Text(
      "Types below a thousandth of the step are left out. Layers bound by memory stop scaling "
      "where the memory's bandwidth ends, those bound by arithmetic should reach the number of "
      "cores. The same bits come out on any number of threads.");
  return s;
}

Section SpeedupSection(const ReportInput& input) {
  const Results& r = input.results;
  Section s{"reference", "Optimized layers against their references", {}};
  s.Text(absl::StrCat(
      "Beside each optimized layer stands a naive reference: a plain loop nest in the order of the "
      "formula, sums in double precision, compiled with -O3 for the compiler's baseline target. "
      "One "
      "thread, batch 2, each distinct layer shape of the measured models once per pass: ",
      r.speedups.size(), " of ", r.speedup_shapes_total, " such problems",
      static_cast<int64_t>(r.speedups.size()) < r.speedup_shapes_total
          ? " were reached in the time allowed, a fixed random sample of each type."
          : " were measured."));
  Table table;
  table.header = {"layer type", "problems", "geometric mean", "least", "most", "least at"};
  std::vector<std::string> labels;
  Series bar{"speed-up", PaletteColor(0), {}};
  for (const SpeedupSummary& summary : SummarizeSpeedups(r)) {
    table.rows.push_back({summary.type, FormatCount(summary.problems),
                          FigureCell(input, absl::StrCat("speedup/", summary.type),
                                     FormatTimes(summary.geometric_mean)),
                          FormatTimes(summary.least), FormatTimes(summary.most),
                          absl::StrCat("`", summary.least_shape, "`")});
    labels.push_back(summary.type);
    bar.values.push_back(summary.geometric_mean);
  }
  Chart chart =
      BarChart("chart-speedups", labels, {bar},
               {"times as fast as the naive loops (logarithmic)", "times", true}, false, true);
  chart.caption = "Geometric means over the problems of each type.";
  s.blocks.push_back(std::move(chart));
  s.blocks.push_back(std::move(table));
  return s;
}

}  // namespace classicnn
