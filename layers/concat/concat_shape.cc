#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "layers/concat/concat.h"
#include "layers/shape_text.h"

namespace classicnn {
Shape4 ConcatShape::output() const {
  int64_t total = 0;
  for (const int64_t c : channels) total += c;
  return {n, h, w, total};
}

absl::Status ConcatShape::Validate() const {
  const auto bad = [this](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("concat shape ", ToString(), ": ", why));
  };
  // Products of sizes beyond this would not fit 64 bits; no real tensor comes near.
  constexpr int64_t kMaxSize = int64_t{1} << 24;
  if (n < 1 || h < 1 || w < 1) return bad("n, h and w must be at least 1");
  if (channels.empty()) return bad("at least one input is needed");
  int64_t total = 0;
  for (const int64_t c : channels) {
    if (c < 1) return bad("every input needs at least 1 channel");
    if (c > kMaxSize) return bad("too large");
    total += c;
    if (total > kMaxSize) return bad("too large");
  }
  if (n > kMaxSize || h > kMaxSize || w > kMaxSize || h * w > (int64_t{1} << 60) / (n * total)) {
    return bad("too large");
  }
  return absl::OkStatus();
}

std::string ConcatShape::ToString() const {
  return absl::StrCat("n", n, "c", absl::StrJoin(channels, "+"), "h", h, "w", w);
}

absl::StatusOr<ConcatShape> ConcatShape::Parse(absl::string_view text) {
  constexpr absl::string_view kForm = "n64c64+128+32h32w32";
  ConcatShape shape;
  // The list of channels is cut out; the rest is an ordinary shape.
  const size_t c = text.find('c');
  const size_t end = text.find_first_not_of("0123456789+", c == text.npos ? c : c + 1);
  if (c == text.npos || end == text.npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("bad shape '", text, "'; expected the form ", kForm));
  }
  for (const absl::string_view word : absl::StrSplit(text.substr(c + 1, end - c - 1), '+')) {
    int64_t channels = 0;
    if (!absl::SimpleAtoi(word, &channels)) {
      return absl::InvalidArgumentError(absl::StrCat("bad shape '", text, "': '", word,
                                                     "' is no number of channels; expected the "
                                                     "form ",
                                                     kForm));
    }
    shape.channels.push_back(channels);
  }
  const absl::Status parsed =
      ParseShapeText(absl::StrCat(text.substr(0, c), text.substr(end)), kForm,
                     {{'n', &shape.n}, {'h', &shape.h}, {'w', &shape.w}});
  if (!parsed.ok()) return parsed;
  if (absl::Status status = shape.Validate(); !status.ok()) return status;
  return shape;
}

}  // namespace classicnn
