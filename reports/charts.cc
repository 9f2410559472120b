#include "reports/charts.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace classicnn {
namespace {

// Told apart by people who see colours differently, too: they differ in lightness as well.
constexpr const char* kPalette[] = {"#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951",
                                    "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e", "#9498a0"};

nlohmann::json AxisJson(const Axis& axis) {
  nlohmann::json j = {{"type", axis.logarithmic ? "logarithmic" : "linear"},
                      {"title", {{"display", true}, {"text", axis.title}}}};
  if (!axis.logarithmic) j["beginAtZero"] = true;
  if (axis.step > 0) j["ticks"] = {{"stepSize", axis.step}};
  if (axis.min < axis.max) {
    j["min"] = axis.min;
    j["max"] = axis.max;
  }
  return j;
}

// Four significant digits are more than a chart shows, and keep the page small.
double Rounded(double value) {
  if (value == 0 || !std::isfinite(value)) return 0;
  const double scale = std::pow(10.0, 3 - std::floor(std::log10(std::fabs(value))));
  return std::round(value * scale) / scale;
}

}  // namespace

double ByteStep(double largest) {
  return largest <= 0 ? 0 : std::exp2(std::ceil(std::log2(largest / 8)));
}

std::string PaletteColor(size_t index) { return kPalette[index % std::size(kPalette)]; }

std::string ModelColor(const std::string& model) {
  static constexpr std::array<const char*, 5> kModels = {"vgg16", "resnet18", "googlenet",
                                                         "mobilenetv1", "densenet121"};
  static constexpr std::array<size_t, 5> kColors = {0, 1, 4, 2, 6};
  const auto it = std::find(kModels.begin(), kModels.end(), model);
  return PaletteColor(it == kModels.end() ? 9 : kColors[static_cast<size_t>(it - kModels.begin())]);
}

std::string TypeColor(const std::string& type) {
  static constexpr std::array<std::pair<const char*, const char*>, 15> kTypes = {{
      {"conv2d 3x3", "#2f4f9e"},
      {"conv2d 1x1", "#5f86e0"},
      {"conv2d 5x5", "#9db8f2"},
      {"conv2d depthwise", "#6cc5b0"},
      {"linear", "#a463f2"},
      {"batch_norm2d", "#efb118"},
      {"relu", "#ff8ab7"},
      {"add", "#ff725c"},
      {"concat", "#b3421f"},
      {"max_pool2d", "#3ca951"},
      {"avg_pool2d", "#86cf8f"},
      {"global_avg_pool2d", "#bfe3c3"},
      {"dropout", "#d9c4f2"},
      {"cross_entropy", "#9c6b4e"},
      {"update", "#9498a0"},
  }};
  for (const auto& [name, color] : kTypes) {
    if (type == name) return color;
  }
  return "#555555";
}

Chart BarChart(const std::string& id, const std::vector<std::string>& labels,
               const std::vector<Series>& series, const Axis& axis, bool stacked, bool horizontal) {
  const char* const value_axis = horizontal ? "x" : "y";
  const char* const label_axis = horizontal ? "y" : "x";
  nlohmann::json datasets = nlohmann::json::array();
  for (const Series& s : series) {
    nlohmann::json data = nlohmann::json::array();
    for (const double value : s.values) data.push_back(Rounded(value));
    datasets.push_back({{"label", s.label},
                        {"data", data},
                        {"backgroundColor", s.color},
                        {"maxBarThickness", 42}});
  }
  Chart chart;
  chart.id = id;
  chart.config = {{"type", "bar"},
                  {"data", {{"labels", labels}, {"datasets", datasets}}},
                  {"presets", {{value_axis, axis.format}}}};
  nlohmann::json scales;
  scales[value_axis] = AxisJson(axis);
  scales[value_axis]["stacked"] = stacked;
  scales[label_axis] = {{"stacked", stacked}, {"grid", {{"display", false}}}};
  chart.config["options"] = {
      {"scales", scales},
      {"plugins", {{"legend", {{"display", series.size() > 1}, {"position", "bottom"}}}}}};
  if (horizontal) {
    chart.config["options"]["indexAxis"] = "y";
    chart.height = 90 + static_cast<int>(labels.size()) *
                            (stacked ? 44 : 18 + 16 * static_cast<int>(series.size()));
  }
  return chart;
}

Chart PointChart(const std::string& id, const std::vector<PointSeries>& series, const Axis& x,
                 const Axis& y) {
  nlohmann::json datasets = nlohmann::json::array();
  bool stacked = false;
  for (const PointSeries& s : series) {
    nlohmann::json data = nlohmann::json::array();
    for (size_t i = 0; i < s.points.size(); ++i) {
      nlohmann::json point = {{"x", Rounded(s.points[i].first)},
                              {"y", Rounded(s.points[i].second)}};
      if (i < s.point_labels.size()) point["label"] = s.point_labels[i];
      data.push_back(point);
    }
    nlohmann::json d = {
        {"label", s.label}, {"data", data}, {"backgroundColor", s.color}, {"borderColor", s.color}};
    const bool joined = s.line || s.filled || s.marked_line;
    d["showLine"] = joined;
    d["pointRadius"] = joined && !s.marked_line ? 0 : 4.5;
    d["borderWidth"] = s.filled ? 1 : 2;
    if (!s.point_styles.empty()) d["pointStyle"] = s.point_styles;
    if (s.stepped) d["stepped"] = "before";
    if (s.dashed) d["borderDash"] = {6, 4};
    if (s.filled) {
      d["fill"] = datasets.empty() ? nlohmann::json("origin") : nlohmann::json("-1");
      stacked = true;
    }
    datasets.push_back(d);
  }
  Chart chart;
  chart.id = id;
  // About three entries of the legend stand in a line.
  chart.height = 360 + 22 * static_cast<int>((series.size() + 2) / 3);
  nlohmann::json y_axis = AxisJson(y);
  y_axis["stacked"] = stacked;
  chart.config = {{"type", stacked ? "line" : "scatter"},
                  {"data", {{"datasets", datasets}}},
                  {"presets", {{"x", x.format}, {"y", y.format}, {"both", !stacked}}},
                  {"options",
                   {{"scales", {{"x", AxisJson(x)}, {"y", y_axis}}},
                    {"parsing", true},
                    {"plugins", {{"legend", {{"position", "bottom"}}}}}}}};
  return chart;
}

}  // namespace classicnn
