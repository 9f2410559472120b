// state.safetensors: everything that training goes on from, bit for bit.
//
// Tensors, in PyTorch's layouts: "weights.NAME" (parameters and running statistics),
// "momentum.NAME", with AdamW "second_moment.NAME", with a moving average "ema.NAME", and
// "best.NAME" where the best weights are not the current ones. Metadata: format, version, model,
// num_classes, image_size, optimizer, the position as decimal text (floating-point numbers in
// hexadecimal), and crc32, the checksum of all of that and the tensors. Nothing in it depends on
// threads, paths, time or how often a run was resumed.
#ifndef CLASSICNN_MODELS_TRAIN_CHECKPOINT_H_
#define CLASSICNN_MODELS_TRAIN_CHECKPOINT_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/context.h"
#include "models/graph.h"
#include "models/model_state.h"

namespace classicnn {

// Where a run is.
struct TrainPosition {
  int64_t step = 0;             // training steps done
  int64_t epochs = 0;           // epochs finished, evaluation included
  int64_t evaluated_step = -1;  // step of the last line of kind "epoch"
  uint64_t seed = 0;

  // Over the training batches of the epoch that is under way.
  double loss_sum = 0;
  int64_t correct = 0;
  int64_t images = 0;

  // The best evaluation so far: chosen on the test set. Of evaluations that every run with these
  // flags makes; one that only a limit on the steps caused is kept apart below, so that a run that
  // goes on beyond its limit ends with the same best weights as one that had none.
  int64_t best_step = -1;
  int64_t best_epoch = -1;
  double best_accuracy = -1;
  double best_loss = 0;

  // The evaluation at a limit on the steps, of the weights at `step`; epoch -1: there was none.
  int64_t stop_epoch = -1;
  double stop_accuracy = -1;
  double stop_loss = 0;

  bool stop_is_best() const { return stop_epoch >= 0 && stop_accuracy > best_accuracy; }
};

// The states that make up a run. `ema` and `best` may be null.
struct TrainStates {
  ModelState* current = nullptr;
  ModelState* ema = nullptr;
  ModelState* best = nullptr;
};

// Atomic and synced. `best` is written only where position.best_step is neither -1 nor the current
// step (then it equals what is exported: the moving average, or the current weights).
absl::Status SaveTrainState(const std::string& path, const Graph& graph, const TrainStates& states,
                            const TrainPosition& position);

// Fills `states` and returns the position. Where the best weights are the current ones they are
// copied to states.best; without any, states.best stays as it is. InvalidArgument names the path,
// and the tensor or key, for a file that is damaged, of another network or another optimizer.
absl::StatusOr<TrainPosition> LoadTrainState(const std::string& path, const Graph& graph,
                                             const TrainStates& states);

// Parameters, running statistics and counters; not the optimizer's tensors.
void CopyWeights(const Graph& graph, const ModelState& from, ModelState* to);

// average <- decay * average + (1 - decay) * current, weights and running statistics.
void UpdateAverage(const Graph& graph, const ModelState& current, double decay, ModelState* average,
                   Context& ctx);

// Name of the tensor where a value that is not finite appeared first; empty where all are finite.
// Of running statistics the first one in forward order; of parameters, which updates make so in
// backward order, the last one; then of the optimizer's tensors the first. kVectors looks at
// vectors alone (batch norms' parameters and statistics, biases): cheap enough for every step, and
// nothing bad passes a batch norm, forward or backward, without leaving a mark on its vectors.
enum class FiniteCheck { kVectors, kAll };
std::string FirstNonFinite(const Graph& graph, const ModelState& state, FiniteCheck what);

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_TRAIN_CHECKPOINT_H_
