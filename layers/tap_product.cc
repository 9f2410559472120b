#include "layers/tap_product.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "core/check.h"
#include "layers/channel_rows.h"
#include "layers/tap_product_cut.h"

namespace classicnn {
namespace {

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

using Cut = TapProductCut;

// Rows of weights that pass between fetching one and its use, where they are read in place.
constexpr int64_t kRowsAhead = 32;

// A tile's rows are multiplied one after the other with all panels where these stay in the
// first-level cache and the sums are so short that writing the result is what takes time: 16 to 192
// channels at 32 x 32 and 16 to 480 at 16 x 16 took 0.93 and 0.90 of the time, with a gradient's
// epilogue 0.85 and 0.80; with 48 and 64 instead of 24 as the limit five shapes took 1.01 and 1.03.
constexpr int64_t kMaxDepthByRows = 24;
constexpr int64_t kMaxPanelsByRows = 8;

// Whether every row of the product reads one pixel of the input, its own.
bool ReadsOwnPixels(const TapProduct& p) {
  return p.num_taps == 1 && p.taps[0].h == 0 && p.taps[0].w == 0 &&
         (p.h - 1) * p.in_step < p.in.h && (p.w - 1) * p.in_step < p.in.w;
}

// Rows of so many floats at this distance: those of a register block share a set of the first-level
// cache with each other, too many for its ways.
bool RowsCollide(int64_t stride) { return stride % 1024 == 0; }

// `count` pixels of the input, `step` apart, as the products want them.
void MakeRows(const TapProduct& p, int64_t pixel, int64_t step, int64_t count, float* to,
              int64_t to_stride) {
  const float* const from = p.in.Pixel(pixel);
  const int64_t stride = step * p.in.pixel_stride;
  if (p.activation.active()) {
    ActivateRows(p.activation, 0, from, stride, count, p.in.c, to, to_stride);
  } else if (p.gradient.active()) {
    GradientPrologue<float> gradient = p.gradient;
    gradient.x.pixel_stride *= step;
    GradientRows(gradient, 0, from, stride, p.gradient.x.Pixel(pixel), count, p.in.c, to,
                 to_stride);
  } else {
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(to + i * to_stride, from + i * stride,
                  static_cast<size_t>(p.in.c) * sizeof(float));
    }
  }
}

// The rows of a tile.
void MakeTileRows(const TapProduct& p, const TapTile& tile, float* to, int64_t to_stride) {
  InputLattice(p).ForEachRun(tile.begin, tile.begin + tile.rows,
                             [&](int64_t row, int64_t count, int64_t pixel, int64_t step) {
                               MakeRows(p, pixel, step, count, to + (row - tile.begin) * to_stride,
                                        to_stride);
                             });
}

// The same pixel of all images side by side.
TapSource CopyByPosition(const char* zone, const TapProduct& p, const Cut& cut, float* copy,
                         Context& ctx) {
  const int64_t pixels = p.in.h * p.in.w;
  ctx.ParallelFor(zone, p.in.n, [&](int64_t n, int /*worker*/) {
    MakeRows(p, n * pixels, 1, pixels, copy + n * cut.copy_stride, p.in.n * cut.copy_stride);
  });
  return {copy, cut.copy_stride, p.in.n * cut.copy_stride};
}

// Of the panels that are held at once. Of all of them the last may be narrow; of those that pieces
// pack for themselves each has room for any.
int64_t PackedFloats(const TapProductSize& size, const Cut& cut, int num_threads) {
  const int64_t depth = size.num_taps * size.in_channels;
  return cut.packs_in_pieces() ? cut.packed_panels(num_threads) * depth * cut.geometry.panel_width()
                               : GemmPackedFloats(depth, size.out_channels);
}

// Packs a tap's segment of a panel that begins at `to`.
void PackSegment(const TapProduct& p, const GemmGeometry& geometry, int64_t panel, int64_t tap,
                 float* to) {
  const int64_t width = geometry.panel_width();
  const int64_t columns = std::min(width, p.out.c - panel * width);
  const int64_t packed_width = DivideUp(columns, geometry.lanes) * geometry.lanes;
  GemmPackPanel(p.weights + p.taps[tap].weights + panel * width * p.weight_column_stride,
                p.weight_row_stride, p.weight_column_stride, p.in.c, columns,
                to + tap * p.in.c * packed_width);
}

// Whether the weights of the taps are one matrix, whose rows are in place.
bool IsOneMatrix(const TapProduct& p) {
  bool follow = p.weight_column_stride == 1;
  for (int64_t t = 0; t < p.num_taps; ++t) {
    follow &= p.taps[t].weights == p.taps[0].weights + t * p.in.c * p.weight_row_stride;
  }
  return follow && p.num_taps > 0;
}

// Whether one matrix is as well read where it is by all tiles. From the second-level cache packing
// only costs (512 to 128 channels at 8 x 8, batch 64: 1328 us packed and 1179 in place; 832 to 192:
// 3115 and 2828); of twice that cache's size it still gained nothing (832 to 384: 5887 and 5875).
// Not where the rows of a panel would share few sets of that cache.
bool LeavesWeights(const TapProduct& p, const GemmGeometry& geometry) {
  constexpr int64_t kMaxFloats = 512 << 10;
  constexpr int64_t kCollidingFloats = 512;
  return p.out.c % geometry.lanes == 0 && p.num_taps * p.in.c * p.out.c <= kMaxFloats &&
         p.weight_row_stride % kCollidingFloats != 0;
}

// What one tile fetches for the next, in the order of the pixels, little by little: what is first
// touched panel by panel is no pattern that hardware prefetches, and a burst of stores to lines
// that are not in the cache waits for memory as loads do.
struct NextRows {
  int64_t begin = 0;
  int64_t end = 0;
  bool input = false;  // each row reads one pixel, and not from a copy
  int64_t column = 0;  // of the output
  int64_t num_columns = 0;

  // Part `index` of `parts`: as if there were no pixels between the rows'.
  void Part(const TapProduct& p, int64_t index, int64_t parts, PrefetchQueue* queue) const {
    const int64_t first = begin + (end - begin) * index / parts;
    const int64_t rows = begin + (end - begin) * (index + 1) / parts - first;
    if (rows <= 0) return;
    const auto pixel_of = [&](const PixelLattice& lattice) {
      return lattice.Pixel(first / p.w / p.h, first / p.w % p.h, first % p.w);
    };
    const auto add = [&](const ConstTensor& x, int64_t pixel, int64_t step, int64_t from,
                         int64_t channels) {
      queue->Add(x.Pixel(pixel) + from, channels, step * x.pixel_stride, rows);
    };
    const int64_t out = pixel_of(OutputLattice(p));
    if (input) {
      const int64_t in = pixel_of(InputLattice(p));
      add(p.in, in, p.in_step, 0, p.in.c);
      if (p.gradient.active()) add(p.gradient.x, in, p.in_step, 0, p.in.c);
    }
    if (p.gradient_epilogue.active()) {
      add(p.gradient_epilogue.x, out, p.out_step, column, num_columns);
    }
    add(p.out, out, p.out_step, column, num_columns);
  }
};

// A piece's center for the columns of a panel, from the block that was just written, and that
// block's moments.
void BeginMoments(const TapProduct& p, const GemmBlock& block, int64_t column, int64_t columns,
                  int64_t piece) {
  const MomentPieces& m = *p.moments;
  const float* rows = block.out[0] + column;
  int64_t stride = block.rows > 1 ? block.out[1] - block.out[0] : columns;
  bool even = true;
  for (int64_t i = 1; i < block.rows; ++i) even &= block.out[i] - block.out[i - 1] == stride;
  float copy[kGemmMaxRows * 2 * kGemmMaxLanes];
  if (!even) {
    for (int64_t i = 0; i < block.rows; ++i) {
      std::copy_n(block.out[i] + column, columns, copy + i * columns);
    }
    rows = copy;
    stride = columns;
  }
  m.Begin(piece, column, columns, rows, stride, block.rows);
  AddMomentRows(rows, stride, block.rows, columns, m.center(piece) + column, m.sum(piece) + column,
                m.sum_of_squares(piece) + column);
}

}  // namespace

TapProductSize SizeOf(const TapProduct& p) {
  return {p.in.n,
          p.h,
          p.w,
          p.in.h,
          p.in.w,
          p.num_taps,
          p.in.c,
          p.out.c,
          p.activation.active() || p.gradient.active(),
          p.gradient_epilogue.active()};
}

size_t TapProductWorkspaceBytes(const TapProductSize& size, int num_threads) {
  size_t packed_bytes = 0;
  size_t input_bytes = 0;
  size_t scratch_bytes = 0;
  // With fewer taps the cut may be another.
  for (int64_t taps = std::min<int64_t>(size.num_taps, 1); taps <= size.num_taps; ++taps) {
    TapProductSize fewer = size;
    fewer.num_taps = taps;
    const Cut cut(fewer);
    packed_bytes =
        std::max(packed_bytes, Workspace::BytesFor<float>(PackedFloats(fewer, cut, num_threads)));
    input_bytes = std::max(input_bytes, Workspace::BytesFor<float>(cut.copy_floats));
    scratch_bytes = std::max(scratch_bytes, TapTileScratch::Bytes(cut));
  }
  return Workspace::BytesFor<float>(size.in_channels) + packed_bytes + input_bytes +
         static_cast<size_t>(num_threads) * scratch_bytes;
}

bool TapProductSkipsPadding(const TapProductSize& size) {
  return Cut(size).input == TapInput::kByPosition;
}

bool TapProductTakesPrologue(const TapProductSize& size) {
  return size.num_taps == 1 || TapProductSkipsPadding(size);
}

int64_t TapProductPieces(const TapProductSize& size) { return Cut(size).runs; }

void RunTapProduct(const char* zone, const TapProduct& p, Workspace workspace, Context& ctx) {
  const int64_t channels = p.in.c;
  const int64_t columns = p.out.c;
  const TapProductSize size = SizeOf(p);
  const Cut cut(size);
  const GemmGeometry& geometry = cut.geometry;
  const int64_t width = geometry.panel_width();
  const int64_t num_panels = cut.num_panels;
  std::optional<TapGather> gather;
  if (cut.gathers) gather.emplace(p.in, p.taps, p.num_taps);
  const int64_t depth = cut.gathers ? p.num_taps * channels : channels;

  const bool one_matrix = IsOneMatrix(p);
  const bool reads_in_place = cut.packs_in_pieces() && one_matrix;
  const bool leaves_in_place = !cut.packs_in_pieces() && one_matrix && LeavesWeights(p, geometry);
  const bool own_pixels = ReadsOwnPixels(p);
  float* const zeros = workspace.Take<float>(channels);
  std::fill(zeros, zeros + channels, 0.0f);
  float* const packed = workspace.Take<float>(PackedFloats(size, cut, ctx.num_threads()));
  const auto panel_at = [&](int64_t index) {
    return packed + index * width * p.num_taps * channels;
  };
  const bool by_rows = !cut.packs_in_pieces() && !cut.gathers && p.num_taps == 1 &&
                       channels <= kMaxDepthByRows && num_panels > 1 &&
                       num_panels <= kMaxPanelsByRows;
  // Where weights are that pieces do not pack for themselves.
  const auto panel_of = [&](int64_t panel) {
    const int64_t column = panel * width;
    const int64_t panel_columns = std::min(width, columns - column);
    if (leaves_in_place) {
      return GemmPanel{p.weights + p.taps[0].weights + column, p.weight_row_stride, column,
                       panel_columns};
    }
    return GemmPanel{panel_at(panel), DivideUp(panel_columns, geometry.lanes) * geometry.lanes,
                     column, panel_columns};
  };
  TapInput input = cut.input;
  if (input == TapInput::kInPlace && own_pixels && RowsCollide(p.in_step * p.in.pixel_stride) &&
      num_panels / cut.groups > 1) {
    input = TapInput::kTile;
  }
  // Rows that their tile's predecessor has not fetched (NextRows::input) and that were not made
  // just before. Fetching both ways cost 2 to 6% on an Intel Xeon, 9% where all is in the cache.
  const bool fetches_blocks =
      input == TapInput::kRows || (input != TapInput::kTile && !own_pixels && !gather);
  const bool prologue = p.activation.active() || p.gradient.active();
  CNN_CHECK(!prologue || input == TapInput::kByPosition || own_pixels);

  if (!cut.packs_in_pieces() && !leaves_in_place) {
    ctx.ParallelFor(zone, num_panels * p.num_taps, [&](int64_t piece, int /*worker*/) {
      const int64_t panel = piece / p.num_taps;
      PackSegment(p, geometry, panel, piece % p.num_taps, panel_at(panel));
    });
  }

  float* const copy = workspace.Take<float>(cut.copy_floats);
  TapSource source{p.in.data, p.in.h * p.in.w * p.in.pixel_stride, p.in.pixel_stride};
  if (input == TapInput::kByPosition) {
    source = CopyByPosition(zone, p, cut, copy, ctx);
  } else if (input == TapInput::kRows) {
    ctx.ParallelFor(zone, cut.tiles, [&](int64_t index, int /*worker*/) {
      const TapTile tile(p, cut, index);
      MakeTileRows(p, tile, copy + tile.begin * cut.copy_stride, cut.copy_stride);
    });
  }

  // Panels are dealt out in groups only as far as the tiles do not give enough pieces. A group's
  // panels stay in the cache over neighbouring tiles.
  const size_t scratch_bytes = TapTileScratch::Bytes(cut);
  std::byte* const scratch =
      workspace.Take<std::byte>(static_cast<int64_t>(scratch_bytes) * ctx.num_threads());
  ctx.ParallelFor(zone, cut.groups * cut.runs, [&](int64_t index, int worker) {
    const int64_t group = index / cut.runs;
    const int64_t run = index % cut.runs;
    const int64_t first_panel = num_panels * group / cut.groups;
    const int64_t last_panel = num_panels * (group + 1) / cut.groups - 1;
    Workspace own{scratch + static_cast<size_t>(worker) * scratch_bytes, scratch_bytes};
    const TapTileScratch tables(cut, &own);
    const int64_t piece = p.first_piece + run;
    GemmEpilogue epilogue = p.epilogue;
    if (p.gradient_epilogue.active()) {
      const int64_t first_column = first_panel * width;
      p.gradient_sums->Clear(piece, first_column,
                             std::min(columns, (last_panel + 1) * width) - first_column);
      epilogue.gradient = &p.gradient_epilogue;
      epilogue.sum_g = p.gradient_sums->sum_g(piece);
      epilogue.sum_gx = p.gradient_sums->sum_gx(piece);
    }
    if (p.moments != nullptr) {
      epilogue.center = p.moments->center(piece);
      epilogue.sum = p.moments->sum(piece);
      epilogue.sum_of_squares = p.moments->sum_of_squares(piece);
    }
    int64_t pixels = 0;
    for (int64_t t = cut.FirstTile(run); t < cut.FirstTile(run + 1); ++t) {
      const TapTile tile(p, cut, t);
      pixels += tile.rows;
      int64_t num_blocks = 0;
      if (input == TapInput::kTile) {
        MakeTileRows(p, tile, tables.rows, cut.copy_stride);
        num_blocks = FillRowTile(p, tile, tables.rows, cut.copy_stride, geometry.rows, tables);
      } else if (input == TapInput::kRows) {
        num_blocks = FillRowTile(p, tile, copy + tile.begin * cut.copy_stride, cut.copy_stride,
                                 geometry.rows, tables);
      } else if (gather) {
        GatherTile(p, *gather, tile, tables.gathered, cut.gather_stride);
        num_blocks =
            FillRowTile(p, tile, tables.gathered, cut.gather_stride, geometry.rows, tables);
      } else if (own_pixels && p.h == p.in.h && p.w == p.in.w) {
        num_blocks =
            FillRowTile(p, tile, p.in.Pixel(tile.begin), p.in.pixel_stride, geometry.rows, tables);
      } else {
        num_blocks = FillTapTile(p, source, geometry.rows, zeros, tile, tables);
      }
      const bool first_tile = p.moments != nullptr && t == cut.FirstTile(run);
      if (by_rows) {
        GemmPanel panels[kMaxPanelsByRows];
        const int64_t count = last_panel - first_panel + 1;
        for (int64_t i = 0; i < count; ++i) panels[i] = panel_of(first_panel + i);
        const int64_t begun = first_tile ? 1 : 0;
        if (first_tile) {
          GemmMultiplyByRows(tables.blocks, 1, depth, panels, count, p.epilogue);
          for (int64_t i = 0; i < count; ++i) {
            BeginMoments(p, tables.blocks[0], panels[i].first_column, panels[i].columns, piece);
          }
        }
        GemmMultiplyByRows(tables.blocks + begun, num_blocks - begun, depth, panels, count,
                           epilogue);
        continue;
      }
      // The tile after this one, here or in the piece that this worker likely takes next.
      NextRows next;
      if (input != TapInput::kByPosition && t + 1 < cut.tiles) {
        const TapTile next_tile(p, cut, t + 1);
        next.begin = next_tile.begin;
        next.end = next_tile.begin + next_tile.rows;
        next.input = own_pixels && input != TapInput::kRows;
        next.column = first_panel * width;
        next.num_columns = std::min(columns, (last_panel + 1) * width) - next.column;
      }
      for (int64_t panel = first_panel; panel <= last_panel; ++panel) {
        const int64_t column = panel * width;
        const int64_t panel_columns = std::min(width, columns - column);
        GemmPanel b{nullptr, DivideUp(panel_columns, geometry.lanes) * geometry.lanes, column,
                    panel_columns};
        PrefetchQueue queue;
        queue.Clear();
        if (reads_in_place && b.row_stride == panel_columns) {
          b.data = p.weights + p.taps[0].weights + column;
          b.row_stride = p.weight_row_stride;
          // Short rows, a stride apart, are no pattern that hardware prefetches.
          queue.Add(b.data + kRowsAhead * b.row_stride, panel_columns, b.row_stride,
                    p.num_taps * channels - kRowsAhead);
          queue.SpreadOver(p.num_taps * channels / depth * GemmPrefetchSteps(depth));
        } else {
          if (cut.packs_in_pieces()) {
            float* const own_panel = panel_at(cut.groups < ctx.num_threads() ? group : worker);
            for (int64_t tap = 0; tap < p.num_taps; ++tap) {
              PackSegment(p, geometry, panel, tap, own_panel);
            }
            b.data = own_panel;
          } else {
            b = panel_of(panel);
          }
          next.Part(p, panel - first_panel, last_panel - first_panel + 1, &queue);
          queue.SpreadOver(num_blocks * GemmPrefetchSteps(depth));
        }
        const GemmPrefetch prefetch{panel == first_panel && fetches_blocks,
                                    panel == last_panel ? nullptr : tables.blocks, &queue};
        int64_t begun = 0;
        if (first_tile) {
          begun = 1;
          GemmMultiply(tables.blocks, 1, depth, b, p.epilogue);
          BeginMoments(p, tables.blocks[0], column, panel_columns, piece);
        }
        GemmMultiply(tables.blocks + begun, num_blocks - begun, depth, b, epilogue, prefetch);
      }
    }
    if (p.moments != nullptr && group == 0) p.moments->pixels(piece) = pixels;
  });
}

}  // namespace classicnn
