// GoogLeNet (Szegedy et al., 2014) with batch normalization, true 5 x 5 convolutions and no pooling
// in the stem, for CIFAR-10. Guide: googlenet.md.
#include <string>

#include "absl/strings/str_cat.h"
#include "models/model.h"

namespace classicnn {
namespace {

// Convolution, batch norm, ReLU; torchvision's BasicConv2d.
NodeId BasicConv(GraphBuilder& g, const std::string& name, NodeId x, int64_t channels,
                 int64_t kernel) {
  x = g.Conv2d(name + ".conv", x, {channels, kernel, /*stride=*/1, /*padding=*/kernel / 2});
  x = g.BatchNorm2d(name + ".bn", x);
  return g.Relu(name + ".relu", x);
}

struct Inception {
  const char* name;
  int64_t b1;             // 1 x 1
  int64_t b2_reduce, b2;  // 1 x 1 -> 3 x 3
  int64_t b3_reduce, b3;  // 1 x 1 -> 5 x 5
  int64_t b4;             // 3 x 3 max pool -> 1 x 1
};

NodeId InceptionModule(GraphBuilder& g, const Inception& m, NodeId x) {
  const std::string name = m.name;
  const NodeId b1 = BasicConv(g, name + ".branch1", x, m.b1, 1);
  NodeId b2 = BasicConv(g, name + ".branch2.0", x, m.b2_reduce, 1);
  b2 = BasicConv(g, name + ".branch2.1", b2, m.b2, 3);
  NodeId b3 = BasicConv(g, name + ".branch3.0", x, m.b3_reduce, 1);
  b3 = BasicConv(g, name + ".branch3.1", b3, m.b3, 5);
  NodeId b4 = g.MaxPool2d(name + ".branch4.0", x, {3, 1, 1});
  b4 = BasicConv(g, name + ".branch4.1", b4, m.b4, 1);
  return g.Concat(name, {b1, b2, b3, b4});
}

}  // namespace

absl::StatusOr<Graph> BuildGooglenet(const ModelOptions& options) {
  constexpr Inception kInception3[] = {{"inception3a", 64, 96, 128, 16, 32, 32},
                                       {"inception3b", 128, 128, 192, 32, 96, 64}};
  constexpr Inception kInception4[] = {{"inception4a", 192, 96, 208, 16, 48, 64},
                                       {"inception4b", 160, 112, 224, 24, 64, 64},
                                       {"inception4c", 128, 128, 256, 24, 64, 64},
                                       {"inception4d", 112, 144, 288, 32, 64, 64},
                                       {"inception4e", 256, 160, 320, 32, 128, 128}};
  constexpr Inception kInception5[] = {{"inception5a", 256, 160, 320, 32, 128, 128},
                                       {"inception5b", 384, 192, 384, 48, 128, 128}};
  GraphBuilder g("googlenet", options.image_h, options.image_w, 3);
  NodeId x = BasicConv(g, "conv1", g.input(), 64, 3);
  x = BasicConv(g, "conv2", x, 64, 1);
  x = BasicConv(g, "conv3", x, 192, 3);
  for (const Inception& m : kInception3) x = InceptionModule(g, m, x);
  x = g.MaxPool2d("maxpool3", x, {3, 2, 1});
  for (const Inception& m : kInception4) x = InceptionModule(g, m, x);
  x = g.MaxPool2d("maxpool4", x, {3, 2, 1});
  for (const Inception& m : kInception5) x = InceptionModule(g, m, x);
  x = g.GlobalAvgPool2d("avgpool", x);
  const double dropout = options.dropout < 0 ? 0.2 : options.dropout;
  if (dropout > 0) x = g.Dropout("dropout", x, dropout);
  x = g.Linear("fc", x, options.num_classes);
  return g.Build(x);
}

}  // namespace classicnn
