// Everything a training run is told, its defaults, and recipes.
#ifndef CLASSICNN_MODELS_TRAIN_OPTIONS_H_
#define CLASSICNN_MODELS_TRAIN_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/data/dataset.h"
#include "nlohmann/json_fwd.hpp"

namespace classicnn {

// Fields have the names of their flags and hold what a flag holds. Below 0 (or empty) means "as the
// rest suggests"; Resolve fills that in.
struct TrainOptions {
  std::string model;
  std::string data = "synthetic";
  std::string recipe = "default";
  int64_t epochs = 10;  // 0: as many as max_steps needs
  int64_t batch = 128;
  double lr = -1;  // DefaultLr
  std::string schedule = "onecycle";
  double warmup_epochs = -1;  // one-cycle: a quarter of the run; others: none
  double momentum = 0.9;
  bool nesterov = false;
  double weight_decay = -1;  // by optimizer
  bool decay_norm_and_bias = false;
  bool decay_depthwise = true;
  double label_smoothing = 0;
  double dropout = -1;  // the architecture's own
  double ema = 0;       // decay of the moving average; 0: none
  std::string optimizer = "sgd";
  std::string augment = "crop,flip";
  bool shuffle = true;
  std::string mean = "0.4914,0.4822,0.4465";  // three values, or "measure"
  std::string std = "0.2470,0.2435,0.2616";
  uint64_t seed = 0;
  std::string precision = "f32";
  std::string memory_limit;  // as ParseSize takes it; empty: none
  std::string update;        // "fused", "after_backward"; empty: by log_gradients
  std::string init;          // weight file to start from
  int64_t max_steps = 0;     // 0: no limit
  int64_t save_every = 0;    // steps; 0: every epoch only
  int64_t keep = 1;
  int64_t log_every = 0;  // steps; 0: epochs only
  bool log_gradients = false;
  int64_t eval_every = 1;  // epochs
  int64_t synthetic_images = 0;
  int64_t image_size = 32;
  int64_t num_classes = 10;
};

// "default", "quick" (about ten minutes on two cores, googlenet a quarter of an hour) and
// "accuracy" (to reach what the architecture can).
const std::vector<std::string>& RecipeNames();
// The options that a recipe stands for, for each of the five models. InvalidArgument for an unknown
// model or recipe.
absl::StatusOr<TrainOptions> RecipeOptions(absl::string_view recipe, absl::string_view model);

// Fills in what is "as the rest suggests", except what the data decides (epochs from max_steps; the
// rate, which depends on how many images a step really has), and checks every value and
// combination. InvalidArgument names the flag and what is accepted.
absl::Status Resolve(TrainOptions* options);

// The rate of a run that was not told one, whose steps have `batch` images: by model and linear in
// them for SGD; by their root for AdamW, whose steps do not grow with the gradient.
double DefaultLr(const TrainOptions& options, int64_t batch);

// Three comma-separated numbers; "measure" gives `measured`. `positive`: each above 0.
absl::StatusOr<std::array<double, 3>> ParseChannels(absl::string_view flag, absl::string_view text,
                                                    const std::array<double, 3>& measured,
                                                    bool positive);
std::string FormatChannels(const std::array<double, 3>& values);

// By flag name.
void to_json(nlohmann::json& json, const TrainOptions& options);
// InvalidArgument names a key that is missing, unknown or of another type.
absl::StatusOr<TrainOptions> TrainOptionsFromJson(const nlohmann::json& json);

// Flags that may differ between a run and its continuation, because they cannot change a weight.
bool MayChangeOnResume(absl::string_view flag);

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_TRAIN_OPTIONS_H_
