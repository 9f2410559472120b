#include "models/train/schedule.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace classicnn {
namespace {

constexpr double kOneCycleStart = 1.0 / 25, kOneCycleEnd = 1e-4;
constexpr double kPi = 3.14159265358979323846;

}  // namespace

const std::vector<std::string>& ScheduleNames() {
  static const auto* names =
      new std::vector<std::string>{"constant", "step", "cosine", "onecycle", "linear"};
  return *names;
}

absl::StatusOr<ScheduleKind> ParseSchedule(absl::string_view name) {
  const auto& names = ScheduleNames();
  for (size_t i = 0; i < names.size(); ++i) {
    if (name == names[i]) return static_cast<ScheduleKind>(i);
  }
  return absl::InvalidArgumentError(absl::StrCat("bad value \"", name.substr(0, 80),
                                                 "\" for --schedule: give one of ",
                                                 absl::StrJoin(names, ", ")));
}

const char* ScheduleName(ScheduleKind kind) {
  return ScheduleNames()[static_cast<size_t>(kind)].c_str();
}

double Schedule::At(int64_t step) const {
  step = std::clamp<int64_t>(step, 0, total_steps - 1);
  if (step < warmup_steps) {
    const double part = static_cast<double>(step) / static_cast<double>(warmup_steps);
    if (kind == ScheduleKind::kOneCycle) {
      return lr * (kOneCycleStart + (1 - kOneCycleStart) * part);
    }
    // Not from 0: the first step should do something.
    return lr * static_cast<double>(step + 1) / static_cast<double>(warmup_steps + 1);
  }
  const auto falling = static_cast<double>(total_steps - warmup_steps);
  const auto at = static_cast<double>(step - warmup_steps);
  switch (kind) {
    case ScheduleKind::kConstant:
      return lr;
    case ScheduleKind::kStep:
      return 4 * step >= 3 * total_steps ? lr * 0.01 : 2 * step >= total_steps ? lr * 0.1 : lr;
    case ScheduleKind::kCosine:
      return lr * 0.5 * (1 + std::cos(kPi * at / falling));
    case ScheduleKind::kOneCycle: {
      const double part = falling > 1 ? at / (falling - 1) : 0;
      return lr * (kOneCycleEnd + (1 - kOneCycleEnd) * 0.5 * (1 + std::cos(kPi * part)));
    }
    case ScheduleKind::kLinear:
      return lr * (1 - at / falling);
  }
  return lr;
}

}  // namespace classicnn
