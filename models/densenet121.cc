// DenseNet-121 (Huang et al., 2016), growth rate 32, with a 3 x 3 stem, for CIFAR-10. Guide:
// densenet121.md.
#include <string>

#include "absl/strings/str_cat.h"
#include "models/model.h"

namespace classicnn {
namespace {

constexpr int64_t kGrowth = 32;
constexpr int64_t kBottleneck = 4 * kGrowth;

// Adds kGrowth feature maps to those there are.
NodeId DenseLayer(GraphBuilder& g, const std::string& name, NodeId features) {
  NodeId x = g.BatchNorm2d(name + ".norm1", features);
  x = g.Relu(name + ".relu1", x);
  x = g.Conv2d(name + ".conv1", x, {kBottleneck, /*kernel=*/1});
  x = g.BatchNorm2d(name + ".norm2", x);
  x = g.Relu(name + ".relu2", x);
  x = g.Conv2d(name + ".conv2", x, {kGrowth, /*kernel=*/3, /*stride=*/1, /*padding=*/1});
  return g.Concat(name + ".concat", {features, x});
}

// Halves channels and image size.
NodeId Transition(GraphBuilder& g, const std::string& name, NodeId x) {
  x = g.BatchNorm2d(name + ".norm", x);
  x = g.Relu(name + ".relu", x);
  x = g.Conv2d(name + ".conv", x, {g.channels(x) / 2, /*kernel=*/1});
  return g.AvgPool2d(name + ".pool", x, {2, 2, 0});
}

}  // namespace

absl::StatusOr<Graph> BuildDensenet121(const ModelOptions& options) {
  constexpr int kLayers[] = {6, 12, 24, 16};
  GraphBuilder g("densenet121", options.image_h, options.image_w, 3);
  NodeId x = g.Conv2d("features.conv0", g.input(),
                      {2 * kGrowth, /*kernel=*/3, /*stride=*/1,
                       /*padding=*/1});
  for (int block = 1; block <= 4; ++block) {
    for (int layer = 1; layer <= kLayers[block - 1]; ++layer) {
      x = DenseLayer(g, absl::StrCat("features.denseblock", block, ".denselayer", layer), x);
    }
    if (block < 4) x = Transition(g, absl::StrCat("features.transition", block), x);
  }
  x = g.BatchNorm2d("features.norm5", x);
  x = g.Relu("features.relu5", x);
  x = g.GlobalAvgPool2d("avgpool", x);
  if (options.dropout > 0) x = g.Dropout("dropout", x, options.dropout);
  x = g.Linear("classifier", x, options.num_classes);
  return g.Build(x);
}

}  // namespace classicnn
