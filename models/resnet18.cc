// ResNet-18 (He et al., 2015) with a 3 x 3 stem and no max pool, for CIFAR-10. Guide: resnet18.md.
#include <string>

#include "absl/strings/str_cat.h"
#include "models/model.h"

namespace classicnn {
namespace {

// Two 3 x 3 convolutions and the shortcut around them: the identity, or a 1 x 1 convolution where
// the shape changes.
NodeId BasicBlock(GraphBuilder& g, const std::string& name, NodeId x, int64_t channels,
                  int64_t stride) {
  NodeId shortcut = x;
  if (stride != 1 || g.channels(x) != channels) {
    shortcut = g.Conv2d(name + ".downsample.0", x, {channels, /*kernel=*/1, stride});
    shortcut = g.BatchNorm2d(name + ".downsample.1", shortcut);
  }
  NodeId y = g.Conv2d(name + ".conv1", x, {channels, /*kernel=*/3, stride, /*padding=*/1});
  y = g.BatchNorm2d(name + ".bn1", y);
  y = g.Relu(name + ".relu1", y);
  y = g.Conv2d(name + ".conv2", y, {channels, /*kernel=*/3, /*stride=*/1, /*padding=*/1});
  y = g.BatchNorm2d(name + ".bn2", y);
  y = g.Add(name + ".add", {y, shortcut});
  return g.Relu(name + ".relu2", y);
}

}  // namespace

absl::StatusOr<Graph> BuildResnet18(const ModelOptions& options) {
  GraphBuilder g("resnet18", options.image_h, options.image_w, 3);
  NodeId x = g.Conv2d("conv1", g.input(), {64, /*kernel=*/3, /*stride=*/1, /*padding=*/1});
  x = g.BatchNorm2d("bn1", x);
  x = g.Relu("relu", x);
  constexpr int64_t kChannels[] = {64, 128, 256, 512};
  for (int layer = 0; layer < 4; ++layer) {
    for (int block = 0; block < 2; ++block) {
      const int64_t stride = layer > 0 && block == 0 ? 2 : 1;
      x = BasicBlock(g, absl::StrCat("layer", layer + 1, ".", block), x, kChannels[layer], stride);
    }
  }
  x = g.GlobalAvgPool2d("avgpool", x);
  if (options.dropout > 0) x = g.Dropout("dropout", x, options.dropout);
  x = g.Linear("fc", x, options.num_classes);
  return g.Build(x);
}

}  // namespace classicnn
