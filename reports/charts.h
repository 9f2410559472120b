// Chart.js configurations for the report's few kinds of charts.
#ifndef CLASSICNN_REPORTS_CHARTS_H_
#define CLASSICNN_REPORTS_CHARTS_H_

#include <string>
#include <utility>
#include <vector>

#include "reports/document.h"

namespace classicnn {

// The same model has the same colour in every chart; so has a layer type.
std::string ModelColor(const std::string& model);
std::string TypeColor(const std::string& type);
std::string PaletteColor(size_t index);

struct Axis {
  std::string title;
  std::string format;  // of templates/charts.js: ms, percent, times, flops, bytes, images, number
  bool logarithmic = false;
  double min = 0, max = 0;  // equal: chosen by the chart
  double step = 0;          // between ticks; 0: chosen by the chart
};

// A power of two that cuts `largest` bytes into four to eight parts: ticks at whole KiB, MiB, GiB.
double ByteStep(double largest);

struct Series {
  std::string label;
  std::string color;
  std::vector<double> values;  // by label of the chart
};

// Bars beside each other, or on top of each other; horizontal ones have their labels on the left.
Chart BarChart(const std::string& id, const std::vector<std::string>& labels,
               const std::vector<Series>& series, const Axis& axis, bool stacked, bool horizontal);

struct PointSeries {
  std::string label;
  std::string color;
  std::vector<std::pair<double, double>> points;
  std::vector<std::string> point_labels = {};  // shown on hovering; empty, or one for each point
  std::vector<std::string> point_styles = {};  // "circle", "triangle", ...; likewise
  bool line = false;                           // joined, without markers
  bool filled = false;  // joined, the area below filled, stacked on the one before
  bool stepped = false;
  bool marked_line = false;  // joined, with markers
  bool dashed = false;
};
Chart PointChart(const std::string& id, const std::vector<PointSeries>& series, const Axis& x,
                 const Axis& y);

}  // namespace classicnn

#endif  // CLASSICNN_REPORTS_CHARTS_H_
