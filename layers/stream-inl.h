// Stores past the caches, for outputs that would not stay there: they spare reading the lines that
// are overwritten. Included once for each target, after hwy/foreach_target.h.
#if defined(CLASSICNN_LAYERS_STREAM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CLASSICNN_LAYERS_STREAM_INL_H_
#undef CLASSICNN_LAYERS_STREAM_INL_H_
#else
#define CLASSICNN_LAYERS_STREAM_INL_H_
#endif

#include <cstdint>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "layers/partial-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

// Whether rows of `columns` floats can be written by stores of aligned whole vectors; with several
// rows, only if they are of whole pairs of cache lines: others were measured to be twice as slow as
// ordinary stores.
HWY_INLINE bool CanStream(const float* to, int64_t rows, int64_t columns, int64_t stride) {
  constexpr int64_t kPair = 32;
  return Lanes() > 1 && reinterpret_cast<uintptr_t>(to) % (HWY_LANES(float) * sizeof(float)) == 0 &&
         (rows == 1 || (columns % kPair == 0 && stride % kPair == 0));
}

// After the last of these call hwy::FlushStream.
template <bool kStream>
HWY_INLINE void StoreWhole(VF v, float* to) {
  if (kStream) {
    hn::Stream(v, DF(), to);
  } else {
    hn::StoreU(v, DF(), to);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#endif  // CLASSICNN_LAYERS_STREAM_INL_H_
