#include <cstdint>
#include <limits>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "layers/conv2d/conv2d.h"
#include "layers/shape_text.h"

namespace classicnn {
namespace {

// Whether the product of the factors, all positive, fits an int64_t with room to spare.
bool ProductFits(std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (const int64_t f : factors) {
    if (f > std::numeric_limits<int64_t>::max() / 64 / product) return false;
    product *= f;
  }
  return true;
}

}  // namespace

absl::Status Conv2dShape::Validate() const {
  const auto error = [this](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("convolution ", ToString(), ": ", what));
  };
  for (const int64_t size : {n, in_channels, h, w, out_channels, kernel, stride, groups}) {
    if (size < 1) return error("every size must be at least 1");
    if (size > std::numeric_limits<int32_t>::max()) return error("sizes must be below 2^31");
  }
  if (padding < 0) return error("the padding must not be negative");
  if (padding >= kernel) return error("the padding must be smaller than the kernel");
  if (in_channels % groups != 0 || out_channels % groups != 0) {
    return error("the number of groups must divide input and output channels");
  }
  if (h + 2 * padding < kernel || w + 2 * padding < kernel) {
    return error("the kernel is larger than the padded image");
  }
  if (!ProductFits({n, h, w, in_channels}) ||
      !ProductFits({n, out_h(), out_w(), out_channels, kernel, kernel, in_channels / groups})) {
    return error("its multiply-adds do not fit 64 bits");
  }
  return absl::OkStatus();
}

std::string Conv2dShape::ToString() const {
  std::string text = absl::StrCat("n", n, "c", in_channels, "h", h, "w", w, "k", out_channels, "r",
                                  kernel, "s", stride, "p", padding);
  if (groups != 1) absl::StrAppend(&text, "g", groups);
  return text;
}

absl::StatusOr<Conv2dShape> Conv2dShape::Parse(absl::string_view text) {
  Conv2dShape shape;
  const absl::Status status = ParseShapeText(text, "n64c64h32w32k64r3s1p1 or ...g64",
                                             {{'n', &shape.n},
                                              {'c', &shape.in_channels},
                                              {'h', &shape.h},
                                              {'w', &shape.w},
                                              {'k', &shape.out_channels},
                                              {'r', &shape.kernel},
                                              {'s', &shape.stride},
                                              {'p', &shape.padding},
                                              {'g', &shape.groups, /*required=*/false}});
  if (!status.ok()) return status;
  const absl::Status valid = shape.Validate();
  if (!valid.ok()) return valid;
  return shape;
}

const char* Conv2dPassName(Conv2dPass pass) {
  switch (pass) {
    case Conv2dPass::kForward:
      return "forward";
    case Conv2dPass::kBackwardData:
      return "backward_data";
    case Conv2dPass::kBackwardWeights:
      return "backward_weights";
  }
  return "?";
}

const char* Conv2dAlgorithmName(Conv2dAlgorithm algorithm) {
  switch (algorithm) {
    case Conv2dAlgorithm::kPointwise:
      return "pointwise";
    case Conv2dAlgorithm::kDirect:
      return "direct";
    case Conv2dAlgorithm::kDepthwise:
      return "depthwise";
    case Conv2dAlgorithm::kWinograd4:
      return "winograd4";
    case Conv2dAlgorithm::kWinograd2:
      return "winograd2";
    case Conv2dAlgorithm::kWinograd2x5:
      return "winograd2x5";
    case Conv2dAlgorithm::kWinograd4x5:
      return "winograd4x5";
    case Conv2dAlgorithm::kStem:
      return "stem";
    case Conv2dAlgorithm::kFewPixels:
      return "few_pixels";
  }
  return "?";
}

bool IsWinograd(Conv2dAlgorithm algorithm) {
  return algorithm == Conv2dAlgorithm::kWinograd4 || algorithm == Conv2dAlgorithm::kWinograd2 ||
         algorithm == Conv2dAlgorithm::kWinograd2x5 || algorithm == Conv2dAlgorithm::kWinograd4x5;
}

absl::StatusOr<Conv2dAlgorithm> ParseConv2dAlgorithm(absl::string_view name) {
  std::string known;
  for (const auto algorithm :
       {Conv2dAlgorithm::kPointwise, Conv2dAlgorithm::kDirect, Conv2dAlgorithm::kDepthwise,
        Conv2dAlgorithm::kWinograd4, Conv2dAlgorithm::kWinograd2, Conv2dAlgorithm::kWinograd2x5,
        Conv2dAlgorithm::kWinograd4x5, Conv2dAlgorithm::kStem, Conv2dAlgorithm::kFewPixels}) {
    if (name == Conv2dAlgorithmName(algorithm)) return algorithm;
    absl::StrAppend(&known, known.empty() ? "" : ", ", Conv2dAlgorithmName(algorithm));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown convolution algorithm '", name, "'; there are ", known));
}

}  // namespace classicnn
