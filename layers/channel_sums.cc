#include "layers/channel_sums.h"

#include <algorithm>
#include <cmath>

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
  const int64_t blocks = (channels_ + kBlock - 1) / kBlock;
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
  const int64_t blocks = (channels_ + kBlock - 1) / kBlock;
  ctx.ParallelFor("channel_sums.gradient", blocks, [&](int64_t block, int) {
    const int64_t first = block * kBlock;
    const int64_t count = std::min(kBlock, channels_ - first);
    double g[kBlock] = {};
    double gx[kBlock] = {};
    for (int64_t piece = 0; piece < pieces_; ++piece) {
      const float* const piece_g = sum_g(piece) + first;
      const float* const piece_gx = sum_gx(piece) + first;
      for (int64_t i = 0; i < count; ++i) {
        g[i] += static_cast<double>(piece_g[i]);
        gx[i] += static_cast<double>(piece_gx[i]);
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      epilogue.sum_g[first + i] = static_cast<float>(g[i]);
      epilogue.sum_gx[first + i] = static_cast<float>(gx[i]);
    }
  });
}

}  // namespace classicnn
