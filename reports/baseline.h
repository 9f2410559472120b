// Changes against an earlier results.json.
#ifndef CLASSICNN_REPORTS_BASELINE_H_
#define CLASSICNN_REPORTS_BASELINE_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "reports/results.h"

namespace classicnn {

// One number of a report that can change from run to run.
struct Figure {
  double value = 0;
  double relative_noise = 0;  // 0: counted, not measured
  bool lower_is_better = true;
  // A gate looks at the totals alone (train_step, inference, inference_one, peak memory): their
  // parts and rates move with them.
  bool gated = false;
};
// "resnet18/train_step/seconds" and so on: MODEL/train_step/{seconds,forward,backward,update,
// images_per_second,flops_per_second,peak_fraction}, MODEL/{inference,inference_one}/{seconds,
// images_per_second}, MODEL/memory/{peak_bytes,weights,gradients,optimizer,activations,workspace},
// MODEL/bound/{arithmetic,memory,small}/{seconds,flops_per_second,bytes_per_second},
// MODEL/{parameters,macs,weight_bytes}, MODEL/threads/N/seconds, MODEL/type/TYPE/seconds,
// MODEL/layer/NAME/seconds, speedup/TYPE.
std::map<std::string, Figure> ListFigures(const Results& results);
// MODEL/limit/BYTES, 0 without a limit: below it /seconds, /bytes (of the plan) and /activations.
std::string LimitKey(const std::string& model, const MemoryLimitResult& point);

struct Change {
  double before = 0, after = 0;
  double relative = 0;        // after / before - 1
  bool beyond_noise = false;  // larger than the noise of both
  bool worse = false;
};

class Comparison {
 public:
  Comparison() = default;  // against nothing: no changes
  Comparison(const Results& before, const Results& after);

  // Null where either side lacks the figure.
  const Change* Find(const std::string& key) const;
  // Gated figures that are worse by more than `percent` and by more than the noise:
  // "resnet18/train_step/seconds: 0.512 → 0.601 (+17.4%, noise 2.1%)".
  std::vector<std::string> Regressions(double percent) const;

 private:
  std::map<std::string, Figure> before_, after_;
  std::map<std::string, Change> changes_;
};

// InvalidArgument (naming `path`) where the two cannot be compared: another batch, thread count,
// image size or number of classes, or no model in common.
absl::Status CheckComparable(const std::string& path, const Results& before, int64_t batch,
                             int threads, int64_t image_size, int64_t num_classes,
                             const std::vector<std::string>& models);

}  // namespace classicnn

#endif  // CLASSICNN_REPORTS_BASELINE_H_
