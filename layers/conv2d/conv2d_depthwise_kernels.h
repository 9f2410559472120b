// Internal: the kernels of depthwise convolution, for one piece of work each. Those called Strips
// are for kernel 3 with stride 1 or 2 and do every prologue and epilogue; those called Taps are for
// all kernels and strides and do none.
#ifndef CLASSICNN_LAYERS_CONV2D_CONV2D_DEPTHWISE_KERNELS_H_
#define CLASSICNN_LAYERS_CONV2D_CONV2D_DEPTHWISE_KERNELS_H_

#include <cstdint>

#include "layers/channel_sums.h"
#include "layers/conv2d/conv2d.h"

namespace classicnn {

// A piece of a tensor: the same rows of each of some images, the same channels of each pixel. The
// tensor is y in forward, dx in backward data, dy in backward weights. `group` numbers the pieces
// that have the same channels.
struct DepthwiseBlock {
  int64_t group;
  int64_t image0, image1;
  int64_t row0, row1;
  int64_t c0, c1;
  bool stream = false;  // y or dx is better written past the caches
};

// `moments` is used with statistics only, and takes the center of group 0 for all; `sums` with an
// epilogue only: it adds to them.
void DepthwiseForwardStrips(const Conv2dForwardArgs<float>& args, const DepthwiseBlock& block,
                            const MomentPieces& moments);
void DepthwiseBackwardDataStrips(const Conv2dBackwardDataArgs<float>& args,
                                 const DepthwiseBlock& block, const GradientSumPieces& sums);
// Adds to the block's channels of `partial`, laid out as dweights.
void DepthwiseBackwardWeightsStrips(const Conv2dBackwardWeightsArgs<float>& args,
                                    const DepthwiseBlock& block, float* partial);

void DepthwiseForwardTaps(const Conv2dForwardArgs<float>& args, const DepthwiseBlock& block);
void DepthwiseBackwardDataTaps(const Conv2dBackwardDataArgs<float>& args,
                               const DepthwiseBlock& block);
void DepthwiseBackwardWeightsTaps(const Conv2dBackwardWeightsArgs<float>& args,
                                  const DepthwiseBlock& block, float* partial);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_CONV2D_CONV2D_DEPTHWISE_KERNELS_H_
