// Products over the taps of a window that slides over an image: forward and backward data of a
// convolution, and of a fully connected layer (one tap, images of one pixel).
//
//   out[n, first_h + i*out_step, first_w + j*out_step, k] (+)= bias[k] + sum over (t,c) of
//       in[n, i*in_step + t.h, j*in_step + t.w, c] * w[t.weights + c*row_stride + k*column_stride]
//
// for taps t, channels c and (i, j) in [0, h) x [0, w); `in` outside its image is zero. An implicit
// GEMM (layers/gemm.h): the weights are packed into the workspace once (where few pixels meet them
// panel by panel), or read in place where they are one small matrix, the input is read in place
// through pointers, and taps that fall outside the image for a whole register block are left out.
// Small images are first copied to an order that makes this the rule. Where a pixel has but a few
// channels, they are gathered for all taps first.
//
// Prologues (layers/fusion.h) are done tile by tile in scratch, or in the copy; epilogues on each
// panel's sums while they are in the cache.
#ifndef CLASSICNN_LAYERS_TAP_PRODUCT_H_
#define CLASSICNN_LAYERS_TAP_PRODUCT_H_

#include <cstddef>
#include <cstdint>

#include "core/context.h"
#include "core/view.h"
#include "layers/channel_sums.h"
#include "layers/fusion.h"
#include "layers/gemm.h"
#include "layers/tap_runs.h"

namespace classicnn {

struct TapProduct {
  ConstTensor in;  // `in.c` channels are summed over
  Tensor out;      // all of its `out.c` channels are written
  int64_t h = 1;   // lattice of the pixels of `out` that are written
  int64_t w = 1;
  int64_t first_h = 0;
  int64_t first_w = 0;
  int64_t out_step = 1;
  int64_t in_step = 1;
  const Tap* taps = nullptr;
  int64_t num_taps = 0;  // 0: the sums are zero
  const float* weights = nullptr;
  int64_t weight_row_stride = 0;  // this or the other is 1
  int64_t weight_column_stride = 0;
  GemmEpilogue epilogue;
  // Of `in`, where TapProductTakesPrologue; one of them at most.
  ActivationPrologue<float> activation;
  GradientPrologue<float> gradient;
  // The sums of `out` go to pieces [first_piece, first_piece + TapProductPieces) of these. Merging
  // them is up to the caller: an output may be made by several products.
  const MomentPieces* moments = nullptr;
  GradientEpilogue<float> gradient_epilogue;  // no bias then
  const GradientSumPieces* gradient_sums = nullptr;
  int64_t first_piece = 0;
};

// What the scratch and the cut of a product depend on; meanings as above.
struct TapProductSize {
  int64_t images = 1;
  int64_t h = 1;
  int64_t w = 1;
  int64_t in_h = 1;
  int64_t in_w = 1;
  int64_t num_taps = 1;
  int64_t in_channels = 1;
  int64_t out_channels = 1;
  bool prologue = false;
  bool gradient_epilogue = false;
};

TapProductSize SizeOf(const TapProduct& product);
// Whether products of this size can have a prologue: those of one tap, the pixel itself, and small
// images.
bool TapProductTakesPrologue(const TapProductSize& size);
// How many pieces have sums of their own.
int64_t TapProductPieces(const TapProductSize& size);
// Scratch for a product of exactly this size on exactly so many threads; without that of pieces.
size_t TapProductWorkspaceBytes(const TapProductSize& size, int num_threads);
// Whether no multiply-adds are spent on taps outside the image: small images are multiplied
// position by position, a register block being the same pixel of several images.
bool TapProductSkipsPadding(const TapProductSize& size);
// `zone` is a string literal.
void RunTapProduct(const char* zone, const TapProduct& product, Workspace workspace, Context& ctx);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_TAP_PRODUCT_H_
