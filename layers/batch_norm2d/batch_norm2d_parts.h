// What the forward and the backward of batch normalization share.
#ifndef CLASSICNN_LAYERS_BATCH_NORM2D_BATCH_NORM2D_PARTS_H_
#define CLASSICNN_LAYERS_BATCH_NORM2D_BATCH_NORM2D_PARTS_H_

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "core/divide.h"
#include "core/view.h"
#include "layers/pieces.h"

namespace classicnn {

// Few channels waste vectors: of 16 lanes 3 channels fill 3. In a dense tensor, `group`
// neighbouring pixels are taken as one wide pixel of group * C channels instead, whose coefficients
// are those of the C channels repeated. 1 where that does not help.
inline constexpr int64_t kMaxFoldedChannels = 1024;
inline int64_t FoldedPixels(int64_t channels, bool dense, int64_t lanes) {
  if (!dense) return 1;
  constexpr int64_t kWide = 64;  // channels from which the loops over pixels cost little
  const int64_t whole_vectors = lanes / std::gcd(channels, lanes);
  const int64_t wide = whole_vectors * channels;
  const int64_t group = whole_vectors * DivideUp(kWide, wide);
  return group * channels <= kMaxFoldedChannels ? group : 1;
}

// Pixels as rows of wide pixels, and the pixels left over as one shorter row.
struct FoldedRows {
  FoldedRows(int64_t pixels, int64_t channels, int64_t group)
      : rows(pixels / group),
        columns(group * channels),
        last_columns(pixels % group * channels),
        group_(group) {}
  int64_t Stride(int64_t pixel_stride) const { return group_ * pixel_stride; }

  int64_t rows;
  int64_t columns;
  int64_t last_columns;

 private:
  int64_t group_;
};

// Elements of a coefficient or partial-sum array: holds the folded channels, and whole vectors.
inline int64_t FoldedWidth(int64_t channels) {
  return (std::max(channels, kMaxFoldedChannels) + 63) / 64 * 64;
}

// Repeats the first `channels` values `group` times.
inline void Repeat(float* values, int64_t channels, int64_t group) {
  for (int64_t i = channels; i < group * channels; ++i) values[i] = values[i - channels];
}

// Normalization as one multiply-add for each element, y = x * scale + shift. Backward evaluates the
// same expression to know where y > 0, so both must come from here.
inline void ScaleAndShift(const float* gamma, const float* beta, const float* mean,
                          const float* inv_std, int64_t channels, float* scale, float* shift) {
  for (int64_t c = 0; c < channels; ++c) {
    scale[c] = gamma[c] * inv_std[c];
    shift[c] = beta[c] - mean[c] * scale[c];
  }
}

// Pieces that each leave partial sums of every channel: fewer, because those are merged.
inline Pieces ReductionPieces(const Shape4& shape, int64_t num_tensors) {
  return Pieces(shape.pixels(), 4 * shape.c * num_tensors, /*max_pieces=*/256);
}
// Channels whose partial sums are merged by one thread at a time.
inline constexpr int64_t kMergedChannels = 64;

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_BATCH_NORM2D_BATCH_NORM2D_PARTS_H_
