// Offsets in one arena for buffers whose lifetimes are known.
#ifndef CLASSICNN_MODELS_PLACEMENT_H_
#define CLASSICNN_MODELS_PLACEMENT_H_

#include <cstdint>
#include <vector>

#include "models/plan.h"

namespace classicnn {

// Sets the offset of every buffer so that no two that live at the same time overlap, and returns
// the bytes that all of them need. Offsets are multiples of 64; sizes are counted rounded up to
// that. Largest first, each at the lowest offset that is free for its whole life: simple, and
// within a few percent of the largest live set on networks (compare Plan::lower_bound_bytes).
int64_t PlaceBuffers(std::vector<BufferLifetime>* buffers);

// Size as placement counts it.
inline int64_t PlacedBytes(int64_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_PLACEMENT_H_
