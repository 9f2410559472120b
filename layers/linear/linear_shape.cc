#include <limits>

#include "absl/strings/str_cat.h"
#include "layers/linear/linear.h"
#include "layers/shape_text.h"

namespace classicnn {

absl::Status LinearShape::Validate() const {
  for (const int64_t size : {n, in_features, out_features}) {
    if (size < 1 || size > std::numeric_limits<int32_t>::max()) {
      return absl::InvalidArgumentError(
          absl::StrCat("linear ", ToString(), ": sizes must be at least 1 and below 2^31"));
    }
  }
  if (n > std::numeric_limits<int64_t>::max() / 64 / in_features / out_features) {
    return absl::InvalidArgumentError(
        absl::StrCat("linear ", ToString(), ": its multiply-adds do not fit 64 bits"));
  }
  return absl::OkStatus();
}

std::string LinearShape::ToString() const {
  return absl::StrCat("n", n, "c", in_features, "k", out_features);
}

absl::StatusOr<LinearShape> LinearShape::Parse(absl::string_view text) {
  LinearShape shape;
  const absl::Status status = ParseShapeText(
      text, "n64c512k10", {{'n', &shape.n}, {'c', &shape.in_features}, {'k', &shape.out_features}});
  if (!status.ok()) return status;
  const absl::Status valid = shape.Validate();
  if (!valid.ok()) return valid;
  return shape;
}

}  // namespace classicnn
