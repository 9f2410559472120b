#include "layers/conv2d/conv2d_winograd_correlation.h"

#include <algorithm>

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
    } else {
      // Two register blocks of rows share each pass over u, unless that leaves too few pieces.
      block = tiles.count >= 2 * k.block_rows * kPieces ? 2 * k.block_rows : k.block_rows;
      depth_block = depth;
    }
    v = WinogradLayout::For(block, depth_block);
    m = WinogradLayout::For(block, k.panel);
    u_point = depth_block * k.panel + 16;
    const int64_t v_size = k.points * v.point * CeilDiv(depth, depth_block);
    const int64_t m_size = k.points * m.point;
    if (by_panels) {
      shared_size = v_size;
      thread_size = k.points * u_point + m_size;
    } else {
      shared_size = k.points * depth * CeilDiv(out.c, k.vector) * k.vector;
      thread_size = v_size + m_size;
    }
    // Whole cache lines, and not a power of two from thread to thread.
    thread_size = CeilDiv(thread_size, 16) * 16 + 16;
  }

  static constexpr int64_t kFewTiles = 512;
  static constexpr int64_t kManyPanels = 8;
  static constexpr int64_t kPieces = 16;       // enough for the threads of most machines
  static constexpr int64_t kSpanTiles = 126;   // a panel's m stays in the second-level cache
  static constexpr int64_t kDepthBlock = 128;  // and its u

  WinogradTiles tiles;
  int64_t panels;
  bool by_panels;
  int64_t block;        // tiles at a time
  int64_t depth_block;  // channels at a time; by panels v is cut into such blocks
  WinogradLayout v;
  WinogradLayout m;
  int64_t u_point;      // between points of a piece's own u
  int64_t shared_size;  // elements of u (by tiles) or v (by panels)
  int64_t thread_size;  // elements that each thread needs: v and m, or u and m
};

void CorrelateByTiles(const char* zone, const WinogradKernels& k, const CorrelationPlan& plan,
                      const WinogradCorrelation& c, float* u, float* scratch, Context& ctx) {
  const int64_t depth = c.depth();
  const int64_t columns = c.columns();
  // Panels before this one are full.
  const auto panel_u = [&](int64_t p) { return u + p * k.panel * depth * k.points; };
  constexpr int64_t kPackDepth = 32;
  const int64_t pack_pieces = CeilDiv(depth, kPackDepth);
  ctx.ParallelFor("conv2d.winograd.weights", plan.panels * pack_pieces, [&](int64_t piece, int) {
    const int64_t p = piece / pack_pieces;
    const int64_t d0 = piece % pack_pieces * kPackDepth;
    const int64_t width = k.Width(columns, p);
    k.pack_weights(c, p, d0, std::min(depth, d0 + kPackDepth), panel_u(p) + d0 * width,
                   depth * width);
  });

  const int64_t pieces = CeilDiv(plan.tiles.count, plan.block);
  ctx.ParallelFor(zone, pieces, [&](int64_t piece, int worker) {
    float* const v = scratch + worker * plan.thread_size;
    float* const m = v + k.points * plan.v.point;
    const int64_t begin = piece * plan.block;
    const int64_t count = std::min(plan.block, plan.tiles.count - begin);
    k.transform_input(c.in, c.padding, plan.tiles, c.zeros, begin, count, plan.v, v);
    // While this block is multiplied, the inputs of the next and the outputs of this one are
    // fetched.
    const int64_t products = k.points * (k.PadTiles(count) / k.block_rows);
    WinogradPrefetch inputs(c.in, plan.tiles, k.tile, 2 - c.padding, begin + plan.block,
                            begin + 2 * plan.block, plan.panels * products);
    for (int64_t p = 0; p < plan.panels; ++p) {
      const int64_t width = k.Width(columns, p);
      const int64_t first = p * k.panel;
      WinogradPrefetch outputs(c.out.Channels(first, std::min(k.panel, columns - first)),
                               plan.tiles, k.tile, 0, begin, begin + count, products);
      k.multiply(v, plan.v, panel_u(p), depth * width, depth, width, count, false, m, plan.m,
                 &inputs, &outputs);
      k.transform_output(c, plan.tiles, p, begin, count, m, plan.m);
    }
  });
}

void CorrelateByPanels(const char* zone, const WinogradKernels& k, const CorrelationPlan& plan,
                       const WinogradCorrelation& c, float* v, float* scratch, Context& ctx) {
  const int64_t depth = c.depth();
  const auto v_block = [&](int64_t d0) {
    return v + d0 / plan.depth_block * k.points * plan.v.point;
  };
  for (int64_t begin = 0; begin < plan.tiles.count; begin += plan.block) {
    const int64_t count = std::min(plan.block, plan.tiles.count - begin);
    constexpr int64_t kPieceTiles = 4;
    const int64_t pieces = CeilDiv(count, kPieceTiles);
    ctx.ParallelFor("conv2d.winograd.input", pieces, [&](int64_t piece, int) {
      const int64_t first = piece * kPieceTiles;
      const int64_t some = std::min(kPieceTiles, count - first);
      for (int64_t d0 = 0; d0 < depth; d0 += plan.depth_block) {
        k.transform_input(c.in.Channels(d0, std::min(plan.depth_block, depth - d0)), c.padding,
                          plan.tiles, c.zeros, begin + first, some, plan.v,
                          v_block(d0) + first * plan.v.row);
      }
    });
    ctx.ParallelFor(zone, plan.panels, [&](int64_t p, int worker) {
      float* const u = scratch + worker * plan.thread_size;
      float* const m = u + k.points * plan.u_point;
      WinogradPrefetch none;
      const int64_t width = k.Width(c.columns(), p);
      for (int64_t d0 = 0; d0 < depth; d0 += plan.depth_block) {
        const int64_t d1 = std::min(depth, d0 + plan.depth_block);
        k.pack_weights(c, p, d0, d1, u, plan.u_point);
        k.multiply(v_block(d0), plan.v, u, plan.u_point, d1 - d0, width, count, d0 > 0, m, plan.m,
                   &none, &none);
      }
      k.transform_output(c, plan.tiles, p, begin, count, m, plan.m);
    });
  }
}

}  // namespace

size_t WinogradCorrelateWorkspaceBytes(int64_t tile, const Shape4& out, int64_t depth,
                                       int num_threads) {
  const CorrelationPlan plan(GetWinogradKernels(tile), out, depth);
  return Workspace::BytesFor<float>(depth) + Workspace::BytesFor<float>(plan.shared_size) +
         Workspace::BytesFor<float>(plan.thread_size * num_threads);
}

void WinogradCorrelate(const char* zone, int64_t tile, WinogradCorrelation c, Workspace workspace,
                       Context& ctx) {
  const WinogradKernels& k = GetWinogradKernels(tile);
  const CorrelationPlan plan(k, c.out.shape(), c.depth());
  float* zeros = workspace.Take<float>(c.depth());
  std::fill(zeros, zeros + c.depth(), 0.0f);
  c.zeros = zeros;
  float* shared = workspace.Take<float>(plan.shared_size);
  float* scratch = workspace.Take<float>(plan.thread_size * ctx.num_threads());
  if (plan.by_panels) {
    CorrelateByPanels(zone, k, plan, c, shared, scratch, ctx);
  } else {
    CorrelateByTiles(zone, k, plan, c, shared, scratch, ctx);
  }
}

}  // namespace classicnn
