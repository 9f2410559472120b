// The reduction over pixels of layers/outer_product.h where one of the operands has few channels:
//
//   out[i][j] = sum over p of narrow[p][i] * wide[p][j]
//
// There are too few products for each value of the wide operand to pay for packing it. It is read
// in place, a vector at a time, with its prologue, and meets up to 24 channels of the narrow one,
// which are packed, while it is in a register. Where the narrow operand is `b`, the result is the
// transposed one.
#ifndef CLASSICNN_LAYERS_NARROW_PRODUCT_H_
#define CLASSICNN_LAYERS_NARROW_PRODUCT_H_

#include <cstdint>

#include "layers/outer_product.h"

namespace classicnn {

// Whether the active target's multiply-add broadcasts an operand from memory by itself, as
// AVX-512's does: elsewhere ReduceOuter is faster.
bool HasNarrowProduct();

// Floats of a packed pixel, and of a block of them, of a narrow operand of `channels`.
int64_t NarrowStride(int64_t channels);
inline int64_t NarrowPackedFloats(int64_t channels, int64_t block_pixels) {
  return NarrowStride(channels) * block_pixels;
}

// Of `operands`: a, activation, b, gradient, x, pixels, block_pixels as of ReduceOuter; packed_a is
// for the narrow operand, NarrowPackedFloats; out is [narrow channels][out_stride].
struct NarrowReduction {
  OuterReduction operands;
  bool narrow_b = false;  // else a is
};
// `next` as of ReduceOuter.
void ReduceNarrow(const NarrowReduction& reduction, const NarrowReduction* next);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_NARROW_PRODUCT_H_
