#include "benches/layer_selection.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace classicnn {

absl::StatusOr<std::vector<ModelLayerShape>> SelectLayerShapes(
    absl::string_view text, const std::vector<std::string>& layers, int64_t batch,
    const ModelOptions& options) {
  std::vector<ModelLayerShape> shapes;
  const auto add = [&shapes](const ModelLayerShape& entry) {
    const auto same = std::find_if(shapes.begin(), shapes.end(), [&entry](const auto& other) {
      return other.shape == entry.shape;
    });
    if (same == shapes.end()) {
      shapes.push_back(entry);
    } else if (same->uses.empty()) {
      same->uses = entry.uses;
    }
  };
  const std::vector<std::string> words = absl::StrSplit(text, ',');
  for (const std::string& word : words) {
    if (word == "models") {
      auto all = ModelLayerShapes(ModelNames(), batch, options);
      if (!all.ok()) {
        return absl::InvalidArgumentError(
            absl::StrCat("--image_size=", options.image_h, ": ", all.status().message()));
      }
      for (const ModelLayerShape& entry : *all) {
        const std::string kind = LayerKindName(entry.shape.kind);
        if (std::find(layers.begin(), layers.end(), kind) != layers.end()) add(entry);
      }
      continue;
    }
    absl::Status error;
    bool fits = false;
    for (const std::string& layer : layers) {
      auto shape = LayerShape::Parse(*ParseLayerKind(layer), word);
      if (shape.ok()) {
        fits = true;
        add({*shape, {}});
      } else if (error.ok()) {
        error = shape.status();
      }
    }
    if (!fits) {
      return absl::InvalidArgumentError(
          layers.size() == 1
              ? absl::StrCat("--shapes: ", error.message())
              : absl::StrCat("--shapes: '", word.substr(0, 80), "' is a shape of none of ",
                             absl::StrJoin(layers, ", "), "; --help shows their forms"));
    }
  }
  return shapes;
}

}  // namespace classicnn
