// Index arithmetic of pooling along one axis.
#ifndef CLASSICNN_LAYERS_POOL_WINDOWS_H_
#define CLASSICNN_LAYERS_POOL_WINDOWS_H_

#include <algorithm>
#include <cstdint>

#include "layers/pool_shape.h"

namespace classicnn {

struct IndexRange {
  int64_t begin;
  int64_t end;
  int64_t size() const { return end - begin; }
};

// Taps of output `out` that fall on one of `in_size` inputs: tap r on input First + r.
inline int64_t FirstInput(const Pool2dParams& params, int64_t out) {
  return out * params.stride - params.padding;
}
inline IndexRange ValidTaps(const Pool2dParams& params, int64_t out, int64_t in_size) {
  const int64_t first = FirstInput(params, out);
  return {std::max<int64_t>(0, -first), std::min(params.kernel, in_size - first)};
}

// Outputs, of `out_size`, whose window contains input `in`; it is their tap
// in + padding - out * stride. Empty where the stride skips the input.
inline IndexRange WindowsOver(const Pool2dParams& params, int64_t in, int64_t out_size) {
  const int64_t end = (in + params.padding) / params.stride + 1;
  const int64_t before = in + params.padding - params.kernel + 1;
  const int64_t begin = before <= 0 ? 0 : (before + params.stride - 1) / params.stride;
  return {begin, std::max(begin, std::min(out_size, end))};
}

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_POOL_WINDOWS_H_
