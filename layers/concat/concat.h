// Concatenation along channels, for where a real copy is wanted. (A plan lets producers write into
// their slice of the whole instead, which costs nothing.)
//
//   y[n,h,w, offset_i + c] = x_i[n,h,w,c],   offset_i = sum of the channels of the inputs before i
//   dx_i = dy[..., offset_i : offset_i + C_i]
//
// Views with any pixel stride, no overlap. Cost: tensor passes 2, each tensor at its own size.
#ifndef CLASSICNN_LAYERS_CONCAT_CONCAT_H_
#define CLASSICNN_LAYERS_CONCAT_CONCAT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/context.h"
#include "core/view.h"

namespace classicnn {

struct ConcatShape {
  int64_t n = 1;
  int64_t h = 1;
  int64_t w = 1;
  std::vector<int64_t> channels;  // of each input

  Shape4 input(size_t i) const { return {n, h, w, channels[i]}; }
  Shape4 output() const;
  absl::Status Validate() const;
  std::string ToString() const;  // "n64c64+128+32h32w32"
  static absl::StatusOr<ConcatShape> Parse(absl::string_view text);
};

void ConcatForward(absl::Span<const ConstTensor> inputs, Tensor y, Context& ctx);
// All inputs' gradients, each overwritten, or with accumulate added to.
void ConcatBackward(ConstTensor dy, absl::Span<const Tensor> dx, bool accumulate, Context& ctx);

template <typename T>
void ConcatForwardNaive(absl::Span<const View<const T>> inputs, View<T> y);
template <typename T>
void ConcatBackwardNaive(View<const T> dy, absl::Span<const View<T>> dx, bool accumulate);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_CONCAT_CONCAT_H_
