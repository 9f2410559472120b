// Global average pooling.
//
//   y[n,0,0,c]  = sum over (h,w) of x[n,h,w,c] / (H*W)
//   dx[n,h,w,c] = dy[n,0,0,c] / (H*W)
//
// x, dx [N, H, W, C]; y, dy [N, 1, 1, C]; views with any pixel stride, no overlap. Same bits on any
// number of threads. With an activation (layers/fusion.h) what is averaged is that of x, made as x
// is loaded; an epilogue is applied as dx is stored.
// Cost: tensor passes 2, each tensor at its own size; with an epilogue one more of x's size.
#ifndef CLASSICNN_LAYERS_GLOBAL_AVG_POOL2D_GLOBAL_AVG_POOL2D_H_
#define CLASSICNN_LAYERS_GLOBAL_AVG_POOL2D_GLOBAL_AVG_POOL2D_H_

#include <cstddef>

#include "core/context.h"
#include "core/view.h"
#include "layers/fusion.h"

namespace classicnn {

void GlobalAvgPool2dForward(ConstTensor x, Tensor y, Context& ctx,
                            const ActivationPrologue<float>& activation = {});
// dx is overwritten, or with accumulate added to (before the epilogue's mask). The workspace is
// used only with an epilogue.
void GlobalAvgPool2dBackward(ConstTensor dy, Tensor dx, bool accumulate, Context& ctx,
                             const GradientEpilogue<float>& epilogue = {},
                             Workspace workspace = {});
size_t GlobalAvgPool2dBackwardWorkspaceBytes(const Shape4& x);

// The naive references, without prologue and epilogue (layers/fusion_passes.h has theirs).
template <typename T>
void GlobalAvgPool2dForwardNaive(View<const T> x, View<T> y);
template <typename T>
void GlobalAvgPool2dBackwardNaive(View<const T> dy, View<T> dx, bool accumulate);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_GLOBAL_AVG_POOL2D_GLOBAL_AVG_POOL2D_H_
