#include "layers/outer_product.h"

#include <algorithm>
#include <cstdint>
#include <limits>

#include "core/divide.h"
#include "layers/gemm.h"
#include "layers/prefetch_queue.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/outer_product.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/gemm-inl.h"
#include "layers/partial-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

// Up to two vectors of channels to be packed for each of some pixels: what a kernel does on the
// way, one pixel a step.
struct Packing {
  const float* from = nullptr;
  int64_t from_stride = 0;
  const float* x = nullptr;
  int64_t x_stride = 0;
  const float* scale = nullptr;  // gain, with x
  const float* slope = nullptr;
  const float* shift = nullptr;
  float floor = 0.0f;
  int64_t count = 0;  // of channels
  float* to = nullptr;
  int64_t width = 0;  // of a packed row
};

enum class Side {
  kNone,
  kRows,     // a block of a: max(floor, v * scale + shift)
  kColumns,  // a panel of b, as it is
  kGradient  // or with the gradient's prologue
};

template <Side kSide>
struct PackingStep {
  // Those of a packed row.
  static constexpr int kVectors = kSide == Side::kRows ? DivideUp(kGemmRows, HWY_LANES(float)) : 2;
  HWY_INLINE explicit PackingStep(const Packing& p)
      : from(p.from),
        from_stride(p.from_stride),
        x(p.x),
        x_stride(p.x_stride),
        to(p.to),
        width(p.width),
        floor(hn::Set(DF(), p.floor)) {
    for (int i = 0; i < kVectors; ++i) {
      count[i] = std::clamp<int64_t>(p.count - i * Lanes(), 0, Lanes());
      const int64_t at = i * Lanes();
      if (kSide != Side::kColumns) {
        scale[i] = LoadFirst(p.scale + at, count[i]);
        shift[i] = LoadFirst(p.shift + at, count[i]);
      }
      if (kSide == Side::kGradient) slope[i] = LoadFirst(p.slope + at, count[i]);
    }
  }
  HWY_INLINE void Next() {
    for (int i = 0; i < kVectors; ++i) {
      const int64_t at = i * Lanes();
      VF v = LoadFirst(from + at, count[i]);
      if (kSide == Side::kRows) v = hn::Max(floor, hn::MulAdd(v, scale[i], shift[i]));
      if (kSide == Side::kGradient) {
        v = hn::MulAdd(v, scale[i], hn::MulAdd(slope[i], LoadFirst(x + at, count[i]), shift[i]));
      }
      hn::StoreU(v, DF(), to + at);
    }
    from += from_stride;
    if (kSide == Side::kGradient) x += x_stride;
    to += width;
  }

  const float* HWY_RESTRICT from;
  int64_t from_stride;
  const float* HWY_RESTRICT x;
  int64_t x_stride;
  float* HWY_RESTRICT to;
  int64_t width;
  int64_t count[kVectors];
  VF floor, scale[kVectors], slope[kVectors], shift[kVectors];
};
template <>
struct PackingStep<Side::kNone> {
  HWY_INLINE explicit PackingStep(const Packing& /*packing*/) {}
  HWY_INLINE void Next() {}
};

// Where there is nothing to be multiplied meanwhile.
template <Side kSide>
HWY_NOINLINE void PackAlone(const Packing& packing, int64_t pixels) {
  PackingStep<kSide> step(packing);
  for (int64_t p = 0; p < pixels; ++p) step.Next();
}
void PackNow(Side side, const Packing& packing, int64_t pixels) {
  switch (side) {
    case Side::kNone:
      break;
    case Side::kRows:
      PackAlone<Side::kRows>(packing, pixels);
      break;
    case Side::kColumns:
      PackAlone<Side::kColumns>(packing, pixels);
      break;
    case Side::kGradient:
      PackAlone<Side::kGradient>(packing, pixels);
      break;
  }
}

// A block of sums, and what is done meanwhile.
struct PackedBlock {
  const float* a;
  int64_t a_width;
  const float* b;
  int64_t b_width;
  int64_t steps;
  float* out;
  int64_t out_stride;
  int64_t columns;
  bool accumulate;
  Packing packing;
  PrefetchQueue* prefetch;
};

template <int kRows, int kVectors, Side kSide>
HWY_NOINLINE void PackedKernel(const PackedBlock& s) {
  const GemmTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  if (s.accumulate) {
    for (int row = 0; row < kRows; ++row) {
      for (int64_t j = 0; j < s.columns; j += kLineFloats) {
        hwy::Prefetch(s.out + row * s.out_stride + j);
      }
    }
  }
  const float* HWY_RESTRICT a = s.a;
  const float* HWY_RESTRICT b = s.b;
  PackingStep<kSide> packing(s.packing);
  GemmSums<kRows, kVectors> sums;
  sums.Fill(hn::Zero(d), hn::Zero(d));
  for (int64_t p = 0; p < s.steps;) {
    s.prefetch->Step();
    const int64_t end = std::min(s.steps, p + kLineFloats);
    for (; p < end; ++p, a += s.a_width, b += s.b_width) {
      packing.Next();
      const GemmVec b0 = hn::LoadU(d, b);
      sums.AddColumn(a, b0, kVectors == 2 ? hn::LoadU(d, b + lanes) : b0);
    }
  }
  GemmFinish(sums, s.columns, s.accumulate, GemmRowStride{s.out, s.out_stride});
}

// Only blocks of at least half the rows, as all are where there are two or more, and of two vectors
// pack on the way.
void MultiplyAndPack(const PackedBlock& block, int64_t num_rows, Side side) {
  GemmDispatchRows<kGemmRows>(num_rows, [&](auto rows) HWY_ATTR {
    constexpr int kRows = decltype(rows)::value;
    const bool one = block.columns <= Lanes();
    if constexpr (2 * kRows >= kGemmRows) {
      if (!one && side == Side::kRows) return PackedKernel<kRows, 2, Side::kRows>(block);
      if (!one && side == Side::kColumns) return PackedKernel<kRows, 2, Side::kColumns>(block);
      if (!one && side == Side::kGradient) return PackedKernel<kRows, 2, Side::kGradient>(block);
    }
    PackNow(side, block.packing, block.steps);
    if (one) {
      PackedKernel<kRows, 1, Side::kNone>(block);
    } else {
      PackedKernel<kRows, 2, Side::kNone>(block);
    }
  });
}

// What r packs, for the pixels from `first` on.
class Packings {
 public:
  explicit Packings(const OuterReduction& r)
      : r_(r),
        rows_(OuterLayout::Rows(r.a.channels, r.block_pixels)),
        columns_(OuterLayout::Columns(r.b.channels, r.block_pixels)) {
    std::fill(ones_, ones_ + kGemmMaxRows, 1.0f);
    std::fill(zeros_, zeros_ + kGemmMaxRows, 0.0f);
  }

  const OuterLayout& rows() const { return rows_; }
  const OuterLayout& columns() const { return columns_; }

  // Filled in place: copied by vectors right after their parts are stored, they would have to wait
  // for all stores before them.
  void Rows(int64_t first, int64_t index, float* to, Packing* p) const {
    Fill(r_.a, rows_, first, index, to, p);
    const int64_t channel = r_.a.first + rows_.Begin(index);
    p->scale = r_.activation != nullptr ? r_.activation->scale + channel : ones_;
    p->shift = r_.activation != nullptr ? r_.activation->shift + channel : zeros_;
    p->floor = r_.activation != nullptr && r_.activation->relu
                   ? 0.0f
                   : -std::numeric_limits<float>::infinity();
  }
  void Columns(int64_t first, int64_t index, float* to, Packing* p) const {
    Fill(r_.b, columns_, first, index, to, p);
    if (r_.gradient == nullptr) return;
    const int64_t begin = columns_.Begin(index);
    p->x_stride = r_.gradient->x.pixel_stride;
    p->x = r_.x + first * p->x_stride + begin;
    p->scale = r_.gradient->gain + r_.b.first + begin;
    p->slope = r_.gradient->slope + r_.b.first + begin;
    p->shift = r_.gradient->offset + r_.b.first + begin;
  }
  Side ColumnSide() const { return r_.gradient != nullptr ? Side::kGradient : Side::kColumns; }

 private:
  static void Fill(const OuterOperand& operand, const OuterLayout& layout, int64_t first,
                   int64_t index, float* to, Packing* p) {
    p->from = operand.data + first * operand.stride + layout.Begin(index);
    p->from_stride = operand.stride;
    p->count = layout.End(index) - layout.Begin(index);
    p->to = to;
    p->width = layout.width;
  }

  const OuterReduction& r_;
  OuterLayout rows_;
  OuterLayout columns_;
  float ones_[kGemmMaxRows];
  float zeros_[kGemmMaxRows];
};

void Reduce(const OuterReduction& r, const OuterReduction* following) {
  const Packings packings(r);
  const OuterLayout& rows = packings.rows();
  const OuterLayout& columns = packings.columns();
  // The first blocks of both operands change places with a spare one, so that those of the next
  // pixels can be packed while these are in use.
  int64_t turn = 0;
  const auto a_of = [&](int64_t i, int64_t of_turn) {
    return r.packed_a + (i == 0 && of_turn % 2 == 1 ? rows.blocks : i) * rows.block_stride;
  };
  const auto b_of = [&](int64_t j, int64_t of_turn) {
    return r.packed_b + (j == 0 && of_turn % 2 == 1 ? columns.blocks : j) * columns.block_stride;
  };
  const int64_t num_turns = DivideUp(r.pixels, r.block_pixels);
  const int64_t turn_pixels = DivideUp(r.pixels, num_turns);
  PackedBlock block;
  block.a_width = rows.width;
  block.b_width = columns.width;
  block.out_stride = r.out_stride;
  bool a_is_packed = false;
  bool b_is_packed = false;
  for (int64_t first = 0; first < r.pixels; first += turn_pixels, ++turn) {
    const int64_t next = std::min(r.pixels, first + turn_pixels);
    block.steps = next - first;
    block.accumulate = turn > 0;
    if (!a_is_packed) {
      packings.Rows(first, 0, a_of(0, turn), &block.packing);
      PackNow(Side::kRows, block.packing, block.steps);
    }
    if (!b_is_packed) {
      packings.Columns(first, 0, b_of(0, turn), &block.packing);
      PackNow(packings.ColumnSide(), block.packing, block.steps);
    }
    const bool packs_ahead = r.pixels - next >= block.steps;
    a_is_packed = b_is_packed = false;

    PrefetchQueue prefetch;
    prefetch.Clear();
    if (next < r.pixels) {
      PrefetchOperandsOf(r, next, std::min(block.steps, r.pixels - next), &prefetch);
    } else if (following != nullptr) {
      PrefetchOperandsOf(*following, 0, std::min(block.steps, following->pixels), &prefetch);
    }
    // Done a little before its end, when packing ahead begins.
    const int64_t steps = rows.blocks * columns.blocks * DivideUp(block.steps, kLineFloats);
    prefetch.SpreadOver(steps * 7 / 8);
    block.prefetch = &prefetch;
    // A panel stays in the first-level cache while all rows meet it. The first panel's products
    // pack the rows that are next to meet it, each panel's last product packs the next panel, and
    // the last panel's those of the next pixels.
    for (int64_t j = 0; j < columns.blocks; ++j) {
      const int64_t column = columns.Begin(j);
      block.b = b_of(j, turn);
      block.columns = columns.End(j) - column;
      const bool last_panel = j + 1 == columns.blocks;
      for (int64_t i = 0; i < rows.blocks; ++i) {
        const int64_t row = rows.Begin(i);
        const bool last_row = i + 1 == rows.blocks;
        block.a = a_of(i, turn);
        block.out = r.out + row * r.out_stride + column;
        Side side = Side::kNone;
        if (j == 0 && !last_row) {
          side = Side::kRows;
          packings.Rows(first, i + 1, a_of(i + 1, turn), &block.packing);
        } else if (last_row && !last_panel) {
          side = packings.ColumnSide();
          packings.Columns(first, j + 1, b_of(j + 1, turn), &block.packing);
        } else if (last_row && packs_ahead) {
          side = packings.ColumnSide();
          packings.Columns(next, 0, b_of(0, turn + 1), &block.packing);
          b_is_packed = true;
        } else if (last_panel && i == 0 && packs_ahead) {
          side = Side::kRows;
          packings.Rows(next, 0, a_of(0, turn + 1), &block.packing);
          a_is_packed = true;
        }
        MultiplyAndPack(block, rows.End(i) - row, side);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
namespace {
HWY_EXPORT(Reduce);

// A line more than it needs, so that blocks spread over the sets of a cache.
int64_t BlockStride(int64_t width, int64_t steps) { return DivideUp(steps * width, 16) * 16 + 16; }
}  // namespace

OuterLayout OuterLayout::Rows(int64_t channels, int64_t steps) {
  const GemmGeometry geometry = ActiveGemmGeometry();
  const int64_t width = DivideUp(geometry.rows, geometry.lanes) * geometry.lanes;
  return {channels, DivideUp(channels, geometry.rows), width, BlockStride(width, steps), true};
}

OuterLayout OuterLayout::Columns(int64_t channels, int64_t steps) {
  const GemmGeometry geometry = ActiveGemmGeometry();
  const int64_t width = geometry.panel_width();
  return {channels, geometry.num_panels(channels), width, BlockStride(width, steps), false};
}

void PrefetchOperandsOf(const OuterReduction& r, int64_t first, int64_t count,
                        PrefetchQueue* queue) {
  queue->Add(r.a.data + first * r.a.stride, r.a.channels, r.a.stride, count);
  queue->Add(r.b.data + first * r.b.stride, r.b.channels, r.b.stride, count);
  if (r.gradient == nullptr) return;
  const int64_t x_stride = r.gradient->x.pixel_stride;
  queue->Add(r.x + first * x_stride, r.b.channels, x_stride, count);
}

void ReduceOuter(const OuterReduction& reduction, const OuterReduction* next) {
  HWY_DYNAMIC_DISPATCH(Reduce)(reduction, next);
}

}  // namespace classicnn
#endif  // HWY_ONCE
