// Internal: convolutions of few pixels and many channels, which are bound by reading their weights:
// the last layers of a network for one image. One group, input channels a multiple of 4, output
// channels a multiple of 16.
//
// Weights are read once, in the order of memory, and never copied: a piece of work is a tap and a
// range of input channels (forward: of output channels, too), for all pixels under the tap. Forward
// multiplies by rows of the weights; backward data takes scalar products with them, as their rows
// lie along what is summed over; and backward weights can update a piece's weights while their
// gradient is in the cache. The sums of pieces are added in the order of taps and channels.
#ifndef CLASSICNN_LAYERS_CONV2D_CONV2D_FEW_PIXELS_H_
#define CLASSICNN_LAYERS_CONV2D_CONV2D_FEW_PIXELS_H_

#include "layers/conv2d/algorithms.h"

namespace classicnn {

// Pixels of all images together, in the input and in the output.
inline constexpr int64_t kMaxFewPixels = 64;

extern const Conv2dAlgorithmOps kConv2dFewPixelsOps;

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_CONV2D_CONV2D_FEW_PIXELS_H_
