// How good a network is on a labelled set of images.
#ifndef CLASSICNN_MODELS_TRAIN_EVALUATE_H_
#define CLASSICNN_MODELS_TRAIN_EVALUATE_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "core/context.h"
#include "models/data/dataset.h"
#include "models/graph.h"
#include "models/model_state.h"

namespace classicnn {

struct Evaluation {
  int64_t images = 0;
  int64_t classes = 0;
  double loss = 0;  // cross-entropy without smoothing, the mean over all images
  int64_t top1 = 0;
  int64_t top5 = 0;                // the label among the five (or all) best
  std::vector<int64_t> confusion;  // [actual * classes + predicted]

  double accuracy() const { return Part(top1, images); }
  double top5_accuracy() const { return Part(top5, images); }
  int64_t count(int64_t actual) const;          // images of a class
  double class_accuracy(int64_t actual) const;  // 0 for a class without images
  int64_t confused(int64_t actual, int64_t predicted) const {
    return confusion[static_cast<size_t>(actual * classes + predicted)];
  }

 private:
  static double Part(int64_t part, int64_t whole) {
    return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
  }
};

// The matrix of confusions has a number for each two of them.
inline constexpr int64_t kMaxEvaluatedClasses = 10000;

struct EvaluateOptions {
  MeanStd normalization;
  int64_t batch = 128;
  bool flip = false;         // the mean of the probabilities of each image and its mirror image
  int64_t memory_limit = 0;  // of the plan (models/plan.h); 0: none
  int64_t state_bytes = 0;   // counted against it
  // Asked after every batch; true ends the evaluation with Cancelled.
  std::function<bool()> cancelled;
  std::function<void(int64_t done, int64_t total)> progress;
};

// Runs the network with its running statistics over every image once, the last partial batch
// included. The loss is computed in double from the logits. Memory is held only meanwhile.
absl::StatusOr<Evaluation> Evaluate(const Graph& graph, ModelState* state, const ImageSet& images,
                                    const EvaluateOptions& options, Context& ctx);

// Probabilities of each class for the first image of a set; not finite where the logits are not.
absl::StatusOr<std::vector<double>> ClassProbabilities(const Graph& graph, ModelState* state,
                                                       const ImageSet& images,
                                                       const MeanStd& normalization, bool flip,
                                                       Context& ctx);

// Adds one image by the logarithms of its classes' probabilities: probabilities themselves would
// vanish, and with them ranks and losses, where logits are far apart. One that is not a number is
// predicted as nothing right, and makes the loss so.
void AddPrediction(const std::vector<double>& log_probabilities, int32_t label, Evaluation* result);
// z - log(sum of exp(z)), in double.
std::vector<double> LogSoftmax(const float* logits, int64_t classes);

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_TRAIN_EVALUATE_H_
