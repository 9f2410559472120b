// Internal: the direct algorithm, an implicit GEMM over the taps of the window. Any kernel, stride,
// padding and number of groups. Backward data takes the input's pixels by their position modulo the
// stride, so that each is summed over just the taps that reach it.
#ifndef CLASSICNN_LAYERS_CONV2D_CONV2D_DIRECT_H_
#define CLASSICNN_LAYERS_CONV2D_CONV2D_DIRECT_H_

#include "layers/conv2d/algorithms.h"

namespace classicnn {

extern const Conv2dAlgorithmOps kConv2dDirectOps;

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_CONV2D_CONV2D_DIRECT_H_
