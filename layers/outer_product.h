// The reduction over pixels of layers/gemm.h from operands that are packed first, a block of pixels
// at a time:
//
//   out[i][j] = sum over p of a[p][i] * b[p][j]
//
// Packing applies the prologues of layers/fusion.h. The products then read both operands front to
// back, whatever the pixel strides of the tensors. All but the first bit of a block is packed while
// what is already there is multiplied.
#ifndef CLASSICNN_LAYERS_OUTER_PRODUCT_H_
#define CLASSICNN_LAYERS_OUTER_PRODUCT_H_

#include <algorithm>
#include <cstdint>

#include "layers/fusion.h"
#include "layers/prefetch_queue.h"

namespace classicnn {

// A matrix of pixels times channels: from `data` on, channel `first` of the prologue's arrays.
struct OuterOperand {
  const float* data = nullptr;
  int64_t stride = 0;  // from one pixel to the next
  int64_t channels = 0;
  int64_t first = 0;
};

// Where `channels` of an operand are for up to `steps` pixels once they are packed:
// [blocks][steps][width].
struct OuterLayout {
  // Of a: (nearly) even blocks of the rows of the active target's register block.
  static OuterLayout Rows(int64_t channels, int64_t steps);
  // Of b, in panels.
  static OuterLayout Columns(int64_t channels, int64_t steps);

  int64_t Begin(int64_t block) const { return even ? channels * block / blocks : block * width; }
  int64_t End(int64_t block) const { return std::min(channels, Begin(block + 1)); }
  int64_t floats() const { return (blocks + 1) * block_stride; }  // one is packed ahead

  int64_t channels = 0;
  int64_t blocks = 0;
  int64_t width = 0;         // of a block's row
  int64_t block_stride = 0;  // floats from one block to the next
  bool even = false;
};

struct OuterReduction {
  OuterOperand a;                                         // its channels are the rows of out
  const ActivationPrologue<float>* activation = nullptr;  // of a; or null
  OuterOperand b;                                         // the columns
  const GradientPrologue<float>* gradient = nullptr;      // of b; or null
  const float* x = nullptr;  // of `gradient`, at the first pixel and channel of b
  int64_t pixels = 0;
  int64_t block_pixels = 0;   // at most, of a block
  float* packed_a = nullptr;  // OuterLayout::Rows(a.channels, block_pixels).floats()
  float* packed_b = nullptr;  // OuterLayout::Columns(b.channels, block_pixels).floats()
  float* out = nullptr;
  int64_t out_stride = 0;
};
// Queues what pixels [first, first + count) are read from.
void PrefetchOperandsOf(const OuterReduction& reduction, int64_t first, int64_t count,
                        PrefetchQueue* queue);
// `next`: the reduction that this thread will likely do after this one, or null; what it reads
// first is fetched.
void ReduceOuter(const OuterReduction& reduction, const OuterReduction* next);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_OUTER_PRODUCT_H_
