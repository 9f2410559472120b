// Depthwise convolution (groups == C == K) of layers/conv2d/conv2d.h: each channel is filtered on
// its own, so the vectors run along channels and nothing is ever packed or transposed.
//
// Few multiply-adds for every element moved: memory bandwidth is the bound. Small blocks of output
// pixels (2 x 4 for kernel 3, stride 1) walk along the channels together, so memory is read as a
// few dozen sequential streams and each input element is loaded twice instead of nine times. Kernel
// 3 with stride 1 or 2 has such blocks; every other kernel and stride takes a list of taps per
// pixel.
//
// A tap outside the image is read from a row of zeros (and multiplied: an infinite weight makes it
// NaN), a pixel outside dx is written to a spare row: no branch for borders in any inner loop.
#ifndef CLASSICNN_LAYERS_CONV2D_CONV2D_DEPTHWISE_H_
#define CLASSICNN_LAYERS_CONV2D_CONV2D_DEPTHWISE_H_

#include "layers/conv2d/algorithms.h"

namespace classicnn {

// Every depthwise shape and pass.
//
// Forward and backward data are cut into runs of rows; backward data is a gather (each dx pixel
// sums its taps), at stride 2 by phase, without multiplications by inserted zeros. Backward weights
// sums over fixed groups of images (a power of two that depends on the image's size), combined by a
// binary tree.
// Workspace: a row of zeros; backward data a spare row for each thread; backward weights a partial
// gradient for each group of images, 8 MB at most.
extern const Conv2dAlgorithmOps kConv2dDepthwiseOps;

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_CONV2D_CONV2D_DEPTHWISE_H_
