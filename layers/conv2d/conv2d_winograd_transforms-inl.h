// The transforms of Winograd's minimal filtering, in one and two dimensions, on vectors of
// channels. Per-target: included after hwy/highway.h, once per instruction set.
//
// F(m, r) computes m outputs y of a filter g of r taps over m + r - 1 inputs d with m + r - 1
// multiplications:   y = A^T [(G g) * (B^T d)],   * element by element.
// It is polynomial multiplication by evaluation at m + r - 2 points and infinity (Toom and Cook),
// run backwards (transposed), which is how it becomes a correlation. With the points p_i, M(x) =
// prod (x - p_i) and N_i = prod over j != i of (p_i - p_j):
//   A^T  column i is (1, p_i, p_i^2, ...); the last column (infinity) is (0, ..., 0, 1)
//   G    row i is (1, p_i, p_i^2, ...) / N_i;   the last row is (0, ..., 0, 1)
//   B^T  row i holds the coefficients of M(x) / (x - p_i); the last row those of M(x)
// In two dimensions each is applied to the columns and then to the rows. The same matrices give the
// gradient of g, because y is linear in it:   dg = G^T [(A dy) * (B^T d)].
//
// A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016 (2015).

#if defined(CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_TRANSFORMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_TRANSFORMS_INL_H_
#undef CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_TRANSFORMS_INL_H_
#else
#define CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_TRANSFORMS_INL_H_
#endif

#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace winograd {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;
using MF = hn::Mask<DF>;

HWY_INLINE VF Const(float value) { return hn::Set(DF(), value); }

// F(2, 3) with the points 0, 1, -1, infinity. Signs of row 0 are turned in both B^T and G.
struct F2 {
  static constexpr int kOut = 2;
  static constexpr int kKernel = 3;
  static constexpr int kSize = 4;
  static constexpr int kPoints = 16;

  // B^T d.
  static HWY_INLINE void Input(const VF* HWY_RESTRICT d, VF* HWY_RESTRICT v) {
    v[0] = hn::Sub(d[0], d[2]);
    v[1] = hn::Add(d[2], d[1]);
    v[2] = hn::Sub(d[2], d[1]);
    v[3] = hn::Sub(d[3], d[1]);
  }
  // G g.
  static HWY_INLINE void Weights(const VF* HWY_RESTRICT g, VF* HWY_RESTRICT u) {
    const VF even = hn::Mul(hn::Add(g[0], g[2]), Const(0.5f));
    const VF odd = hn::Mul(g[1], Const(0.5f));
    u[0] = g[0];
    u[1] = hn::Add(even, odd);
    u[2] = hn::Sub(even, odd);
    u[3] = g[2];
  }
  // A^T m.
  static HWY_INLINE void Output(const VF* HWY_RESTRICT m, VF* HWY_RESTRICT y) {
    y[0] = hn::Add(m[0], hn::Add(m[1], m[2]));
    y[1] = hn::Add(m[3], hn::Sub(m[1], m[2]));
  }
  // A e.
  static HWY_INLINE void Gradient(const VF* HWY_RESTRICT e, VF* HWY_RESTRICT w) {
    w[0] = e[0];
    w[1] = hn::Add(e[0], e[1]);
    w[2] = hn::Sub(e[0], e[1]);
    w[3] = e[1];
  }
  // G^T m.
  static HWY_INLINE void WeightGradient(const VF* HWY_RESTRICT m, VF* HWY_RESTRICT g) {
    const VF even = hn::Mul(hn::Add(m[1], m[2]), Const(0.5f));
    g[0] = hn::Add(m[0], even);
    g[1] = hn::Mul(hn::Sub(m[1], m[2]), Const(0.5f));
    g[2] = hn::Add(m[3], even);
  }
};

// F(4, 3) with the points 0, +-a, +-b, infinity, where a = 1/sqrt(2) and b = sqrt(2). As a^2 b^2 =
// 1, large and small powers balance: the largest error is a fifth of what the usual points 0, +-1,
// +-2 give, and the symmetric pairs share half of their arithmetic as those do.
struct F4 {
  static constexpr int kOut = 4;
  static constexpr int kKernel = 3;
  static constexpr int kSize = 6;
  static constexpr int kPoints = 36;

  static constexpr float kA = 0.70710678118654752f;
  static constexpr float kB = 1.41421356237309505f;

  // M(x) = x (x^2 - 1/2) (x^2 - 2) = x^5 - 5/2 x^3 + x.
  static HWY_INLINE void Input(const VF* HWY_RESTRICT d, VF* HWY_RESTRICT v) {
    const VF a = Const(kA), b = Const(kB);
    const VF a_even = hn::NegMulAdd(Const(2.0f), d[2], d[4]);
    const VF a_odd = hn::NegMulAdd(Const(2.0f), d[1], d[3]);
    const VF b_even = hn::NegMulAdd(Const(0.5f), d[2], d[4]);
    const VF b_odd = hn::NegMulAdd(Const(0.5f), d[1], d[3]);
    v[0] = hn::NegMulAdd(Const(2.5f), d[2], hn::Add(d[0], d[4]));
    v[1] = hn::MulAdd(a, a_odd, a_even);
    v[2] = hn::NegMulAdd(a, a_odd, a_even);
    v[3] = hn::MulAdd(b, b_odd, b_even);
    v[4] = hn::NegMulAdd(b, b_odd, b_even);
    v[5] = hn::NegMulAdd(Const(2.5f), d[3], hn::Add(d[1], d[5]));
  }
  // N = 1 at 0, 2a^2(a^2 - b^2) = -3/2 at +-a, 2b^2(b^2 - a^2) = 6 at +-b.
  static HWY_INLINE void Weights(const VF* HWY_RESTRICT g, VF* HWY_RESTRICT u) {
    const VF a_even = hn::Mul(hn::MulAdd(Const(0.5f), g[2], g[0]), Const(-2.0f / 3));
    const VF b_even = hn::Mul(hn::MulAdd(Const(2.0f), g[2], g[0]), Const(1.0f / 6));
    u[0] = g[0];
    u[1] = hn::MulAdd(Const(kA * -2.0f / 3), g[1], a_even);
    u[2] = hn::NegMulAdd(Const(kA * -2.0f / 3), g[1], a_even);
    u[3] = hn::MulAdd(Const(kB / 6), g[1], b_even);
    u[4] = hn::NegMulAdd(Const(kB / 6), g[1], b_even);
    u[5] = g[2];
  }
  static HWY_INLINE void Output(const VF* HWY_RESTRICT m, VF* HWY_RESTRICT y) {
    const VF a_sum = hn::Add(m[1], m[2]);
    const VF b_sum = hn::Add(m[3], m[4]);
    const VF a_odd = hn::Mul(hn::Sub(m[1], m[2]), Const(kA));
    const VF b_odd = hn::Mul(hn::Sub(m[3], m[4]), Const(kB));
    y[0] = hn::Add(m[0], hn::Add(a_sum, b_sum));
    y[1] = hn::Add(a_odd, b_odd);
    y[2] = hn::MulAdd(Const(0.5f), a_sum, hn::Add(b_sum, b_sum));
    y[3] = hn::MulAdd(Const(0.5f), a_odd, hn::MulAdd(Const(2.0f), b_odd, m[5]));
  }
  static HWY_INLINE void Gradient(const VF* HWY_RESTRICT e, VF* HWY_RESTRICT w) {
    const VF a_even = hn::MulAdd(Const(0.5f), e[2], e[0]);
    const VF a_odd = hn::MulAdd(Const(0.5f), e[3], e[1]);
    const VF b_even = hn::MulAdd(Const(2.0f), e[2], e[0]);
    const VF b_odd = hn::MulAdd(Const(2.0f), e[3], e[1]);
    w[0] = e[0];
    w[1] = hn::MulAdd(Const(kA), a_odd, a_even);
    w[2] = hn::NegMulAdd(Const(kA), a_odd, a_even);
    w[3] = hn::MulAdd(Const(kB), b_odd, b_even);
    w[4] = hn::NegMulAdd(Const(kB), b_odd, b_even);
    w[5] = e[3];
  }
  static HWY_INLINE void WeightGradient(const VF* HWY_RESTRICT m, VF* HWY_RESTRICT g) {
    const VF a_sum = hn::Mul(hn::Add(m[1], m[2]), Const(-2.0f / 3));
    const VF b_sum = hn::Mul(hn::Add(m[3], m[4]), Const(1.0f / 6));
    g[0] = hn::Add(m[0], hn::Add(a_sum, b_sum));
    g[1] = hn::MulAdd(Const(kA * -2.0f / 3), hn::Sub(m[1], m[2]),
                      hn::Mul(hn::Sub(m[3], m[4]), Const(kB / 6)));
    g[2] = hn::MulAdd(Const(0.5f), a_sum, hn::MulAdd(Const(2.0f), b_sum, m[5]));
  }
};

// F(2, 5) with the points of F(4, 3): B^T is the same, as it depends on nothing else.
struct F2x5 {
  static constexpr int kOut = 2;
  static constexpr int kKernel = 5;
  static constexpr int kSize = 6;
  static constexpr int kPoints = 36;

  static constexpr float kA = F4::kA;
  static constexpr float kB = F4::kB;

  static HWY_INLINE void Input(const VF* HWY_RESTRICT d, VF* HWY_RESTRICT v) { F4::Input(d, v); }
  static HWY_INLINE void Weights(const VF* HWY_RESTRICT g, VF* HWY_RESTRICT u) {
    const VF a_even = hn::Mul(hn::MulAdd(Const(0.25f), g[4], hn::MulAdd(Const(0.5f), g[2], g[0])),
                              Const(-2.0f / 3));
    const VF b_even = hn::Mul(hn::MulAdd(Const(4.0f), g[4], hn::MulAdd(Const(2.0f), g[2], g[0])),
                              Const(1.0f / 6));
    const VF a_odd = hn::MulAdd(Const(0.5f), g[3], g[1]);
    const VF b_odd = hn::MulAdd(Const(2.0f), g[3], g[1]);
    u[0] = g[0];
    u[1] = hn::MulAdd(Const(kA * -2.0f / 3), a_odd, a_even);
    u[2] = hn::NegMulAdd(Const(kA * -2.0f / 3), a_odd, a_even);
    u[3] = hn::MulAdd(Const(kB / 6), b_odd, b_even);
    u[4] = hn::NegMulAdd(Const(kB / 6), b_odd, b_even);
    u[5] = g[4];
  }
  static HWY_INLINE void Output(const VF* HWY_RESTRICT m, VF* HWY_RESTRICT y) {
    y[0] = hn::Add(m[0], hn::Add(hn::Add(m[1], m[2]), hn::Add(m[3], m[4])));
    y[1] = hn::MulAdd(Const(kA), hn::Sub(m[1], m[2]),
                      hn::MulAdd(Const(kB), hn::Sub(m[3], m[4]), m[5]));
  }
  static HWY_INLINE void Gradient(const VF* HWY_RESTRICT e, VF* HWY_RESTRICT w) {
    w[0] = e[0];
    w[1] = hn::MulAdd(Const(kA), e[1], e[0]);
    w[2] = hn::NegMulAdd(Const(kA), e[1], e[0]);
    w[3] = hn::MulAdd(Const(kB), e[1], e[0]);
    w[4] = hn::NegMulAdd(Const(kB), e[1], e[0]);
    w[5] = e[1];
  }
  static HWY_INLINE void WeightGradient(const VF* HWY_RESTRICT m, VF* HWY_RESTRICT g) {
    const VF a_sum = hn::Mul(hn::Add(m[1], m[2]), Const(-2.0f / 3));
    const VF b_sum = hn::Mul(hn::Add(m[3], m[4]), Const(1.0f / 6));
    const VF a_odd = hn::Mul(hn::Sub(m[1], m[2]), Const(kA * -2.0f / 3));
    const VF b_odd = hn::Mul(hn::Sub(m[3], m[4]), Const(kB / 6));
    g[0] = hn::Add(m[0], hn::Add(a_sum, b_sum));
    g[1] = hn::Add(a_odd, b_odd);
    g[2] = hn::MulAdd(Const(0.5f), a_sum, hn::Add(b_sum, b_sum));
    g[3] = hn::MulAdd(Const(0.5f), a_odd, hn::Add(b_odd, b_odd));
    g[4] = hn::MulAdd(Const(0.25f), a_sum, hn::MulAdd(Const(4.0f), b_sum, m[5]));
  }
};

// F(4, 5) with the points 0, +-p for p = 1, 2 and 1/2, and infinity. As all p multiply to 1, large
// and small powers balance: the largest error is twice that of F(2, 5), for less than half of its
// products.
//
// With a^2 and b^2 the squares of the other two pairs, M(x) / (x -+ p) = x (x +- p) Q(x^2) with
// Q(z) = z^2 - (a^2 + b^2) z + a^2 b^2, and N = 2 p^2 Q(p^2) at both. Signs of row 0 are turned in
// both B^T and G.
struct F4x5 {
  static constexpr int kOut = 4;
  static constexpr int kKernel = 5;
  static constexpr int kSize = 8;
  static constexpr int kPoints = 64;

  struct Pair {
    float p;
    float q1, q0;  // Q(z) = z^2 + q1 z + q0
    float inv_n;   // 1 / N
  };
  static constexpr Pair kPairs[3] = {{1.0f, -4.25f, 1.0f, -2.0f / 9},
                                     {2.0f, -1.25f, 0.25f, 1.0f / 90},
                                     {0.5f, -5.0f, 4.0f, 32.0f / 45}};

  // M(x) = x (x^2 - 1) (x^2 - 4) (x^2 - 1/4) = x^7 - 21/4 x^5 + 21/4 x^3 - x.
  static HWY_INLINE void Input(const VF* HWY_RESTRICT d, VF* HWY_RESTRICT v) {
    const VF m = Const(5.25f);
    v[0] = hn::MulAdd(m, hn::Sub(d[4], d[2]), hn::Sub(d[0], d[6]));
    v[7] = hn::MulAdd(m, hn::Sub(d[3], d[5]), hn::Sub(d[7], d[1]));
    HWY_UNROLL(3)
    for (int k = 0; k < 3; ++k) {
      const Pair& pair = kPairs[k];
      const VF q1 = Const(pair.q1), q0 = Const(pair.q0), p = Const(pair.p);
      const VF even = hn::MulAdd(q1, d[4], hn::MulAdd(q0, d[2], d[6]));
      const VF odd = hn::MulAdd(q1, d[3], hn::MulAdd(q0, d[1], d[5]));
      v[1 + 2 * k] = hn::MulAdd(p, odd, even);
      v[2 + 2 * k] = hn::NegMulAdd(p, odd, even);
    }
  }
  static HWY_INLINE void Weights(const VF* HWY_RESTRICT g, VF* HWY_RESTRICT u) {
    u[0] = g[0];
    u[7] = g[4];
    HWY_UNROLL(3)
    for (int k = 0; k < 3; ++k) {
      const Pair& pair = kPairs[k];
      const VF p2 = Const(pair.p * pair.p);
      const VF even = hn::Mul(hn::MulAdd(hn::MulAdd(p2, g[4], g[2]), p2, g[0]), Const(pair.inv_n));
      const VF odd = hn::MulAdd(p2, g[3], g[1]);
      u[1 + 2 * k] = hn::MulAdd(Const(pair.p * pair.inv_n), odd, even);
      u[2 + 2 * k] = hn::NegMulAdd(Const(pair.p * pair.inv_n), odd, even);
    }
  }
  static HWY_INLINE void Output(const VF* HWY_RESTRICT m, VF* HWY_RESTRICT y) {
    const VF sum1 = hn::Add(m[1], m[2]), odd1 = hn::Sub(m[1], m[2]);
    const VF sum2 = hn::Add(m[3], m[4]), odd2 = hn::Sub(m[3], m[4]);
    const VF sum3 = hn::Add(m[5], m[6]), odd3 = hn::Sub(m[5], m[6]);
    y[0] = hn::Add(hn::Add(m[0], sum1), hn::Add(sum2, sum3));
    y[1] = hn::MulAdd(Const(0.5f), odd3, hn::MulAdd(Const(2.0f), odd2, odd1));
    y[2] = hn::MulAdd(Const(0.25f), sum3, hn::MulAdd(Const(4.0f), sum2, sum1));
    y[3] = hn::MulAdd(Const(0.125f), odd3, hn::MulAdd(Const(8.0f), odd2, hn::Add(odd1, m[7])));
  }
  static HWY_INLINE void Gradient(const VF* HWY_RESTRICT e, VF* HWY_RESTRICT w) {
    w[0] = e[0];
    w[7] = e[3];
    HWY_UNROLL(3)
    for (int k = 0; k < 3; ++k) {
      const float p = kPairs[k].p;
      const VF p2 = Const(p * p);
      const VF even = hn::MulAdd(p2, e[2], e[0]);
      const VF odd = hn::MulAdd(p2, e[3], e[1]);
      w[1 + 2 * k] = hn::MulAdd(Const(p), odd, even);
      w[2 + 2 * k] = hn::NegMulAdd(Const(p), odd, even);
    }
  }
  static HWY_INLINE void WeightGradient(const VF* HWY_RESTRICT m, VF* HWY_RESTRICT g) {
    const auto sum = [&](int k) HWY_ATTR {
      return hn::Mul(hn::Add(m[1 + 2 * k], m[2 + 2 * k]), Const(kPairs[k].inv_n));
    };
    const auto odd = [&](int k) HWY_ATTR {
      return hn::Mul(hn::Sub(m[1 + 2 * k], m[2 + 2 * k]), Const(kPairs[k].p * kPairs[k].inv_n));
    };
    const VF sum1 = sum(0), sum2 = sum(1), sum3 = sum(2);
    const VF odd1 = odd(0), odd2 = odd(1), odd3 = odd(2);
    g[0] = hn::Add(hn::Add(m[0], sum1), hn::Add(sum2, sum3));
    g[1] = hn::Add(odd1, hn::Add(odd2, odd3));
    g[2] = hn::MulAdd(Const(0.25f), sum3, hn::MulAdd(Const(4.0f), sum2, sum1));
    g[3] = hn::MulAdd(Const(0.25f), odd3, hn::MulAdd(Const(4.0f), odd2, odd1));
    g[4] = hn::MulAdd(Const(0.0625f), sum3, hn::MulAdd(Const(16.0f), sum2, hn::Add(sum1, m[7])));
  }
};

// One dimension of a transform from kFrom to kTo values: Apply(const VF*, VF*).
template <class F>
struct InputTransform {
  static constexpr int kFrom = F::kSize, kTo = F::kSize;
  static HWY_INLINE void Apply(const VF* HWY_RESTRICT in, VF* HWY_RESTRICT out) {
    F::Input(in, out);
  }
};
template <class F>
struct WeightsTransform {
  static constexpr int kFrom = F::kKernel, kTo = F::kSize;
  static HWY_INLINE void Apply(const VF* HWY_RESTRICT in, VF* HWY_RESTRICT out) {
    F::Weights(in, out);
  }
};
template <class F>
struct OutputTransform {
  static constexpr int kFrom = F::kSize, kTo = F::kOut;
  static HWY_INLINE void Apply(const VF* HWY_RESTRICT in, VF* HWY_RESTRICT out) {
    F::Output(in, out);
  }
};
template <class F>
struct GradientTransform {
  static constexpr int kFrom = F::kOut, kTo = F::kSize;
  static HWY_INLINE void Apply(const VF* HWY_RESTRICT in, VF* HWY_RESTRICT out) {
    F::Gradient(in, out);
  }
};
template <class F>
struct WeightGradientTransform {
  static constexpr int kFrom = F::kSize, kTo = F::kKernel;
  static HWY_INLINE void Apply(const VF* HWY_RESTRICT in, VF* HWY_RESTRICT out) {
    F::WeightGradient(in, out);
  }
};

// Two dimensions: columns, then rows. load(i) gives element i of the kFrom x kFrom inputs in
// row-major order, store(i, v) takes element i of the kTo x kTo results; each is called once for
// each i.
template <class T, class Load, class Store>
HWY_INLINE void Transform2d(const Load& load, const Store& store) {
  VF half[T::kTo][T::kFrom];
  HWY_UNROLL(8)
  for (int j = 0; j < T::kFrom; ++j) {
    VF in[T::kFrom], out[T::kTo];
    HWY_UNROLL(8)
    for (int i = 0; i < T::kFrom; ++i) in[i] = load(i * T::kFrom + j);
    T::Apply(in, out);
    HWY_UNROLL(8)
    for (int i = 0; i < T::kTo; ++i) half[i][j] = out[i];
  }
  HWY_UNROLL(8)
  for (int i = 0; i < T::kTo; ++i) {
    VF out[T::kTo];
    T::Apply(half[i], out);
    HWY_UNROLL(8)
    for (int j = 0; j < T::kTo; ++j) store(i * T::kTo + j, out[j]);
  }
}

}  // namespace winograd
}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
