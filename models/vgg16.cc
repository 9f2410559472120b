// VGG-16 with batch normalization (Simonyan and Zisserman, 2014), for CIFAR-10. Guide: vgg16.md.
#include "absl/strings/str_cat.h"
#include "models/model.h"

namespace classicnn {

absl::StatusOr<Graph> BuildVgg16(const ModelOptions& options) {
  GraphBuilder g("vgg16", options.image_h, options.image_w, 3);
  // Output channels of the convolutions; 0 stands for a 2 x 2 max pool of stride 2.
  constexpr int64_t kLayers[] = {64, 64,  0,   128, 128, 0,   256, 256, 256,
                                 0,  512, 512, 512, 0,   512, 512, 512, 0};
  NodeId x = g.input();
  int index = 0;  // in torchvision's nn.Sequential: convolution, batch norm and ReLU count each
  const auto name = [](int i) { return absl::StrCat("features.", i); };
  for (const int64_t channels : kLayers) {
    if (channels == 0) {
      x = g.MaxPool2d(name(index++), x, {2, 2, 0});
      continue;
    }
    x = g.Conv2d(name(index++), x, {channels, /*kernel=*/3, /*stride=*/1, /*padding=*/1});
    x = g.BatchNorm2d(name(index++), x);
    x = g.Relu(name(index++), x);
  }
  x = g.Linear("classifier.0", x, 512);
  x = g.Relu("classifier.1", x);
  if (options.dropout > 0) x = g.Dropout("dropout", x, options.dropout);
  x = g.Linear("classifier.2", x, options.num_classes);
  return g.Build(x);
}

}  // namespace classicnn
