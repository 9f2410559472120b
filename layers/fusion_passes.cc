#include "layers/fusion_passes.h"

#include "core/check.h"
#include "layers/channel_rows.h"
#include "layers/channel_sums.h"
#include "layers/pieces.h"

namespace classicnn {
namespace {

// Pieces that leave sums of every channel: fewer, because those are merged.
Pieces SumPieces(const Shape4& shape, int64_t num_tensors) {
  return Pieces(shape.pixels(), 4 * shape.c * num_tensors, /*max_pieces=*/256);
}

}  // namespace

void ActivationPass(const ActivationPrologue<float>& activation, const ConstTensor& x,
                    const Tensor& y, Context& ctx) {
  CNN_CHECK(x.shape() == y.shape());
  const Pieces pieces(x.pixels(), 8 * x.c);
  ctx.ParallelFor("fusion.activation", pieces.count(), [&](int64_t piece, int) {
    const int64_t begin = pieces.Begin(piece);
    ActivateRows(activation, 0, x.Pixel(begin), x.pixel_stride, pieces.Size(piece), x.c,
                 y.Pixel(begin), y.pixel_stride);
  });
}

void GradientPass(const GradientPrologue<float>& gradient, const ConstTensor& dy, const Tensor& to,
                  Context& ctx) {
  CNN_CHECK(dy.shape() == to.shape() && dy.shape() == gradient.x.shape());
  const Pieces pieces(dy.pixels(), 12 * dy.c);
  ctx.ParallelFor("fusion.gradient", pieces.count(), [&](int64_t piece, int) {
    const int64_t begin = pieces.Begin(piece);
    GradientRows(gradient, 0, dy.Pixel(begin), dy.pixel_stride, gradient.x.Pixel(begin),
                 pieces.Size(piece), dy.c, to.Pixel(begin), to.pixel_stride);
  });
}

size_t StatisticsPassWorkspaceBytes(const Shape4& shape) {
  return MomentPieces::Bytes(SumPieces(shape, 1).count(), shape.c);
}

void StatisticsPass(const StatisticsEpilogue<float>& statistics, const ConstTensor& y,
                    Workspace workspace, Context& ctx) {
  const Pieces pieces = SumPieces(y.shape(), 1);
  const MomentPieces moments(pieces.count(), y.c, &workspace);
  ctx.ParallelFor("fusion.statistics", pieces.count(), [&](int64_t piece, int) {
    const float* const rows = y.Pixel(pieces.Begin(piece));
    moments.pixels(piece) = pieces.Size(piece);
    moments.Begin(piece, 0, y.c, rows, y.pixel_stride, pieces.Size(piece));
    AddMomentRows(rows, y.pixel_stride, pieces.Size(piece), y.c, moments.center(piece),
                  moments.sum(piece), moments.sum_of_squares(piece));
  });
  moments.Merge(statistics, ctx);
}

size_t GradientEpiloguePassWorkspaceBytes(const Shape4& shape) {
  return GradientSumPieces::Bytes(SumPieces(shape, 3).count(), shape.c);
}

void GradientEpiloguePass(const GradientEpilogue<float>& epilogue, const ConstTensor& da,
                          const Tensor& dx, Workspace workspace, Context& ctx) {
  CNN_CHECK(da.shape() == dx.shape() && da.shape() == epilogue.x.shape());
  const Pieces pieces = SumPieces(da.shape(), 3);
  const GradientSumPieces sums(pieces.count(), da.c, &workspace);
  ctx.ParallelFor("fusion.gradient_epilogue", pieces.count(), [&](int64_t piece, int) {
    const int64_t begin = pieces.Begin(piece);
    sums.Clear(piece, 0, da.c);
    GradientEpilogueRows(epilogue, 0, da.Pixel(begin), da.pixel_stride, epilogue.x.Pixel(begin),
                         pieces.Size(piece), da.c, dx.Pixel(begin), dx.pixel_stride,
                         sums.sum_g(piece), sums.sum_gx(piece));
  });
  sums.Merge(epilogue, ctx);
}

}  // namespace classicnn
