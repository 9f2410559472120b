#include "layers/gemm.h"

#include <algorithm>
#include <cstdint>

#include "core/check.h"
#include "core/divide.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/gemm.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

GemmGeometry Geometry() { return {kGemmRows, static_cast<int64_t>(hn::Lanes(GemmTag())), 2}; }
GemmGeometry WideGeometry() {
  return kGemmWideRows == 0
             ? Geometry()
             : GemmGeometry{kGemmWideRows, static_cast<int64_t>(hn::Lanes(GemmTag())), 4};
}

// to[r * to_stride + j] = from[j * from_stride + r] for r in [0, kLineFloats), j in [0, 4).
HWY_INLINE void Transpose4(const float* HWY_RESTRICT from, int64_t from_stride,
                           float* HWY_RESTRICT to, int64_t to_stride) {
  // The lines are far apart, too many streams for hardware to prefetch.
  for (int64_t j = 0; j < 4; ++j) hwy::Prefetch(from + j * from_stride + 4 * kLineFloats);
#if HWY_TARGET == HWY_SCALAR
  for (int64_t r = 0; r < kLineFloats; ++r) {
    for (int64_t j = 0; j < 4; ++j) to[r * to_stride + j] = from[j * from_stride + r];
  }
#else
  const hn::FixedTag<float, 4> d;
  for (int64_t r = 0; r < kLineFloats; r += 4) {
    const auto a0 = hn::LoadU(d, from + r);
    const auto a1 = hn::LoadU(d, from + from_stride + r);
    const auto a2 = hn::LoadU(d, from + 2 * from_stride + r);
    const auto a3 = hn::LoadU(d, from + 3 * from_stride + r);
    const auto low01 = hn::InterleaveLower(d, a0, a1);  // a0[0] a1[0] a0[1] a1[1]
    const auto low23 = hn::InterleaveLower(d, a2, a3);
    const auto high01 = hn::InterleaveUpper(d, a0, a1);  // a0[2] a1[2] a0[3] a1[3]
    const auto high23 = hn::InterleaveUpper(d, a2, a3);
    hn::StoreU(hn::ConcatLowerLower(d, low23, low01), d, to + r * to_stride);
    hn::StoreU(hn::ConcatUpperUpper(d, low23, low01), d, to + (r + 1) * to_stride);
    hn::StoreU(hn::ConcatLowerLower(d, high23, high01), d, to + (r + 2) * to_stride);
    hn::StoreU(hn::ConcatUpperUpper(d, high23, high01), d, to + (r + 3) * to_stride);
  }
#endif
}

void PackPanel(const float* HWY_RESTRICT b, int64_t row_stride, int64_t column_stride,
               int64_t depth, int64_t columns, float* HWY_RESTRICT packed) {
  const GemmTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t width = DivideUp(columns, lanes) * lanes;
  if (column_stride == 1 && columns == width) {
    for (int64_t i = 0; i < depth; ++i) {
      for (int64_t j = 0; j < width; j += lanes) {
        hn::Store(hn::LoadU(d, b + i * row_stride + j), d, packed + i * width + j);
      }
    }
    return;
  }
  // A line of each column at a time.
  for (int64_t i = 0; i < depth; i += kLineFloats) {
    const int64_t rows = std::min(depth - i, kLineFloats);
    float* HWY_RESTRICT to = packed + i * width;
    int64_t j = 0;
    if (row_stride == 1 && rows == kLineFloats) {
      for (; j + 4 <= columns; j += 4) {
        Transpose4(b + j * column_stride + i, column_stride, to + j, width);
      }
    }
    for (; j < width; ++j) {
      for (int64_t r = 0; r < rows; ++r) {
        to[r * width + j] = j < columns ? b[(i + r) * row_stride + j * column_stride] : 0.0f;
      }
    }
  }
}

// `next` as of GemmKernel.
HWY_INLINE void MultiplyBlock(const GemmBlock& block, const GemmBlock* next, int64_t depth,
                              const GemmPanel& panel, const GemmEpilogue& epilogue,
                              const GemmPrefetch& prefetch) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(GemmTag()));
  if constexpr (kGemmWideRows > 0) {
    if (panel.columns > 2 * lanes) {
      GemmDispatchRows<kGemmWideRows>(block.rows, [&](auto rows) HWY_ATTR {
        constexpr int kRows = decltype(rows)::value;
        if (panel.columns > 3 * lanes) {
          GemmKernel<kRows, 4>(block, next, depth, panel, epilogue, prefetch);
        } else {
          GemmKernel<kRows, 3>(block, next, depth, panel, epilogue, prefetch);
        }
      });
      return;
    }
  }
  GemmDispatchRows<kGemmRows>(block.rows, [&](auto rows) HWY_ATTR {
    constexpr int kRows = decltype(rows)::value;
    if (panel.columns > lanes) {
      GemmKernel<kRows, 2>(block, next, depth, panel, epilogue, prefetch);
    } else {
      GemmKernel<kRows, 1>(block, next, depth, panel, epilogue, prefetch);
    }
  });
}

void Multiply(const GemmBlock* blocks, int64_t num_blocks, int64_t depth, const GemmPanel& panel,
              const GemmEpilogue& epilogue, const GemmPrefetch& prefetch) {
  for (int64_t i = 0; i < num_blocks; ++i) {
    const GemmBlock* const next = i + 1 < num_blocks ? &blocks[i + 1] : nullptr;
    MultiplyBlock(blocks[i], next, depth, panel, epilogue, prefetch);
  }
}

void MultiplyByRows(const GemmBlock* blocks, int64_t num_blocks, int64_t depth,
                    const GemmPanel* panels, int64_t num_panels, const GemmEpilogue& epilogue) {
  for (int64_t i = 0; i < num_blocks; ++i) {
    for (int64_t j = 0; j < num_panels; ++j) {
      MultiplyBlock(blocks[i], nullptr, depth, panels[j], epilogue, {});
    }
  }
}

void Outer(const OuterProduct& product) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(GemmTag()));
  const int64_t rows = product.num_rows;
  const int64_t row_blocks = DivideUp(rows, kGemmRows);
  const int64_t columns = product.num_columns;
  const int64_t calls = row_blocks * ((columns + 2 * lanes - 1) / (2 * lanes));
  int64_t call = 0;
  for (int64_t j = 0; j < columns; j += 2 * lanes) {
    const int64_t width = std::min(columns - j, 2 * lanes);
    for (int64_t block = 0; block < row_blocks; ++block, ++call) {
      for (const PrefetchRuns& runs : product.prefetch) PrefetchPart(runs, call, calls);
      // Blocks of even size: 64 rows are 13 + 13 + 13 + 13 + 12, not four times 14 and 8.
      const int64_t begin = rows * block / row_blocks;
      const int64_t end = rows * (block + 1) / row_blocks;
      GemmDispatchRows<kGemmRows>(end - begin, [&](auto num_rows) HWY_ATTR {
        constexpr int kRows = decltype(num_rows)::value;
        if (width > lanes) {
          OuterKernel<kRows, 2>(product, begin, j, width);
        } else {
          OuterKernel<kRows, 1>(product, begin, j, width);
        }
      });
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
namespace {
HWY_EXPORT(Geometry);
HWY_EXPORT(WideGeometry);
HWY_EXPORT(PackPanel);
HWY_EXPORT(Multiply);
HWY_EXPORT(MultiplyByRows);
HWY_EXPORT(Outer);
}  // namespace

GemmGeometry ActiveGemmGeometry() { return HWY_DYNAMIC_DISPATCH(Geometry)(); }
GemmGeometry WideGemmGeometry() { return HWY_DYNAMIC_DISPATCH(WideGeometry)(); }

void GemmPackPanel(const float* b, int64_t row_stride, int64_t column_stride, int64_t depth,
                   int64_t columns, float* packed) {
  CNN_DCHECK(row_stride == 1 || column_stride == 1);
  HWY_DYNAMIC_DISPATCH(PackPanel)(b, row_stride, column_stride, depth, columns, packed);
}

void GemmMultiply(const GemmBlock* blocks, int64_t num_blocks, int64_t depth,
                  const GemmPanel& panel, const GemmEpilogue& epilogue,
                  const GemmPrefetch& prefetch) {
  HWY_DYNAMIC_DISPATCH(Multiply)(blocks, num_blocks, depth, panel, epilogue, prefetch);
}

void GemmMultiplyByRows(const GemmBlock* blocks, int64_t num_blocks, int64_t depth,
                        const GemmPanel* panels, int64_t num_panels, const GemmEpilogue& epilogue) {
  HWY_DYNAMIC_DISPATCH(MultiplyByRows)(blocks, num_blocks, depth, panels, num_panels, epilogue);
}

void GemmOuter(const OuterProduct& product) { HWY_DYNAMIC_DISPATCH(Outer)(product); }

}  // namespace classicnn
#endif  // HWY_ONCE
