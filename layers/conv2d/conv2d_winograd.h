// Winograd's minimal filtering F(4x4, 3x3), F(2x2, 3x3), F(4x4, 5x5) and F(2x2, 5x5) for
// layers/conv2d/conv2d.h: kernel 3 or 5, stride 1, one group, all three passes.
//
// Images are cut into tiles of 4 x 4 outputs, which need 6 x 6 inputs under a 3 x 3 filter. Tiles
// and weights are transformed (conv2d_winograd_transforms-inl.h); then one matrix product [tiles,
// C] x [C, K] for each of the 36 points replaces 144 multiply-adds of an output tile by 36. F(2x2,
// 3x3) needs 16 for 36: less of a gain, less wasted at the edges of small images. F(4x4, 5x5) has 8
// x 8 inputs, 64 products for 400; F(2x2, 5x5) 6 x 6, 36 for 100. Padding and ragged edges are read
// as zeros and clipped on writing; nothing is copied.
//
// Results differ from the direct sum by rounding of transformed values, below 5e-5 of the output's
// standard deviation for F(4x4, 3x3) and F(2x2, 5x5) and below 1.25e-4 for F(4x4, 5x5), on normal
// data with up to 512 channels. They do not depend on the number of threads.
#ifndef CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_H_
#define CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_H_

#include "layers/conv2d/algorithms.h"

namespace classicnn {

extern const Conv2dAlgorithmOps kConv2dWinograd4Ops;
extern const Conv2dAlgorithmOps kConv2dWinograd2Ops;
extern const Conv2dAlgorithmOps kConv2dWinograd2x5Ops;
extern const Conv2dAlgorithmOps kConv2dWinograd4x5Ops;

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_H_
