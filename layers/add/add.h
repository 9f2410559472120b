// Elementwise sum of two or more tensors, optionally followed by ReLU in the same pass.
//
//   y = x0 + x1 + ... (from left to right), then max(0, .) with relu
//
// All tensors [N, H, W, C], any pixel strides. y may be any one of the inputs.
// The gradient of every input is dy: AddBackward copies it, or adds it, where no alias will do.
// Cost: one tensor pass for each input and one for y.
#ifndef CLASSICNN_LAYERS_ADD_ADD_H_
#define CLASSICNN_LAYERS_ADD_ADD_H_

#include "absl/types/span.h"
#include "core/context.h"
#include "core/view.h"

namespace classicnn {

void AddForward(absl::Span<const ConstTensor> inputs, Tensor y, bool relu, Context& ctx);
// dx = dy, or with accumulate dx += dy. No overlap.
void AddBackward(ConstTensor dy, Tensor dx, bool accumulate, Context& ctx);

template <typename T>
void AddForwardNaive(absl::Span<const View<const T>> inputs, View<T> y, bool relu);
template <typename T>
void AddBackwardNaive(View<const T> dy, View<T> dx, bool accumulate);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_ADD_ADD_H_
