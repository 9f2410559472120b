// Internal: Winograd's forward pass and backward data, which are both a WinogradCorrelation.
#ifndef CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_CORRELATION_H_
#define CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_CORRELATION_H_

#include <cstddef>
#include <cstdint>

#include "core/context.h"
#include "core/view.h"
#include "layers/conv2d/conv2d_winograd_kernels.h"

namespace classicnn {

// `depth` channels in, an output of `out`'s shape, with the epilogue that `fusion` has.
size_t WinogradCorrelateWorkspaceBytes(const WinogradKernels& k, const Shape4& out, int64_t depth,
                                       int num_threads, const Conv2dFusion& fusion);
// Pieces of its main loop, which that many threads share.
int64_t WinogradCorrelatePieces(const WinogradKernels& k, const Shape4& out, int64_t depth,
                                int num_threads);
// `zone` is a string literal; c.in.zeros is set here.
void WinogradCorrelate(const char* zone, const WinogradKernels& k, WinogradCorrelation c,
                       Workspace workspace, Context& ctx);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_CORRELATION_H_
