#include "layers/column_sums.h"

#include <algorithm>

#include "core/divide.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/column_sums.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// sums[j] = sum over the rows of x[i * stride + j]. `sums` stays in the first-level cache.
void SumRows(const float* HWY_RESTRICT x, int64_t rows, int64_t columns, int64_t stride,
             float* HWY_RESTRICT sums) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t j = 0;
  for (; j + 2 * lanes <= columns; j += 2 * lanes) {
    auto sum0 = hn::Zero(d);
    auto sum1 = hn::Zero(d);
    for (int64_t i = 0; i < rows; ++i) {
      sum0 = hn::Add(sum0, hn::LoadU(d, x + i * stride + j));
      sum1 = hn::Add(sum1, hn::LoadU(d, x + i * stride + j + lanes));
    }
    hn::StoreU(sum0, d, sums + j);
    hn::StoreU(sum1, d, sums + j + lanes);
  }
  for (; j + lanes <= columns; j += lanes) {
    auto sum = hn::Zero(d);
    for (int64_t i = 0; i < rows; ++i) sum = hn::Add(sum, hn::LoadU(d, x + i * stride + j));
    hn::StoreU(sum, d, sums + j);
  }
  for (; j < columns; ++j) {
    float sum = 0.0f;
    for (int64_t i = 0; i < rows; ++i) sum += x[i * stride + j];
    sums[j] = sum;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
namespace {

HWY_EXPORT(SumRows);

// Blocks keep the rounding error small as well: each sum has at most this many terms, plus the
// number of blocks.
constexpr int64_t kRowsPerBlock = 256;

int64_t NumBlocks(int64_t rows) { return DivideUp(rows, kRowsPerBlock); }

}  // namespace

size_t ColumnSumsWorkspaceBytes(int64_t rows, int64_t columns) {
  return Workspace::BytesFor<float>(NumBlocks(rows) * columns);
}

void ColumnSums(const char* zone, const float* x, int64_t rows, int64_t columns, int64_t stride,
                float* sums, Workspace workspace, Context& ctx) {
  const int64_t blocks = NumBlocks(rows);
  float* const partial = workspace.Take<float>(blocks * columns);
  ctx.ParallelFor(zone, blocks, [&](int64_t block, int /*worker*/) {
    const int64_t begin = block * kRowsPerBlock;
    HWY_DYNAMIC_DISPATCH(SumRows)
    (x + begin * stride, std::min(kRowsPerBlock, rows - begin), columns, stride,
     partial + block * columns);
  });
  HWY_DYNAMIC_DISPATCH(SumRows)(partial, blocks, columns, columns, sums);
}

}  // namespace classicnn
#endif  // HWY_ONCE
