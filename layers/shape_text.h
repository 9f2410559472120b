// Shapes as text: letters each followed by a whole number, such as "n64c512k10".
#ifndef CLASSICNN_LAYERS_SHAPE_TEXT_H_
#define CLASSICNN_LAYERS_SHAPE_TEXT_H_

#include <cstdint>
#include <initializer_list>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace classicnn {

struct ShapeField {
  char letter;
  int64_t* value;  // left as it is where an optional field is absent
  bool required = true;
};

// Reads `text`, which must hold the fields in the given order and nothing else. InvalidArgument
// names the text and `form`, an example of what is accepted. Numbers are at most 2^31 - 1.
absl::Status ParseShapeText(absl::string_view text, absl::string_view form,
                            std::initializer_list<ShapeField> fields);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_SHAPE_TEXT_H_
