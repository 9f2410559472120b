// Internal: the pointwise algorithm, a GEMM over pixels: kernel 1, stride 1, padding 0, one group.
// It is the direct algorithm's product with a single tap.
#ifndef CLASSICNN_LAYERS_CONV2D_CONV2D_POINTWISE_H_
#define CLASSICNN_LAYERS_CONV2D_CONV2D_POINTWISE_H_

#include "layers/conv2d/algorithms.h"

namespace classicnn {

extern const Conv2dAlgorithmOps kConv2dPointwiseOps;

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_CONV2D_CONV2D_POINTWISE_H_
