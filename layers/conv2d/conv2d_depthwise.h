// Depthwise convolution (groups == C == K) of layers/conv2d/conv2d.h: each channel is filtered on
// its own, so the vectors run along channels and nothing is ever packed or transposed.
//
// Few multiply-adds for every element moved: memory bandwidth is the bound. With kernel 3 and
// stride 1 or 2 strips of up to four output pixels walk down a band of rows, a vector of channels
// at a time, with the sums that a row of the input reaches in registers: each element is loaded
// once (twice at the strips' edges), and prologues and epilogues (layers/fusion.h) cost arithmetic
// only. Every other kernel and stride takes a list of taps per pixel and leaves prologues and
// epilogues to passes of their own.
//
// Taps outside the image: whole rows are skipped, columns multiplied as zeros (an infinite weight
// makes them NaN). No branch for columns in any inner loop.
//
// Both backwards in one sweep read dy and x from memory once. Large outputs are written past the
// caches where vectors are cache lines (AVX-512).
#ifndef CLASSICNN_LAYERS_CONV2D_CONV2D_DEPTHWISE_H_
#define CLASSICNN_LAYERS_CONV2D_CONV2D_DEPTHWISE_H_

#include "layers/conv2d/algorithms.h"

namespace classicnn {

// Every depthwise shape and pass.
//
// Work is cut into groups of images (bands of rows where images are few and large) and chunks of
// channels. Backward data is a gather (each dx pixel sums its taps), at stride 2 by phase, without
// multiplications by inserted zeros. Backward weights sums over fixed groups of images, a power of
// two that depends on the image's size, combined by a binary tree; both backwards are cut alike.
// Workspace: partial sums of epilogues for each group; backward weights a partial gradient for each
// group, 8 MB at most.
extern const Conv2dAlgorithmOps kConv2dDepthwiseOps;

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_CONV2D_CONV2D_DEPTHWISE_H_
