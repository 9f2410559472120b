#include "models/model.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace classicnn {
namespace {

struct Architecture {
  const char* name;
  absl::StatusOr<Graph> (*build)(const ModelOptions&);
};

constexpr Architecture kArchitectures[] = {
    {"vgg16", BuildVgg16},
    {"resnet18", BuildResnet18},
    {"googlenet", BuildGooglenet},
    {"mobilenetv1", BuildMobilenetv1},
    {"densenet121", BuildDensenet121},
};

}  // namespace

const std::vector<std::string>& ModelNames() {
  static const auto* const names = [] {
    auto* list = new std::vector<std::string>;
    for (const Architecture& a : kArchitectures) list->push_back(a.name);
    return list;
  }();
  return *names;
}

absl::StatusOr<Graph> BuildModel(absl::string_view name, const ModelOptions& options) {
  if (options.num_classes < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_classes ", options.num_classes, " is below 1"));
  }
  for (const Architecture& a : kArchitectures) {
    if (name == a.name) return a.build(options);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown model \"", name, "\": one of ", absl::StrJoin(ModelNames(), ", "), " is expected"));
}

}  // namespace classicnn
