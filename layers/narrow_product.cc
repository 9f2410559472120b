#include "layers/narrow_product.h"

#include <algorithm>
#include <cstdint>
#include <limits>

#include "core/divide.h"
#include "layers/channel_rows.h"
#include "layers/gemm.h"
#include "layers/prefetch_queue.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/narrow_product.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/gemm-inl.h"
#include "layers/partial-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

// Sums in registers, beside a vector of the wide operand and up to three of its prologue. The
// packed operand is broadcast by the multiply-add itself, which AVX-512 can: an instruction for
// each product, where blocks of 14 x 2 take 1.6.
inline constexpr int kNarrowRows = 24;
// Kernels are compiled for multiples of this.
inline constexpr int kNarrowStep = 4;

enum class Wide { kPlain, kActivation, kGradient };

struct NarrowBlock {
  const float* narrow = nullptr;  // packed
  int64_t narrow_stride = 0;
  const float* wide = nullptr;
  int64_t wide_stride = 0;
  const float* x = nullptr;  // the gradient's
  int64_t x_stride = 0;
  const float* scale = nullptr;  // or gain
  const float* slope = nullptr;
  const float* shift = nullptr;
  float floor = 0.0f;
  int64_t steps = 0;
  int64_t rows = 0;     // of the result; the kernel computes up to kNarrowStep - 1 more
  int64_t columns = 0;  // at most a vector
  bool accumulate = false;
  float* out = nullptr;
  int64_t out_stride = 0;
  PrefetchQueue* prefetch = nullptr;
};

template <int kRows, Wide kWide>
HWY_NOINLINE void NarrowKernel(const NarrowBlock& s) {
  const DF d;
  if (s.accumulate) {
    for (int64_t row = 0; row < s.rows; ++row) hwy::Prefetch(s.out + row * s.out_stride);
  }
  const float* HWY_RESTRICT narrow = s.narrow;
  const float* HWY_RESTRICT wide = s.wide;
  const float* HWY_RESTRICT x = s.x;
  VF scale = hn::Zero(d), slope = hn::Zero(d), shift = hn::Zero(d);
  if (kWide != Wide::kPlain) {
    scale = LoadFirst(s.scale, s.columns);
    shift = LoadFirst(s.shift, s.columns);
  }
  if (kWide == Wide::kGradient) slope = LoadFirst(s.slope, s.columns);
  const VF floor = hn::Set(d, s.floor);
  GemmSums<kRows, 1> sums;
  sums.Fill(hn::Zero(d), hn::Zero(d));
  for (int64_t p = 0; p < s.steps;) {
    s.prefetch->Step();
    const int64_t end = std::min(s.steps, p + kLineFloats);
    for (; p < end; ++p, narrow += s.narrow_stride, wide += s.wide_stride) {
      VF v = LoadFirst(wide, s.columns);
      if (kWide == Wide::kActivation) v = hn::Max(floor, hn::MulAdd(v, scale, shift));
      if (kWide == Wide::kGradient) {
        v = hn::MulAdd(v, scale, hn::MulAdd(slope, LoadFirst(x, s.columns), shift));
        x += s.x_stride;
      }
      sums.AddColumn(narrow, v, v);
    }
  }
  const GemmRowStride row_of{s.out, s.out_stride};
  if (HWY_LIKELY(s.columns == Lanes() && s.rows == kRows)) {
    sums.ForEachRow(GemmStore<1, GemmRowStride>{row_of, s.accumulate});
    return;
  }
  HWY_ALIGN float buffer[kRows * HWY_LANES(float)];
  sums.ForEachRow(GemmSpill<1>{buffer});
  GemmStorePartial(buffer, Lanes(), s.rows, s.columns, s.accumulate, row_of);
}

template <int kRows>
void DispatchNarrow(const NarrowBlock& block, Wide wide) {
  if constexpr (kRows > kNarrowStep) {
    if (block.rows <= kRows - kNarrowStep) {
      DispatchNarrow<kRows - kNarrowStep>(block, wide);
      return;
    }
  }
  switch (wide) {
    case Wide::kPlain:
      return NarrowKernel<kRows, Wide::kPlain>(block);
    case Wide::kActivation:
      return NarrowKernel<kRows, Wide::kActivation>(block);
    case Wide::kGradient:
      return NarrowKernel<kRows, Wide::kGradient>(block);
  }
}

void CopyRows(const OuterOperand& from, int64_t first, int64_t count, float* to, int64_t stride) {
  for (int64_t p = 0; p < count; ++p) {
    const float* HWY_RESTRICT row = from.data + (first + p) * from.stride;
    for (int64_t c = 0; c < from.channels; c += Lanes()) {
      const int64_t lanes = std::min(Lanes(), from.channels - c);
      StoreFirst(LoadFirst(row + c, lanes), to + p * stride + c, lanes);
    }
  }
}

// Channels of pixels [first, first + count) of the narrow operand, with its prologue.
void PackNarrow(const NarrowReduction& r, int64_t first, int64_t count, int64_t stride) {
  const OuterReduction& o = r.operands;
  if (r.narrow_b && o.gradient != nullptr) {
    GradientRows(*o.gradient, o.b.first, o.b.data + first * o.b.stride, o.b.stride,
                 o.x + first * o.gradient->x.pixel_stride, count, o.b.channels, o.packed_a, stride);
  } else if (!r.narrow_b && o.activation != nullptr) {
    ActivateRows(*o.activation, o.a.first, o.a.data + first * o.a.stride, o.a.stride, count,
                 o.a.channels, o.packed_a, stride);
  } else {
    CopyRows(r.narrow_b ? o.b : o.a, first, count, o.packed_a, stride);
  }
}

// Where the prologue's arrays begin for the wide operand's channel `column`.
Wide SetPrologue(const NarrowReduction& r, int64_t column, NarrowBlock* block) {
  const OuterReduction& o = r.operands;
  if (r.narrow_b && o.activation != nullptr) {
    const int64_t channel = o.a.first + column;
    block->scale = o.activation->scale + channel;
    block->shift = o.activation->shift + channel;
    block->floor = o.activation->relu ? 0.0f : -std::numeric_limits<float>::infinity();
    return Wide::kActivation;
  }
  if (!r.narrow_b && o.gradient != nullptr) {
    const int64_t channel = o.b.first + column;
    block->scale = o.gradient->gain + channel;
    block->slope = o.gradient->slope + channel;
    block->shift = o.gradient->offset + channel;
    return Wide::kGradient;
  }
  return Wide::kPlain;
}

void ReduceNarrowly(const NarrowReduction& r, const NarrowReduction* following) {
  const OuterReduction& o = r.operands;
  const OuterOperand& narrow = r.narrow_b ? o.b : o.a;
  const OuterOperand& wide = r.narrow_b ? o.a : o.b;
  const int64_t stride = NarrowStride(narrow.channels);
  const int64_t num_blocks = DivideUp(narrow.channels, kNarrowRows);
  const int64_t num_turns = DivideUp(o.pixels, o.block_pixels);
  const int64_t turn_pixels = DivideUp(o.pixels, num_turns);
  const int64_t panels = DivideUp(wide.channels, Lanes());
  NarrowBlock block;
  block.narrow_stride = stride;
  block.wide_stride = wide.stride;
  if (!r.narrow_b && o.gradient != nullptr) block.x_stride = o.gradient->x.pixel_stride;
  block.out_stride = o.out_stride;
  // What is beyond the channels is multiplied, but not stored.
  if (narrow.channels % kNarrowStep != 0) {
    for (int64_t p = 0; p < turn_pixels; ++p) {
      std::fill(o.packed_a + p * stride + narrow.channels, o.packed_a + (p + 1) * stride, 0.0f);
    }
  }
  for (int64_t first = 0; first < o.pixels; first += turn_pixels) {
    const int64_t next = std::min(o.pixels, first + turn_pixels);
    block.steps = next - first;
    block.accumulate = first > 0;
    PackNarrow(r, first, block.steps, stride);
    PrefetchQueue prefetch;
    prefetch.Clear();
    if (next < o.pixels) {
      PrefetchOperandsOf(o, next, std::min(block.steps, o.pixels - next), &prefetch);
    } else if (following != nullptr) {
      const OuterReduction& f = following->operands;
      PrefetchOperandsOf(f, 0, std::min(block.steps, f.pixels), &prefetch);
    }
    prefetch.SpreadOver(panels * num_blocks * DivideUp(block.steps, kLineFloats));
    block.prefetch = &prefetch;
    for (int64_t column = 0; column < wide.channels; column += Lanes()) {
      block.columns = std::min(Lanes(), wide.channels - column);
      block.wide = wide.data + first * wide.stride + column;
      if (block.x_stride != 0) block.x = o.x + first * block.x_stride + column;
      const Wide prologue = SetPrologue(r, column, &block);
      for (int64_t i = 0; i < num_blocks; ++i) {
        // All but the last are whole steps.
        const int64_t steps = DivideUp(narrow.channels, kNarrowStep);
        const int64_t begin = steps * i / num_blocks * kNarrowStep;
        const int64_t end = std::min(narrow.channels, steps * (i + 1) / num_blocks * kNarrowStep);
        block.narrow = o.packed_a + begin;
        block.rows = end - begin;
        block.out = o.out + begin * o.out_stride + column;
        DispatchNarrow<kNarrowRows>(block, prologue);
      }
    }
  }
}

bool Has() { return HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86; }

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
namespace {
HWY_EXPORT(ReduceNarrowly);
HWY_EXPORT(Has);
}  // namespace

bool HasNarrowProduct() { return HWY_DYNAMIC_DISPATCH(Has)(); }

int64_t NarrowStride(int64_t channels) { return DivideUp(channels, kGemmMaxLanes) * kGemmMaxLanes; }

void ReduceNarrow(const NarrowReduction& reduction, const NarrowReduction* next) {
  HWY_DYNAMIC_DISPATCH(ReduceNarrowly)(reduction, next);
}

}  // namespace classicnn
#endif  // HWY_ONCE
