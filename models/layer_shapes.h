// Layer problems, one layer at one shape, and those the models are made of.
//
// Derived by walking the models' graphs, so that benchmarks, verification and reports measure,
// check and show the same shapes, and a changed model changes them all.
#ifndef CLASSICNN_MODELS_LAYER_SHAPES_H_
#define CLASSICNN_MODELS_LAYER_SHAPES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/view.h"
#include "layers/concat/concat.h"
#include "layers/conv2d/conv2d.h"
#include "layers/linear/linear.h"
#include "layers/pool_shape.h"
#include "models/graph.h"
#include "models/model.h"

namespace classicnn {

enum class LayerKind {
  kConv2d,
  kLinear,
  kBatchNorm2d,
  kRelu,
  kMaxPool2d,
  kAvgPool2d,
  kGlobalAvgPool2d,
  kDropout,
  kCrossEntropy,
  kAdd,
  kConcat,
};
const char* LayerKindName(LayerKind kind);  // "conv2d", ..., "cross_entropy"
const std::vector<std::string>& LayerKindNames();
absl::StatusOr<LayerKind> ParseLayerKind(absl::string_view name);

enum class LayerPass { kForward, kBackward, kBackwardData, kBackwardWeights };
const char* LayerPassName(LayerPass pass);  // "forward", "backward", "backward_data", ...
// conv2d and linear: forward, backward_data, backward_weights; the others: forward, backward.
const std::vector<LayerPass>& LayerPasses(LayerKind kind);

// Which of the members mean something depends on kind:
//   conv2d                   conv2d        "n64c64h32w32k64r3s1p1", "...g64"
//   linear                   linear        "n64c512k10"
//   cross_entropy            linear        "n64c10"; in_features is the number of classes
//   max_pool2d, avg_pool2d   pool          "n64c64h32w32r3s1p1"
//   concat                   concat        "n64c64+128+32h32w32"
//   batch_norm2d             tensor, training   "n64c64h32w32m1" (training), "...m0" (inference)
//   the others               tensor        "n64c64h32w32" (add: two inputs of that shape)
struct LayerShape {
  LayerKind kind = LayerKind::kRelu;
  Conv2dShape conv2d;
  LinearShape linear;
  Pool2dShape pool;
  ConcatShape concat;
  Shape4 tensor;
  bool training = true;

  int64_t batch() const;
  LayerShape WithBatch(int64_t n) const;
  // Multiply-adds of one pass by direct algorithms; 0 for all but conv2d and linear.
  int64_t macs() const;
  // Floats that the least traffic of one pass moves. Convolution and linear: input, weights and
  // output once each. The others: tensor passes, as their headers count them, each tensor at its
  // own size.
  int64_t traffic(LayerPass pass) const;

  std::string ToString() const;  // the shape alone
  // Reads what ToString writes. InvalidArgument says what is wrong with the text.
  static absl::StatusOr<LayerShape> Parse(LayerKind kind, absl::string_view text);
  bool operator==(const LayerShape& o) const {
    return kind == o.kind && ToString() == o.ToString();
  }
};

// How often a model has a shape.
struct LayerUse {
  std::string model;
  int count = 0;
  // Of these, how many have an input whose gradient training needs: a network's first convolution
  // has no backward_data.
  int with_input_gradient = 0;
};

struct ModelLayerShape {
  LayerShape shape;
  std::vector<LayerUse> uses;  // in the order of the models
};

// The layer problem of a node; cross-entropy has none, and the input is not one (a check fails).
LayerShape NodeLayerShape(const Graph& graph, NodeId id, int64_t batch, bool training = true);

// Every distinct shape of a network's layers at this batch, by kind, then in the order of the
// nodes: batch norms in training and in inference mode, the loss behind the logits included.
std::vector<ModelLayerShape> GraphLayerShapes(const Graph& graph, int64_t batch);

// The same over several models (ModelNames() for all of them), each shape once.
absl::StatusOr<std::vector<ModelLayerShape>> ModelLayerShapes(
    const std::vector<std::string>& models, int64_t batch, const ModelOptions& options = {});

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_LAYER_SHAPES_H_
