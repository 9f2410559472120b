// Measures models through the library, in this process.
#ifndef CLASSICNN_REPORTS_MEASURE_H_
#define CLASSICNN_REPORTS_MEASURE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/program.h"
#include "reports/results.h"

namespace classicnn {

struct MeasureOptions {
  std::vector<std::string> models;
  int64_t batch = 64;
  int threads = 1;
  int64_t image_size = 32;
  int64_t num_classes = 10;
  std::string mode = "default";

  // The models are visited in turns (A B C A B C), so that a machine whose speed drifts shifts all
  // of them alike. Rounds are made until the next one would not fit `budget_seconds`.
  int min_rounds = 2;
  int max_rounds = 5;
  int scaling_rounds = 1;  // rounds that include other thread counts and batches
  double budget_seconds = 75;
  // A visit takes samples until this time is used, at least `visit_samples` of them.
  double visit_seconds = 0.4;
  int visit_samples = 2;
  double visit_most_seconds = 12;    // on slow machines fewer samples, but at least one
  std::vector<int> scaling_threads;  // thread counts beside `threads`
  std::vector<int64_t> batches;      // batches beside `batch`

  // Training steps under limits of memory: as many as ChooseMemoryLimits gives for this number of
  // points, 0 for none. They are visited in so many turns; a visit takes samples until this time is
  // used, at least so many.
  int limit_points = 6;
  int limit_turns = 2;
  int limit_samples = 1;
  double limit_seconds = 0.2;

  // Optimized layers against their references: distinct problems at this batch, one thread, until
  // the time is used; 0 for none.
  int64_t speedup_batch = 2;
  double speedup_seconds = 40;

  // Sets what --quick, --full and neither of them mean.
  static MeasureOptions ForMode(const std::string& mode, int threads);
};

// Builds and plans everything without measuring or allocating it: what Measure would refuse,
// refused at once. InvalidArgument names the model.
absl::Status CheckMeasurable(const MeasureOptions& options);

// The limits to measure, largest first: `points` of them evenly spaced below `unlimited`, the last
// one `least`; and those that leave a half and a quarter of the `activations`, where that is above
// `least`. None where nothing lies between.
std::vector<int64_t> ChooseMemoryLimits(int64_t unlimited, int64_t least, int64_t activations,
                                        int points);

// InvalidArgument or ResourceExhausted where a model cannot be built, planned or given memory.
absl::StatusOr<Results> Measure(const MeasureOptions& options, Progress* progress);

}  // namespace classicnn

#endif  // CLASSICNN_REPORTS_MEASURE_H_
