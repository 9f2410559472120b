#include "layers/row_products.h"

#include <algorithm>
#include <cstdint>

#include "core/check.h"
#include "core/divide.h"
#include "layers/gemm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/row_products.cc"
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/partial-inl.h"
#include "layers/prefetch_queue.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

// A block of sums in registers: 4 rows (or vectors of columns) x 4 vectors of 32, 4 x 2 of 16.
constexpr int kRows = kRowProductRows;
constexpr int kColumnVectors = 4;
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM
constexpr int kVectors = 4;
#else
constexpr int kVectors = 2;
#endif

// to[r] = the sum over the lanes of sums[r].
HWY_INLINE void StoreLaneSums(const VF* sums, float* to) {
#if HWY_TARGET == HWY_SCALAR
  for (int r = 0; r < kRows; ++r) to[r] = hn::GetLane(sums[r]);
#else
  static_assert(kRows == 4);
  const DF d;
  const hn::Repartition<double, DF> pairs;
  // Within each block of four lanes: sums of two of them, then of all four, for four rows.
  const VF ab =
      hn::Add(hn::InterleaveLower(d, sums[0], sums[1]), hn::InterleaveUpper(d, sums[0], sums[1]));
  const VF cd =
      hn::Add(hn::InterleaveLower(d, sums[2], sums[3]), hn::InterleaveUpper(d, sums[2], sums[3]));
  const auto low = hn::InterleaveLower(pairs, hn::BitCast(pairs, ab), hn::BitCast(pairs, cd));
  const auto high = hn::InterleaveUpper(pairs, hn::BitCast(pairs, ab), hn::BitCast(pairs, cd));
  HWY_ALIGN float blocks[HWY_LANES(float)];
  hn::Store(hn::Add(hn::BitCast(d, low), hn::BitCast(d, high)), d, blocks);
  const hn::FixedTag<float, 4> four;
  auto sum = hn::Load(four, blocks);
  for (int64_t i = 4; i < Lanes(); i += 4) sum = hn::Add(sum, hn::Load(four, blocks + i));
  hn::StoreU(sum, four, to);
#endif
}

// A block; as many floats from `next` on as its rows have are fetched unless that is null.
template <int kCount>
HWY_INLINE void MultiplyBlock(const float* HWY_RESTRICT rows, int64_t depth, const float* next,
                              const float* const* a, float* const* out, int64_t first_row) {
  const DF d;
  VF sums[kCount][kRows];
  for (int i = 0; i < kCount; ++i) {
    for (int r = 0; r < kRows; ++r) sums[i][r] = hn::Zero(d);
  }
  for (int64_t k = 0; k < depth; k += Lanes()) {
    VF row[kRows];
    for (int r = 0; r < kRows; ++r) {
      row[r] = hn::LoadU(d, rows + r * depth + k);
      if (next != nullptr) hwy::Prefetch(next + r * depth + k);
    }
    for (int i = 0; i < kCount; ++i) {
      const VF value = hn::LoadU(d, a[i] + k);
      for (int r = 0; r < kRows; ++r) sums[i][r] = hn::MulAdd(row[r], value, sums[i][r]);
    }
  }
  for (int i = 0; i < kCount; ++i) StoreLaneSums(sums[i], out[i] + first_row);
}

void Multiply(const RowProducts& p) {
  for (int64_t r = 0; r < p.num_rows; r += kRows) {
    const float* const rows = p.rows + r * p.depth;
    const bool fetches = (r + kRows) * p.depth <= p.next_floats;
    for (int64_t i = 0; i < p.num_vectors; i += kVectors) {
      const float* const next = fetches && i == 0 ? p.next + r * p.depth : nullptr;
      switch (std::min<int64_t>(kVectors, p.num_vectors - i)) {
        case 1:
          MultiplyBlock<1>(rows, p.depth, next, p.a + i, p.out + i, r);
          break;
        case 2:
          MultiplyBlock<2>(rows, p.depth, next, p.a + i, p.out + i, r);
          break;
        case 3:
          MultiplyBlock<3>(rows, p.depth, next, p.a + i, p.out + i, r);
          break;
        default:
          MultiplyBlock<4>(rows, p.depth, next, p.a + i, p.out + i, r);
          break;
      }
    }
  }
}

// Rows [begin, end) for a few vectors and columns.
struct SumRange {
  int64_t begin, end;
  int64_t vector;
  int64_t column;
};

template <int kCount, int kWide>
HWY_INLINE void SumBlock(const RowSums& s, const SumRange& range, PrefetchQueue* queue) {
  const DF d;
  VF sums[kCount][kWide];
  float* const* out = s.out + range.vector;
  for (int i = 0; i < kCount; ++i) {
    for (int j = 0; j < kWide; ++j) {
      sums[i][j] =
          range.begin == 0 ? hn::Zero(d) : hn::LoadU(d, out[i] + range.column + j * Lanes());
    }
  }
  const float* const* HWY_RESTRICT a = s.a + range.vector;
  const float* HWY_RESTRICT row = s.rows + range.begin * s.row_stride + range.column;
  for (int64_t r = range.begin; r < range.end; ++r, row += s.row_stride) {
    queue->Step();
    VF values[kWide];
    for (int j = 0; j < kWide; ++j) values[j] = hn::LoadU(d, row + j * Lanes());
    for (int i = 0; i < kCount; ++i) {
      const VF factor = hn::Set(d, a[i][r]);
      for (int j = 0; j < kWide; ++j) sums[i][j] = hn::MulAdd(factor, values[j], sums[i][j]);
    }
  }
  for (int i = 0; i < kCount; ++i) {
    for (int j = 0; j < kWide; ++j) {
      hn::StoreU(sums[i][j], d, out[i] + range.column + j * Lanes());
    }
  }
}

template <int kWide>
HWY_INLINE void SumColumns(const RowSums& s, SumRange range, PrefetchQueue* queue) {
  for (range.vector = 0; range.vector < s.num_vectors; range.vector += kVectors) {
    switch (std::min<int64_t>(kVectors, s.num_vectors - range.vector)) {
      case 1:
        SumBlock<1, kWide>(s, range, queue);
        break;
      case 2:
        SumBlock<2, kWide>(s, range, queue);
        break;
      case 3:
        SumBlock<3, kWide>(s, range, queue);
        break;
      default:
        SumBlock<4, kWide>(s, range, queue);
        break;
    }
  }
}

void Sum(const RowSums& s) {
  // These stay in the first-level cache: one vector of columns at a time over all rows would meet
  // rows a stride apart that share few sets of it.
  constexpr int64_t kFloats = 8192;
  const int64_t chunk = std::clamp<int64_t>(kFloats / s.columns, 4, 32);
  const int64_t wide = kColumnVectors * Lanes();
  const int64_t blocks =
      (s.columns / wide + s.columns % wide / Lanes()) * DivideUp(s.num_vectors, kVectors);
  for (int64_t begin = 0; begin < s.num_rows; begin += chunk) {
    const int64_t end = std::min(s.num_rows, begin + chunk);
    PrefetchQueue queue;
    queue.Clear();
    if (end < s.num_rows) {
      queue.Add(s.rows + end * s.row_stride, s.columns, s.row_stride,
                std::min(chunk, s.num_rows - end));
    } else if (s.next != nullptr) {
      queue.Add(s.next, s.columns, s.row_stride, std::min(chunk, s.next_rows));
    }
    queue.SpreadOver(blocks * (end - begin));
    SumRange range{begin, end, 0, 0};
    for (; range.column + wide <= s.columns; range.column += wide) {
      SumColumns<kColumnVectors>(s, range, &queue);
    }
    for (; range.column < s.columns; range.column += Lanes()) SumColumns<1>(s, range, &queue);
  }
}

template <bool kTail>
HWY_INLINE void AddVector(const float* first, const float* const* rows, int64_t num_rows, int64_t j,
                          int64_t count, float* out) {
  VF sum = first != nullptr ? LoadLanes<kTail>(first + j, count) : hn::Zero(DF());
  for (int64_t i = 0; i < num_rows; ++i) {
    sum = hn::Add(sum, LoadLanes<kTail>(rows[i] + j, count));
  }
  StoreLanes<kTail>(sum, out + j, count);
}

void AddRows(const float* first, const float* const* rows, int64_t num_rows, int64_t size,
             float* out) {
  const int64_t lanes = Lanes();
  int64_t j = 0;
  for (; j + lanes <= size; j += lanes) AddVector<false>(first, rows, num_rows, j, lanes, out);
  if (j < size) AddVector<true>(first, rows, num_rows, j, size - j, out);
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
namespace {
HWY_EXPORT(Multiply);
HWY_EXPORT(Sum);
HWY_EXPORT(AddRows);
}  // namespace

void MultiplyRows(const RowProducts& product) {
  CNN_DCHECK(product.num_rows % kRowProductRows == 0 && product.depth % kGemmMaxLanes == 0);
  HWY_DYNAMIC_DISPATCH(Multiply)(product);
}

void SumRows(const RowSums& sums) {
  CNN_DCHECK(sums.columns % kGemmMaxLanes == 0);
  HWY_DYNAMIC_DISPATCH(Sum)(sums);
}

void AddRowsTo(const float* first, const float* const* rows, int64_t num_rows, int64_t size,
               float* out) {
  HWY_DYNAMIC_DISPATCH(AddRows)(first, rows, num_rows, size, out);
}

}  // namespace classicnn
#endif  // HWY_ONCE
