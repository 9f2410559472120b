// Sums over pixels that the pieces of a parallel loop leave for each channel, and their merging in
// a fixed order, so that the result has the same bits on any number of threads.
#ifndef CLASSICNN_LAYERS_CHANNEL_SUMS_H_
#define CLASSICNN_LAYERS_CHANNEL_SUMS_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "core/context.h"
#include "core/view.h"
#include "layers/fusion.h"

namespace classicnn {

// For StatisticsEpilogue: pixels, and sums of deviations and of their squares from a center that
// each piece chooses for itself.
class MomentPieces {
 public:
  static size_t Bytes(int64_t pieces, int64_t channels) {
    return Workspace::BytesFor<float>(3 * pieces * channels) + Workspace::BytesFor<int64_t>(pieces);
  }
  MomentPieces(int64_t pieces, int64_t channels, Workspace* workspace)
      : pieces_(pieces),
        channels_(channels),
        sums_(workspace->Take<float>(3 * pieces * channels)),
        pixels_(workspace->Take<int64_t>(pieces)) {}

  // [channels] each; the owner of a piece fills all of them, and the pixels.
  float* center(int64_t piece) const { return sums_ + 3 * piece * channels_; }
  float* sum(int64_t piece) const { return center(piece) + channels_; }
  float* sum_of_squares(int64_t piece) const { return center(piece) + 2 * channels_; }
  int64_t& pixels(int64_t piece) const { return pixels_[piece]; }

  // The pixels of `rows` (at least one) are those of this piece: a center from a few of them, for
  // channels [begin, begin + count), and sums that start at zero.
  void Begin(int64_t piece, int64_t begin, int64_t count, const float* rows, int64_t stride,
             int64_t num_rows) const;

  // Writes (all channels of) statistics.mean and .var.
  void Merge(const StatisticsEpilogue<float>& statistics, Context& ctx) const;

 private:
  int64_t pieces_;
  int64_t channels_;
  float* sums_;
  int64_t* pixels_;
};

// Sums of pieces, [num_pieces][to.size()][channels] in `sums`: to[i][c] is the total of the i-th
// over all pieces, one after the other in double.
void MergePieceSums(const float* sums, int64_t num_pieces, int64_t channels,
                    absl::Span<float* const> to, Context& ctx);

// For GradientEpilogue: the sums of g and of g * (x - mean).
class GradientSumPieces {
 public:
  static size_t Bytes(int64_t pieces, int64_t channels) {
    return Workspace::BytesFor<float>(2 * pieces * channels);
  }
  GradientSumPieces(int64_t pieces, int64_t channels, Workspace* workspace)
      : pieces_(pieces),
        channels_(channels),
        sums_(workspace->Take<float>(2 * pieces * channels)) {}

  // [channels] each; Clear sets both to zero for channels [begin, begin + count).
  float* sum_g(int64_t piece) const { return sums_ + 2 * piece * channels_; }
  float* sum_gx(int64_t piece) const { return sum_g(piece) + channels_; }
  void Clear(int64_t piece, int64_t begin, int64_t count) const;

  // Writes epilogue.sum_g and .sum_gx.
  void Merge(const GradientEpilogue<float>& epilogue, Context& ctx) const;

 private:
  int64_t pieces_;
  int64_t channels_;
  float* sums_;
};

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_CHANNEL_SUMS_H_
