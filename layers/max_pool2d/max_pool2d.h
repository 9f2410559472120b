// Max pooling.
//
//   y[n,oh,ow,c] = max over (r,s) of x[n, oh*stride - padding + r, ow*stride - padding + s, c]
//
// x       [N, H, W, C]     view
// y       [N, OH, OW, C]   view; OH = (H + 2*padding - kernel) / stride + 1, OW alike
// argmax  [N, OH, OW, C]   dense, one byte: r*kernel + s of the winner. Of equals the first one
//                          wins, in the order of r, s; a NaN over everything (PyTorch's rules).
// Padding never wins. Backward gives each output's gradient to its winner:
//   dx[n,h,w,c] = sum of dy[n,oh,ow,c] over the windows whose winner is (h, w).
//
// With an activation (layers/fusion.h) what is pooled is that of x, made as x is loaded. With an
// epilogue each row of dx is masked and summed while it is in the cache.
//
// kernel is at most 15 and padding at most kernel / 2. No overlap between tensors. Same bits on any
// number of threads: each dx is gathered, in a fixed order, by one thread.
// Cost: N*OH*OW*C*kernel^2 compares; tensor passes 2, each tensor at its own size; with an epilogue
// one more of x's size.
#ifndef CLASSICNN_LAYERS_MAX_POOL2D_MAX_POOL2D_H_
#define CLASSICNN_LAYERS_MAX_POOL2D_MAX_POOL2D_H_

#include <cstddef>
#include <cstdint>

#include "core/context.h"
#include "core/view.h"
#include "layers/fusion.h"
#include "layers/pool_shape.h"

namespace classicnn {

// argmax may be null where no backward follows.
void MaxPool2dForward(const Pool2dParams& params, ConstTensor x, Tensor y, uint8_t* argmax,
                      Context& ctx, const ActivationPrologue<float>& activation = {});

struct MaxPool2dBackwardArgs {
  Pool2dParams params;
  ConstTensor dy;
  const uint8_t* argmax = nullptr;
  Tensor dx;                         // overwritten, or added to:
  bool accumulate = false;           // dx += instead of dx =, before the epilogue's mask
  GradientEpilogue<float> epilogue;  // of dx
  Workspace workspace;               // only with an epilogue
};
void MaxPool2dBackward(const MaxPool2dBackwardArgs& args, Context& ctx);
size_t MaxPool2dBackwardWorkspaceBytes(const Pool2dParams& params, const Shape4& x);

// Without an epilogue.
inline void MaxPool2dBackward(const Pool2dParams& params, ConstTensor dy, const uint8_t* argmax,
                              Tensor dx, bool accumulate, Context& ctx) {
  MaxPool2dBackward({params, dy, argmax, dx, accumulate, {}, {}}, ctx);
}

// The naive references, without prologue and epilogue (layers/fusion_passes.h has theirs).
template <typename T>
void MaxPool2dForwardNaive(const Pool2dParams& params, View<const T> x, View<T> y, uint8_t* argmax);
template <typename T>
void MaxPool2dBackwardNaive(const Pool2dParams& params, View<const T> dy, const uint8_t* argmax,
                            View<T> dx, bool accumulate);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_MAX_POOL2D_MAX_POOL2D_H_
