// The prologues and epilogues of layers/fusion.h on rows of channels, for kernels that work on a
// block of pixels at a time while it is in the cache.
//
// A block is `rows` pixels of `channels` floats, `..._stride` floats from one pixel to the next.
// `first` is the channel of the layer's arrays that the block's first column belongs to. Nothing
// is read or written beyond the block's channels.
#ifndef CLASSICNN_LAYERS_CHANNEL_ROWS_H_
#define CLASSICNN_LAYERS_CHANNEL_ROWS_H_

#include <cstdint>

#include "layers/fusion.h"

namespace classicnn {

// to = relu(x * scale + shift); `to` may be x.
void ActivateRows(const ActivationPrologue<float>& activation, int64_t first, const float* x,
                  int64_t x_stride, int64_t rows, int64_t channels, float* to, int64_t to_stride);

// to = gain * dy + slope * x + offset, with x the block of gradient.x at the same pixels; `to` may
// be dy.
void GradientRows(const GradientPrologue<float>& gradient, int64_t first, const float* dy,
                  int64_t dy_stride, const float* x, int64_t rows, int64_t channels, float* to,
                  int64_t to_stride);

// Adds y - center to `sum` and its square to `sum_of_squares`, all three of `channels` floats.
void AddMomentRows(const float* y, int64_t y_stride, int64_t rows, int64_t channels,
                   const float* center, float* sum, float* sum_of_squares);

// What GradientEpilogue says, with x the block of epilogue.x at the same pixels; dx may be da. Adds
// g and g * (x - mean) to the sums, `channels` floats each.
void GradientEpilogueRows(const GradientEpilogue<float>& epilogue, int64_t first, const float* da,
                          int64_t da_stride, const float* x, int64_t rows, int64_t channels,
                          float* dx, int64_t dx_stride, float* sum_g, float* sum_gx);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_CHANNEL_ROWS_H_
