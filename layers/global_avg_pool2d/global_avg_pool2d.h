// Global average pooling.
//
//   y[n,0,0,c]  = sum over (h,w) of x[n,h,w,c] / (H*W)
//   dx[n,h,w,c] = dy[n,0,0,c] / (H*W)
//
// x, dx [N, H, W, C]; y, dy [N, 1, 1, C]; views with any pixel stride, no overlap. Same bits on any
// number of threads. Cost: tensor passes 2, each tensor at its own size.
#ifndef CLASSICNN_LAYERS_GLOBAL_AVG_POOL2D_GLOBAL_AVG_POOL2D_H_
#define CLASSICNN_LAYERS_GLOBAL_AVG_POOL2D_GLOBAL_AVG_POOL2D_H_

#include "core/context.h"
#include "core/view.h"

namespace classicnn {

void GlobalAvgPool2dForward(ConstTensor x, Tensor y, Context& ctx);
// dx is overwritten, or with accumulate added to.
void GlobalAvgPool2dBackward(ConstTensor dy, Tensor dx, bool accumulate, Context& ctx);

template <typename T>
void GlobalAvgPool2dForwardNaive(View<const T> x, View<T> y);
template <typename T>
void GlobalAvgPool2dBackwardNaive(View<const T> dy, View<T> dx, bool accumulate);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_GLOBAL_AVG_POOL2D_GLOBAL_AVG_POOL2D_H_
