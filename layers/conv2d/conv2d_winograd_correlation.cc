#include "layers/conv2d/conv2d_winograd_correlation.h"

#include <algorithm>
#include <optional>

#include "core/divide.h"
#include "layers/channel_sums.h"

namespace classicnn {
namespace {

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
//
// An epilogue's sums are those of `parts`, runs of tiles. They depend on the shape alone, and so do
// the bits of all results. More threads than there are pieces share one: by tiles its panels, and
// each transforms the inputs; by panels its parts, and each transforms the weights.
struct CorrelationPlan {
  CorrelationPlan(const WinogradKernels& k, const Shape4& out, int64_t depth, int num_threads)
      : tiles(out.n, out.h, out.w, k.tile), panels(k.Panels(out.c)) {
    by_panels = tiles.count < kFewTiles && panels >= kManyPanels;
    if (by_panels) {
      const int64_t row_blocks = DivideUp(std::min(tiles.count, kSpanTiles), k.block_rows);
      const int64_t part_blocks = std::max<int64_t>(1, row_blocks / DivideUp(kManyPieces, panels));
      part_tiles = part_blocks * k.block_rows;
      span_parts = row_blocks / part_blocks;
      block = span_parts * part_tiles;
      depth_block = std::min(depth, kDepthBlock);
      groups = std::min(span_parts, DivideUp(num_threads, panels));
      pieces = panels * groups;
    } else {
      // Two register blocks of rows share each pass over u, unless that leaves too few pieces.
      block = tiles.count >= 2 * k.block_rows * kPieces ? 2 * k.block_rows : k.block_rows;
      depth_block = depth;
      part_tiles = block * DivideUp(DivideUp(tiles.count, block), kMaxParts);
      const int64_t runs = DivideUp(tiles.count, part_tiles);
      groups = std::min(panels, DivideUp(num_threads, runs));
      pieces = runs * groups;
    }
    parts = DivideUp(tiles.count, part_tiles);
    v = WinogradLayout::For(block, depth_block);
    m = WinogradLayout::For(by_panels ? DivideUp(span_parts, groups) * part_tiles : block, k.panel);
    u_point = UPoint(depth_block, k.panel);
    const int64_t v_size = k.points * v.point * DivideUp(depth, depth_block);
    const int64_t m_size = k.points * m.point;
    if (by_panels) {
      shared_size = v_size;
      thread_size = k.points * u_point + m_size;
    } else {
      shared_size = panels * k.points * UPoint(depth, k.panel);
      thread_size = v_size + m_size;
    }
    // Whole cache lines, and not a power of two from thread to thread.
    thread_size = DivideUp(thread_size, 16) * 16 + 16;
  }

  WinogradScratch scratch() const { return {pieces, thread_size}; }

  // Elements from one point of a panel's u to the next: one more cache line than it holds. A
  // vector's points are written one after the other, and multiples of 4 KB apart they would drive
  // each other out of the first-level cache (4 to 6 times the time of 128 input channels).
  static int64_t UPoint(int64_t depth, int64_t width) { return depth * width + 16; }

  static constexpr int64_t kFewTiles = 512;
  static constexpr int64_t kManyPanels = 8;
  static constexpr int64_t kPieces = 16;       // enough for the threads of most machines
  static constexpr int64_t kManyPieces = 64;   // and of large ones
  static constexpr int64_t kMaxParts = 256;    // each leaves an epilogue's sums, to be merged
  static constexpr int64_t kSpanTiles = 126;   // a panel's m stays in the second-level cache
  static constexpr int64_t kDepthBlock = 128;  // and its u

  WinogradTiles tiles;
  int64_t panels;
  bool by_panels;
  int64_t block;       // tiles at a time; by panels a span
  int64_t part_tiles;  // tiles that share an epilogue's sums
  int64_t parts;
  int64_t span_parts = 0;  // by panels: parts of a span, but for the last span
  int64_t depth_block;     // channels at a time; by panels v is cut into such blocks
  int64_t groups;          // of a part's panels, by panels of a span's parts
  int64_t pieces;          // of the parallel loop, by panels of each span's
  WinogradLayout v;
  WinogradLayout m;
  int64_t u_point;      // between points of a piece's own u
  int64_t shared_size;  // elements of u (by tiles) or v (by panels)
  int64_t thread_size;  // elements that each thread needs: v and m, or u and m
};

// The sums that parts leave for the epilogue, if there is one.
class EpilogueSums {
 public:
  static size_t Bytes(const CorrelationPlan& plan, int64_t columns, const Conv2dFusion& fusion) {
    if (fusion.statistics) return MomentPieces::Bytes(plan.parts, columns);
    if (fusion.gradient_epilogue) return GradientSumPieces::Bytes(plan.parts, columns);
    return 0;
  }
  EpilogueSums(const CorrelationPlan& plan, const WinogradCorrelation& c, Workspace* workspace)
      : tiles_(plan.tiles), out_(c.out) {
    if (c.statistics.active()) moments_.emplace(plan.parts, c.columns(), workspace);
    if (c.epilogue.active()) gradients_.emplace(plan.parts, c.columns(), workspace);
  }

  // Columns [first, first + count) of a part, to be begun before they are written. `write_tile`
  // writes them without an epilogue for the tile it is given, one of the part's.
  template <class WriteTile>
  void Begin(int64_t part, int64_t first, int64_t count, int64_t tile,
             const WriteTile& write_tile) {
    if (gradients_.has_value()) gradients_->Clear(part, first, count);
    if (!moments_.has_value()) return;
    // A center from the middle row of one tile.
    write_tile(tile);
    const int64_t row = tiles_.row(tile) * tiles_.tile + tiles_.RowsInside(tile, out_.h) / 2;
    moments_->Begin(part, first, count,
                    out_.Pixel(tiles_.image(tile), row, tiles_.col(tile) * tiles_.tile) + first,
                    out_.pixel_stride, tiles_.ColsInside(tile, out_.w));
  }
  // The tiles of a part.
  void SetTiles(int64_t part, int64_t begin, int64_t end) {
    if (!moments_.has_value()) return;
    int64_t pixels = 0;
    for (int64_t t = begin; t < end; ++t) {
      pixels += tiles_.RowsInside(t, out_.h) * tiles_.ColsInside(t, out_.w);
    }
    moments_->pixels(part) = pixels;
  }
  WinogradSums Of(int64_t part) const {
    if (moments_.has_value()) {
      return {moments_->center(part), moments_->sum(part), moments_->sum_of_squares(part)};
    }
    if (gradients_.has_value()) {
      return {nullptr, gradients_->sum_g(part), gradients_->sum_gx(part)};
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
  const int64_t pack_pieces = DivideUp(depth, kPackDepth);
  ctx.ParallelFor("conv2d.winograd.weights", plan.panels * pack_pieces, [&](int64_t piece, int) {
    const int64_t p = piece / pack_pieces;
    const int64_t d0 = piece % pack_pieces * kPackDepth;
    const int64_t width = k.Width(columns, p);
    k.pack_weights(c, p, d0, std::min(depth, d0 + kPackDepth), panel_u(p) + d0 * width,
                   u_point(width));
  });

  // The panels of a group, for a block of a part's tiles.
  const auto block_of_tiles = [&](int64_t part, int64_t group, int64_t begin, float* v) {
    float* const m = v + k.points * plan.v.point;
    const int64_t count = std::min(plan.block, plan.tiles.count - begin);
    const int64_t first_panel = plan.panels * group / plan.groups;
    const int64_t last_panel = plan.panels * (group + 1) / plan.groups;
    k.transform_input(c.in, c.padding, plan.tiles, begin, count, plan.v, v);
    // While this block is multiplied, the inputs of the next are fetched.
    const int64_t products = k.points * (k.PadTiles(count) / k.block_rows);
    WinogradPrefetch inputs(c.in.tensor, c.in.gradient.x, plan.tiles, k.kernel - 1 - c.padding,
                            begin + plan.block, begin + 2 * plan.block,
                            (last_panel - first_panel) * products);
    for (int64_t p = first_panel; p < last_panel; ++p) {
      const int64_t width = k.Width(columns, p);
      const int64_t first = p * k.panel;
      const int64_t panel_columns = std::min(k.panel, columns - first);
      k.multiply(v, plan.v, panel_u(p), u_point(width), depth, width, count, false, m, plan.m,
                 &inputs);
      if (begin % plan.part_tiles == 0) {
        sums->Begin(part, first, panel_columns, begin, [&](int64_t tile) {
          k.transform_output(c, plan.tiles, p, tile, 1, m, plan.m, {});
        });
      }
      k.transform_output(c, plan.tiles, p, begin, count, m, plan.m, sums->Of(part));
    }
  };
  ctx.ParallelFor(zone, plan.pieces, [&](int64_t piece, int worker) {
    const int64_t part = piece / plan.groups;
    const int64_t group = piece % plan.groups;
    const int64_t begin = part * plan.part_tiles;
    const int64_t end = std::min(plan.tiles.count, begin + plan.part_tiles);
    if (group == 0) sums->SetTiles(part, begin, end);
    for (int64_t t = begin; t < end; t += plan.block) {
      block_of_tiles(part, group, t, plan.scratch().Of(scratch, piece, worker, ctx));
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
  for (int64_t begin = 0; begin < plan.tiles.count; begin += plan.block) {
    const int64_t count = std::min(plan.block, plan.tiles.count - begin);
    const int64_t piece_tiles = WinogradInputTiles(count, ctx.num_threads());
    ctx.ParallelFor("conv2d.winograd.input", DivideUp(count, piece_tiles), [&](int64_t piece, int) {
      const int64_t first = piece * piece_tiles;
      const int64_t some = std::min(piece_tiles, count - first);
      for (int64_t d0 = 0; d0 < depth; d0 += plan.depth_block) {
        k.transform_input(c.in.Channels(d0, std::min(plan.depth_block, depth - d0)), c.padding,
                          plan.tiles, begin + first, some, plan.v,
                          v_block(d0) + first * plan.v.row);
      }
    });
    const int64_t first_part = begin / plan.part_tiles;
    const int64_t span_parts = DivideUp(count, plan.part_tiles);
    const int64_t groups = std::min(plan.groups, span_parts);
    ctx.ParallelFor(zone, plan.panels * groups, [&](int64_t piece, int worker) {
      const int64_t p = piece / groups;
      const int64_t group = piece % groups;
      const int64_t group_begin = span_parts * group / groups;
      const int64_t group_end = span_parts * (group + 1) / groups;
      const int64_t first_tile = group_begin * plan.part_tiles;
      const int64_t group_tiles = std::min(group_end * plan.part_tiles, count) - first_tile;
      float* const u = plan.scratch().Of(scratch, piece, worker, ctx);
      float* const m = u + k.points * plan.u_point;
      WinogradPrefetch none;
      const int64_t width = k.Width(c.columns(), p);
      for (int64_t d0 = 0; d0 < depth; d0 += plan.depth_block) {
        const int64_t d1 = std::min(depth, d0 + plan.depth_block);
        k.pack_weights(c, p, d0, d1, u, plan.u_point);
        k.multiply(v_block(d0) + first_tile * plan.v.row, plan.v, u, plan.u_point, d1 - d0, width,
                   group_tiles, d0 > 0, m, plan.m, &none);
      }
      const int64_t first = p * k.panel;
      for (int64_t i = group_begin; i < group_end; ++i) {
        const int64_t part = first_part + i;
        const int64_t part_begin = i * plan.part_tiles;
        const int64_t part_count = std::min(plan.part_tiles, count - part_begin);
        const float* const part_m = m + (part_begin - first_tile) * plan.m.row;
        if (p == 0) sums->SetTiles(part, begin + part_begin, begin + part_begin + part_count);
        sums->Begin(part, first, std::min(k.panel, c.columns() - first), begin + part_begin,
                    [&](int64_t tile) {
                      k.transform_output(c, plan.tiles, p, tile, 1, part_m, plan.m, {});
                    });
        k.transform_output(c, plan.tiles, p, begin + part_begin, part_count, part_m, plan.m,
                           sums->Of(part));
      }
    });
  }
}

}  // namespace

int64_t WinogradCorrelatePieces(const WinogradKernels& k, const Shape4& out, int64_t depth,
                                int num_threads) {
  return CorrelationPlan(k, out, depth, num_threads).pieces;
}

size_t WinogradCorrelateWorkspaceBytes(const WinogradKernels& k, const Shape4& out, int64_t depth,
                                       int num_threads, const Conv2dFusion& fusion) {
  const CorrelationPlan plan(k, out, depth, num_threads);
  return Workspace::BytesFor<float>(depth) + Workspace::BytesFor<float>(plan.shared_size) +
         Workspace::BytesFor<float>(plan.scratch().Floats(num_threads)) +
         EpilogueSums::Bytes(plan, out.c, fusion);
}

void WinogradCorrelate(const char* zone, const WinogradKernels& k, WinogradCorrelation c,
                       Workspace workspace, Context& ctx) {
  const CorrelationPlan plan(k, c.out.shape(), c.depth(), ctx.num_threads());
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
