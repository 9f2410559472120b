// The five architectures by name.
#ifndef CLASSICNN_MODELS_MODEL_H_
#define CLASSICNN_MODELS_MODEL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/graph.h"

namespace classicnn {

struct ModelOptions {
  int64_t image_h = 32;
  int64_t image_w = 32;
  int64_t num_classes = 10;
  double dropout = -1;  // below 0: the architecture's own (GoogLeNet 0.2, the others none)
};

// "vgg16", "resnet18", "googlenet", "mobilenetv1", "densenet121": the order of reports.
const std::vector<std::string>& ModelNames();

// InvalidArgument for an unknown name (listing the known ones), classes below 1, or an image too
// small for the network (naming the node).
absl::StatusOr<Graph> BuildModel(absl::string_view name, const ModelOptions& options = {});

// One for each architecture, in models/NAME.cc.
absl::StatusOr<Graph> BuildVgg16(const ModelOptions& options);
absl::StatusOr<Graph> BuildResnet18(const ModelOptions& options);
absl::StatusOr<Graph> BuildGooglenet(const ModelOptions& options);
absl::StatusOr<Graph> BuildMobilenetv1(const ModelOptions& options);
absl::StatusOr<Graph> BuildDensenet121(const ModelOptions& options);

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_MODEL_H_
