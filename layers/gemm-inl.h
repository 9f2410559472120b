// The micro-kernels of layers/gemm.h for one Highway target. No include guard in the ordinary
// sense: compiled once for each target.
#if defined(CLASSICNN_LAYERS_GEMM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CLASSICNN_LAYERS_GEMM_INL_H_
#undef CLASSICNN_LAYERS_GEMM_INL_H_
#else
#define CLASSICNN_LAYERS_GEMM_INL_H_
#endif

#include <cstdint>
#include <type_traits>

#include "hwy/highway.h"
#include "layers/gemm.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using GemmTag = hn::ScalableTag<float>;
using GemmVec = hn::Vec<GemmTag>;

// Rows x 2 sums, 2 vectors of B and one broadcast value must fit the registers: 14 x 2 of 32
// registers (AVX-512, NEON), 6 x 2 of 16.
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM
inline constexpr int kGemmRows = 14;
#else
inline constexpr int kGemmRows = 6;
#endif
static_assert(kGemmRows <= kGemmMaxRows);

// The loops over rows and vectors below are written as templates over the row's number: only then
// do all compilers keep the sums in registers.
template <int kRows, int kVectors>
struct GemmSums {
  GemmSums<kRows - 1, kVectors> before;
  GemmVec sum0;
  GemmVec sum1;  // unused with one vector

  HWY_INLINE void Clear() {
    before.Clear();
    sum0 = hn::Zero(GemmTag());
    sum1 = hn::Zero(GemmTag());
  }
  // a[i][d] for each row i.
  HWY_INLINE void AddRows(const float* const* HWY_RESTRICT a, int64_t d, GemmVec b0, GemmVec b1) {
    before.AddRows(a, d, b0, b1);
    const GemmVec value = hn::Set(GemmTag(), a[kRows - 1][d]);
    sum0 = hn::MulAdd(value, b0, sum0);
    if (kVectors == 2) sum1 = hn::MulAdd(value, b1, sum1);
  }
  // a[i] for each row i.
  HWY_INLINE void AddColumn(const float* HWY_RESTRICT a, GemmVec b0, GemmVec b1) {
    before.AddColumn(a, b0, b1);
    const GemmVec value = hn::Set(GemmTag(), a[kRows - 1]);
    sum0 = hn::MulAdd(value, b0, sum0);
    if (kVectors == 2) sum1 = hn::MulAdd(value, b1, sum1);
  }
  // store(row, sum0, sum1) for each row.
  template <typename Store>
  HWY_INLINE void ForEachRow(const Store& store) const {
    before.ForEachRow(store);
    store(kRows - 1, sum0, sum1);
  }
};

template <int kVectors>
struct GemmSums<0, kVectors> {
  HWY_INLINE void Clear() {}
  HWY_INLINE void AddRows(const float* const* /*a*/, int64_t /*d*/, GemmVec /*b0*/,
                          GemmVec /*b1*/) {}
  HWY_INLINE void AddColumn(const float* /*a*/, GemmVec /*b0*/, GemmVec /*b1*/) {}
  template <typename Store>
  HWY_INLINE void ForEachRow(const Store& /*store*/) const {}
};

// A row whose last vector is partial: masked accesses may fault on some targets, scalar ones touch
// only what is there.
static HWY_NOINLINE void GemmStorePartialRow(const float* HWY_RESTRICT sums, const float* bias,
                                             bool accumulate, int64_t columns,
                                             float* HWY_RESTRICT out) {
  for (int64_t j = 0; j < columns; ++j) {
    float value = sums[j];
    if (bias != nullptr) value += bias[j];
    if (accumulate) value += out[j];
    out[j] = value;
  }
}

// Writes one row of sums, `columns` of them (at most kVectors vectors). Here and just above is all
// that an epilogue does to values.
template <int kVectors>
HWY_INLINE void GemmStoreRow(GemmVec sum0, GemmVec sum1, const float* bias, bool accumulate,
                             int64_t columns, float* HWY_RESTRICT out) {
  const GemmTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  if (HWY_LIKELY(columns == kVectors * lanes)) {
    if (bias != nullptr) {
      sum0 = hn::Add(sum0, hn::LoadU(d, bias));
      if (kVectors == 2) sum1 = hn::Add(sum1, hn::LoadU(d, bias + lanes));
    }
    if (accumulate) {
      sum0 = hn::Add(sum0, hn::LoadU(d, out));
      if (kVectors == 2) sum1 = hn::Add(sum1, hn::LoadU(d, out + lanes));
    }
    hn::StoreU(sum0, d, out);
    if (kVectors == 2) hn::StoreU(sum1, d, out + lanes);
    return;
  }
  HWY_ALIGN float sums[kVectors * hn::MaxLanes(d)];
  hn::Store(sum0, d, sums);
  if (kVectors == 2) hn::Store(sum1, d, sums + lanes);
  GemmStorePartialRow(sums, bias, accumulate, columns, out);
}

template <int kRows, int kVectors>
HWY_NOINLINE void GemmKernel(const GemmBlock& block, int64_t depth, const float* HWY_RESTRICT panel,
                             int64_t first_column, int64_t columns, const GemmEpilogue& epilogue) {
  const GemmTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  GemmSums<kRows, kVectors> sums;
  sums.Clear();
  for (int64_t t = 0; t < block.segments; ++t) {
    const float* const* a = block.a + t * kRows;
    const float* HWY_RESTRICT b = panel + block.segment[t] * depth * kVectors * lanes;
    for (int64_t i = 0; i < depth; ++i, b += kVectors * lanes) {
      const GemmVec b0 = hn::Load(d, b);
      sums.AddRows(a, i, b0, kVectors == 2 ? hn::Load(d, b + lanes) : b0);
    }
  }
  const float* const bias = epilogue.bias == nullptr ? nullptr : epilogue.bias + first_column;
  sums.ForEachRow([&](int row, GemmVec sum0, GemmVec sum1) HWY_ATTR {
    GemmStoreRow<kVectors>(sum0, sum1, bias, epilogue.accumulate, columns,
                           block.out[row] + first_column);
  });
}

template <int kRows, int kVectors>
HWY_NOINLINE void OuterKernel(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b,
                              const OuterStep* steps, int64_t count, bool accumulate,
                              int64_t columns, float* HWY_RESTRICT out, int64_t out_stride) {
  const GemmTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  GemmSums<kRows, kVectors> sums;
  sums.Clear();
  for (int64_t p = 0; p < count; ++p) {
    const float* HWY_RESTRICT bp = b + steps[p].b;
    const GemmVec b0 = hn::LoadU(d, bp);
    sums.AddColumn(a + steps[p].a, b0, kVectors == 2 ? hn::LoadU(d, bp + lanes) : b0);
  }
  sums.ForEachRow([&](int row, GemmVec sum0, GemmVec sum1) HWY_ATTR {
    GemmStoreRow<kVectors>(sum0, sum1, nullptr, accumulate, columns, out + row * out_stride);
  });
}

// Calls call(std::integral_constant<int, rows>()) for a number of rows known at run time.
template <int kRows, typename Call>
HWY_INLINE void GemmDispatchRows(int64_t rows, const Call& call) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      GemmDispatchRows<kRows - 1>(rows, call);
      return;
    }
  }
  call(std::integral_constant<int, kRows>());
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#endif  // CLASSICNN_LAYERS_GEMM_INL_H_
