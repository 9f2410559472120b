// The micro-kernels of layers/gemm.h for one Highway target. No include guard in the ordinary
// sense: compiled once for each target.
#if defined(CLASSICNN_LAYERS_GEMM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CLASSICNN_LAYERS_GEMM_INL_H_
#undef CLASSICNN_LAYERS_GEMM_INL_H_
#else
#define CLASSICNN_LAYERS_GEMM_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "layers/channel_rows.h"
#include "layers/gemm.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using GemmTag = hn::ScalableTag<float>;
using GemmVec = hn::Vec<GemmTag>;

// Rows x 2 sums, 2 vectors of B and one broadcast value must fit the registers: 14 x 2 of 32
// registers (AVX-512, NEON), 6 x 2 of 16. With 32 also 6 x 4, 4 vectors of B and the broadcast
// value: 34 instructions for 24 multiply-adds instead of 44 (52 with the rows' pointers, for which
// there are not enough registers) for 28.
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM
inline constexpr int kGemmRows = 14;
inline constexpr int kGemmWideRows = 6;
#else
inline constexpr int kGemmRows = 6;
inline constexpr int kGemmWideRows = 0;  // there is no wide block
#endif
static_assert(kGemmRows <= kGemmMaxRows);

// The loops over rows and vectors below are written as templates over the row's number: only then
// do all compilers keep the sums in registers.
template <int kRows, int kVectors>
struct GemmSums {
  GemmSums<kRows - 1, kVectors> before;
  GemmVec sum0;
  GemmVec sum1;  // unused with one vector

  // Every row starts as these vectors.
  HWY_INLINE void Fill(GemmVec value0, GemmVec value1) {
    before.Fill(value0, value1);
    sum0 = value0;
    sum1 = value1;
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
  // a[i * kStep] for each row i.
  template <int kStep>
  HWY_INLINE void AddApart(const float* HWY_RESTRICT a, GemmVec b0, GemmVec b1) {
    before.template AddApart<kStep>(a, b0, b1);
    const GemmVec value = hn::Set(GemmTag(), a[(kRows - 1) * kStep]);
    sum0 = hn::MulAdd(value, b0, sum0);
    if (kVectors == 2) sum1 = hn::MulAdd(value, b1, sum1);
  }
  // store.Row(row, sum0, sum1) for each row.
  template <typename Store>
  HWY_INLINE void ForEachRow(Store&& store) const {
    before.ForEachRow(store);
    store.Row(kRows - 1, sum0, sum1);
  }
};

template <int kVectors>
struct GemmSums<0, kVectors> {
  HWY_INLINE void Fill(GemmVec /*value0*/, GemmVec /*value1*/) {}
  HWY_INLINE void AddRows(const float* const* /*a*/, int64_t /*d*/, GemmVec /*b0*/,
                          GemmVec /*b1*/) {}
  HWY_INLINE void AddColumn(const float* /*a*/, GemmVec /*b0*/, GemmVec /*b1*/) {}
  template <int kStep>
  HWY_INLINE void AddApart(const float* /*a*/, GemmVec /*b0*/, GemmVec /*b1*/) {}
  template <typename Store>
  HWY_INLINE void ForEachRow(Store&& /*store*/) const {}
};

// Two blocks side by side, of 2 and kRight vectors: a[i][d] for each row i is broadcast once.
template <int kRows, int kRight>
HWY_INLINE void GemmAddWideRows(GemmSums<kRows, 2>& left, GemmSums<kRows, kRight>& right,
                                const float* const* HWY_RESTRICT a, int64_t d, GemmVec b0,
                                GemmVec b1, GemmVec b2, GemmVec b3) {
  if constexpr (kRows > 0) {
    GemmAddWideRows<kRows - 1, kRight>(left.before, right.before, a, d, b0, b1, b2, b3);
    const GemmVec value = hn::Set(GemmTag(), a[kRows - 1][d]);
    left.sum0 = hn::MulAdd(value, b0, left.sum0);
    left.sum1 = hn::MulAdd(value, b1, left.sum1);
    right.sum0 = hn::MulAdd(value, b2, right.sum0);
    if (kRight == 2) right.sum1 = hn::MulAdd(value, b3, right.sum1);
  }
}

// Where the rows of a block go: by a pointer each, or at a fixed distance.
struct GemmRowPointers {
  float* const* HWY_RESTRICT rows;
  int64_t column;
  HWY_INLINE float* operator()(int64_t row) const { return rows[row] + column; }
};
struct GemmRowStride {
  float* HWY_RESTRICT out;
  int64_t stride;
  HWY_INLINE float* operator()(int64_t row) const { return out + row * stride; }
};

// Writes whole vectors. This and GemmStorePartial are all that an epilogue does to finished sums.
template <int kVectors, typename RowOf>
struct GemmStore {
  RowOf row_of;
  bool accumulate;

  HWY_INLINE void Row(int row, GemmVec sum0, GemmVec sum1) const {
    const GemmTag d;
    float* HWY_RESTRICT out = row_of(row);
    float* HWY_RESTRICT out1 = out + hn::Lanes(d);
    if (accumulate) {
      sum0 = hn::Add(sum0, hn::LoadU(d, out));
      if (kVectors == 2) sum1 = hn::Add(sum1, hn::LoadU(d, out1));
    }
    hn::StoreU(sum0, d, out);
    if (kVectors == 2) hn::StoreU(sum1, d, out1);
  }
};

// Sums to a dense aligned buffer.
template <int kVectors>
struct GemmSpill {
  float* HWY_RESTRICT buffer;

  HWY_INLINE void Row(int row, GemmVec sum0, GemmVec sum1) const {
    const GemmTag d;
    const size_t lanes = hn::Lanes(d);
    float* HWY_RESTRICT out = buffer + static_cast<size_t>(row) * kVectors * lanes;
    hn::Store(sum0, d, out);
    if (kVectors == 2) hn::Store(sum1, d, out + lanes);
  }
};

// Rows whose last vector is partial, from a spilled buffer: masked accesses may fault on some
// targets, scalar ones touch only what is there.
template <typename RowOf>
HWY_NOINLINE void GemmStorePartial(const float* HWY_RESTRICT sums, int64_t width, int64_t rows,
                                   int64_t columns, bool accumulate, const RowOf& row_of) {
  for (int64_t i = 0; i < rows; ++i) {
    float* HWY_RESTRICT out = row_of(i);
    for (int64_t j = 0; j < columns; ++j) {
      out[j] = sums[i * width + j] + (accumulate ? out[j] : 0.0f);
    }
  }
}

template <int kRows, int kVectors, typename RowOf>
HWY_INLINE void GemmFinish(const GemmSums<kRows, kVectors>& sums, int64_t columns, bool accumulate,
                           const RowOf& row_of) {
  const GemmTag d;
  const int64_t width = kVectors * static_cast<int64_t>(hn::Lanes(d));
  if (HWY_LIKELY(columns == width)) {
    sums.ForEachRow(GemmStore<kVectors, RowOf>{row_of, accumulate});
    return;
  }
  HWY_ALIGN float buffer[kRows * kVectors * hn::MaxLanes(d)];
  sums.ForEachRow(GemmSpill<kVectors>{buffer});
  GemmStorePartial(buffer, width, kRows, columns, accumulate, row_of);
}

// GradientEpilogue for whole vectors. Without relu every lane passes; without a gain it is one.
template <int kVectors>
struct GemmGradientStore {
  HWY_INLINE GemmGradientStore(const GemmBlock& block, const GemmEpilogue& epilogue,
                               int64_t column_)
      : out(block.out), x(block.x), column(column_), accumulate(epilogue.accumulate) {
    const GemmTag d;
    const GradientEpilogue<float>& e = *epilogue.gradient;
    add = e.gain != nullptr && e.add;
    for (int v = 0; v < kVectors; ++v) {
      const int64_t c = column + v * static_cast<int64_t>(hn::Lanes(d));
      scale[v] = e.relu ? hn::LoadU(d, e.scale + c) : hn::Zero(d);
      shift[v] = e.relu ? hn::LoadU(d, e.shift + c) : hn::Set(d, 1.0f);
      mean[v] = hn::LoadU(d, e.mean + c);
      gain[v] = e.gain != nullptr ? hn::LoadU(d, e.gain + c) : hn::Set(d, 1.0f);
      sum_g[v] = hn::LoadU(d, epilogue.sum_g + c);
      sum_gx[v] = hn::LoadU(d, epilogue.sum_gx + c);
    }
  }
  HWY_INLINE void Row(int row, GemmVec sum0, GemmVec sum1) {
    Vector(row, 0, sum0);
    if (kVectors == 2) Vector(row, 1, sum1);
  }
  HWY_INLINE void Vector(int row, int v, GemmVec da) {
    const GemmTag d;
    const int64_t c = column + v * static_cast<int64_t>(hn::Lanes(d));
    float* HWY_RESTRICT to = out[row] + c;
    const GemmVec value = hn::LoadU(d, x[row] + c);
    if (accumulate) da = hn::Add(da, hn::LoadU(d, to));
    const auto pass = hn::Gt(hn::MulAdd(value, scale[v], shift[v]), hn::Zero(d));
    const GemmVec g = hn::IfThenElseZero(pass, da);
    sum_g[v] = hn::Add(sum_g[v], g);
    sum_gx[v] = hn::MulAdd(g, hn::Sub(value, mean[v]), sum_gx[v]);
    hn::StoreU(add ? hn::MulAdd(g, gain[v], hn::LoadU(d, to)) : hn::Mul(g, gain[v]), d, to);
  }
  HWY_INLINE void StoreSums(const GemmEpilogue& epilogue) const {
    const GemmTag d;
    for (int v = 0; v < kVectors; ++v) {
      const int64_t c = column + v * static_cast<int64_t>(hn::Lanes(d));
      hn::StoreU(sum_g[v], d, epilogue.sum_g + c);
      hn::StoreU(sum_gx[v], d, epilogue.sum_gx + c);
    }
  }

  float* const* HWY_RESTRICT out;
  const float* const* HWY_RESTRICT x;
  int64_t column;
  bool accumulate;
  bool add;
  GemmVec scale[kVectors], shift[kVectors], mean[kVectors], gain[kVectors];
  GemmVec sum_g[kVectors], sum_gx[kVectors];
};

// The same for rows whose last vector is partial, from a spilled buffer.
HWY_MAYBE_UNUSED static HWY_NOINLINE void GemmGradientPartial(float* HWY_RESTRICT sums,
                                                              int64_t width, const GemmBlock& block,
                                                              int64_t column, int64_t columns,
                                                              const GemmEpilogue& epilogue) {
  for (int64_t i = 0; i < block.rows; ++i) {
    float* const out = block.out[i] + column;
    float* const da = sums + i * width;
    if (epilogue.accumulate) {
      for (int64_t j = 0; j < columns; ++j) da[j] += out[j];
    }
    GradientEpilogueRows(*epilogue.gradient, column, da, width, block.x[i] + column, 1, columns,
                         out, columns, epilogue.sum_g + column, epilogue.sum_gx + column);
  }
}

template <int kRows, int kVectors>
HWY_INLINE void GemmFinishGradient(const GemmSums<kRows, kVectors>& sums, const GemmBlock& block,
                                   int64_t column, int64_t columns, const GemmEpilogue& epilogue) {
  const GemmTag d;
  const int64_t width = kVectors * static_cast<int64_t>(hn::Lanes(d));
  if (HWY_LIKELY(columns == width)) {
    GemmGradientStore<kVectors> store(block, epilogue, column);
    sums.ForEachRow(store);
    store.StoreSums(epilogue);
    return;
  }
  HWY_ALIGN float buffer[kRows * kVectors * hn::MaxLanes(d)];
  sums.ForEachRow(GemmSpill<kVectors>{buffer});
  GemmGradientPartial(buffer, width, block, column, columns, epilogue);
}

// Writes whole vectors and adds to their moments.
template <int kVectors, typename RowOf>
struct GemmMomentStore {
  HWY_INLINE GemmMomentStore(const RowOf& row_of_, const GemmEpilogue& epilogue, int64_t column_)
      : row_of(row_of_), column(column_) {
    const GemmTag d;
    for (int v = 0; v < kVectors; ++v) {
      const int64_t c = column + v * static_cast<int64_t>(hn::Lanes(d));
      center[v] = hn::LoadU(d, epilogue.center + c);
      sum[v] = hn::LoadU(d, epilogue.sum + c);
      squares[v] = hn::LoadU(d, epilogue.sum_of_squares + c);
    }
  }
  HWY_INLINE void Row(int row, GemmVec sum0, GemmVec sum1) {
    Vector(row, 0, sum0);
    if (kVectors == 2) Vector(row, 1, sum1);
  }
  HWY_INLINE void Vector(int row, int v, GemmVec y) {
    const GemmTag d;
    hn::StoreU(y, d, row_of(row) + v * static_cast<int64_t>(hn::Lanes(d)));
    const GemmVec deviation = hn::Sub(y, center[v]);
    sum[v] = hn::Add(sum[v], deviation);
    squares[v] = hn::MulAdd(deviation, deviation, squares[v]);
  }
  HWY_INLINE void StoreSums(const GemmEpilogue& epilogue) const {
    const GemmTag d;
    for (int v = 0; v < kVectors; ++v) {
      const int64_t c = column + v * static_cast<int64_t>(hn::Lanes(d));
      hn::StoreU(sum[v], d, epilogue.sum + c);
      hn::StoreU(squares[v], d, epilogue.sum_of_squares + c);
    }
  }

  RowOf row_of;  // from the first of the columns on
  int64_t column;
  GemmVec center[kVectors], sum[kVectors], squares[kVectors];
};

template <int kRows, int kVectors, typename RowOf>
HWY_INLINE void GemmFinishMoments(const GemmSums<kRows, kVectors>& sums, const RowOf& row_of,
                                  int64_t column, int64_t columns, const GemmEpilogue& epilogue) {
  const GemmTag d;
  const int64_t width = kVectors * static_cast<int64_t>(hn::Lanes(d));
  if (HWY_LIKELY(columns == width)) {
    GemmMomentStore<kVectors, RowOf> store(row_of, epilogue, column);
    sums.ForEachRow(store);
    store.StoreSums(epilogue);
    return;
  }
  HWY_ALIGN float buffer[kRows * kVectors * hn::MaxLanes(d)];
  sums.ForEachRow(GemmSpill<kVectors>{buffer});
  GemmStorePartial(buffer, width, kRows, columns, /*accumulate=*/false, row_of);
  AddMomentRows(buffer, width, kRows, columns, epilogue.center + column, epilogue.sum + column,
                epilogue.sum_of_squares + column);
}

inline constexpr int64_t kLineFloats = 16;  // of a cache line

// Lines of a panel's columns that a block's epilogue will read. Not those that are overwritten as
// a whole: such stores wait for nothing, and fetching what they replace costs bandwidth.
static HWY_INLINE void PrefetchOperands(const GemmBlock& block, int64_t column, int64_t columns,
                                        const GemmEpilogue& epilogue) {
  const bool reads_out =
      epilogue.accumulate || (epilogue.gradient != nullptr && epilogue.gradient->add);
  if (!reads_out && epilogue.gradient == nullptr) return;
  for (int64_t row = 0; row < block.rows; ++row) {
    for (int64_t j = 0; j < columns; j += kLineFloats) {
      if (reads_out) hwy::Prefetch(block.out[row] + column + j);
      if (epilogue.gradient != nullptr) hwy::Prefetch(block.x[row] + column + j);
    }
  }
}

// Sums start as the bias of columns [column, column + columns), or zero.
template <int kRows, int kVectors>
HWY_INLINE void GemmBegin(GemmSums<kRows, kVectors>& sums, const GemmEpilogue& epilogue,
                          int64_t column, int64_t columns) {
  const GemmTag d;
  if (epilogue.bias == nullptr) {
    sums.Fill(hn::Zero(d), hn::Zero(d));
    return;
  }
  const float* HWY_RESTRICT bias = epilogue.bias + column;
  HWY_ALIGN float padded[kVectors * hn::MaxLanes(d)] = {};
  for (int64_t j = 0; j < columns; ++j) padded[j] = bias[j];
  sums.Fill(hn::Load(d, padded), hn::Load(d, padded + (kVectors - 1) * hn::Lanes(d)));
}

template <int kRows, int kVectors>
HWY_INLINE void GemmEnd(const GemmSums<kRows, kVectors>& sums, const GemmBlock& block,
                        int64_t column, int64_t columns, const GemmEpilogue& epilogue) {
  if (epilogue.gradient != nullptr) {
    GemmFinishGradient(sums, block, column, columns, epilogue);
  } else if (epilogue.center != nullptr) {
    GemmFinishMoments(sums, GemmRowPointers{block.out, column}, column, columns, epilogue);
  } else {
    GemmFinish(sums, columns, epilogue.accumulate, GemmRowPointers{block.out, column});
  }
}

// kVectors is 1 to 4. `next`: the block after this one, or null.
template <int kRows, int kVectors>
HWY_NOINLINE void GemmKernel(const GemmBlock& block, const GemmBlock* next, int64_t depth,
                             const GemmPanel& panel, const GemmEpilogue& epilogue,
                             const GemmPrefetch& prefetch) {
  const GemmTag d;
  constexpr int kLeft = kVectors > 2 ? 2 : kVectors;
  constexpr int kRight = std::max(1, kVectors - 2);  // 1 is not used where there is none
  const int64_t first_column = panel.first_column;
  const int64_t row_stride = panel.row_stride;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t left_columns = std::min(panel.columns, kLeft * lanes);
  const int64_t right_columns = panel.columns - left_columns;
  if (next != nullptr) {
    PrefetchOperands(*next, first_column, panel.columns, epilogue);
  } else if (prefetch.first != nullptr) {
    PrefetchOperands(*prefetch.first, first_column + panel.columns, panel.columns, epilogue);
  }
  GemmSums<kRows, kLeft> left;
  GemmSums<kRows, kRight> right;
  GemmBegin(left, epilogue, first_column, left_columns);
  if constexpr (kVectors > 2) {
    GemmBegin(right, epilogue, first_column + left_columns, right_columns);
  }
  for (int64_t t = 0; t < block.segments; ++t) {
    const float* const* a = block.a + t * kRows;
    const float* HWY_RESTRICT b = panel.data + block.segment[t] * depth * row_stride;
    for (int64_t i = 0; i < depth;) {
      // A line of the next block's rows while one of this block's is consumed: short rows, a
      // stride apart, are no pattern that hardware prefetches.
      if (prefetch.next_rows && next != nullptr && t < next->segments) {
        const float* const* rows = next->a + t * next->rows;
        for (int64_t row = 0; row < next->rows; ++row) hwy::Prefetch(rows[row] + i);
      }
      if (prefetch.queue != nullptr) prefetch.queue->Step();
      const int64_t line_end = std::min(depth, i + kLineFloats);
      for (; i < line_end; ++i, b += row_stride) {
        const GemmVec b0 = hn::LoadU(d, b);
        const GemmVec b1 = kVectors >= 2 ? hn::LoadU(d, b + lanes) : b0;
        if constexpr (kVectors > 2) {
          const GemmVec b2 = hn::LoadU(d, b + 2 * lanes);
          const GemmVec b3 = kVectors == 4 ? hn::LoadU(d, b + 3 * lanes) : b2;
          GemmAddWideRows<kRows, kRight>(left, right, a, i, b0, b1, b2, b3);
        } else {
          left.AddRows(a, i, b0, b1);
        }
      }
    }
  }
  GemmEnd(left, block, first_column, left_columns, epilogue);
  if constexpr (kVectors > 2) {
    GemmEnd(right, block, first_column + left_columns, right_columns, epilogue);
  }
}

// Rows [row, row + kRows) and columns [column, column + columns) of the product.
template <int kRows, int kVectors>
HWY_NOINLINE void OuterKernel(const OuterProduct& product, int64_t row, int64_t column,
                              int64_t columns) {
  const GemmTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const OuterStep* HWY_RESTRICT step = product.steps;
  const OuterStep* const end = step + product.num_steps;
  GemmSums<kRows, kVectors> sums;
  sums.Fill(hn::Zero(d), hn::Zero(d));
  for (; step != end; ++step) {
    const float* HWY_RESTRICT b = step->b + column;
    const GemmVec b0 = hn::LoadU(d, b);
    sums.AddColumn(step->a + row, b0, kVectors == 2 ? hn::LoadU(d, b + lanes) : b0);
  }
  GemmFinish(sums, columns, product.accumulate,
             GemmRowStride{product.out + row * product.out_stride + column, product.out_stride});
}

// Part `index` of `parts` of the runs.
static HWY_INLINE void PrefetchPart(const PrefetchRuns& runs, int64_t index, int64_t parts) {
  for (int64_t i = runs.count * index / parts; i < runs.count * (index + 1) / parts; ++i) {
    const float* const run = runs.data + i * runs.stride;
    for (int64_t j = 0; j < runs.floats; j += kLineFloats) hwy::Prefetch(run + j);
  }
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
