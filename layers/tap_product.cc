#include "layers/tap_product.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "core/check.h"
#include "core/divide.h"
#include "layers/channel_rows.h"
#include "layers/tap_product_cut.h"

namespace classicnn {
namespace {

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
  const Cut cut(size);
  return Workspace::BytesFor<float>(size.in_channels) +
         Workspace::BytesFor<float>(PackedFloats(size, cut, num_threads)) +
         Workspace::BytesFor<float>(cut.copy_floats) +
         static_cast<size_t>(num_threads) * TapTileScratch::Bytes(cut);
}

bool TapProductSkipsPadding(const TapProductSize& size) {
  return Cut(size).input == TapInput::kByPosition;
}

bool TapProductTakesPrologue(const TapProductSize& size) {
  return size.num_taps == 1 || TapProductSkipsPadding(size);
}

int64_t TapProductPieces(const TapProductSize& size) { return Cut(size).runs; }

namespace {

// One product: what its loops share.
class ProductRun {
 public:
  ProductRun(const char* zone, const TapProduct& product, Workspace workspace, Context& ctx)
      : zone_(zone),
        p_(product),
        ctx_(ctx),
        cut_(SizeOf(p_)),
        geometry_(cut_.geometry),
        width_(geometry_.panel_width()),
        depth_(cut_.gathers ? p_.num_taps * p_.in.c : p_.in.c),
        own_pixels_(ReadsOwnPixels(p_)),
        input_(cut_.input) {
    const bool one_matrix = IsOneMatrix(p_);
    reads_in_place_ = cut_.packs_in_pieces() && one_matrix;
    leaves_in_place_ = !cut_.packs_in_pieces() && one_matrix && LeavesWeights(p_, geometry_);
    by_rows_ = !cut_.packs_in_pieces() && !cut_.gathers && p_.num_taps == 1 &&
               p_.in.c <= kMaxDepthByRows && cut_.num_panels > 1 &&
               cut_.num_panels <= kMaxPanelsByRows;
    if (input_ == TapInput::kInPlace && own_pixels_ &&
        RowsCollide(p_.in_step * p_.in.pixel_stride) && cut_.num_panels / cut_.groups > 1) {
      input_ = TapInput::kTile;
    }
    // Rows that their tile's predecessor has not fetched (NextRows::input) and that were not made
    // just before. Fetching both ways cost 2 to 6% on an Intel Xeon, 9% where all is in the cache.
    fetches_blocks_ =
        input_ == TapInput::kRows || (input_ != TapInput::kTile && !own_pixels_ && !cut_.gathers);
    const bool prologue = p_.activation.active() || p_.gradient.active();
    CNN_CHECK(!prologue || input_ == TapInput::kByPosition || own_pixels_);

    if (cut_.gathers) gather_.emplace(p_.in, p_.taps, p_.num_taps);
    zeros_ = workspace.Take<float>(p_.in.c);
    packed_ = workspace.Take<float>(PackedFloats(SizeOf(p_), cut_, ctx.num_threads()));
    copy_ = workspace.Take<float>(cut_.copy_floats);
    scratch_bytes_ = TapTileScratch::Bytes(cut_);
    scratch_ = workspace.Take<std::byte>(static_cast<int64_t>(scratch_bytes_) * ctx.num_threads());
  }

  void Run() {
    std::fill(zeros_, zeros_ + p_.in.c, 0.0f);
    if (!cut_.packs_in_pieces() && !leaves_in_place_) {
      ctx_.ParallelFor(zone_, cut_.num_panels * p_.num_taps, [&](int64_t piece, int /*worker*/) {
        const int64_t panel = piece / p_.num_taps;
        PackSegment(p_, geometry_, panel, piece % p_.num_taps, PackedAt(panel));
      });
    }
    source_ = {p_.in.data, p_.in.h * p_.in.w * p_.in.pixel_stride, p_.in.pixel_stride};
    if (input_ == TapInput::kByPosition) {
      source_ = CopyByPosition(zone_, p_, cut_, copy_, ctx_);
    } else if (input_ == TapInput::kRows) {
      ctx_.ParallelFor(zone_, cut_.tiles, [&](int64_t index, int /*worker*/) {
        const TapTile tile(p_, cut_, index);
        MakeTileRows(p_, tile, copy_ + tile.begin * cut_.copy_stride, cut_.copy_stride);
      });
    }
    // Panels are dealt out in groups only as far as the tiles do not give enough pieces. A group's
    // panels stay in the cache over neighbouring tiles.
    ctx_.ParallelFor(zone_, cut_.groups * cut_.runs, [&](int64_t index, int worker) {
      RunPiece(index / cut_.runs, index % cut_.runs, worker);
    });
  }

 private:
  // A group of panels, and a run of tiles that they meet.
  struct Piece {
    int64_t group;
    int64_t first_panel, last_panel;
    int64_t sums;  // among those of the pieces
    int worker;
    GemmEpilogue epilogue;
  };

  float* PackedAt(int64_t index) const { return packed_ + index * width_ * p_.num_taps * p_.in.c; }
  GemmPanel PanelAt(int64_t panel, const float* data) const {
    const int64_t column = panel * width_;
    const int64_t columns = std::min(width_, p_.out.c - column);
    return {data, DivideUp(columns, geometry_.lanes) * geometry_.lanes, column, columns};
  }
  // Where the caller has it.
  GemmPanel PanelInPlace(int64_t panel) const {
    GemmPanel b = PanelAt(panel, nullptr);
    b.data = p_.weights + p_.taps[0].weights + b.first_column;
    b.row_stride = p_.weight_row_stride;
    return b;
  }
  // Where pieces do not pack for themselves.
  GemmPanel SharedPanel(int64_t panel) const {
    return leaves_in_place_ ? PanelInPlace(panel) : PanelAt(panel, PackedAt(panel));
  }
  // Packed by the piece that meets it.
  GemmPanel OwnPanel(int64_t panel, const Piece& piece) const {
    float* const packed = PackedAt(cut_.groups < ctx_.num_threads() ? piece.group : piece.worker);
    for (int64_t tap = 0; tap < p_.num_taps; ++tap) PackSegment(p_, geometry_, panel, tap, packed);
    return PanelAt(panel, packed);
  }

  void RunPiece(int64_t group, int64_t run, int worker) const {
    Piece piece{group,
                cut_.num_panels * group / cut_.groups,
                cut_.num_panels * (group + 1) / cut_.groups - 1,
                p_.first_piece + run,
                worker,
                p_.epilogue};
    Workspace own{scratch_ + static_cast<size_t>(worker) * scratch_bytes_, scratch_bytes_};
    const TapTileScratch tables(cut_, &own);
    if (p_.gradient_epilogue.active()) {
      const int64_t first_column = piece.first_panel * width_;
      p_.gradient_sums->Clear(piece.sums, first_column,
                              std::min(p_.out.c, (piece.last_panel + 1) * width_) - first_column);
      piece.epilogue.gradient = &p_.gradient_epilogue;
      piece.epilogue.sum_g = p_.gradient_sums->sum_g(piece.sums);
      piece.epilogue.sum_gx = p_.gradient_sums->sum_gx(piece.sums);
    }
    if (p_.moments != nullptr) {
      piece.epilogue.center = p_.moments->center(piece.sums);
      piece.epilogue.sum = p_.moments->sum(piece.sums);
      piece.epilogue.sum_of_squares = p_.moments->sum_of_squares(piece.sums);
    }
    int64_t pixels = 0;
    for (int64_t t = cut_.FirstTile(run); t < cut_.FirstTile(run + 1); ++t) {
      const TapTile tile(p_, cut_, t);
      pixels += tile.rows;
      const int64_t num_blocks = FillTile(tile, tables);
      const bool begins = p_.moments != nullptr && t == cut_.FirstTile(run);
      if (by_rows_) {
        MultiplyByRows(piece, begins, tables.blocks, num_blocks);
      } else {
        MultiplyByPanels(piece, begins, tables.blocks, num_blocks, RowsAfter(t, piece));
      }
    }
    if (p_.moments != nullptr && group == 0) p_.moments->pixels(piece.sums) = pixels;
  }

  // Returns the number of blocks.
  int64_t FillTile(const TapTile& tile, const TapTileScratch& tables) const {
    const auto from_rows = [&](const float* rows, int64_t stride) {
      return FillRowTile(p_, tile, rows, stride, geometry_.rows, tables);
    };
    if (input_ == TapInput::kTile) {
      MakeTileRows(p_, tile, tables.rows, cut_.copy_stride);
      return from_rows(tables.rows, cut_.copy_stride);
    }
    if (input_ == TapInput::kRows) {
      return from_rows(copy_ + tile.begin * cut_.copy_stride, cut_.copy_stride);
    }
    if (gather_) {
      GatherTile(p_, *gather_, tile, tables.gathered, cut_.gather_stride);
      return from_rows(tables.gathered, cut_.gather_stride);
    }
    if (own_pixels_ && p_.h == p_.in.h && p_.w == p_.in.w) {
      return from_rows(p_.in.Pixel(tile.begin), p_.in.pixel_stride);
    }
    return FillTapTile(p_, source_, geometry_.rows, zeros_, tile, tables);
  }

  // The tile after tile t, here or in the piece that this worker likely takes next.
  NextRows RowsAfter(int64_t t, const Piece& piece) const {
    NextRows next;
    if (input_ == TapInput::kByPosition || t + 1 >= cut_.tiles) return next;
    const TapTile tile(p_, cut_, t + 1);
    next.begin = tile.begin;
    next.end = tile.begin + tile.rows;
    next.input = own_pixels_ && input_ != TapInput::kRows;
    next.column = piece.first_panel * width_;
    next.num_columns = std::min(p_.out.c, (piece.last_panel + 1) * width_) - next.column;
    return next;
  }

  // `begins`: the first block's results become the center of the piece's moments.
  void MultiplyByRows(const Piece& piece, bool begins, const GemmBlock* blocks,
                      int64_t num_blocks) const {
    GemmPanel panels[kMaxPanelsByRows];
    const int64_t count = piece.last_panel - piece.first_panel + 1;
    for (int64_t i = 0; i < count; ++i) panels[i] = SharedPanel(piece.first_panel + i);
    if (begins) {
      GemmMultiplyByRows(blocks, 1, depth_, panels, count, p_.epilogue);
      for (int64_t i = 0; i < count; ++i) {
        BeginMoments(p_, blocks[0], panels[i].first_column, panels[i].columns, piece.sums);
      }
    }
    const int64_t begun = begins ? 1 : 0;
    GemmMultiplyByRows(blocks + begun, num_blocks - begun, depth_, panels, count, piece.epilogue);
  }

  void MultiplyByPanels(const Piece& piece, bool begins, const GemmBlock* blocks,
                        int64_t num_blocks, const NextRows& next) const {
    for (int64_t panel = piece.first_panel; panel <= piece.last_panel; ++panel) {
      GemmPanel b = PanelAt(panel, nullptr);
      PrefetchQueue queue;
      queue.Clear();
      if (reads_in_place_ && b.row_stride == b.columns) {
        b = PanelInPlace(panel);
        // Short rows, a stride apart, are no pattern that hardware prefetches.
        queue.Add(b.data + kRowsAhead * b.row_stride, b.columns, b.row_stride,
                  p_.num_taps * p_.in.c - kRowsAhead);
        queue.SpreadOver(p_.num_taps * p_.in.c / depth_ * GemmPrefetchSteps(depth_));
      } else {
        b = cut_.packs_in_pieces() ? OwnPanel(panel, piece) : SharedPanel(panel);
        next.Part(p_, panel - piece.first_panel, piece.last_panel - piece.first_panel + 1, &queue);
        queue.SpreadOver(num_blocks * GemmPrefetchSteps(depth_));
      }
      const GemmPrefetch prefetch{panel == piece.first_panel && fetches_blocks_,
                                  panel == piece.last_panel ? nullptr : blocks, &queue};
      if (begins) {
        GemmMultiply(blocks, 1, depth_, b, p_.epilogue);
        BeginMoments(p_, blocks[0], b.first_column, b.columns, piece.sums);
      }
      const int64_t begun = begins ? 1 : 0;
      GemmMultiply(blocks + begun, num_blocks - begun, depth_, b, piece.epilogue, prefetch);
    }
  }

  const char* const zone_;
  const TapProduct& p_;
  Context& ctx_;
  const Cut cut_;
  const GemmGeometry& geometry_;
  const int64_t width_;  // of a panel
  const int64_t depth_;  // of a segment
  const bool own_pixels_;
  TapInput input_;
  bool reads_in_place_ = false;   // a piece that packs for itself need not
  bool leaves_in_place_ = false;  // nor is anything else packed
  bool by_rows_ = false;
  bool fetches_blocks_ = false;
  std::optional<TapGather> gather_;
  TapSource source_{};
  float* zeros_ = nullptr;
  float* packed_ = nullptr;
  float* copy_ = nullptr;
  size_t scratch_bytes_ = 0;
  std::byte* scratch_ = nullptr;
};

}  // namespace

void RunTapProduct(const char* zone, const TapProduct& product, Workspace workspace, Context& ctx) {
  ProductRun(zone, product, workspace, ctx).Run();
}

}  // namespace classicnn
