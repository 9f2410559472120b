// Window of the pooling layers, and the shape of a pooling problem.
#ifndef CLASSICNN_LAYERS_POOL_SHAPE_H_
#define CLASSICNN_LAYERS_POOL_SHAPE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/view.h"

namespace classicnn {

struct Pool2dParams {
  int64_t kernel = 2;
  int64_t stride = 2;
  int64_t padding = 0;

  int64_t OutSize(int64_t in) const { return (in + 2 * padding - kernel) / stride + 1; }
  Shape4 Output(const Shape4& in) const { return {in.n, OutSize(in.h), OutSize(in.w), in.c}; }
};

struct Pool2dShape {
  Shape4 input;
  Pool2dParams params;

  Shape4 output() const { return params.Output(input); }
  absl::Status Validate() const;
  std::string ToString() const;  // "n64c64h32w32r3s1p1"
  static absl::StatusOr<Pool2dShape> Parse(absl::string_view text);
};

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_POOL_SHAPE_H_
