// The order in which kernels walk a block of pixels whose channels have coefficients or sums.
// Included once for each target, after hwy/foreach_target.h.
#if defined(CLASSICNN_LAYERS_COLUMNS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CLASSICNN_LAYERS_COLUMNS_INL_H_
#undef CLASSICNN_LAYERS_COLUMNS_INL_H_
#else
#define CLASSICNN_LAYERS_COLUMNS_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "hwy/highway.h"
#include "layers/partial-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

// Pixels that are taken together: coefficients and sums stay in registers for that long.
constexpr int64_t kPixelsTogether = 16;

// Calls step.template Columns<vectors, tail>(first pixel, pixels, column, count) until all columns
// of all pixels are done. `vectors` whole vectors next to each other begin at `column`; with tail
// it is one, and `count` of its lanes.
//
// A step names its largest number of vectors, Step::kVectors: as many as its coefficients and sums
// leave registers for. One vector at a time, a pixel apart, would be too many streams for the
// prefetchers: from memory half as fast as the four to eight that are usual.
template <class Step>
HWY_INLINE void ForEachColumn(int64_t pixels, int64_t channels, const Step& step) {
  constexpr int kVectors = Step::kVectors;
  const int64_t lanes = Lanes();
  for (int64_t p = 0; p < pixels; p += kPixelsTogether) {
    const int64_t group = std::min(kPixelsTogether, pixels - p);
    int64_t c = 0;
    for (; c + kVectors * lanes <= channels; c += kVectors * lanes) {
      step.template Columns<kVectors, false>(p, group, c, lanes);
    }
    for (; c + 2 * lanes <= channels; c += 2 * lanes) {
      step.template Columns<2, false>(p, group, c, lanes);
    }
    if (c + lanes <= channels) {
      step.template Columns<1, false>(p, group, c, lanes);
      c += lanes;
    }
    if (c < channels) step.template Columns<1, true>(p, group, c, channels - c);
  }
}

// kVectors vectors from p on; with kTail one, of `count` lanes.
template <int kVectors, bool kTail>
HWY_INLINE void LoadVectors(const float* p, int64_t count, VF (&v)[kVectors]) {
  for (int i = 0; i < kVectors; ++i) v[i] = LoadLanes<kTail>(p + i * Lanes(), count);
}
template <int kVectors, bool kTail>
HWY_INLINE void StoreVectors(const VF (&v)[kVectors], int64_t count, float* p) {
  for (int i = 0; i < kVectors; ++i) StoreLanes<kTail>(v[i], p + i * Lanes(), count);
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#endif  // CLASSICNN_LAYERS_COLUMNS_INL_H_
