// The prologues and epilogues of layers/fusion.h as passes of their own, for layers (or shapes of
// them) that cannot do them on the way. Memory-bound; any pixel strides; same bits on any number of
// threads.
#ifndef CLASSICNN_LAYERS_FUSION_PASSES_H_
#define CLASSICNN_LAYERS_FUSION_PASSES_H_

#include <cstddef>

#include "core/context.h"
#include "core/view.h"
#include "layers/fusion.h"

namespace classicnn {

// y = relu(x * scale + shift); y may be x. 2 tensor passes.
void ActivationPass(const ActivationPrologue<float>& activation, const ConstTensor& x,
                    const Tensor& y, Context& ctx);
// to = gain * dy + slope * gradient.x + offset; `to` may be dy. 3 tensor passes.
void GradientPass(const GradientPrologue<float>& gradient, const ConstTensor& dy, const Tensor& to,
                  Context& ctx);
// Mean and variance of y. 1 tensor pass.
void StatisticsPass(const StatisticsEpilogue<float>& statistics, const ConstTensor& y,
                    Workspace workspace, Context& ctx);
size_t StatisticsPassWorkspaceBytes(const Shape4& shape);
// dx from da as the epilogue says; dx may be da. 3 tensor passes, 4 with add.
void GradientEpiloguePass(const GradientEpilogue<float>& epilogue, const ConstTensor& da,
                          const Tensor& dx, Workspace workspace, Context& ctx);
size_t GradientEpiloguePassWorkspaceBytes(const Shape4& shape);

// The naive references: plain loops, sums in double, for float and double.
template <typename T>
void ActivationPassNaive(const ActivationPrologue<T>& activation, const View<const T>& x,
                         const View<T>& y);
template <typename T>
void GradientPassNaive(const GradientPrologue<T>& gradient, const View<const T>& dy,
                       const View<T>& to);
template <typename T>
void StatisticsPassNaive(const StatisticsEpilogue<T>& statistics, const View<const T>& y);
template <typename T>
void GradientEpiloguePassNaive(const GradientEpilogue<T>& epilogue, const View<const T>& da,
                               const View<T>& dx);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_FUSION_PASSES_H_
