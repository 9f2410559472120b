// The products between Winograd's transforms: many small matrix products with operands in the
// cache. Per-target: included after hwy/highway.h, once per instruction set.

#if defined(CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_PRODUCTS_INL_H_
#undef CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_PRODUCTS_INL_H_
#else
#define CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_PRODUCTS_INL_H_
#endif

#include <cstdint>

#include "core/divide.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "layers/conv2d/conv2d_winograd_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace winograd {
namespace hn = hwy::HWY_NAMESPACE;

// Register blocks of rows x 2 vectors: with 32 registers up to 28 sums, two vectors of the second
// operand and a broadcast of the first; with 16, 12 sums.
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM
inline constexpr int kBlockRows = 14;
#else
inline constexpr int kBlockRows = 6;
#endif

// out[i][j] (+)= sum over d in [0, depth) of a[i * a_row + d * a_depth] * b[d * b_depth + j], for
// i in [0, kRows) and j in kVecs vectors. Each step also asks for one more cache line from
// `ahead` on, ahead_step elements from one to the next, and for the line of b some steps ahead.
template <int kRows, int kVecs>
HWY_NOINLINE void Block(const float* HWY_RESTRICT a, int64_t a_row, int64_t a_depth,
                        const float* HWY_RESTRICT b, int64_t b_depth, int64_t depth,
                        const float* ahead, int64_t ahead_step, bool accumulate,
                        float* HWY_RESTRICT out, int64_t out_row) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const size_t lanes = hn::Lanes(d);
  constexpr int64_t kStepsAhead = 16;
  V sum[kRows][kVecs];
  HWY_UNROLL(16)
  for (int i = 0; i < kRows; ++i) {
    HWY_UNROLL(2)
    for (int j = 0; j < kVecs; ++j) sum[i][j] = hn::Zero(d);
  }
  for (int64_t k = 0; k < depth; ++k) {
    V column[kVecs];
    HWY_UNROLL(2)
    for (int j = 0; j < kVecs; ++j) {
      column[j] = hn::LoadU(d, b + static_cast<size_t>(j) * lanes);
      hwy::Prefetch(b + kStepsAhead * b_depth + static_cast<size_t>(j) * lanes);
    }
    hwy::Prefetch(ahead);
    HWY_UNROLL(16)
    for (int i = 0; i < kRows; ++i) {
      const V value = hn::Set(d, a[i * a_row]);
      HWY_UNROLL(2)
      for (int j = 0; j < kVecs; ++j) sum[i][j] = hn::MulAdd(value, column[j], sum[i][j]);
    }
    a += a_depth;
    b += b_depth;
    ahead += ahead_step;
  }
  HWY_UNROLL(16)
  for (int i = 0; i < kRows; ++i) {
    HWY_UNROLL(2)
    for (int j = 0; j < kVecs; ++j) {
      float* const to = out + i * out_row + static_cast<int64_t>(lanes) * j;
      hn::StoreU(accumulate ? hn::Add(sum[i][j], hn::LoadU(d, to)) : sum[i][j], d, to);
    }
  }
}

template <int kPoints>
void MultiplyPoints(const float* v, const WinogradLayout& v_layout, const float* u,
                    int64_t u_point_stride, int64_t depth, int64_t width, int64_t count,
                    bool accumulate, float* m, const WinogradLayout& m_layout,
                    WinogradPrefetch* inputs) {
  const bool two = width > static_cast<int64_t>(hn::Lanes(hn::ScalableTag<float>()));
  for (int p = 0; p < kPoints; ++p) {
    for (int64_t t = 0; t < count; t += kBlockRows) {
      const float* const a = v + p * v_layout.point + t * v_layout.row;
      // The rows of the next block, which lie side by side.
      const float* const next = t + kBlockRows < count
                                    ? a + kBlockRows * v_layout.row
                                    : v + (p + 1 < kPoints ? p + 1 : 0) * v_layout.point;
      const float* const b = u + p * u_point_stride;
      float* const to = m + p * m_layout.point + t * m_layout.row;
      if (two) {
        Block<kBlockRows, 2>(a, v_layout.row, 1, b, width, depth, next, 16, accumulate, to,
                             m_layout.row);
      } else {
        Block<kBlockRows, 1>(a, v_layout.row, 1, b, width, depth, next, 16, accumulate, to,
                             m_layout.row);
      }
      inputs->Step();
    }
  }
}

template <int kPoints, int kRows>
void OuterPointsRows(const float* v, const WinogradLayout& v_layout, const float* w,
                     const WinogradLayout& w_layout, int64_t count, int64_t depth, int64_t columns,
                     bool accumulate, float* du, int64_t du_row, int64_t du_point,
                     WinogradPrefetch* inputs, WinogradPrefetch* gradients) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(hn::ScalableTag<float>()));
  constexpr int64_t kLine = 16;  // floats of a cache line
  const int64_t v_lines = DivideUp(depth, kLine);
  for (int p = 0; p < kPoints; ++p) {
    const float* const next_v = v + (p + 1 < kPoints ? p + 1 : 0) * v_layout.point;
    const float* const next_w = w + (p + 1 < kPoints ? p + 1 : 0) * w_layout.point;
    int64_t line = 0;
    for (int64_t k = 0; k < columns; k += 2 * lanes) {
      for (int64_t c = 0; c < depth; c += kRows, ++line) {
        const float* const a = v + p * v_layout.point + c;
        const float* const b = w + p * w_layout.point + k;
        float* const to = du + p * du_point + c * du_row + k;
        // Each block fetches one more cache line of every tile at the next point, v's and then w's.
        const bool of_v = line < v_lines;
        const float* const next = of_v ? next_v + line * kLine : next_w + (line - v_lines) * kLine;
        const int64_t next_row = of_v ? v_layout.row : w_layout.row;
        if (columns - k > lanes) {
          Block<kRows, 2>(a, 1, v_layout.row, b, w_layout.row, count, next, next_row, accumulate,
                          to, du_row);
        } else {
          Block<kRows, 1>(a, 1, v_layout.row, b, w_layout.row, count, next, next_row, accumulate,
                          to, du_row);
        }
        inputs->Step();
        gradients->Step();
      }
    }
  }
}

// Blocks of even size: 64 rows are 5 blocks of 13 (one row to spare), not 4 of 14 and one of 8.
template <int kPoints, int kRows = kBlockRows>
void OuterPoints(const float* v, const WinogradLayout& v_layout, const float* w,
                 const WinogradLayout& w_layout, int64_t count, int64_t depth, int64_t columns,
                 bool accumulate, float* du, int64_t du_row, int64_t du_point,
                 WinogradPrefetch* inputs, WinogradPrefetch* gradients) {
  if constexpr (kRows > kBlockRows / 2) {
    const int64_t blocks = DivideUp(depth, kBlockRows);
    if (depth <= blocks * (kRows - 1)) {
      OuterPoints<kPoints, kRows - 1>(v, v_layout, w, w_layout, count, depth, columns, accumulate,
                                      du, du_row, du_point, inputs, gradients);
      return;
    }
  }
  OuterPointsRows<kPoints, kRows>(v, v_layout, w, w_layout, count, depth, columns, accumulate, du,
                                  du_row, du_point, inputs, gradients);
}

}  // namespace winograd
}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
