#include "layers/conv2d/conv2d_winograd_correlation.h"

#include <algorithm>
#include <optional>

#include "layers/channel_sums.h"

namespace classicnn {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Two ways to order the work, chosen by shape:
//
// By tiles (many tiles): all weights are transformed first. Then each piece takes a block of tiles
// through input transform, products and output transform; its v and the m of one panel stay in the
// second-level cache, and u streams through once a block.
//
// By panels (few tiles, many channels, where u would be larger than the caches and used only a few
// times): all tiles of a span are transformed first. Then each piece takes a panel of columns,
// transforms its weights a few channels at a time, multiplies all tiles with them while they are in
// the cache, and ends with the output transform. The u of a whole layer never exists.
struct CorrelationPlan {
  CorrelationPlan(const WinogradKernels& k, const Shape4& out, int64_t depth)
      : tiles(out.n, out.h, out.w, k.tile), panels(k.Panels(out.c)) {
    by_panels = tiles.count < kFewTiles && panels >= kManyPanels;
    if (by_panels) {
      block = k.PadTiles(std::min(tiles.count, kSpanTiles));
      depth_block = std::min(depth, kDepthBlock);
      blocks = CeilDiv(tiles.count, block);
    } else {
      // Two register blocks of rows share each pass over u, unless that leaves too few pieces.
      block = tiles.count >= 2 * k.block_rows * kPieces ? 2 * k.block_rows : k.block_rows;
      depth_block = depth;
      blocks = CeilDiv(tiles.count, block);
      piece_blocks = CeilDiv(blocks, kMaxPieces);
    }
    pieces = CeilDiv(blocks, piece_blocks);
    v = WinogradLayout::For(block, depth_block);
    m = WinogradLayout::For(block, k.panel);
    u_point = UPoint(depth_block, k.panel);
    const int64_t v_size = k.points * v.point * CeilDiv(depth, depth_block);
    const int64_t m_size = k.points * m.point;
    if (by_panels) {
      shared_size = v_size;
      thread_size = k.points * u_point + m_size;
    } else {
      shared_size = panels * k.points * UPoint(depth, k.panel);
      thread_size = v_size + m_size;
    }
    // Whole cache lines, and not a power of two from thread to thread.
    thread_size = CeilDiv(thread_size, 16) * 16 + 16;
  }

  WinogradScratch scratch() const { return {by_panels ? panels : pieces, thread_size}; }

  // Elements from one point of a panel's u to the next: one more cache line than it holds. A
  // vector's points are written one after the other, and multiples of 4 KB apart they would drive
  // each other out of the first-level cache (4 to 6 times the time of 128 input channels).
  static int64_t UPoint(int64_t depth, int64_t width) { return depth * width + 16; }

  static constexpr int64_t kFewTiles = 512;
  static constexpr int64_t kManyPanels = 8;
  static constexpr int64_t kPieces = 16;       // enough for the threads of most machines
  static constexpr int64_t kMaxPieces = 256;   // each leaves an epilogue's sums, to be merged
  static constexpr int64_t kSpanTiles = 126;   // a panel's m stays in the second-level cache
  static constexpr int64_t kDepthBlock = 128;  // and its u

  WinogradTiles tiles;
  int64_t panels;
  bool by_panels;
  int64_t block;  // tiles at a time
  int64_t blocks;
  int64_t piece_blocks = 1;  // blocks of a piece, whose tiles share an epilogue's sums
  int64_t pieces;
  int64_t depth_block;  // channels at a time; by panels v is cut into such blocks
  WinogradLayout v;
  WinogradLayout m;
  int64_t u_point;      // between points of a piece's own u
  int64_t shared_size;  // elements of u (by tiles) or v (by panels)
  int64_t thread_size;  // elements that each thread needs: v and m, or u and m
};

// The sums that pieces leave for the epilogue, if there is one.
class EpilogueSums {
 public:
  static size_t Bytes(const CorrelationPlan& plan, int64_t columns, const Conv2dFusion& fusion) {
    if (fusion.statistics) return MomentPieces::Bytes(plan.pieces, columns);
    if (fusion.gradient_epilogue) return GradientSumPieces::Bytes(plan.pieces, columns);
    return 0;
  }
  EpilogueSums(const CorrelationPlan& plan, const WinogradCorrelation& c, Workspace* workspace)
      : tiles_(plan.tiles), out_(c.out) {
    if (c.statistics.active()) moments_.emplace(plan.pieces, c.columns(), workspace);
    if (c.epilogue.active()) gradients_.emplace(plan.pieces, c.columns(), workspace);
  }

  // Columns [first, first + count) of a piece, to be begun before they are written. `write_tile`
  // writes them without an epilogue for the tile it is given, one of the piece's.
  template <class WriteTile>
  void Begin(int64_t piece, int64_t first, int64_t count, int64_t tile,
             const WriteTile& write_tile) {
    if (gradients_.has_value()) gradients_->Clear(piece, first, count);
    if (!moments_.has_value()) return;
    // A center from the middle row of one tile.
    write_tile(tile);
    const int64_t row = tiles_.row(tile) * tiles_.tile + tiles_.RowsInside(tile, out_.h) / 2;
    moments_->Begin(piece, first, count,
                    out_.Pixel(tiles_.image(tile), row, tiles_.col(tile) * tiles_.tile) + first,
                    out_.pixel_stride, tiles_.ColsInside(tile, out_.w));
  }
  // The tiles that a piece writes.
  void SetTiles(int64_t piece, int64_t begin, int64_t end) {
    if (!moments_.has_value()) return;
    int64_t pixels = 0;
    for (int64_t t = begin; t < end; ++t) {
      pixels += tiles_.RowsInside(t, out_.h) * tiles_.ColsInside(t, out_.w);
    }
    moments_->pixels(piece) = pixels;
  }
  WinogradSums Of(int64_t piece) const {
    if (moments_.has_value()) {
      return {moments_->center(piece), moments_->sum(piece), moments_->sum_of_squares(piece)};
    }
    if (gradients_.has_value()) {
      return {nullptr, gradients_->sum_g(piece), gradients_->sum_gx(piece)};
    }
    return {};
  }
  void Merge(const WinogradCorrelation& c, Context& ctx) const {
    if (moments_.has_value()) moments_->Merge(c.statistics, ctx);
    if (gradients_.has_value()) gradients_->Merge(c.epilogue, ctx);
  }

 private:
  WinogradTiles tiles_;
  Tensor out_;
  std::optional<MomentPieces> moments_;
  std::optional<GradientSumPieces> gradients_;
};

void CorrelateByTiles(const char* zone, const WinogradKernels& k, const CorrelationPlan& plan,
                      const WinogradCorrelation& c, EpilogueSums* sums, float* u, float* scratch,
                      Context& ctx) {
  const int64_t depth = c.depth();
  const int64_t columns = c.columns();
  const auto panel_u = [&](int64_t p) {
    return u + p * k.points * CorrelationPlan::UPoint(depth, k.panel);
  };
  const auto u_point = [&](int64_t width) { return CorrelationPlan::UPoint(depth, width); };
  constexpr int64_t kPackDepth = 32;
  const int64_t pack_pieces = CeilDiv(depth, kPackDepth);
  ctx.ParallelFor("conv2d.winograd.weights", plan.panels * pack_pieces, [&](int64_t piece, int) {
    const int64_t p = piece / pack_pieces;
    const int64_t d0 = piece % pack_pieces * kPackDepth;
    const int64_t width = k.Width(columns, p);
    k.pack_weights(c, p, d0, std::min(depth, d0 + kPackDepth), panel_u(p) + d0 * width,
                   u_point(width));
  });

  const auto block_of_tiles = [&](int64_t piece, int64_t begin, bool first_of_piece, float* v) {
    float* const m = v + k.points * plan.v.point;
    const int64_t count = std::min(plan.block, plan.tiles.count - begin);
    k.transform_input(c.in, c.padding, plan.tiles, begin, count, plan.v, v);
    // While this block is multiplied, the inputs of the next are fetched.
    const int64_t products = k.points * (k.PadTiles(count) / k.block_rows);
    WinogradPrefetch inputs(c.in.tensor, c.in.gradient.x, plan.tiles, k.kernel - 1 - c.padding,
                            begin + plan.block, begin + 2 * plan.block, plan.panels * products);
    for (int64_t p = 0; p < plan.panels; ++p) {
      const int64_t width = k.Width(columns, p);
      const int64_t first = p * k.panel;
      const int64_t panel_columns = std::min(k.panel, columns - first);
      k.multiply(v, plan.v, panel_u(p), u_point(width), depth, width, count, false, m, plan.m,
                 &inputs);
      if (first_of_piece) {
        sums->Begin(piece, first, panel_columns, begin, [&](int64_t tile) {
          k.transform_output(c, plan.tiles, p, tile, 1, m, plan.m, {});
        });
      }
      k.transform_output(c, plan.tiles, p, begin, count, m, plan.m, sums->Of(piece));
    }
  };
  ctx.ParallelFor(zone, plan.pieces, [&](int64_t piece, int worker) {
    const int64_t size = plan.piece_blocks * plan.block;
    const int64_t begin = piece * size;
    const int64_t end = std::min(plan.tiles.count, begin + size);
    sums->SetTiles(piece, begin, end);
    for (int64_t t = begin; t < end; t += plan.block) {
      block_of_tiles(piece, t, t == begin, plan.scratch().Of(scratch, piece, worker, ctx));
    }
  });
}

void CorrelateByPanels(const char* zone, const WinogradKernels& k, const CorrelationPlan& plan,
                       const WinogradCorrelation& c, EpilogueSums* sums, float* v, float* scratch,
                       Context& ctx) {
  const int64_t depth = c.depth();
  const auto v_block = [&](int64_t d0) {
    return v + d0 / plan.depth_block * k.points * plan.v.point;
  };
  for (int64_t span = 0; span < plan.pieces; ++span) {
    const int64_t begin = span * plan.block;
    const int64_t count = std::min(plan.block, plan.tiles.count - begin);
    sums->SetTiles(span, begin, begin + count);
    constexpr int64_t kPieceTiles = 4;
    const int64_t pieces = CeilDiv(count, kPieceTiles);
    ctx.ParallelFor("conv2d.winograd.input", pieces, [&](int64_t piece, int) {
      const int64_t first = piece * kPieceTiles;
      const int64_t some = std::min(kPieceTiles, count - first);
      for (int64_t d0 = 0; d0 < depth; d0 += plan.depth_block) {
        k.transform_input(c.in.Channels(d0, std::min(plan.depth_block, depth - d0)), c.padding,
                          plan.tiles, begin + first, some, plan.v,
                          v_block(d0) + first * plan.v.row);
      }
    });
    ctx.ParallelFor(zone, plan.panels, [&](int64_t p, int worker) {
      float* const u = plan.scratch().Of(scratch, p, worker, ctx);
      float* const m = u + k.points * plan.u_point;
      WinogradPrefetch none;
      const int64_t width = k.Width(c.columns(), p);
      for (int64_t d0 = 0; d0 < depth; d0 += plan.depth_block) {
        const int64_t d1 = std::min(depth, d0 + plan.depth_block);
        k.pack_weights(c, p, d0, d1, u, plan.u_point);
        k.multiply(v_block(d0), plan.v, u, plan.u_point, d1 - d0, width, count, d0 > 0, m, plan.m,
                   &none);
      }
      const int64_t first = p * k.panel;
      sums->Begin(span, first, std::min(k.panel, c.columns() - first), begin, [&](int64_t tile) {
        k.transform_output(c, plan.tiles, p, tile, 1, m, plan.m, {});
      });
      k.transform_output(c, plan.tiles, p, begin, count, m, plan.m, sums->Of(span));
    });
  }
}

}  // namespace

size_t WinogradCorrelateWorkspaceBytes(const WinogradKernels& k, const Shape4& out, int64_t depth,
                                       int num_threads, const Conv2dFusion& fusion) {
  const CorrelationPlan plan(k, out, depth);
  return Workspace::BytesFor<float>(depth) + Workspace::BytesFor<float>(plan.shared_size) +
         Workspace::BytesFor<float>(plan.scratch().Floats(num_threads)) +
         EpilogueSums::Bytes(plan, out.c, fusion);
}

void WinogradCorrelate(const char* zone, const WinogradKernels& k, WinogradCorrelation c,
                       Workspace workspace, Context& ctx) {
  const CorrelationPlan plan(k, c.out.shape(), c.depth());
  float* zeros = workspace.Take<float>(c.depth());
  std::fill(zeros, zeros + c.depth(), 0.0f);
  c.in.zeros = zeros;
  float* shared = workspace.Take<float>(plan.shared_size);
  float* scratch = workspace.Take<float>(plan.scratch().Floats(ctx.num_threads()));
  EpilogueSums sums(plan, c, &workspace);
  if (plan.by_panels) {
    CorrelateByPanels(zone, k, plan, c, &sums, shared, scratch, ctx);
  } else {
    CorrelateByTiles(zone, k, plan, c, &sums, shared, scratch, ctx);
  }
  sums.Merge(c, ctx);
}

}  // namespace classicnn
