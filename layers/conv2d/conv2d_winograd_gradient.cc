#include "layers/conv2d/conv2d_winograd_gradient.h"

#include <algorithm>
#include <utility>

#include "core/divide.h"
#include "core/view.h"
#include "layers/conv2d/conv2d_winograd_kernels.h"
#include "layers/tree_sum.h"

namespace classicnn {
namespace {

// The transformed gradient du[point][C][K] = sum over all tiles of v[tile] w[tile]^T, and then
// dw = G^T du G. Two ways to cut the sum, chosen by shape:
//
// By images (many tiles, few channels): each piece takes a fixed group of images through
// everything, tiles in blocks, and ends with the group's dw; the groups' are combined by a binary
// tree. They stay below 8 MB, and du, which each thread keeps, below 3.6 MB. More threads than
// groups share the channels of one.
//
// By channels (the rest): the tiles of a span are transformed into shared v and w. Then each piece
// takes a block of input and output channels, sums all points of it over the whole span, and adds
// its part of dw. Neither du nor partial sums of a whole layer ever exist.
//
// How channels are cut depends on the number of threads. The bits do not: each element of du is the
// same sum in the same order however its neighbours are cut.
struct GradientPlan {
  GradientPlan(const WinogradKernels& k, const Conv2dShape& s, int num_threads)
      : tiles(s.n, s.out_h(), s.out_w(), k.tile),
        depth_block(DivideUp(s.in_channels, 16) * 16),
        column_block(DivideUp(s.out_channels, 16) * 16) {
    by_images = tiles.count >= kManyTiles && s.n >= 4 &&
                s.in_channels * s.out_channels <= kFewProducts &&
                s.in_channels + s.out_channels <= kFewChannels;
    const auto count_pieces = [&] {
      depth_blocks = DivideUp(s.in_channels, depth_block);
      column_blocks = DivideUp(s.out_channels, column_block);
      return groups * depth_blocks * column_blocks;
    };
    if (by_images) {
      const int64_t per_image = tiles.rows * tiles.cols;
      images = 1;
      while (images < s.n &&
             (images * per_image < kBlockTiles || DivideUp(s.n, images) > kMaxGroups ||
              DivideUp(s.n, images) * s.weight_count() > kPartialFloats)) {
        images *= 2;
      }
      groups = DivideUp(s.n, images);
      block = kBlockTiles;
      pieces = count_pieces();
      while (pieces < num_threads && std::max(depth_block, column_block) > kLeastShared) {
        int64_t& larger = depth_block > column_block ? depth_block : column_block;
        larger = DivideUp(larger, 32) * 16;
        pieces = count_pieces();
      }
    } else {
      // Spans of even size. 64 x 64 channels, whose du fits the second-level cache, or less where
      // that makes too few pieces.
      block = DivideUp(tiles.count, DivideUp(tiles.count, kBlockTiles));
      const int64_t wanted = std::min<int64_t>(4 * num_threads, std::max(64, num_threads));
      const int64_t depth = depth_block, columns = column_block;
      for (const auto& [side, enough] :
           {std::pair<int64_t, int64_t>(64, wanted), std::pair<int64_t, int64_t>(32, num_threads),
            std::pair<int64_t, int64_t>(16, 0)}) {
        depth_block = std::min(depth, side);
        column_block = std::min(columns, side);
        pieces = count_pieces();
        if (pieces >= enough) break;
      }
    }
    v = WinogradLayout::For(block, by_images ? depth_block : s.in_channels);
    w = WinogradLayout::For(block, by_images ? column_block : s.out_channels);
    // Products write up to a register block more rows than there are.
    du = WinogradLayout::For(depth_block + k.block_rows, column_block);
    const int64_t transformed_size = k.points * (v.point + w.point);
    const int64_t du_size = k.points * du.point;
    shared_size = by_images ? groups * s.weight_count() : transformed_size;
    thread_size = by_images ? transformed_size + du_size : du_size;
    thread_size = DivideUp(thread_size, 16) * 16 + 16;
  }

  WinogradScratch scratch() const { return {pieces, thread_size}; }

  static constexpr int64_t kManyTiles = 512;
  static constexpr int64_t kFewProducts = 128 * 192;
  static constexpr int64_t kFewChannels = 512;
  static constexpr int64_t kMaxGroups = 64;
  static constexpr int64_t kPartialFloats = int64_t{2} << 20;
  static constexpr int64_t kBlockTiles = 64;  // columns of both operands fit the nearest cache
  static constexpr int64_t kLeastShared = 32;

  WinogradTiles tiles;
  bool by_images;
  int64_t images = 0;  // of a group
  int64_t groups = 1;
  int64_t block;  // tiles at a time
  int64_t depth_block, depth_blocks = 1;
  int64_t column_block, column_blocks = 1;
  int64_t pieces = 0;  // of the loop with the products
  WinogradLayout v;    // of all channels, or by images of a piece's
  WinogradLayout w;
  WinogradLayout du;
  int64_t shared_size;  // elements of the groups' dw, or of v and w
  int64_t thread_size;  // v, w and du, or du
};

// A piece's channels.
struct GradientBlock {
  GradientBlock(const GradientPlan& plan, const Conv2dShape& s, int64_t index)
      : c0(index / plan.column_blocks * plan.depth_block),
        k0(index % plan.column_blocks * plan.column_block),
        depth(std::min(plan.depth_block, s.in_channels - c0)),
        columns(std::min(plan.column_block, s.out_channels - k0)) {}
  int64_t c0, k0;
  int64_t depth, columns;
};

void GradientByImages(const WinogradKernels& k, const GradientPlan& plan,
                      const Conv2dBackwardWeightsArgs<float>& args, const WinogradSource& all_x,
                      const WinogradSource& all_dy, float* partials, float* scratch, Context& ctx) {
  const Conv2dShape& s = args.shape;
  const int64_t size = s.weight_count();
  ctx.ParallelFor("conv2d.backward_weights.winograd", plan.pieces, [&](int64_t piece, int worker) {
    float* const v = plan.scratch().Of(scratch, piece, worker, ctx);
    float* const w = v + k.points * plan.v.point;
    float* const du = w + k.points * plan.w.point;
    const int64_t blocks = plan.depth_blocks * plan.column_blocks;
    const int64_t group = piece / blocks;
    const GradientBlock b(plan, s, piece % blocks);
    const WinogradSource x = all_x.Channels(b.c0, b.depth);
    const WinogradSource dy = all_dy.Channels(b.k0, b.columns);
    const int64_t per_image = plan.tiles.rows * plan.tiles.cols;
    const int64_t first = group * plan.images * per_image;
    const int64_t last = std::min(plan.tiles.count, first + plan.images * per_image);
    for (int64_t begin = first; begin < last; begin += plan.block) {
      const int64_t count = std::min(plan.block, last - begin);
      k.transform_input(x, s.padding, plan.tiles, begin, count, plan.v, v);
      k.transform_gradient(dy, plan.tiles, begin, count, plan.w, w);
      const int64_t products = k.points * k.Panels(b.columns) * DivideUp(b.depth, k.block_rows);
      // While this block is multiplied, the next one is fetched: the next group's first after the
      // last.
      const int64_t next = begin + plan.block;
      const int64_t next_end = next < last ? std::min(last, next + plan.block) : next + plan.block;
      WinogradPrefetch inputs(x.tensor, {}, plan.tiles, k.kernel - 1 - s.padding, next, next_end,
                              products);
      WinogradPrefetch gradients(dy.tensor, dy.gradient.x, plan.tiles, 0, next, next_end, products);
      k.outer(v, plan.v, w, plan.w, count, b.depth, b.columns, begin > first, du, plan.du.row,
              plan.du.point, &inputs, &gradients);
    }
    k.transform_weight_gradient(du, plan.du.row, plan.du.point, b.depth, b.columns, false,
                                partials + group * size + b.c0 * s.out_channels + b.k0,
                                s.out_channels, s.in_channels * s.out_channels);
  });
  constexpr int64_t kSpan = 4096;
  ctx.ParallelFor("conv2d.backward_weights.combine", DivideUp(size, kSpan),
                  [&](int64_t piece, int) {
                    const int64_t begin = piece * kSpan;
                    const int64_t end = std::min(size, begin + kSpan);
                    SumTreeInPlace(partials + begin, size, plan.groups, end - begin);
                    std::copy(partials + begin, partials + end, args.dweights + begin);
                  });
}

void GradientByChannels(const WinogradKernels& k, const GradientPlan& plan,
                        const Conv2dBackwardWeightsArgs<float>& args, const WinogradSource& x,
                        const WinogradSource& dy, float* v, float* scratch, Context& ctx) {
  const Conv2dShape& s = args.shape;
  float* const w = v + k.points * plan.v.point;
  for (int64_t begin = 0; begin < plan.tiles.count; begin += plan.block) {
    const int64_t count = std::min(plan.block, plan.tiles.count - begin);
    const int64_t piece_tiles = WinogradInputTiles(count, ctx.num_threads());
    ctx.ParallelFor("conv2d.winograd.input", DivideUp(count, piece_tiles), [&](int64_t piece, int) {
      const int64_t first = piece * piece_tiles;
      const int64_t some = std::min(piece_tiles, count - first);
      k.transform_input(x, s.padding, plan.tiles, begin + first, some, plan.v,
                        v + first * plan.v.row);
      k.transform_gradient(dy, plan.tiles, begin + first, some, plan.w, w + first * plan.w.row);
    });
    ctx.ParallelFor(
        "conv2d.backward_weights.winograd", plan.pieces, [&](int64_t piece, int worker) {
          float* const du = plan.scratch().Of(scratch, piece, worker, ctx);
          const GradientBlock b(plan, s, piece);
          WinogradPrefetch none;
          k.outer(v + b.c0, plan.v, w + b.k0, plan.w, count, b.depth, b.columns, false, du,
                  plan.du.row, plan.du.point, &none, &none);
          k.transform_weight_gradient(du, plan.du.row, plan.du.point, b.depth, b.columns, begin > 0,
                                      args.dweights + b.c0 * s.out_channels + b.k0, s.out_channels,
                                      s.in_channels * s.out_channels);
        });
  }
}

}  // namespace

int64_t WinogradGradientPieces(int64_t tile, const Conv2dShape& shape, int num_threads) {
  return GradientPlan(GetWinogradKernels(tile, shape.kernel), shape, num_threads).pieces;
}

size_t WinogradGradientWorkspaceBytes(int64_t tile, const Conv2dShape& shape, int num_threads) {
  const GradientPlan plan(GetWinogradKernels(tile, shape.kernel), shape, num_threads);
  return Workspace::BytesFor<float>(std::max(shape.in_channels, shape.out_channels)) +
         Workspace::BytesFor<float>(plan.shared_size) +
         Workspace::BytesFor<float>(plan.scratch().Floats(num_threads));
}

void WinogradGradient(int64_t tile, const Conv2dBackwardWeightsArgs<float>& args, Context& ctx) {
  const WinogradKernels& k = GetWinogradKernels(tile, args.shape.kernel);
  const GradientPlan plan(k, args.shape, ctx.num_threads());
  Workspace workspace = args.workspace;
  const int64_t channels = std::max(args.shape.in_channels, args.shape.out_channels);
  float* zeros = workspace.Take<float>(channels);
  std::fill(zeros, zeros + channels, 0.0f);
  WinogradSource x, dy;
  x.tensor = args.x;
  x.activation = args.activation;
  x.zeros = zeros;
  dy.tensor = args.dy;
  dy.gradient = args.gradient;
  dy.zeros = zeros;
  float* shared = workspace.Take<float>(plan.shared_size);
  float* scratch = workspace.Take<float>(plan.scratch().Floats(ctx.num_threads()));
  if (plan.by_images) {
    GradientByImages(k, plan, args, x, dy, shared, scratch, ctx);
  } else {
    GradientByChannels(k, plan, args, x, dy, shared, scratch, ctx);
  }
}

}  // namespace classicnn
