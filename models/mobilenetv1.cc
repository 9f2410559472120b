// MobileNetV1 (Howard et al., 2017) with a stride-1 stem, for CIFAR-10. Guide: mobilenetv1.md.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/model.h"

namespace classicnn {
namespace {

// A 3 x 3 convolution of each channel by itself, then a 1 x 1 convolution across channels.
NodeId DepthwiseSeparable(GraphBuilder& g, const std::string& name, NodeId x, int64_t channels,
                          int64_t stride) {
  const int64_t in = g.channels(x);
  x = g.Conv2d(name + ".conv_dw", x, {in, /*kernel=*/3, stride, /*padding=*/1, /*groups=*/in});
  x = g.BatchNorm2d(name + ".bn1", x);
  x = g.Relu(name + ".relu1", x);
  x = g.Conv2d(
      name + ".conv_pw", x,
      {channels, /*kernel=*/1, /*stride=*/1, /*padding=*/0, /*groups=*/1, Init::kXavierUniform});
  x = g.BatchNorm2d(name + ".bn2", x);
  return g.Relu(name + ".relu2", x);
}

}  // namespace

absl::StatusOr<Graph> BuildMobilenetv1(const ModelOptions& options) {
  struct Block {
    int64_t channels, stride;
  };
  const std::vector<std::vector<Block>> groups = {
      {{64, 1}},
      {{128, 2}, {128, 1}},
      {{256, 2}, {256, 1}},
      {{512, 2}, {512, 1}, {512, 1}, {512, 1}, {512, 1}, {512, 1}},
      {{1024, 2}, {1024, 1}},
  };
  GraphBuilder g("mobilenetv1", options.image_h, options.image_w, 3);
  NodeId x = g.Conv2d("conv_stem", g.input(), {32, /*kernel=*/3, /*stride=*/1, /*padding=*/1});
  x = g.BatchNorm2d("bn1", x);
  x = g.Relu("relu", x);
  for (size_t i = 0; i < groups.size(); ++i) {
    for (size_t j = 0; j < groups[i].size(); ++j) {
      const Block& block = groups[i][j];
      x = DepthwiseSeparable(g, absl::StrCat("blocks.", i, ".", j), x, block.channels,
                             block.stride);
    }
  }
  x = g.GlobalAvgPool2d("avgpool", x);
  if (options.dropout > 0) x = g.Dropout("dropout", x, options.dropout);
  x = g.Linear("classifier", x, options.num_classes);
  return g.Build(x);
}

}  // namespace classicnn
