#include "layers/shape_text.h"

#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace classicnn {

absl::Status ParseShapeText(absl::string_view text, absl::string_view form,
                            std::initializer_list<ShapeField> fields) {
  const auto error = [&](absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat("bad shape '", text, "': ", what, "; expected the form ", form));
  };
  absl::string_view rest = text;
  for (const ShapeField& field : fields) {
    if (rest.empty() || rest.front() != field.letter) {
      if (!field.required) continue;
      return error(absl::StrCat("'", absl::string_view(&field.letter, 1), "' is missing"));
    }
    rest.remove_prefix(1);
    size_t digits = 0;
    while (digits < rest.size() && absl::ascii_isdigit(static_cast<unsigned char>(rest[digits]))) {
      ++digits;
    }
    int64_t value = 0;
    if (!absl::SimpleAtoi(rest.substr(0, digits), &value) ||
        value > std::numeric_limits<int32_t>::max()) {
      return error(absl::StrCat("'", absl::string_view(&field.letter, 1),
                                "' needs a whole number below 2^31"));
    }
    *field.value = value;
    rest.remove_prefix(digits);
  }
  if (!rest.empty()) return error(absl::StrCat("'", rest, "' is left over"));
  return absl::OkStatus();
}

}  // namespace classicnn
