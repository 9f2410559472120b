// Hints for kernels that walk several rows of an image at once, or in short runs: more streams than
// the processor's own prefetchers follow.
#ifndef CLASSICNN_LAYERS_PREFETCH_H_
#define CLASSICNN_LAYERS_PREFETCH_H_

#include <cstdint>

#include "hwy/cache_control.h"

namespace classicnn {

// Pixels of the output (of pooling) that pass between a hint and its use.
inline constexpr int64_t kPrefetchAhead = 4;

// The lines of `count` floats from p on will be read soon. They need not exist.
inline void PrefetchFloats(const float* p, int64_t count) {
  constexpr int64_t kLine = 16;
  for (int64_t i = 0; i < count; i += kLine) hwy::Prefetch(p + i);
}

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_PREFETCH_H_
