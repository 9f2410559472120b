#include "layers/pool_shape.h"

#include <cstdint>
#include <limits>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "layers/shape_text.h"

namespace classicnn {
absl::Status Pool2dShape::Validate() const {
  const auto bad = [this](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("pooling shape ", ToString(), ": ", why));
  };
  if (input.n < 1 || input.c < 1 || input.h < 1 || input.w < 1) {
    return bad("n, c, h and w must be at least 1");
  }
  // Products of sizes this large would not fit 64 bits; no real tensor comes near.
  constexpr int64_t kMaxSize = int64_t{1} << 24;
  if (input.n > kMaxSize || input.c > kMaxSize || input.h > kMaxSize || input.w > kMaxSize ||
      input.h * input.w > std::numeric_limits<int64_t>::max() / 8 / (input.n * input.c)) {
    return bad("too large");
  }
  if (params.kernel < 1 || params.kernel > 15) return bad("kernel (r) must be 1 to 15");
  if (params.stride < 1) return bad("stride (s) must be at least 1");
  if (params.padding < 0 || params.padding > params.kernel / 2) {
    return bad("padding (p) must be 0 to kernel / 2");
  }
  if (input.h + 2 * params.padding < params.kernel ||
      input.w + 2 * params.padding < params.kernel) {
    return bad("the kernel is larger than the padded image");
  }
  return absl::OkStatus();
}

std::string Pool2dShape::ToString() const {
  return absl::StrCat(input.ToString(), "r", params.kernel, "s", params.stride, "p",
                      params.padding);
}

absl::StatusOr<Pool2dShape> Pool2dShape::Parse(absl::string_view text) {
  Pool2dShape shape;
  const absl::Status parsed = ParseShapeText(text, "n64c64h32w32r3s1p1",
                                             {{'n', &shape.input.n},
                                              {'c', &shape.input.c},
                                              {'h', &shape.input.h},
                                              {'w', &shape.input.w},
                                              {'r', &shape.params.kernel},
                                              {'s', &shape.params.stride},
                                              {'p', &shape.params.padding}});
  if (!parsed.ok()) return parsed;
  if (absl::Status status = shape.Validate(); !status.ok()) return status;
  return shape;
}

}  // namespace classicnn
