// Optimized layers against their naive references.
#ifndef CLASSICNN_REPORTS_SPEEDUPS_H_
#define CLASSICNN_REPORTS_SPEEDUPS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/program.h"
#include "reports/measure.h"
#include "reports/results.h"

namespace classicnn {

// Times every distinct layer problem of the models at options.speedup_batch on one thread, until
// options.speedup_seconds are used: into results->speedups. Problems are taken type by type in
// turn and in a shuffled (fixed) order, so that those that were reached are a fair sample.
absl::Status MeasureSpeedups(const MeasureOptions& options, Results* results, Progress* progress);

// Reference time over optimized time of one layer type.
struct SpeedupSummary {
  std::string type;
  int64_t problems = 0;
  double geometric_mean = 0;
  double least = 0, most = 0;
  std::string least_shape;  // "backward_weights n2c3h32w32k64r3s1p1"
};
// By type, and behind those "all convolutions and linear", "all other layers".
std::vector<SpeedupSummary> SummarizeSpeedups(const Results& results);
// Geometric mean over the problems of one type and pass ("" for any pass); 0 without any.
double MeanSpeedup(const Results& results, const std::string& type, const std::string& pass);

}  // namespace classicnn

#endif  // CLASSICNN_REPORTS_SPEEDUPS_H_
