#include "layers/tap_product.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"

namespace classicnn {
namespace {

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How a product is cut: tiles of rows, whose part of the input stays in the second-level cache
// while one panel after the other is multiplied with it.
struct Cut {
  static constexpr int64_t kMaxTileRows = 224;  // 16 register blocks of 14
  static constexpr int64_t kTileBytes = 256 << 10;
  static constexpr int64_t kPieces = 64;       // as many as threads should find work
  static constexpr int64_t kMinBlockRows = 6;  // smallest register block over all targets
  static constexpr int64_t kMaxGatheredChannels = 8;

  Cut(int64_t rows, int64_t num_taps, int64_t channels)
      : gather(channels <= kMaxGatheredChannels && num_taps > 1),
        segments(gather ? 1 : num_taps),
        depth(gather ? num_taps * channels : channels) {
    const int64_t fit = std::max<int64_t>(kTileBytes / (4 * channels), 56);
    tile_rows = std::min({rows, kMaxTileRows, fit});
    tiles = DivideUp(rows, tile_rows);
    tile_blocks = DivideUp(tile_rows, kMinBlockRows);
  }

  bool gather;
  int64_t segments;  // those of the product with the packed weights, and their depth
  int64_t depth;
  int64_t tile_rows;  // at most
  int64_t tiles;
  int64_t tile_blocks;  // at most
};

// One worker's tables for a tile.
struct TileScratch {
  TileScratch(const Cut& cut, Workspace* workspace)
      : blocks(workspace->Take<GemmBlock>(cut.tile_blocks)),
        a(workspace->Take<const float*>(cut.tile_rows * cut.segments)),
        out(workspace->Take<float*>(cut.tile_rows)),
        segment(workspace->Take<int32_t>(cut.tile_blocks * cut.segments)),
        gathered(cut.gather ? workspace->Take<float>(cut.tile_rows * cut.depth) : nullptr) {}

  static size_t Bytes(const Cut& cut) {
    return Workspace::BytesFor<GemmBlock>(cut.tile_blocks) +
           Workspace::BytesFor<const float*>(cut.tile_rows * cut.segments) +
           Workspace::BytesFor<float*>(cut.tile_rows) +
           Workspace::BytesFor<int32_t>(cut.tile_blocks * cut.segments) +
           (cut.gather ? Workspace::BytesFor<float>(cut.tile_rows * cut.depth) : 0);
  }

  GemmBlock* blocks;
  const float** a;
  float** out;
  int32_t* segment;
  float* gathered;
};

// Where a row of the product, a pixel of the lattice, reads and writes.
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

class RowCursor {
 public:
  RowCursor(const TapProduct& p, int64_t row) : p_(p) {
    j_ = row % p.w;
    i_ = row / p.w % p.h;
    n_ = row / p.w / p.h;
  }
  Row row() const {
    const int64_t h = i_ * p_.in_step;
    const int64_t w = j_ * p_.in_step;
    return {p_.in.data + ((n_ * p_.in.h + h) * p_.in.w + w) * p_.in.pixel_stride, h, w};
  }
  float* out() const {
    return p_.out.Pixel(n_, p_.first_h + i_ * p_.out_step, p_.first_w + j_ * p_.out_step);
  }
  void Next() {
    if (++j_ < p_.w) return;
    j_ = 0;
    if (++i_ < p_.h) return;
    i_ = 0;
    ++n_;
  }

 private:
  const TapProduct& p_;
  int64_t n_, i_, j_;
};

// The input pixel under a tap, or null outside the image.
const float* Under(const TapProduct& p, const Row& row, const Tap& tap) {
  const int64_t h = row.h + tap.h;
  const int64_t w = row.w + tap.w;
  if (h < 0 || h >= p.in.h || w < 0 || w >= p.in.w) return nullptr;
  return row.origin + (tap.h * p.in.w + tap.w) * p.in.pixel_stride;
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

// Fills the tables for rows [begin, end); returns the number of blocks.
int64_t FillTile(const TapProduct& p, const Cut& cut, int64_t block_rows, const float* zeros,
                 int64_t begin, int64_t end, const TileScratch& s) {
  const int64_t rows = end - begin;
  const int64_t num_blocks = DivideUp(rows, block_rows);
  const float** a = s.a;
  int32_t* segment = s.segment;
  const Window window(p);
  RowCursor cursor(p, begin);
  for (int64_t b = 0; b < num_blocks; ++b) {
    const int64_t first = rows * b / num_blocks;
    const int64_t count = rows * (b + 1) / num_blocks - first;
    Row block[kGemmMaxRows];
    for (int64_t i = 0; i < count; ++i, cursor.Next()) {
      block[i] = cursor.row();
      s.out[first + i] = cursor.out();
    }
    s.blocks[b] = {count, 0, a, segment, s.out + first};
    if (cut.gather) {
      const int64_t channels = p.in.c;
      for (int64_t i = 0; i < count; ++i) {
        float* to = s.gathered + (first + i) * cut.depth;
        *a++ = to;
        for (int64_t t = 0; t < p.num_taps; ++t, to += channels) {
          const float* from = Under(p, block[i], p.taps[t]);
          for (int64_t c = 0; c < channels; ++c) to[c] = from != nullptr ? from[c] : 0.0f;
        }
      }
      *segment++ = 0;
      s.blocks[b].segments = 1;
      continue;
    }
    if (InsideForAllTaps(p, window, block, count)) {
      for (int64_t t = 0; t < p.num_taps; ++t) {
        const int64_t offset = (p.taps[t].h * p.in.w + p.taps[t].w) * p.in.pixel_stride;
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
        const float* from = Under(p, block[i], p.taps[t]);
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

}  // namespace

size_t TapProductWorkspaceBytes(int64_t rows, int64_t num_taps, int64_t in_channels,
                                int64_t out_channels, int num_threads) {
  const Cut cut(rows, num_taps, in_channels);
  return Workspace::BytesFor<float>(in_channels) +
         Workspace::BytesFor<float>(GemmPackedFloats(num_taps * in_channels, out_channels)) +
         static_cast<size_t>(num_threads) * TileScratch::Bytes(cut);
}

void RunTapProduct(const char* zone, const TapProduct& p, Workspace workspace, Context& ctx) {
  const int64_t channels = p.in.c;
  const int64_t columns = p.out.c;
  const int64_t rows = p.in.n * p.h * p.w;
  if (rows == 0) return;
  const GemmGeometry geometry = ActiveGemmGeometry();
  const int64_t width = geometry.panel_width();
  const int64_t num_panels = geometry.num_panels(columns);
  const Cut cut(rows, p.num_taps, channels);

  float* const zeros = workspace.Take<float>(channels);
  std::memset(zeros, 0, static_cast<size_t>(channels) * sizeof(float));
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
    const int64_t num_blocks = FillTile(p, cut, geometry.rows, zeros, rows * tile / cut.tiles,
                                        rows * (tile + 1) / cut.tiles, tables);
    const int64_t first_panel = num_panels * group / groups;
    for (int64_t panel = first_panel; panel < num_panels * (group + 1) / groups; ++panel) {
      GemmMultiply(tables.blocks, num_blocks, cut.depth,
                   GemmPanel(packed, geometry, p.num_taps * channels, panel), panel * width,
                   std::min(width, columns - panel * width), p.epilogue,
                   /*prefetch=*/p.num_taps == 1 && panel == first_panel);
    }
  });
}

}  // namespace classicnn
