// Rectified linear unit.
//
//   y = max(0, x)            NaN stays NaN
//   dx = y > 0 ? dy : 0      the mask is taken from y (y > 0 exactly where x > 0)
//
// All tensors [N, H, W, C], any pixel strides. y may be x itself; dx may be dy or y itself.
// Cost: forward 2 tensor passes, backward 3.
#ifndef CLASSICNN_LAYERS_RELU_RELU_H_
#define CLASSICNN_LAYERS_RELU_RELU_H_

#include "core/context.h"
#include "core/view.h"

namespace classicnn {

void ReluForward(ConstTensor x, Tensor y, Context& ctx);
// With accumulate, dx += instead of dx = (dx must then be neither dy nor y).
void ReluBackward(ConstTensor y, ConstTensor dy, Tensor dx, bool accumulate, Context& ctx);

template <typename T>
void ReluForwardNaive(View<const T> x, View<T> y);
template <typename T>
void ReluBackwardNaive(View<const T> y, View<const T> dy, View<T> dx, bool accumulate);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_RELU_RELU_H_
