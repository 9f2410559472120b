// Internal to layers/tap_product: how a product is cut, and the tables of a tile.
#ifndef CLASSICNN_LAYERS_TAP_PRODUCT_CUT_H_
#define CLASSICNN_LAYERS_TAP_PRODUCT_CUT_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "layers/gemm.h"
#include "layers/tap_product.h"
#include "layers/tap_runs.h"

namespace classicnn {

// Where a product reads its input.
enum class TapInput {
  kInPlace,     // in the caller's tensor
  kTile,        // row by row in scratch, a tile at a time: after a prologue, or where rows collide
  kRows,        // likewise, but all rows are made first: where several pieces need them
  kByPosition,  // a copy in the order of the pixels' places
};

// How a product is cut: tiles of rows, whose part of the input stays in the second-level cache
// while one panel after the other is multiplied with it (or, of shallow products, one block of rows
// after the other with all panels); and pieces of the parallel loop, a run of
// tiles times a group of panels.
//
// A row is a pixel of the lattice. They are ordered as the pixels are, n, h, w. On small images
// with a window many taps are outside, but rarely for all the rows of a register block: there
// (`by_position`) a tile is a group of images, its rows ordered h, w, n, so that a block is one
// pixel of several images and meets only taps inside. Those rows would be far apart, and by powers
// of two, which the caches bear badly: the input is copied to that order first.
struct TapProductCut {
  static constexpr int64_t kMaxTileRows = 224;    // 16 register blocks of 14
  static constexpr int64_t kMinTileRows = 56;     // unless that makes too few pieces
  static constexpr int64_t kFewestTileRows = 28;  // then, where a core does not keep the weights
  static constexpr int64_t kTileBytes = 256 << 10;
  static constexpr int64_t kKeptBytes = 512 << 10;     // half of a second-level cache
  static constexpr int64_t kScratchBytes = 64 << 10;   // of a tile's rows where they are copied
  static constexpr int64_t kGatheredBytes = 24 << 10;  // they stay in the first-level cache
  static constexpr int64_t kPieces = 64;               // as many as threads should find work
  static constexpr int64_t kMaxRuns = 64;      // of tiles: each leaves sums of its own to be merged
  static constexpr int64_t kMinBlockRows = 6;  // smallest register block over all targets
  static constexpr int64_t kWideRows = 256;    // of a product whose panels may be wide
  static constexpr int64_t kMaxPixelsByPosition = 64;
  static constexpr int64_t kMinImagesByPosition = 8;
  static constexpr int64_t kMaxCopyBytes = 8 << 20;

  explicit TapProductCut(const TapProductSize& size);

  int64_t FirstTile(int64_t run) const { return tiles * run / runs; }

  // Whether one piece alone meets a panel: it packs it right before, and the panels of all weights
  // never go through memory.
  bool packs_in_pieces() const { return runs == 1; }
  // Panels that pieces hold at once.
  int64_t packed_panels(int num_threads) const { return std::min<int64_t>(groups, num_threads); }

  int64_t num_taps;
  GemmGeometry geometry;  // of blocks and panels
  bool gathers;
  int64_t gather_stride;  // of a gathered row, or 0
  TapInput input;
  int64_t copy_stride;  // of a copied row; one line more than it needs, so that rows spread over
                        // the sets of a cache
  int64_t copy_floats = 0;  // of kRows and kByPosition
  int64_t tile_floats = 0;  // of kTile, for each worker
  bool gradient_epilogue;
  int64_t tile_rows;  // at most
  int64_t tiles;
  int64_t tile_blocks;  // at most
  int64_t num_panels;   // of the weights
  int64_t runs;         // of tiles
  int64_t groups;       // of panels
};

// One worker's tables for a tile.
struct TapTileScratch {
  TapTileScratch(const TapProductCut& cut, Workspace* workspace)
      : blocks(workspace->Take<GemmBlock>(cut.tile_blocks)),
        a(workspace->Take<const float*>(cut.tile_rows * cut.num_taps)),
        out(workspace->Take<float*>(cut.tile_rows)),
        segment(workspace->Take<int32_t>(cut.tile_blocks * cut.num_taps)),
        gathered(workspace->Take<float>(cut.tile_rows * cut.gather_stride)),
        rows(workspace->Take<float>(cut.tile_floats)),
        x(workspace->Take<const float*>(cut.gradient_epilogue ? cut.tile_rows : 0)) {}

  static size_t Bytes(const TapProductCut& cut) {
    return Workspace::BytesFor<GemmBlock>(cut.tile_blocks) +
           Workspace::BytesFor<const float*>(cut.tile_rows * cut.num_taps) +
           Workspace::BytesFor<float*>(cut.tile_rows) +
           Workspace::BytesFor<int32_t>(cut.tile_blocks * cut.num_taps) +
           Workspace::BytesFor<float>(cut.tile_rows * cut.gather_stride) +
           Workspace::BytesFor<float>(cut.tile_floats) +
           Workspace::BytesFor<const float*>(cut.gradient_epilogue ? cut.tile_rows : 0);
  }

  GemmBlock* blocks;
  const float** a;
  float** out;
  int32_t* segment;
  float* gathered;
  float* rows;
  const float** x;  // with a gradient epilogue: where its x is for each row
};

// Rows of a product as pixels of an image tensor: row (n, i, j) of the lattice is the pixel
// (n, first_h + i*step, first_w + j*step).
struct PixelLattice {
  int64_t h, w;              // of the lattice
  int64_t image_h, image_w;  // of the tensor
  int64_t first_h, first_w;
  int64_t step;

  // Calls call(first row, rows, pixel of the first, pixels from one to the next) for rows
  // [begin, end) in the order n, h, w.
  template <class Call>
  void ForEachRun(int64_t begin, int64_t end, const Call& call) const {
    if (step == 1 && h == image_h && w == image_w) {
      call(begin, end - begin, begin, 1);
      return;
    }
    for (int64_t row = begin; row < end;) {
      const int64_t j = row % w;
      const int64_t line = row / w;
      const int64_t count = std::min(w - j, end - row);
      call(row, count, Pixel(line / h, line % h, j), step);
      row += count;
    }
  }
  int64_t Pixel(int64_t n, int64_t i, int64_t j) const {
    return (n * image_h + first_h + i * step) * image_w + first_w + j * step;
  }
};

inline PixelLattice InputLattice(const TapProduct& p) {
  return {p.h, p.w, p.in.h, p.in.w, 0, 0, p.in_step};
}
inline PixelLattice OutputLattice(const TapProduct& p) {
  return {p.h, p.w, p.out.h, p.out.w, p.first_h, p.first_w, p.out_step};
}

// Rows of a tile. By position: images [n_begin, n_end) of every place.
struct TapTile {
  TapTile(const TapProduct& p, const TapProductCut& cut, int64_t tile);

  bool by_position;
  int64_t n_begin = 0, n_end = 0;
  int64_t begin = 0;  // not by position: the first
  int64_t rows;
};

// The input: of the caller, or its copy.
struct TapSource {
  const float* data;
  int64_t image_step;
  int64_t pixel_step;
};

// Fills the tables of a tile for a product whose rows are read from `rows`, one after the other;
// returns the number of blocks.
int64_t FillRowTile(const TapProduct& p, const TapTile& tile, const float* rows, int64_t row_stride,
                    int64_t block_rows, const TapTileScratch& s);
// Gathers what is under the taps for each row of a tile.
void GatherTile(const TapProduct& p, const TapGather& gather, const TapTile& tile, float* to,
                int64_t to_stride);
// Fills the tables likewise, for rows read through taps.
int64_t FillTapTile(const TapProduct& p, const TapSource& source, int64_t block_rows,
                    const float* zeros, const TapTile& tile, const TapTileScratch& s);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_TAP_PRODUCT_CUT_H_
