// Internal to layers/tap_reduction: how a reduction is cut.
#ifndef CLASSICNN_LAYERS_TAP_REDUCTION_CUT_H_
#define CLASSICNN_LAYERS_TAP_REDUCTION_CUT_H_

#include <cstdint>

#include "layers/tap_reduction.h"

namespace classicnn {

// How the sums of a block of pixels are taken.
enum class TapReductionKind {
  kSteps,   // GemmOuter, from tables of where each pixel's rows are
  kPacked,  // layers/outer_product.h: both operands are packed
  kNarrow   // layers/narrow_product.h: one has few channels
};

// Groups of images (or of lines of few images), and within each group parts of the result: ranges
// of taps, of grad's channels (columns) and of in's channels (rows). What is summed together, that
// is groups and blocks of pixels, does not depend on the number of threads.
struct TapReductionCut {
  static constexpr int64_t kMaxPartialBytes = 8 << 20;
  static constexpr int64_t kPieces = 64;  // as many as threads should find work
  static constexpr int64_t kFewPieces = 8;
  // Of kPacked and kNarrow, no more than threads want: each part of a group reads, and packs, a
  // part of each pixel's channels.
  static constexpr int64_t kPiecesPerThread = 4;
  static constexpr int64_t kMinGroupPixels = 256;
  static constexpr int64_t kBlockPixels =
      64;  // reduced at once: their rows stay in the first-level cache
  static constexpr int64_t kColumnRange = 64;  // least width worth a part of its own
  static constexpr int64_t kRowRange = 56;
  // What is packed: a panel of a block stays in the first-level cache, all of it in the second.
  static constexpr int64_t kMaxPackedPixels = 128;
  static constexpr int64_t kMinPackedPixels = 64;
  static constexpr int64_t kPackedFloats = 128 << 10;
  static constexpr int64_t kPartFloats = 64 << 10;  // likewise the sums of a part
  static constexpr int64_t kMaxNarrow = 48;         // channels; more are no faster than packed

  TapReductionCut(const TapReductionSize& size, int num_threads);

  int64_t parts() const { return tap_parts * column_parts * row_parts; }
  int64_t partials() const { return narrow_grad ? groups : groups - 1; }

  TapReductionKind kind;
  bool narrow_grad;  // grad is the narrow one: the partial sums of all groups are transposed
  bool gathers;
  int64_t segments;  // matrices of the result, each rows x columns: one for each tap, or for all
  int64_t rows;
  int64_t gather_stride;  // of a gathered row, or 0
  int64_t result_floats;
  int64_t partial_stride;  // from one group's partial sums to the next's, over the sets of a cache
  int64_t groups = 1;  // a power of two; the first sums into the result (but of narrow_grad), the
                       // others into partials
  int64_t tap_parts = 1;
  int64_t column_parts = 1;
  int64_t row_parts = 1;
  int64_t block_pixels = 0;
  int64_t part_rows = 0;  // kPacked: at most
  int64_t part_columns = 0;
  int64_t grad_stride = 0;  // of a pixel of grad's copy; 0 where no target needs one
  int64_t in_stride = 0;    // of a pixel of in's copy; 0 without a prologue
  int64_t in_pixels = 0;    // at most

 private:
  void CutGroups(const TapReductionSize& size);
  void CutSteps(const TapReductionSize& size);
  void CutPacked(const TapReductionSize& size, int num_threads);
  void CutNarrow(const TapReductionSize& size, int num_threads);
  void CutSquare(int64_t columns, int64_t wanted);
};

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_TAP_REDUCTION_CUT_H_
