#include "layers/tap_product.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"

namespace classicnn {
namespace {

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How a product is cut: tiles of rows, whose part of the input stays in the second-level cache
// while one panel after the other is multiplied with it.
//
// A row is a pixel of the lattice. They are ordered as the pixels are, n, h, w. On small images
// with a window many taps are outside, but rarely for all the rows of a register block: there
// (`by_position`) a tile is a group of images, its rows ordered h, w, n, so that a block is one
// pixel of several images and meets only taps inside. Those rows would be far apart, and by powers
// of two, which the caches bear badly: the input is copied to that order first.
struct Cut {
  static constexpr int64_t kMaxTileRows = 224;  // 16 register blocks of 14
  static constexpr int64_t kTileBytes = 256 << 10;
  static constexpr int64_t kPieces = 64;       // as many as threads should find work
  static constexpr int64_t kMinBlockRows = 6;  // smallest register block over all targets
  static constexpr int64_t kMaxPixelsByPosition = 64;
  static constexpr int64_t kMinImagesByPosition = 8;
  static constexpr int64_t kMaxCopyBytes = 8 << 20;

  explicit Cut(const TapProductSize& size, bool allow_by_position = true)
      : num_taps(size.num_taps),
        uses_runs(UsesTapRuns(size.num_taps, size.in_channels)),
        max_gathered(uses_runs ? size.num_taps * size.in_channels : 0),
        copy_stride(DivideUp(size.in_channels, 16) * 16 + 16) {
    const int64_t in_pixels = size.in_h * size.in_w;
    copy_floats = size.images * in_pixels * copy_stride;
    by_position = allow_by_position && !uses_runs && size.num_taps > 1 &&
                  in_pixels <= kMaxPixelsByPosition && size.images >= kMinImagesByPosition &&
                  copy_floats * 4 <= kMaxCopyBytes;
    if (by_position) {
      tiles = DivideUp(size.images, kGemmMaxRows);
      tile_rows = DivideUp(size.images, tiles) * size.h * size.w;
      tile_blocks = DivideUp(kGemmMaxRows, kMinBlockRows) * size.h * size.w;
      return;
    }
    copy_floats = 0;
    const int64_t rows = size.images * size.h * size.w;
    const int64_t fit = std::max<int64_t>(kTileBytes / (4 * size.in_channels), 56);
    tile_rows = std::min({rows, kMaxTileRows, fit});
    tiles = DivideUp(rows, tile_rows);
    tile_blocks = DivideUp(tile_rows, kMinBlockRows);
  }

  int64_t num_taps;
  bool uses_runs;
  int64_t max_gathered;  // floats for each row
  int64_t copy_stride;   // of a pixel; one line more than it needs, so that pixels spread over sets
  int64_t copy_floats;   // 0 without a copy
  bool by_position;
  int64_t tile_rows;  // at most
  int64_t tiles;
  int64_t tile_blocks;  // at most
};

// One worker's tables for a tile.
struct TileScratch {
  TileScratch(const Cut& cut, Workspace* workspace)
      : blocks(workspace->Take<GemmBlock>(cut.tile_blocks)),
        a(workspace->Take<const float*>(cut.tile_rows * cut.num_taps)),
        out(workspace->Take<float*>(cut.tile_rows)),
        segment(workspace->Take<int32_t>(cut.tile_blocks * cut.num_taps)),
        gathered(workspace->Take<float>(cut.tile_rows * cut.max_gathered)) {}

  static size_t Bytes(const Cut& cut) {
    return Workspace::BytesFor<GemmBlock>(cut.tile_blocks) +
           Workspace::BytesFor<const float*>(cut.tile_rows * cut.num_taps) +
           Workspace::BytesFor<float*>(cut.tile_rows) +
           Workspace::BytesFor<int32_t>(cut.tile_blocks * cut.num_taps) +
           Workspace::BytesFor<float>(cut.tile_rows * cut.max_gathered);
  }

  GemmBlock* blocks;
  const float** a;
  float** out;
  int32_t* segment;
  float* gathered;
};

// The input: of the caller, or its copy.
struct Source {
  const float* data;
  int64_t image_step;
  int64_t pixel_step;
};

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
  RowCursor(const TapProduct& p, const Source& source, const Cut& cut, int64_t tile)
      : p_(p), source_(source), by_position_(cut.by_position) {
    if (by_position_) {
      n_begin_ = n_ = p.in.n * tile / cut.tiles;
      n_end_ = p.in.n * (tile + 1) / cut.tiles;
      spans_ = p.h * p.w;
      span_rows_ = n_end_ - n_begin_;
      return;
    }
    const int64_t rows = p.in.n * p.h * p.w;
    const int64_t begin = rows * tile / cut.tiles;
    span_rows_ = rows * (tile + 1) / cut.tiles - begin;
    n_ = begin / p.w / p.h;
    i_ = begin / p.w % p.h;
    j_ = begin % p.w;
  }
  // The tile is this many spans of this many rows; register blocks are cut from each on its own.
  int64_t spans() const { return spans_; }
  int64_t span_rows() const { return span_rows_; }

  Row row() const {
    const int64_t h = i_ * p_.in_step;
    const int64_t w = j_ * p_.in_step;
    return {source_.data + n_ * source_.image_step + (h * p_.in.w + w) * source_.pixel_step, h, w};
  }
  float* out() const {
    return p_.out.Pixel(n_, p_.first_h + i_ * p_.out_step, p_.first_w + j_ * p_.out_step);
  }
  void Next() {
    if (by_position_) {
      if (++n_ < n_end_) return;
      n_ = n_begin_;
    }
    if (++j_ < p_.w) return;
    j_ = 0;
    if (++i_ < p_.h) return;
    i_ = 0;
    if (!by_position_) ++n_;
  }

 private:
  const TapProduct& p_;
  const Source& source_;
  bool by_position_;
  int64_t n_begin_ = 0, n_end_ = 0;
  int64_t spans_ = 1;
  int64_t span_rows_;
  int64_t n_ = 0, i_ = 0, j_ = 0;
};

// The input pixel under a tap, or null outside the image.
const float* Under(const TapProduct& p, const Source& source, const Row& row, const Tap& tap) {
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

// Fills the tables of a tile; returns the number of blocks.
int64_t FillTile(const TapProduct& p, const Source& source, const Cut& cut, const TapRuns& runs,
                 int64_t block_rows, const float* zeros, int64_t tile, const TileScratch& s) {
  const float** a = s.a;
  int32_t* segment = s.segment;
  float* gathered = s.gathered;
  const Window window(p);
  RowCursor cursor(p, source, cut, tile);
  const int64_t span_blocks = DivideUp(cursor.span_rows(), block_rows);
  const int64_t num_blocks = cursor.spans() * span_blocks;
  for (int64_t b = 0; b < num_blocks; ++b) {
    const int64_t span = b / span_blocks * cursor.span_rows();
    const int64_t first = span + cursor.span_rows() * (b % span_blocks) / span_blocks;
    const int64_t count = span + cursor.span_rows() * (b % span_blocks + 1) / span_blocks - first;
    Row block[kGemmMaxRows];
    for (int64_t i = 0; i < count; ++i, cursor.Next()) {
      block[i] = cursor.row();
      s.out[first + i] = cursor.out();
    }
    s.blocks[b] = {count, 0, a, segment, s.out + first};
    if (cut.uses_runs) {
      const int64_t depth = runs.length * p.in.c;
      for (int64_t t = 0; t < p.num_taps; t += runs.length) {
        bool any = false;
        for (int64_t i = 0; i < count; ++i, gathered += depth) {
          const float* from =
              TapRunAt(p.in, p.taps + t, runs, block[i].origin, block[i].h, block[i].w, gathered);
          any |= from != nullptr;
          a[i] = from != nullptr ? from : zeros;
        }
        if (!any) continue;
        a += count;
        *segment++ = static_cast<int32_t>(t / runs.length);
        ++s.blocks[b].segments;
      }
      continue;
    }
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

// The same pixel of all images side by side.
Source CopyByPosition(const char* zone, const TapProduct& p, const Cut& cut, float* copy,
                      Context& ctx) {
  const int64_t pixels = p.in.h * p.in.w;
  ctx.ParallelFor(zone, p.in.n, [&](int64_t n, int /*worker*/) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      std::memcpy(copy + (pixel * p.in.n + n) * cut.copy_stride, p.in.Pixel(n * pixels + pixel),
                  static_cast<size_t>(p.in.c) * sizeof(float));
    }
  });
  return {copy, cut.copy_stride, p.in.n * cut.copy_stride};
}

}  // namespace

size_t TapProductWorkspaceBytes(const TapProductSize& size, int num_threads) {
  // Fewer taps may not go by position.
  const Cut cut(size);
  const Cut plain(size, /*allow_by_position=*/false);
  return Workspace::BytesFor<float>(std::max(size.in_channels, cut.max_gathered)) +
         Workspace::BytesFor<float>(
             GemmPackedFloats(size.num_taps * size.in_channels, size.out_channels)) +
         Workspace::BytesFor<float>(cut.copy_floats) +
         static_cast<size_t>(num_threads) *
             std::max(TileScratch::Bytes(cut), TileScratch::Bytes(plain));
}

bool TapProductSkipsPadding(const TapProductSize& size) { return Cut(size).by_position; }

void RunTapProduct(const char* zone, const TapProduct& p, Workspace workspace, Context& ctx) {
  const int64_t channels = p.in.c;
  const int64_t columns = p.out.c;
  const GemmGeometry geometry = ActiveGemmGeometry();
  const int64_t width = geometry.panel_width();
  const int64_t num_panels = geometry.num_panels(columns);
  const Cut cut({p.in.n, p.h, p.w, p.in.h, p.in.w, p.num_taps, channels, columns});

  const TapRuns runs = FindTapRuns(p.in, p.taps, p.num_taps);

  float* const zeros = workspace.Take<float>(std::max(channels, cut.max_gathered));
  std::fill(zeros, zeros + runs.length * channels, 0.0f);
  float* const packed = workspace.Take<float>(GemmPackedFloats(p.num_taps * channels, columns));
  ctx.ParallelFor(zone, num_panels * p.num_taps, [&](int64_t piece, int /*worker*/) {
    const int64_t panel = piece / p.num_taps;
    const int64_t t = piece % p.num_taps;
    const int64_t panel_columns = std::min(width, columns - panel * width);
    const int64_t packed_width = DivideUp(panel_columns, geometry.lanes) * geometry.lanes;
    GemmPackPanel(p.weights + p.taps[t].weights + panel * width * p.weight_column_stride,
                  p.weight_row_stride, p.weight_column_stride, channels, panel_columns,
                  packed + panel * width * p.num_taps * channels + t * channels * packed_width);
  });

  const Source source =
      cut.by_position ? CopyByPosition(zone, p, cut, workspace.Take<float>(cut.copy_floats), ctx)
                      : Source{p.in.data, p.in.h * p.in.w * p.in.pixel_stride, p.in.pixel_stride};

  // Panels are dealt out in groups only as far as the tiles do not give enough pieces. A group's
  // panels stay in the cache over neighbouring tiles.
  const int64_t groups = std::min(num_panels, DivideUp(Cut::kPieces, cut.tiles));
  const size_t scratch_bytes = TileScratch::Bytes(cut);
  std::byte* const scratch =
      workspace.Take<std::byte>(static_cast<int64_t>(scratch_bytes) * ctx.num_threads());
  ctx.ParallelFor(zone, groups * cut.tiles, [&](int64_t piece, int worker) {
    const int64_t group = piece / cut.tiles;
    const int64_t tile = piece % cut.tiles;
    Workspace own{scratch + static_cast<size_t>(worker) * scratch_bytes, scratch_bytes};
    const TileScratch tables(cut, &own);
    const int64_t num_blocks = FillTile(p, source, cut, runs, geometry.rows, zeros, tile, tables);
    const int64_t first_panel = num_panels * group / groups;
    for (int64_t panel = first_panel; panel < num_panels * (group + 1) / groups; ++panel) {
      GemmMultiply(tables.blocks, num_blocks, runs.length * channels,
                   GemmPanel(packed, geometry, p.num_taps * channels, panel), panel * width,
                   std::min(width, columns - panel * width), p.epilogue,
                   /*prefetch=*/panel == first_panel);
    }
  });
}

}  // namespace classicnn
