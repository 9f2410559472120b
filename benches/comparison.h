// Our layers beside a peer's (or fused ones beside plain ones): what was measured, and what it
// amounts to by kind of layer and by model. Measuring is benches/compare_mode.h's.
#ifndef CLASSICNN_BENCHES_COMPARISON_H_
#define CLASSICNN_BENCHES_COMPARISON_H_

#include <cstdint>
#include <string>
#include <vector>

#include "models/layer_shapes.h"
#include "nlohmann/json_fwd.hpp"

namespace classicnn {

struct ComparisonRow {
  LayerShape shape;
  LayerPass pass = LayerPass::kForward;
  std::vector<LayerUse> uses;  // by which models; empty for a shape that was typed in
  // Medians, both 0 where nothing was measured: then `error` says why, or the shape was left out on
  // purpose and is only counted among what a model's sum is missing.
  double seconds = 0;
  double peer_seconds = 0;
  int64_t executed_macs = 0;
  int64_t fused_traffic = 0;  // LayerCase's, of ours
  std::string label;          // "winograd4 avx3"
  std::string peer_label;     // "oneDNN 2.6.3 jit:avx512_core"
  std::string error;

  bool measured() const { return seconds > 0 && peer_seconds > 0; }
  // How many times as fast as the peer.
  double ratio() const { return peer_seconds / seconds; }
};

struct Comparison {
  std::string ours = "ours";  // or "fused"
  std::string peer;           // "onednn", "plain"
  int num_threads = 0;
  // Measured peaks, 0 where they are not known.
  double fma_flops = 0;
  double copy_bytes_per_second = 0;
  std::vector<ComparisonRow> rows;
};

// Every row that was measured and belongs together. A row is one shape and pass, and each counts
// alike in the mean.
struct ComparisonGroup {
  std::string name;  // "conv2d 5x5"
  std::string pass;  // "forward", ..., or "all passes"
  int count = 0;
  double geometric_mean = 0;  // of the ratios
  double least = 0;
  std::string least_at;  // "n64c64h32w32k64r3s1p1 forward"
};

// By kind of layer, then by pass: 3x3 convolutions of stride 1 with at least 32 channels in and out
// and images of at least 4x4; other 3x3; pointwise; 5x5; depthwise; any others; all convolutions;
// and each other kind of layer. Groups without rows are left out, and so are totals of one part.
std::vector<ComparisonGroup> CompareGroups(const std::vector<ComparisonRow>& rows);

// A model's layers, each distinct shape once in the mean, and as often as the model has it in the
// sums. Layers whose input needs no gradient have no backward_data, as in training.
struct ModelComparison {
  std::string model;
  // Of its convolutions: "forward", "backward_data", "backward_weights", "all passes"; and "other
  // layers", which have no sums.
  std::string what;
  int count = 0;
  double geometric_mean = 0;
  double least = 0;
  std::string least_at;
  // Calls of a training step that were measured, of how many there are among the rows.
  int calls = 0;
  int calls_in_model = 0;
  double seconds = 0;
  double peer_seconds = 0;
};
std::vector<ModelComparison> CompareModels(const std::vector<ComparisonRow>& rows);

// Three tables for people: rows, groups, models (the last only where rows are of models).
std::string FormatComparison(const Comparison& comparison);
void to_json(nlohmann::json& j, const Comparison& comparison);

}  // namespace classicnn

#endif  // CLASSICNN_BENCHES_COMPARISON_H_
