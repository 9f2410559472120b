// What a report's measurements consist of, and their file, results.json.
//
// Times are in seconds, sizes in bytes, rates per second. "macs" are nominal multiply-adds (direct
// algorithms); a FLOP is half of one.
#ifndef CLASSICNN_REPORTS_RESULTS_H_
#define CLASSICNN_REPORTS_RESULTS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/machine.h"
#include "nlohmann/json.hpp"
#include "reports/timing.h"

namespace classicnn {

inline constexpr char kResultsSchema[] = "classicnn-results-1";

// Steps of one layer type in one pass, summed: "conv2d 3x3", "backward_weights".
struct TypeResult {
  std::string type;
  std::string pass;  // forward, backward, backward_data, backward_weights, recompute, update
  Timing seconds;
  int64_t steps = 0;
  int64_t macs = 0;
  int64_t executed_macs = 0;
  int64_t bytes = 0;  // least traffic
};

// The steps of a pass that have the same bound. A step's roof is the least time that the machine's
// measured peaks allow: the larger of its executed FLOPs at the multiply-add peak and its least
// traffic at copy bandwidth. Whichever is larger is its bound, "arithmetic" or "memory"; steps with
// a roof of a few microseconds are bound by neither, "small".
struct BoundResult {
  std::string bound;
  Timing seconds;
  int64_t steps = 0;
  int64_t executed_macs = 0;
  int64_t bytes = 0;
  double roof_seconds = 0;  // sum of the steps' roofs
};

// A pass over a model: a training step or an inference.
struct PassResult {
  int64_t batch = 0;
  int threads = 0;
  Timing seconds;  // of the whole pass, by the clock on the wall
  // Sums over the plan's steps; the loss belongs to forward. Empty where the pass has none.
  Timing forward, backward, update;
  double images_per_second = 0;
  double flops_per_second = 0;  // nominal
  double peak_fraction = 0;     // of the measured FMA peak at `threads`; Winograd can exceed 1
  double executed_flops_per_second = 0;  // of the algorithms that ran
  std::vector<TypeResult> types;
  std::vector<BoundResult> bounds;  // absent in older files, and where the peaks are not known

  bool empty() const { return seconds.empty(); }
};

struct LayerResult {
  std::string name;
  std::string type;  // "conv2d 3x3", "batch_norm2d", ...
  std::string input, output;
  std::string algorithms;  // convolutions: "winograd4", or "winograd4, direct, direct" by pass
  int64_t parameters = 0;
  int64_t macs = 0;                  // one image, forward
  int64_t output_bytes = 0;          // at the batch of train_step
  Timing forward, backward, update;  // in train_step
};

struct MemoryPoint {
  double seconds = 0;  // when the step ended, at median times
  std::string phase;
  int64_t weights = 0, gradients = 0, optimizer = 0, activations = 0, workspace = 0;
};

struct MemoryResult {
  int64_t peak_bytes = 0;   // high-water mark while it ran: all arenas
  int64_t arena_bytes = 0;  // the plan's arena
  int64_t least_bytes = 0;  // the largest live set: what no placement can go below
  int64_t weights = 0, gradients = 0, optimizer = 0, activations = 0, workspace = 0;
  std::vector<MemoryPoint> timeline;  // over one training step
};

// A training step under a limit of memory (--memory_limit of the programs that train).
struct MemoryLimitResult {
  int64_t limit_bytes = 0;       // 0: none
  int64_t plan_bytes = 0;        // arena of the plan that meets it, and the model's state
  int64_t peak_bytes = 0;        // high-water mark while it ran
  int64_t activation_bytes = 0;  // of the plan, at their fullest
  int64_t executed_macs = 0;     // of the whole step, recomputed ones included
  int64_t recomputed_macs = 0;   // executed ones of steps that run a second time
  int64_t recomputed_steps = 0;
  Timing seconds;
};

struct ModelResult {
  int64_t parameters = 0;
  int64_t conv_parameters = 0, norm_parameters = 0, linear_parameters = 0;
  int64_t convolutions = 0, linear_layers = 0, parameter_tensors = 0, nodes = 0, plan_steps = 0;
  int64_t macs = 0;  // one image, forward
  int64_t weight_bytes = 0;
  int64_t receptive_field = 0;  // pixels a side that one value before the global pooling sees
  PassResult train_step;
  PassResult inference;             // at the batch of train_step, running statistics
  PassResult inference_one;         // one image
  std::vector<PassResult> scaling;  // train_step at other thread counts
  std::vector<PassResult> batches;  // train_step at other batches (--full)
  MemoryResult memory;
  // Time against memory: without a limit first, then under smaller and smaller limits down to the
  // least that can be met. Absent in older files; empty where it was not measured.
  std::vector<MemoryLimitResult> memory_limits;
  std::vector<LayerResult> layers;
};

// A layer problem on the optimized layer and on its naive reference, one thread.
struct SpeedupResult {
  std::string type;  // "conv2d 3x3"
  std::string pass;
  std::string shape;  // at the batch measured
  Timing optimized, reference;
};

struct Results {
  std::string schema = kResultsSchema;
  nlohmann::json machine;  // MachineInfo, and "peaks": MachinePeaks by thread count
  nlohmann::json build;    // BuildInfo
  std::string mode;        // quick, default, full
  int64_t batch = 0;
  int threads = 0;
  int64_t image_size = 0, num_classes = 0;
  double measured_seconds = 0;  // the whole of the measuring
  std::vector<MachinePeaks> peaks;
  std::vector<std::string> model_order;
  std::map<std::string, ModelResult> models;
  std::vector<SpeedupResult> speedups;
  int64_t speedup_shapes_total =
      0;  // distinct problems; fewer are in `speedups` where time ran out
  // Figures behind single claims: name to value (reports/claims.h).
  std::map<std::string, double> extra;

  const ModelResult& model(const std::string& name) const { return models.at(name); }
  // Zeros where that thread count was not probed.
  MachinePeaks PeaksAt(int threads) const;
};

void to_json(nlohmann::json& j, const Results& results);

// InvalidArgument names `path` and what is wrong with `text` (of another schema, not JSON, a
// missing key). Keys that older versions did not write may be missing.
absl::StatusOr<Results> ParseResults(const std::string& path, const std::string& text);
absl::StatusOr<Results> ReadResults(const std::string& path);

}  // namespace classicnn

#endif  // CLASSICNN_REPORTS_RESULTS_H_
