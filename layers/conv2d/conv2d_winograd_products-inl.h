// The products between Winograd's transforms: many small matrix products with operands in the
// cache. Per-target: included after hwy/highway.h, once per instruction set.

#if defined(CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_PRODUCTS_INL_H_
#undef CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_PRODUCTS_INL_H_
#else
#define CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_PRODUCTS_INL_H_
#endif

#include <cstdint>

#include "hwy/highway.h"
#include "layers/conv2d/conv2d_winograd_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace winograd {
namespace hn = hwy::HWY_NAMESPACE;

// Register blocks of kRows x 2 vectors: with 32 registers 28 sums, two vectors of the second
// operand and a broadcast of the first; with 16, 12 sums. The outer product's rows are channels,
// which come in multiples of eight.
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM
inline constexpr int kProductRows = 14;
inline constexpr int kOuterRows = 8;
#else
inline constexpr int kProductRows = 6;
inline constexpr int kOuterRows = 4;
#endif

// out[i][j] (+)= sum over d in [0, depth) of a[i * a_row + d * a_depth] * b[d * b_depth + j], for
// i in [0, kRows) and j in kVecs vectors.
template <int kRows, int kVecs>
HWY_NOINLINE void Block(const float* HWY_RESTRICT a, int64_t a_row, int64_t a_depth,
                        const float* HWY_RESTRICT b, int64_t b_depth, int64_t depth,
                        bool accumulate, float* HWY_RESTRICT out, int64_t out_row) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const size_t lanes = hn::Lanes(d);
  V sum[kRows][kVecs];
  HWY_UNROLL(16)
  for (int i = 0; i < kRows; ++i) {
    HWY_UNROLL(2)
    for (int j = 0; j < kVecs; ++j) sum[i][j] = hn::Zero(d);
  }
  for (int64_t k = 0; k < depth; ++k) {
    V column[kVecs];
    HWY_UNROLL(2)
    for (int j = 0; j < kVecs; ++j) column[j] = hn::LoadU(d, b + static_cast<size_t>(j) * lanes);
    HWY_UNROLL(16)
    for (int i = 0; i < kRows; ++i) {
      const V value = hn::Set(d, a[i * a_row]);
      HWY_UNROLL(2)
      for (int j = 0; j < kVecs; ++j) sum[i][j] = hn::MulAdd(value, column[j], sum[i][j]);
    }
    a += a_depth;
    b += b_depth;
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
                    bool accumulate, float* m, const WinogradLayout& m_layout) {
  const bool two = width > static_cast<int64_t>(hn::Lanes(hn::ScalableTag<float>()));
  for (int p = 0; p < kPoints; ++p) {
    for (int64_t t = 0; t < count; t += kProductRows) {
      const float* const a = v + p * v_layout.point + t * v_layout.row;
      float* const to = m + p * m_layout.point + t * m_layout.row;
      if (two) {
        Block<kProductRows, 2>(a, v_layout.row, 1, u + p * u_point_stride, width, depth, accumulate,
                               to, m_layout.row);
      } else {
        Block<kProductRows, 1>(a, v_layout.row, 1, u + p * u_point_stride, width, depth, accumulate,
                               to, m_layout.row);
      }
    }
  }
}

template <int kPoints>
void OuterPoints(const float* v, const WinogradLayout& v_layout, const float* w,
                 const WinogradLayout& w_layout, int64_t count, int64_t depth, int64_t columns,
                 bool accumulate, float* du, int64_t du_row, int64_t du_point) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(hn::ScalableTag<float>()));
  for (int p = 0; p < kPoints; ++p) {
    for (int64_t k = 0; k < columns; k += 2 * lanes) {
      for (int64_t c = 0; c < depth; c += kOuterRows) {
        const float* const a = v + p * v_layout.point + c;
        const float* const b = w + p * w_layout.point + k;
        float* const to = du + p * du_point + c * du_row + k;
        if (columns - k > lanes) {
          Block<kOuterRows, 2>(a, 1, v_layout.row, b, w_layout.row, count, accumulate, to, du_row);
        } else {
          Block<kOuterRows, 1>(a, 1, v_layout.row, b, w_layout.row, count, accumulate, to, du_row);
        }
      }
    }
  }
}

}  // namespace winograd
}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
