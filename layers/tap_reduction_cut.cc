#include "layers/tap_reduction_cut.h"

#include <algorithm>
#include <cstdint>

#include "core/divide.h"
#include "layers/gemm.h"
#include "layers/narrow_product.h"
#include "layers/tap_runs.h"

namespace classicnn {
namespace {

// An odd number of lines, so that pixels spread over the sets of a cache.
int64_t Padded(int64_t floats) { return DivideUp(floats, 16) / 2 * 32 + 16; }

TapReductionKind KindFor(const TapReductionSize& size) {
  const bool own_pixels = size.num_taps == 1 && size.in_step == 1 && size.h == size.in_h &&
                          size.w == size.in_w;  // those of both tensors are the same
  if (!own_pixels) return TapReductionKind::kSteps;
  const int64_t narrow = std::min(size.in_channels, size.grad_channels);
  const int64_t wide = std::max(size.in_channels, size.grad_channels);
  if (narrow <= TapReductionCut::kMaxNarrow && wide >= kGemmMaxLanes && HasNarrowProduct()) {
    return TapReductionKind::kNarrow;
  }
  // Worth it for a prologue, or where each pixel meets many rows.
  return size.activation || size.gradient || size.in_channels > 64 ? TapReductionKind::kPacked
                                                                   : TapReductionKind::kSteps;
}

// From the first pixel under the taps of a block to the last.
int64_t MaxWindowPixels(const TapReductionSize& size, int64_t block_pixels) {
  const int64_t lines = DivideUp(block_pixels, size.w) + 1;
  const int64_t images = DivideUp(block_pixels, size.h * size.w) + 1;
  const int64_t rows_below = std::max<int64_t>(0, size.in_h - size.h * size.in_step);
  const int64_t in_rows =
      lines * size.in_step + images * rows_below + 2 * size.tap_rows + size.in_step;
  return std::min(size.images * size.in_h, in_rows) * size.in_w;
}

}  // namespace

TapReductionCut::TapReductionCut(const TapReductionSize& size, int num_threads)
    : kind(KindFor(size)),
      narrow_grad(kind == TapReductionKind::kNarrow && size.grad_channels < size.in_channels),
      gathers(GathersTaps(size.num_taps, size.in_channels)),
      segments(gathers ? 1 : size.num_taps),
      rows(gathers ? size.num_taps * size.in_channels : size.in_channels),
      gather_stride(gathers ? GatherStride(size.num_taps, size.in_channels) : 0),
      result_floats(size.num_taps * size.in_channels * size.grad_channels),
      partial_stride(DivideUp(result_floats, 16) * 16 + 16) {
  CutGroups(size);
  switch (kind) {
    case TapReductionKind::kSteps:
      CutSteps(size);
      break;
    case TapReductionKind::kPacked:
      CutPacked(size, num_threads);
      break;
    case TapReductionKind::kNarrow:
      CutNarrow(size, num_threads);
      break;
  }
}

void TapReductionCut::CutGroups(const TapReductionSize& size) {
  const int64_t images = size.images;
  const int64_t pixels = size.h * size.w;
  const int64_t columns = size.grad_channels;
  int64_t most_parts = segments * std::max<int64_t>(1, rows / kRowRange) *
                       std::max<int64_t>(1, columns / kColumnRange);
  int64_t most_groups = kPieces;
  if (kind != TapReductionKind::kSteps) {
    // No more than make pieces enough: partial sums are written and read again.
    if (kind == TapReductionKind::kPacked) {
      CutSquare(columns, kPieces);
      most_parts = row_parts * column_parts;
    } else {
      most_parts = DivideUp(std::max(rows, columns), kColumnRange);
    }
    most_groups = std::max(kFewPieces, 2 * DivideUp(kPieces, most_parts) - 1);  // rounded up
  }
  const auto can_double = [&](int64_t units) {
    return 2 * groups <= units && (2 * groups - 1) * result_floats * 4 <= kMaxPartialBytes &&
           images * pixels / (2 * groups) >= kMinGroupPixels;
  };
  while (can_double(std::min(images, most_groups))) groups *= 2;
  // Few images: groups of their lines, where parts of the result alone would be few pieces.
  while (groups * most_parts < kFewPieces && can_double(images * size.h)) groups *= 2;
}

void TapReductionCut::CutSteps(const TapReductionSize& size) {
  const int64_t columns = size.grad_channels;
  int64_t wanted = DivideUp(kPieces, groups);
  tap_parts = std::min(segments, wanted);
  wanted = DivideUp(wanted, tap_parts);
  column_parts = std::min(DivideUp(columns, kColumnRange), wanted);
  wanted = DivideUp(wanted, column_parts);
  row_parts = std::min(DivideUp(rows, kRowRange), wanted);
  block_pixels = std::min(kBlockPixels, size.images * size.h * size.w);
  if (columns % kGemmMaxLanes != 0 || size.gradient) {
    grad_stride = Padded(DivideUp(columns, column_parts) + 2 * kGemmMaxLanes);
  }
  if (size.activation) {
    in_stride = Padded(DivideUp(rows, row_parts));
    in_pixels = size.num_taps == 1 ? block_pixels : MaxWindowPixels(size, block_pixels);
  }
}

void TapReductionCut::CutPacked(const TapReductionSize& size, int num_threads) {
  const int64_t columns = size.grad_channels;
  // Sums of a block are added to those of the blocks before: for the largest parts, since those of
  // a run depend on threads.
  CutSquare(columns, 1);
  const int64_t fit =
      kPackedFloats / (rows / row_parts * 16 / 14 + columns / column_parts) / 16 * 16;
  block_pixels = std::min(DivideUp(size.images, groups) * size.h * size.w,
                          std::clamp(fit, kMinPackedPixels, kMaxPackedPixels));
  CutSquare(columns, DivideUp(kPiecesPerThread * num_threads, groups));
  part_rows = DivideUp(rows, row_parts);
  part_columns = DivideUp(columns, column_parts) + 2 * kGemmMaxLanes;
}

void TapReductionCut::CutNarrow(const TapReductionSize& size, int num_threads) {
  const int64_t wide = std::max(size.in_channels, size.grad_channels);
  block_pixels = std::min(DivideUp(size.images, groups) * size.h * size.w, kMaxPackedPixels);
  (narrow_grad ? row_parts : column_parts) =
      std::min(DivideUp(wide, kColumnRange), DivideUp(kPiecesPerThread * num_threads, groups));
}

// About `wanted` parts, more where they would be too large and less where too small, a power of
// two. Every part packs what it reads: the squarer they are, the less.
void TapReductionCut::CutSquare(int64_t columns, int64_t wanted) {
  row_parts = column_parts = 1;
  while (row_parts * column_parts < wanted ||
         rows * columns > kPartFloats * row_parts * column_parts) {
    const bool can_cut_columns = columns / (2 * column_parts) >= kColumnRange;
    const bool can_cut_rows = rows / (2 * row_parts) >= kRowRange;
    if (can_cut_columns && (!can_cut_rows || columns / column_parts >= rows / row_parts)) {
      column_parts *= 2;
    } else if (can_cut_rows) {
      row_parts *= 2;
    } else {
      break;
    }
  }
}

}  // namespace classicnn
