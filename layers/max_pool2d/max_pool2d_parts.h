// Internal: what both directions of max pooling share.
#ifndef CLASSICNN_LAYERS_MAX_POOL2D_MAX_POOL2D_PARTS_H_
#define CLASSICNN_LAYERS_MAX_POOL2D_MAX_POOL2D_PARTS_H_

#include <cstdint>

#include "layers/max_pool2d/max_pool2d.h"

namespace classicnn {

// CNN_CHECKs the parameters, and that y is what pooling x gives.
void CheckMaxPool2dShapes(const Pool2dParams& params, const Shape4& x, const Shape4& y);

// Rows of outputs of an image that are walked together, or 0 where windows are not 3 x 3 in steps
// of 1 or 2, padded by 1. More would spare more compares, but they are as many streams of memory,
// which lie in the same sets of the first-level cache where images are 32 pixels wide.
inline constexpr int64_t kMaxPoolMaxStripRows = 4;
inline int64_t MaxPoolStripRows(const Pool2dParams& params) {
  if (params.kernel != 3 || params.padding != 1 || params.stride > 2) return 0;
  return params.stride == 1 ? kMaxPoolMaxStripRows : 1;
}

// Likewise rows of inputs, where gradients are gathered.
inline constexpr int64_t kMaxPoolGatherRows = 4;

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_MAX_POOL2D_MAX_POOL2D_PARTS_H_
