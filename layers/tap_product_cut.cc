#include "layers/tap_product_cut.h"

#include <algorithm>

#include "core/divide.h"

namespace classicnn {
namespace {

// Where a row of the product, a pixel of the lattice, reads.
struct Row {
  const float* origin;  // input pixel under the tap (0, 0); maybe outside the image: not to be read
  int64_t h;            // and its place
  int64_t w;
};

// The smallest box that holds all taps.
struct Window {
  explicit Window(const TapProduct& p) {
    for (int64_t t = 0; t < p.num_taps; ++t) {
      min_h = std::min(min_h, p.taps[t].h);
      max_h = std::max(max_h, p.taps[t].h);
      min_w = std::min(min_w, p.taps[t].w);
      max_w = std::max(max_w, p.taps[t].w);
    }
  }
  int64_t min_h = 0, max_h = 0, min_w = 0, max_w = 0;
};

// Walks the rows of a tile.
class RowCursor {
 public:
  RowCursor(const TapProduct& p, const TapSource& source, const TapTile& tile)
      : p_(p), source_(source), tile_(tile) {
    if (tile.by_position) {
      n_ = tile.n_begin;
      return;
    }
    n_ = tile.begin / p.w / p.h;
    i_ = tile.begin / p.w % p.h;
    j_ = tile.begin % p.w;
  }
  // The tile is this many spans of this many rows; register blocks are cut from each on its own.
  int64_t spans() const { return tile_.by_position ? p_.h * p_.w : 1; }
  int64_t span_rows() const { return tile_.rows / spans(); }

  Row row() const {
    const int64_t h = i_ * p_.in_step;
    const int64_t w = j_ * p_.in_step;
    return {source_.data + n_ * source_.image_step + (h * p_.in.w + w) * source_.pixel_step, h, w};
  }
  int64_t out_pixel() const {
    return (n_ * p_.out.h + p_.first_h + i_ * p_.out_step) * p_.out.w + p_.first_w +
           j_ * p_.out_step;
  }
  void Next() {
    if (tile_.by_position) {
      if (++n_ < tile_.n_end) return;
      n_ = tile_.n_begin;
    }
    if (++j_ < p_.w) return;
    j_ = 0;
    if (++i_ < p_.h) return;
    i_ = 0;
    if (!tile_.by_position) ++n_;
  }

 private:
  const TapProduct& p_;
  const TapSource& source_;
  const TapTile& tile_;
  int64_t n_ = 0, i_ = 0, j_ = 0;
};

// The input pixel under a tap, or null outside the image.
const float* Under(const TapProduct& p, const TapSource& source, const Row& row, const Tap& tap) {
  const int64_t h = row.h + tap.h;
  const int64_t w = row.w + tap.w;
  if (h < 0 || h >= p.in.h || w < 0 || w >= p.in.w) return nullptr;
  return row.origin + (tap.h * p.in.w + tap.w) * source.pixel_step;
}

// Whether no tap leaves the image for any of the rows.
bool InsideForAllTaps(const TapProduct& p, const Window& window, const Row* rows, int64_t count) {
  bool inside = true;
  for (int64_t i = 0; i < count; ++i) {
    inside &= rows[i].h + window.min_h >= 0 && rows[i].h + window.max_h < p.in.h &&
              rows[i].w + window.min_w >= 0 && rows[i].w + window.max_w < p.in.w;
  }
  return inside;
}

const float* const* XRows(const TapProduct& p, const TapTileScratch& s, int64_t first) {
  return p.gradient_epilogue.active() ? s.x + first : nullptr;
}

// Wide panels where they are filled for the most part, and rows enough that fewer panels still make
// pieces.
GemmGeometry GeometryOf(const TapProductSize& size) {
  const GemmGeometry tall = ActiveGemmGeometry();
  const GemmGeometry wide = WideGemmGeometry();
  return size.out_channels > tall.panel_width() &&
                 size.images * size.h * size.w >= TapProductCut::kWideRows
             ? wide
             : tall;
}

}  // namespace

TapProductCut::TapProductCut(const TapProductSize& size)
    : num_taps(size.num_taps),
      geometry(GeometryOf(size)),
      gathers(GathersTaps(size.num_taps, size.in_channels)),
      gather_stride(gathers ? GatherStride(size.num_taps, size.in_channels) : 0),
      input(TapInput::kInPlace),
      copy_stride(DivideUp(size.in_channels, 16) * 16 + 16),
      gradient_epilogue(size.gradient_epilogue),
      num_panels(geometry.num_panels(size.out_channels)) {
  const int64_t in_pixels = size.in_h * size.in_w;
  const int64_t image_floats = size.images * in_pixels * copy_stride;
  if (!gathers && size.num_taps > 1 && in_pixels <= kMaxPixelsByPosition &&
      size.images >= kMinImagesByPosition && image_floats * 4 <= kMaxCopyBytes) {
    input = TapInput::kByPosition;
    copy_floats = image_floats;
    tiles = runs = DivideUp(size.images, kGemmMaxRows / geometry.rows * geometry.rows);
    tile_rows = DivideUp(size.images, tiles) * size.h * size.w;
    tile_blocks = DivideUp(kGemmMaxRows, kMinBlockRows) * size.h * size.w;
    groups = std::min(num_panels, DivideUp(kPieces, tiles));
    return;
  }
  const int64_t rows = size.images * size.h * size.w;
  const int64_t block_rows = geometry.rows;
  const int64_t fit = (size.prologue ? kScratchBytes : kTileBytes) / (4 * size.in_channels);
  // One tap: what a tile fetches for the next should not push out what it reads itself.
  const int64_t most = size.num_taps == 1 ? kMinTileRows : kMaxTileRows;
  tile_rows = std::min({rows, most, std::max(fit, kMinTileRows)});
  if (gathers) {
    tile_rows = std::min(tile_rows, std::max(kGatheredBytes / (4 * gather_stride), kMinTileRows));
  }
  if (size.num_taps == 1) {
    // Fewer groups of panels have to share a tile's rows, each of which reads (and with a prologue
    // makes) them anew; none, where a core keeps all weights and there are register blocks enough
    // for all pieces: 640 to 128 channels at 4 x 4, batch 64, took 549 us instead of 643.
    const bool keeps_weights = size.in_channels * size.out_channels * 4 <= kKeptBytes;
    const int64_t least = keeps_weights ? kGemmMaxRows : kMinTileRows;
    tile_rows = std::min(tile_rows, std::max(DivideUp(rows, kPieces), least));
    // Several tiles of few panels. A single one is better left alone: its pieces then pack their
    // panels themselves, or read them in place.
    if (rows > tile_rows && DivideUp(rows, tile_rows) * num_panels < kPieces) {
      const int64_t fewest = keeps_weights ? block_rows : kFewestTileRows;
      tile_rows = std::min(tile_rows, std::max(rows * num_panels / kPieces, fewest));
    }
  }
  if (size.num_taps > 1 && num_panels == 1) {
    // Else one 8 x 8 image is a single piece: 128 to 32 channels took 36 us, now 20. With more
    // panels several pieces would meet each, which none could pack for itself then: 4 panels took a
    // fifth more time.
    tile_rows = std::min(tile_rows, std::max(DivideUp(rows, kPieces), block_rows));
  }
  // Full register blocks, but for the few rows by which tiles differ; one tile may take them all.
  if (tile_rows > block_rows && tile_rows < rows) tile_rows = tile_rows / block_rows * block_rows;
  tiles = DivideUp(rows, tile_rows);
  tile_blocks = DivideUp(tile_rows, kMinBlockRows);
  groups = std::min(num_panels, DivideUp(kPieces, tiles));
  runs = std::min(tiles, kMaxRuns);
  if (size.num_taps != 1) return;
  if (size.prologue && groups > 1) {
    input = TapInput::kRows;
    copy_floats = rows * copy_stride;
  } else {
    // Without a prologue this is up to the input's pixel stride.
    if (size.prologue) input = TapInput::kTile;
    tile_floats = tile_rows * copy_stride;
  }
}

TapTile::TapTile(const TapProduct& p, const TapProductCut& cut, int64_t tile)
    : by_position(cut.input == TapInput::kByPosition) {
  if (by_position) {
    n_begin = p.in.n * tile / cut.tiles;
    n_end = p.in.n * (tile + 1) / cut.tiles;
    rows = (n_end - n_begin) * p.h * p.w;
    return;
  }
  const int64_t all = p.in.n * p.h * p.w;
  begin = all * tile / cut.tiles;
  rows = all * (tile + 1) / cut.tiles - begin;
}

int64_t FillRowTile(const TapProduct& p, const TapTile& tile, const float* rows, int64_t row_stride,
                    int64_t block_rows, const TapTileScratch& s) {
  OutputLattice(p).ForEachRun(tile.begin, tile.begin + tile.rows,
                              [&](int64_t row, int64_t count, int64_t pixel, int64_t step) {
                                const int64_t first = row - tile.begin;
                                for (int64_t i = 0; i < count; ++i) {
                                  s.a[first + i] = rows + (first + i) * row_stride;
                                  s.out[first + i] = p.out.Pixel(pixel + i * step);
                                }
                                if (!p.gradient_epilogue.active()) return;
                                for (int64_t i = 0; i < count; ++i) {
                                  s.x[first + i] = p.gradient_epilogue.x.Pixel(pixel + i * step);
                                }
                              });
  s.segment[0] = 0;
  const int64_t num_blocks = DivideUp(tile.rows, block_rows);
  // Nearly even, without a division for each.
  const int64_t few = tile.rows / num_blocks;
  const int64_t longer = tile.rows % num_blocks;
  for (int64_t b = 0, first = 0; b < num_blocks; ++b) {
    const int64_t count = few + (b < longer ? 1 : 0);
    s.blocks[b] = {count, 1, s.a + first, s.segment, s.out + first, XRows(p, s, first)};
    first += count;
  }
  return num_blocks;
}

void GatherTile(const TapProduct& p, const TapGather& gather, const TapTile& tile, float* to,
                int64_t to_stride) {
  const int64_t end = tile.begin + tile.rows;
  for (int64_t row = tile.begin; row < end;) {
    const int64_t j = row % p.w;
    const int64_t line = row / p.w;
    const int64_t count = std::min(p.w - j, end - row);
    gather.Gather(line / p.h, line % p.h * p.in_step, j * p.in_step, p.in_step, count,
                  to + (row - tile.begin) * to_stride, to_stride);
    row += count;
  }
}

int64_t FillTapTile(const TapProduct& p, const TapSource& source, int64_t block_rows,
                    const float* zeros, const TapTile& tile, const TapTileScratch& s) {
  const float** a = s.a;
  int32_t* segment = s.segment;
  const Window window(p);
  RowCursor cursor(p, source, tile);
  const int64_t span_blocks = DivideUp(cursor.span_rows(), block_rows);
  const int64_t num_blocks = cursor.spans() * span_blocks;
  for (int64_t b = 0; b < num_blocks; ++b) {
    const int64_t span = b / span_blocks * cursor.span_rows();
    const int64_t first = span + cursor.span_rows() * (b % span_blocks) / span_blocks;
    const int64_t count = span + cursor.span_rows() * (b % span_blocks + 1) / span_blocks - first;
    Row block[kGemmMaxRows];
    for (int64_t i = 0; i < count; ++i, cursor.Next()) {
      block[i] = cursor.row();
      const int64_t pixel = cursor.out_pixel();
      s.out[first + i] = p.out.Pixel(pixel);
      if (p.gradient_epilogue.active()) s.x[first + i] = p.gradient_epilogue.x.Pixel(pixel);
    }
    s.blocks[b] = {count, 0, a, segment, s.out + first, XRows(p, s, first)};
    if (InsideForAllTaps(p, window, block, count)) {
      for (int64_t t = 0; t < p.num_taps; ++t) {
        const int64_t offset = (p.taps[t].h * p.in.w + p.taps[t].w) * source.pixel_step;
        for (int64_t i = 0; i < count; ++i) a[i] = block[i].origin + offset;
        a += count;
        *segment++ = static_cast<int32_t>(t);
      }
      s.blocks[b].segments = p.num_taps;
      continue;
    }
    for (int64_t t = 0; t < p.num_taps; ++t) {
      bool any = false;
      for (int64_t i = 0; i < count; ++i) {
        const float* from = Under(p, source, block[i], p.taps[t]);
        any |= from != nullptr;
        a[i] = from != nullptr ? from : zeros;
      }
      if (!any) continue;
      a += count;
      *segment++ = static_cast<int32_t>(t);
      ++s.blocks[b].segments;
    }
  }
  return num_blocks;
}

}  // namespace classicnn
