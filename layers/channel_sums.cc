#include "layers/channel_sums.h"

#include <algorithm>
#include <cmath>

#include "core/divide.h"

namespace classicnn {
namespace {

constexpr int64_t kBlock = 64;  // channels that one thread merges at a time

}  // namespace

void MomentPieces::Begin(int64_t piece, int64_t begin, int64_t count, const float* rows,
                         int64_t stride, int64_t num_rows) const {
  // A few pixels from all over the run: one alone could be an outlier, such as a corner that saw
  // padding.
  const int64_t samples = std::min<int64_t>(num_rows, 4);
  float* const c = center(piece) + begin;
  std::copy(rows, rows + count, c);
  for (int64_t s = 1; s < samples; ++s) {
    const float* const row = rows + s * num_rows / samples * stride;
    for (int64_t i = 0; i < count; ++i) c[i] += row[i];
  }
  const float factor = 1.0f / static_cast<float>(samples);
  for (int64_t i = 0; i < count; ++i) c[i] *= factor;
  std::fill(sum(piece) + begin, sum(piece) + begin + count, 0.0f);
  std::fill(sum_of_squares(piece) + begin, sum_of_squares(piece) + begin + count, 0.0f);
}

// Pieces one after the other (T. Chan, G. Golub, R. LeVeque, "Updating formulae and a pairwise
// algorithm for computing sample variances", 1979), in double.
void MomentPieces::Merge(const StatisticsEpilogue<float>& statistics, Context& ctx) const {
  const int64_t blocks = DivideUp(channels_, kBlock);
  ctx.ParallelFor("channel_sums.statistics", blocks, [&](int64_t block, int) {
    const int64_t first = block * kBlock;
    const int64_t count = std::min(kBlock, channels_ - first);
    double mean[kBlock] = {};
    double m2[kBlock] = {};
    double total = 0;
    for (int64_t piece = 0; piece < pieces_; ++piece) {
      const auto n = static_cast<double>(pixels(piece));
      if (n == 0) continue;
      const double inverse = 1 / n;
      const double weight = n / (total + n);
      const double product = total * weight;
      total += n;
      const float* const c = center(piece) + first;
      const float* const s = sum(piece) + first;
      const float* const q = sum_of_squares(piece) + first;
      for (int64_t i = 0; i < count; ++i) {
        const double deviation = static_cast<double>(s[i]) * inverse;
        const double delta = static_cast<double>(c[i]) + deviation - mean[i];
        mean[i] += delta * weight;
        m2[i] += static_cast<double>(q[i]) - deviation * static_cast<double>(s[i]) +
                 delta * delta * product;
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      statistics.mean[first + i] = static_cast<float>(mean[i]);
      statistics.var[first + i] = static_cast<float>(std::max(0.0, m2[i]) / total);
    }
  });
}

void GradientSumPieces::Clear(int64_t piece, int64_t begin, int64_t count) const {
  std::fill(sum_g(piece) + begin, sum_g(piece) + begin + count, 0.0f);
  std::fill(sum_gx(piece) + begin, sum_gx(piece) + begin + count, 0.0f);
}

void GradientSumPieces::Merge(const GradientEpilogue<float>& epilogue, Context& ctx) const {
  MergePieceSums(sums_, pieces_, channels_, {epilogue.sum_g, epilogue.sum_gx}, ctx);
}

void MergePieceSums(const float* sums, int64_t num_pieces, int64_t channels,
                    absl::Span<float* const> to, Context& ctx) {
  const int64_t blocks = DivideUp(channels, kBlock);
  const auto num_sums = static_cast<int64_t>(to.size());
  ctx.ParallelFor("channel_sums.merge", blocks * num_sums, [&](int64_t task, int) {
    const int64_t which = task / blocks;
    const int64_t first = task % blocks * kBlock;
    const int64_t count = std::min(kBlock, channels - first);
    double total[kBlock] = {};
    for (int64_t piece = 0; piece < num_pieces; ++piece) {
      const float* const of_piece = sums + (piece * num_sums + which) * channels + first;
      for (int64_t i = 0; i < count; ++i) total[i] += static_cast<double>(of_piece[i]);
    }
    float* const result = to[static_cast<size_t>(which)] + first;
    for (int64_t i = 0; i < count; ++i) result[i] = static_cast<float>(total[i]);
  });
}

}  // namespace classicnn
