// Repeated measurements of one time.
#ifndef CLASSICNN_REPORTS_TIMING_H_
#define CLASSICNN_REPORTS_TIMING_H_

#include <vector>

#include "nlohmann/json_fwd.hpp"

namespace classicnn {

// Value at `fraction` of the sorted values, linear between neighbours. `values` must not be empty.
double Quantile(std::vector<double> values, double fraction);

struct Timing {
  std::vector<double> samples;  // seconds, in the order they were taken

  bool empty() const { return samples.empty(); }
  double median() const;  // 0 without samples
  // Half the distance between the 10th and the 90th percentile: what "±" shows, and what a change
  // between two runs must exceed to be more than noise. 0 with fewer than two samples.
  double spread() const;
  double relative_spread() const;
};

// {"samples": [...], "median": m, "spread": s}. Reading takes the samples alone; the other two
// follow from them. A file whose samples are missing or not finite and positive throws
// nlohmann::json::exception: readers of files turn that into a Status.
void to_json(nlohmann::json& j, const Timing& timing);
void from_json(const nlohmann::json& j, Timing& timing);

// What the median may be off by, relative to it: the spread, and at least 1% (clock speeds wander
// by that much between runs even where the samples of one run agree). A single sample says nothing
// about its spread and counts as 10%.
double RelativeNoise(const Timing& timing);

// Geometric mean of positive values; 0 without any.
double GeometricMean(const std::vector<double>& values);

}  // namespace classicnn

#endif  // CLASSICNN_REPORTS_TIMING_H_
