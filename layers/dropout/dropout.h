// Inverted dropout (Srivastava et al., 2014).
//
//   y  = keep ? x / (1 - p) : 0,   keep with probability 1 - p
//   dx = keep ? dy / (1 - p) : 0
//
// Element i (in the order n, h, w, c) is kept where
//   RandomStream(seed, stream, step).Uniform(i) >= p,
// so the mask is never stored: backward computes it again. All tensors [N, H, W, C], any pixel
// strides; y may be x itself, dx may be dy itself.  p is in [0, 1).
#ifndef CLASSICNN_LAYERS_DROPOUT_DROPOUT_H_
#define CLASSICNN_LAYERS_DROPOUT_DROPOUT_H_

#include <cstdint>

#include "core/context.h"
#include "core/view.h"

namespace classicnn {

struct DropoutParams {
  float p = 0.0f;
  uint64_t seed = 0;
  uint64_t stream = 0;  // StreamId of the layer's name
  uint64_t step = 0;
};

void DropoutForward(const DropoutParams& params, ConstTensor x, Tensor y, Context& ctx);
// dx is overwritten, or with accumulate added to (dx must then not be dy).
void DropoutBackward(const DropoutParams& params, ConstTensor dy, Tensor dx, bool accumulate,
                     Context& ctx);

template <typename T>
void DropoutForwardNaive(const DropoutParams& params, View<const T> x, View<T> y);
template <typename T>
void DropoutBackwardNaive(const DropoutParams& params, View<const T> dy, View<T> dx,
                          bool accumulate);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_DROPOUT_DROPOUT_H_
