// Accuracies from the folders that cnn-train writes.
#ifndef CLASSICNN_REPORTS_TRAINING_RUNS_H_
#define CLASSICNN_REPORTS_TRAINING_RUNS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace classicnn {

struct TrainedEpoch {
  int64_t epoch = 0;
  double train_loss = 0, train_accuracy = 0;
  double test_loss = 0, test_accuracy = -1;  // below 0: not evaluated in this epoch
  double images_per_second = 0, seconds = 0;
  bool resumed = false;  // within the epoch: the time is that of its last part
};

struct TrainingRun {
  std::string path;
  std::string model;
  std::string data;     // --data as it was given
  std::string kind;     // "cifar10", "idx", "synthetic"; empty where config.json does not say
  std::string augment;  // "none", "crop,flip", ...
  std::string recipe;   // empty without one
  std::string machine;  // "2 threads, AMD EPYC ..."; empty where config.json does not say
  std::string note;     // what its reader should know, from note.txt; mostly empty
  int64_t planned_epochs = 0;  // 0 where config.json does not say; so with those below
  int64_t train_images = 0, test_images = 0, batch = 0;
  std::vector<TrainedEpoch> epochs;

  // Whether it went on to its last epoch: until then the learning rate is high, and accuracies are
  // not what the recipe reaches.
  bool complete() const {
    return planned_epochs == 0 || (!epochs.empty() && epochs.back().epoch >= planned_epochs);
  }
  bool augmented() const { return !augment.empty() && augment != "none"; }
  // The last evaluated epoch, what reports quote; null where no epoch was evaluated.
  const TrainedEpoch* last() const;
  // The best of all evaluated epochs: chosen on the test set.
  const TrainedEpoch* best() const;
};

// Reads config.json and metrics.jsonl of a run's folder, and the first line of note.txt if it has
// one. InvalidArgument or NotFound names the
// file, and for metrics.jsonl the line. A half-written last line (the run is still going) is left
// out.
absl::StatusOr<TrainingRun> ReadTrainingRun(const std::string& folder);

}  // namespace classicnn

#endif  // CLASSICNN_REPORTS_TRAINING_RUNS_H_
