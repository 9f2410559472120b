// Partial sums of a parallel loop, added in an order that does not depend on who computed them.
#ifndef CLASSICNN_LAYERS_TREE_SUM_H_
#define CLASSICNN_LAYERS_TREE_SUM_H_

#include <cstdint>

namespace classicnn {

// out[i] += the partials[g * stride + i] for g in [0, count), i in [0, size), summed as a binary
// tree whose first leaf is out: pairs of neighbours, then pairs of those. count + 1 is a power of
// two, at most kMaxTreeLeaves.
inline constexpr int64_t kMaxTreeLeaves = 64;
void SumTree(const float* partials, int64_t stride, int64_t count, int64_t size, float* out);

// partials[i] += the partials[g * stride + i] for g in [1, count), i in [0, size), by a binary
// tree, for any count. The other partials are used up.
void SumTreeInPlace(float* partials, int64_t stride, int64_t count, int64_t size);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_TREE_SUM_H_
