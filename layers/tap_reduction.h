// Sums over pixels for the taps of a sliding window: backward weights of a convolution and of a
// fully connected layer (one tap, images of one pixel).
//
//   out[t.weights + c*out_stride + k] = sum over (n, i, j) of
//       in[n, i*in_step + t.h, j*in_step + t.w, c] * grad[n, i, j, k]
//
// `in` outside its image is zero: such terms are left out. Images (or lines of few images) are
// summed in fixed groups whose partial sums are added as a binary tree; where that would take more
// than 8 MB they are summed in order and the work is cut over taps and channels instead. Prologues
// (layers/fusion.h) are done for a block of pixels at a time, in scratch.
#ifndef CLASSICNN_LAYERS_TAP_REDUCTION_H_
#define CLASSICNN_LAYERS_TAP_REDUCTION_H_

#include <cstddef>
#include <cstdint>

#include "core/context.h"
#include "core/view.h"
#include "layers/fusion.h"
#include "layers/tap_product.h"

namespace classicnn {

struct TapReduction {
  ConstTensor in;
  ConstTensor grad;
  int64_t in_step = 1;
  const Tap* taps = nullptr;
  int64_t num_taps = 0;
  float* out = nullptr;  // taps follow each other: t.weights == t * in.c * out_stride
  int64_t out_stride = 0;
  ActivationPrologue<float> activation;  // of in, where TapReductionTakesActivation
  GradientPrologue<float> gradient;      // of grad
};

// What the scratch and the cut of a reduction depend on; meanings as above.
struct TapReductionSize {
  int64_t images = 1;
  int64_t h = 1;  // of grad
  int64_t w = 1;
  int64_t in_h = 1;
  int64_t in_w = 1;
  int64_t in_step = 1;
  int64_t num_taps = 1;
  int64_t tap_rows = 1;  // from the first row of taps to the last
  int64_t in_channels = 1;
  int64_t grad_channels = 1;
  bool activation = false;
  bool gradient = false;
};

// Not with taps of few channels, nor where parts of the taps would each have to transform the same
// pixels.
bool TapReductionTakesActivation(const TapReductionSize& size);
// For exactly so many threads.
size_t TapReductionWorkspaceBytes(const TapReductionSize& size, int num_threads);
// `zone` is a string literal.
void RunTapReduction(const char* zone, const TapReduction& reduction, Workspace workspace,
                     Context& ctx);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_TAP_REDUCTION_H_
