#include "layers/conv2d/conv2d_winograd_gradient.h"

#include <algorithm>

#include "core/view.h"
#include "layers/conv2d/conv2d_winograd_kernels.h"
#include "layers/tree_sum.h"

namespace classicnn {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The transformed gradient du[point][C][K] = sum over all tiles of v[tile] w[tile]^T, and then
// dw = G^T du G. Two ways to cut the sum, chosen by shape:
//
// By images (many tiles, few channels): each piece takes a fixed group of images through
// everything, tiles in blocks, and ends with the group's dw; the groups' are combined by a binary
// tree. They stay below 8 MB, and du, which each thread keeps, below 3.6 MB.
//
// By channels (the rest): the tiles of a span are transformed into shared v and w. Then each piece
// takes a block of input and output channels, sums all points of it over the whole span, and adds
// its part of dw. Neither du nor partial sums of a whole layer ever exist.
struct GradientPlan {
  GradientPlan(const WinogradKernels& k, const Conv2dShape& s)
      : tiles(s.n, s.out_h(), s.out_w(), k.tile) {
    const int64_t depth = CeilDiv(s.in_channels, 16) * 16;
    const int64_t columns = CeilDiv(s.out_channels, 16) * 16;
    by_images = tiles.count >= kManyTiles && s.n >= 4 &&
                s.in_channels * s.out_channels <= kFewProducts &&
                s.in_channels + s.out_channels <= kFewChannels;
    if (by_images) {
      const int64_t per_image = tiles.rows * tiles.cols;
      images = 1;
      while (images < s.n &&
             (images * per_image < kBlockTiles || CeilDiv(s.n, images) > kMaxGroups ||
              CeilDiv(s.n, images) * s.weight_count() > kPartialFloats)) {
        images *= 2;
      }
      groups = CeilDiv(s.n, images);
      block = kBlockTiles;
      depth_block = depth;
      column_block = columns;
    } else {
      // Spans of even size. 64 x 64 channels, whose du fits the second-level cache, or less where
      // that makes too few pieces.
      block = CeilDiv(tiles.count, CeilDiv(tiles.count, kBlockTiles));
      const int64_t side = depth * columns >= 64 * 64 * kPieces ? 64 : 32;
      depth_block = std::min(depth, side);
      column_block = std::min(columns, side);
    }
    v = WinogradLayout::For(block, s.in_channels);
    w = WinogradLayout::For(block, s.out_channels);
    // Products write up to a register block more rows than there are.
    du = WinogradLayout::For(depth_block + k.block_rows, column_block);
    transformed_size = k.points * (v.point + w.point);
    du_size = k.points * du.point;
    shared_size = by_images ? groups * s.weight_count() : transformed_size;
    thread_size = by_images ? transformed_size + du_size : du_size;
    thread_size = CeilDiv(thread_size, 16) * 16 + 16;
    pieces = by_images
                 ? groups
                 : CeilDiv(s.in_channels, depth_block) * CeilDiv(s.out_channels, column_block);
  }

  WinogradScratch scratch() const { return {pieces, thread_size}; }

  static constexpr int64_t kManyTiles = 512;
  static constexpr int64_t kFewProducts = 128 * 192;
  static constexpr int64_t kFewChannels = 512;
  // Enough for the threads of large machines. Against 16 of each, on two threads: 64 channels of 32
  // x 32 lose 5 to 7%, 256 of 8 x 8 2 to 11%, others gain; over 9 shapes nothing.
  static constexpr int64_t kPieces = 64;
  static constexpr int64_t kMaxGroups = 64;
  static constexpr int64_t kPartialFloats = int64_t{2} << 20;
  static constexpr int64_t kBlockTiles = 64;  // columns of both operands fit the nearest cache

  WinogradTiles tiles;
  bool by_images;
  int64_t images = 0;  // of a group
  int64_t groups = 0;
  int64_t block;  // tiles at a time
  int64_t depth_block;
  int64_t column_block;
  WinogradLayout v;
  WinogradLayout w;
  WinogradLayout du;
  int64_t transformed_size;  // elements of v and w
  int64_t du_size;
  int64_t shared_size;  // the groups' dw, or v and w
  int64_t thread_size;  // v, w and du, or du
  int64_t pieces;       // of the loop that needs them
};

void GradientByImages(const WinogradKernels& k, const GradientPlan& plan,
                      const Conv2dBackwardWeightsArgs<float>& args, const WinogradSource& x,
                      const WinogradSource& dy, float* partials, float* scratch, Context& ctx) {
  const Conv2dShape& s = args.shape;
  const int64_t size = s.weight_count();
  ctx.ParallelFor("conv2d.backward_weights.winograd", plan.groups, [&](int64_t group, int worker) {
    float* const v = plan.scratch().Of(scratch, group, worker, ctx);
    float* const w = v + k.points * plan.v.point;
    float* const du = w + k.points * plan.w.point;
    const int64_t per_image = plan.tiles.rows * plan.tiles.cols;
    const int64_t first = group * plan.images * per_image;
    const int64_t last = std::min(plan.tiles.count, first + plan.images * per_image);
    for (int64_t begin = first; begin < last; begin += plan.block) {
      const int64_t count = std::min(plan.block, last - begin);
      k.transform_input(x, s.padding, plan.tiles, begin, count, plan.v, v);
      k.transform_gradient(dy, plan.tiles, begin, count, plan.w, w);
      const int64_t products =
          k.points * k.Panels(s.out_channels) * CeilDiv(s.in_channels, k.block_rows);
      // While this block is multiplied, the next one is fetched: the next group's first after the
      // last.
      const int64_t next = begin + plan.block;
      const int64_t next_end = next < last ? std::min(last, next + plan.block) : next + plan.block;
      WinogradPrefetch inputs(x.tensor, {}, plan.tiles, k.kernel - 1 - s.padding, next, next_end,
                              products);
      WinogradPrefetch gradients(dy.tensor, dy.gradient.x, plan.tiles, 0, next, next_end, products);
      k.outer(v, plan.v, w, plan.w, count, s.in_channels, s.out_channels, begin > first, du,
              plan.du.row, plan.du.point, &inputs, &gradients);
    }
    k.transform_weight_gradient(du, plan.du.row, plan.du.point, s.in_channels, s.out_channels,
                                false, partials + group * size, s.out_channels,
                                s.in_channels * s.out_channels);
  });
  constexpr int64_t kSpan = 4096;
  ctx.ParallelFor("conv2d.backward_weights.combine", CeilDiv(size, kSpan), [&](int64_t piece, int) {
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
  const int64_t depth_blocks = CeilDiv(s.in_channels, plan.depth_block);
  const int64_t column_blocks = CeilDiv(s.out_channels, plan.column_block);
  for (int64_t begin = 0; begin < plan.tiles.count; begin += plan.block) {
    const int64_t count = std::min(plan.block, plan.tiles.count - begin);
    constexpr int64_t kPieceTiles = 4;
    ctx.ParallelFor("conv2d.winograd.input", CeilDiv(count, kPieceTiles), [&](int64_t piece, int) {
      const int64_t first = piece * kPieceTiles;
      const int64_t some = std::min(kPieceTiles, count - first);
      k.transform_input(x, s.padding, plan.tiles, begin + first, some, plan.v,
                        v + first * plan.v.row);
      k.transform_gradient(dy, plan.tiles, begin + first, some, plan.w, w + first * plan.w.row);
    });
    ctx.ParallelFor("conv2d.backward_weights.winograd", depth_blocks * column_blocks,
                    [&](int64_t piece, int worker) {
                      float* const du = plan.scratch().Of(scratch, piece, worker, ctx);
                      const int64_t c0 = piece / column_blocks * plan.depth_block;
                      const int64_t k0 = piece % column_blocks * plan.column_block;
                      const int64_t depth = std::min(plan.depth_block, s.in_channels - c0);
                      const int64_t columns = std::min(plan.column_block, s.out_channels - k0);
                      WinogradPrefetch none;
                      k.outer(v + c0, plan.v, w + k0, plan.w, count, depth, columns, false, du,
                              plan.du.row, plan.du.point, &none, &none);
                      k.transform_weight_gradient(du, plan.du.row, plan.du.point, depth, columns,
                                                  begin > 0,
                                                  args.dweights + c0 * s.out_channels + k0,
                                                  s.out_channels, s.in_channels * s.out_channels);
                    });
  }
}

}  // namespace

size_t WinogradGradientWorkspaceBytes(int64_t tile, const Conv2dShape& shape, int num_threads) {
  const GradientPlan plan(GetWinogradKernels(tile, shape.kernel), shape);
  return Workspace::BytesFor<float>(std::max(shape.in_channels, shape.out_channels)) +
         Workspace::BytesFor<float>(plan.shared_size) +
         Workspace::BytesFor<float>(plan.scratch().Floats(num_threads));
}

void WinogradGradient(int64_t tile, const Conv2dBackwardWeightsArgs<float>& args, Context& ctx) {
  const WinogradKernels& k = GetWinogradKernels(tile, args.shape.kernel);
  const GradientPlan plan(k, args.shape);
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
