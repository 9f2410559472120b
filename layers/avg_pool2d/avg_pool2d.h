// Average pooling; padding counts as zeros that take part in the average (PyTorch's default).
//
//   y[n,oh,ow,c] = sum over (r,s) of x[n, oh*stride - padding + r, ow*stride - padding + s, c]
//                  / kernel^2
//   dx[n,h,w,c]  = sum of dy[n,oh,ow,c] / kernel^2 over the windows that contain (h, w)
//
// x, dx [N, H, W, C]; y, dy [N, OH, OW, C]; views with any pixel stride, no overlap. padding is at
// most kernel / 2. Same bits on any number of threads.
//
// With statistics (layers/fusion.h) y's rows are summed while they are in the cache. With a
// gradient prologue, dy as read above is gain * dy + slope * gradient.x + offset, made as dy is
// loaded (gradient.x being the pooled tensor).
//
// Cost: N*OH*OW*C*kernel^2 additions; tensor passes 2, each tensor at its own size; with a gradient
// prologue one more of dy's size.
#ifndef CLASSICNN_LAYERS_AVG_POOL2D_AVG_POOL2D_H_
#define CLASSICNN_LAYERS_AVG_POOL2D_AVG_POOL2D_H_

#include <cstddef>

#include "core/context.h"
#include "core/view.h"
#include "layers/fusion.h"
#include "layers/pool_shape.h"

namespace classicnn {

// The workspace is used only with statistics.
void AvgPool2dForward(const Pool2dParams& params, ConstTensor x, Tensor y, Context& ctx,
                      const StatisticsEpilogue<float>& statistics = {}, Workspace workspace = {});
size_t AvgPool2dForwardWorkspaceBytes(const Pool2dParams& params, const Shape4& x);
// dx is overwritten, or with accumulate added to.
void AvgPool2dBackward(const Pool2dParams& params, ConstTensor dy, Tensor dx, bool accumulate,
                       Context& ctx, const GradientPrologue<float>& gradient = {});

// The naive references, without prologue and epilogue (layers/fusion_passes.h has theirs).
template <typename T>
void AvgPool2dForwardNaive(const Pool2dParams& params, View<const T> x, View<T> y);
template <typename T>
void AvgPool2dBackwardNaive(const Pool2dParams& params, View<const T> dy, View<T> dx,
                            bool accumulate);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_AVG_POOL2D_AVG_POOL2D_H_
