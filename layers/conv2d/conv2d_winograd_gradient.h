// Internal: Winograd's backward pass by the weights.
#ifndef CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_GRADIENT_H_
#define CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_GRADIENT_H_

#include <cstddef>
#include <cstdint>

#include "core/context.h"
#include "layers/conv2d/conv2d.h"

namespace classicnn {

// Pieces of the loop with the products, which that many threads share.
int64_t WinogradGradientPieces(int64_t tile, const Conv2dShape& shape, int num_threads);
size_t WinogradGradientWorkspaceBytes(int64_t tile, const Conv2dShape& shape, int num_threads);
void WinogradGradient(int64_t tile, const Conv2dBackwardWeightsArgs<float>& args, Context& ctx);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_GRADIENT_H_
