// Internal: both backwards of the pointwise algorithm in one sweep (Conv2dBackward), where reading
// the tensors takes long beside the products: few channels and many pixels.
//
// A tile of pixels at a time: the gradient after its prologue goes to scratch, which both products
// read; the input's pixels serve the epilogue of backward data and, after their own prologue,
// backward weights, before they leave the caches. So each tensor is read from memory once. Tiles
// are summed in runs, by shape alone, each with partial sums of the weights' gradient of its own.
#ifndef CLASSICNN_LAYERS_CONV2D_CONV2D_POINTWISE_BACKWARD_H_
#define CLASSICNN_LAYERS_CONV2D_CONV2D_POINTWISE_BACKWARD_H_

#include <cstddef>

#include "core/context.h"
#include "layers/conv2d/conv2d.h"

namespace classicnn {

// Of a shape that the pointwise algorithm supports. The functions mean what they do in
// Conv2dAlgorithmOps.
bool PointwisePrefersBackward(const Conv2dShape& shape);
size_t PointwiseBackwardWorkspaceBytes(const Conv2dShape& shape, int num_threads,
                                       const Conv2dFusion& fusion);
void PointwiseBackward(const Conv2dBackwardDataArgs<float>& data,
                       const Conv2dBackwardWeightsArgs<float>& weights, Context& ctx);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_CONV2D_CONV2D_POINTWISE_BACKWARD_H_
