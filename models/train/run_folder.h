// The files of a run's folder, by name, and its config.json.
#ifndef CLASSICNN_MODELS_TRAIN_RUN_FOLDER_H_
#define CLASSICNN_MODELS_TRAIN_RUN_FOLDER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/train/options.h"
#include "nlohmann/json_fwd.hpp"

namespace classicnn {

inline constexpr char kConfigFile[] = "config.json";
inline constexpr char kMetricsFile[] = "metrics.jsonl";
inline constexpr char kStateFile[] = "state.safetensors";
inline constexpr char kLastFile[] = "last.safetensors";
inline constexpr char kBestFile[] = "best.safetensors";

// What going on with a run needs of its config.json.
struct RunConfig {
  TrainOptions options;
  std::string target;              // instruction set
  uint32_t train_fingerprint = 0;  // of the training images
  int64_t test_images = 0;
  std::optional<uint32_t> test_fingerprint;  // not of runs that began before it was recorded
};
// NotFound where the folder holds no run; InvalidArgument names the path.
absl::StatusOr<RunConfig> ReadRunConfig(const std::string& folder);

// Makes the folder where it is missing and writes config.json into it. On an error no folder is
// left that was not there before. FailedPrecondition where there is a run in it already.
absl::Status StartRunFolder(const std::string& folder, const nlohmann::json& config);

// Held by the one process that trains in a folder: two would write over each other's files. The
// system lets go of it when the process ends, however that happens.
class RunLock {
 public:
  // FailedPrecondition where another one has it. File systems without locks give one all the same.
  static absl::StatusOr<std::unique_ptr<RunLock>> Take(const std::string& folder);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  explicit RunLock(int fd) : fd_(fd) {}
  int fd_;
};

// Removes what a process that was killed left half-written beside the files above, which can be as
// large as they are. Nobody else may be writing there (RunLock).
void RemoveTemporaries(const std::string& folder);

// Keeps a copy (a hard link where the file system has them) of the state just written, named by its
// step, and removes older copies so that `keep` states remain, state.safetensors counted.
absl::Status KeepStates(const std::string& folder, int64_t step, int64_t keep);

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_TRAIN_RUN_FOLDER_H_
