// The first few lanes of a vector: the tails of spans, without reading or writing beyond them.
// Included once for each target, after hwy/foreach_target.h.
#if defined(CLASSICNN_LAYERS_PARTIAL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CLASSICNN_LAYERS_PARTIAL_INL_H_
#undef CLASSICNN_LAYERS_PARTIAL_INL_H_
#else
#define CLASSICNN_LAYERS_PARTIAL_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;
using DI = hn::RebindToSigned<DF>;
using VI = hn::Vec<DI>;
using DB = hn::Rebind<uint8_t, DF>;  // as many bytes as DF has floats

HWY_INLINE int64_t Lanes() { return static_cast<int64_t>(hn::Lanes(DF())); }

// AVX2's and AVX-512's masked 32-bit moves touch no memory of the lanes they leave out; elsewhere
// a masked move may be a whole one.
#undef CLASSICNN_MASKED_MOVES
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
#define CLASSICNN_MASKED_MOVES 1
#else
#define CLASSICNN_MASKED_MOVES 0
#endif

// Lanes [0, count) are p[0], ..., the others zero. 0 <= count <= Lanes().
HWY_INLINE VF LoadFirst(const float* p, int64_t count) {
  const DF d;
#if CLASSICNN_MASKED_MOVES
  return hn::MaskedLoad(hn::FirstN(d, static_cast<size_t>(count)), d, p);
#else
  HWY_ALIGN float lanes[HWY_LANES(float)] = {};
  std::memcpy(lanes, p, static_cast<size_t>(count) * sizeof(float));
  return hn::Load(d, lanes);
#endif
}

HWY_INLINE void StoreFirst(VF v, float* p, int64_t count) {
  const DF d;
#if CLASSICNN_MASKED_MOVES
  hn::BlendedStore(v, hn::FirstN(d, static_cast<size_t>(count)), d, p);
#else
  HWY_ALIGN float lanes[HWY_LANES(float)];
  hn::Store(v, d, lanes);
  std::memcpy(p, lanes, static_cast<size_t>(count) * sizeof(float));
#endif
}

// Whole vectors or tails in one: kTail is known where this is inlined.
template <bool kTail>
HWY_INLINE VF LoadLanes(const float* p, int64_t count) {
  return kTail ? LoadFirst(p, count) : hn::LoadU(DF(), p);
}
template <bool kTail>
HWY_INLINE void StoreLanes(VF v, float* p, int64_t count) {
  if (kTail) {
    StoreFirst(v, p, count);
  } else {
    hn::StoreU(v, DF(), p);
  }
}

// Bytes, widened to the 32-bit integers that go with VF; the first `count` matter. `room` is how
// many may be read: where that is a whole vector, as everywhere but at the end of an array, a tail
// costs nothing.
HWY_INLINE VI LoadBytes(const uint8_t* p, int64_t count, int64_t room) {
  const DB db;
  if (HWY_LIKELY(room >= Lanes())) return hn::PromoteTo(DI(), hn::LoadU(db, p));
  HWY_ALIGN uint8_t lanes[HWY_LANES(uint8_t)] = {};
  for (int64_t i = 0; i < std::min(count, Lanes()); ++i) lanes[i] = p[i];
  return hn::PromoteTo(DI(), hn::LoadU(db, lanes));
}
// Values are in [0, 255]; the first `count` matter. `room` is how many may be written.
HWY_INLINE void StoreBytes(VI v, uint8_t* p, int64_t count, int64_t room) {
  const DB db;
  const auto bytes = hn::DemoteTo(db, v);
  if (HWY_LIKELY(room >= Lanes())) {
    hn::StoreU(bytes, db, p);
    return;
  }
  HWY_ALIGN uint8_t lanes[HWY_LANES(uint8_t)];
  hn::StoreU(bytes, db, lanes);
  for (int64_t i = 0; i < std::min(count, Lanes()); ++i) p[i] = lanes[i];
}

// max(0, v); NaN stays NaN.
HWY_INLINE VF ReluOf(VF v) { return hn::IfThenZeroElse(hn::Lt(v, hn::Zero(DF())), v); }

// v where the mask holds, else 0. Compilers turn AVX-512's IfThenElseZero of a load into a masked
// load, which cannot start before the mask is known: two cache misses then come one after the
// other. A mask widened to a vector leaves the load alone.
template <class M>
HWY_INLINE VF KeepWhere(M mask, VF v) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  return hn::And(hn::VecFromMask(DF(), mask), v);
#else
  return hn::IfThenElseZero(mask, v);
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#endif  // CLASSICNN_LAYERS_PARTIAL_INL_H_
