// Learning rates over a run.
#ifndef CLASSICNN_MODELS_TRAIN_SCHEDULE_H_
#define CLASSICNN_MODELS_TRAIN_SCHEDULE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace classicnn {

enum class ScheduleKind {
  kConstant,  // lr
  kStep,      // lr, a tenth of it after half of the steps, a hundredth after three quarters
  kCosine,    // from lr to 0 along half a cosine (Loshchilov and Hutter, 2017)
  kOneCycle,  // up from lr / 25, then down to lr / 10,000 along half a cosine (Smith, 2018)
  // From lr to 0 along a line, the last step at lr / steps: in a run of few epochs more of them at
  // middling rates than half a cosine has (Li, Yumer and Ramanan, "Budgeted Training: Rethinking
  // Deep Neural Network Training Under Resource Constraints", 2020).
  kLinear,
};
// "constant", "step", "cosine", "onecycle", "linear"
const std::vector<std::string>& ScheduleNames();
// InvalidArgument names --schedule.
absl::StatusOr<ScheduleKind> ParseSchedule(absl::string_view name);
const char* ScheduleName(ScheduleKind kind);

struct Schedule {
  ScheduleKind kind = ScheduleKind::kOneCycle;
  double lr = 0.1;           // the highest
  int64_t total_steps = 1;   // the run's length, warm-up included
  int64_t warmup_steps = 0;  // the rate rises linearly up to lr, which step warmup_steps has

  // The rate of step `step`, counted from 0. The last step's for steps beyond the end.
  double At(int64_t step) const;
};

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_TRAIN_SCHEDULE_H_
