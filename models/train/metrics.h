// metrics.jsonl: one JSON object a line, appended as training goes on.
#ifndef CLASSICNN_MODELS_TRAIN_METRICS_H_
#define CLASSICNN_MODELS_TRAIN_METRICS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"

namespace classicnn {

class MetricsLog {
 public:
  // Creates the file or goes on at its end. Errors name the path.
  static absl::StatusOr<std::unique_ptr<MetricsLog>> Open(const std::string& path);
  ~MetricsLog();
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;

  // One line, in a single write. NaN and infinity become null.
  absl::Status Append(const nlohmann::json& line);
  absl::Status Sync();

 private:
  MetricsLog() = default;
  std::string path_;
  int fd_ = -1;
};

// Takes back what was logged after a saved state: keeps the lines whose "step" is at most `step`
// and, of kind "epoch", whose "epoch" is at most `epochs`. A last line torn by a crash goes as
// well. Atomic; a missing file stays missing, one with nothing to cut is left alone.
absl::Status CutMetrics(const std::string& path, int64_t step, int64_t epochs);

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_TRAIN_METRICS_H_
