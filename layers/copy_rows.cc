#include "layers/copy_rows.h"

#include "layers/stream.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/copy_rows.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/partial-inl.h"
#include "layers/stream-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

template <bool kAccumulate, bool kTail, bool kStream>
HWY_INLINE void CopyVector(const float* from, float* to, int64_t count) {
  VF v = LoadLanes<kTail>(from, count);
  if (kAccumulate) v = hn::Add(LoadLanes<kTail>(to, count), v);
  if (kTail) {
    StoreFirst(v, to, count);
  } else {
    StoreWhole<kStream>(v, to);
  }
}

template <bool kAccumulate, bool kStream>
void CopyRowsT(int64_t rows, int64_t columns, const float* from, int64_t from_stride, float* to,
               int64_t to_stride) {
  const int64_t lanes = Lanes();
  for (int64_t r = 0; r < rows; ++r, from += from_stride, to += to_stride) {
    int64_t i = 0;
    for (; i + lanes <= columns; i += lanes) {
      CopyVector<kAccumulate, false, kStream>(from + i, to + i, lanes);
    }
    if (i < columns) CopyVector<kAccumulate, true, false>(from + i, to + i, columns - i);
  }
  if (kStream) hwy::FlushStream();
}

void CopyRows(int64_t rows, int64_t columns, const float* from, int64_t from_stride, float* to,
              int64_t to_stride, bool accumulate, bool stream) {
  const auto kernel = accumulate ? &CopyRowsT<true, false>
                      : stream && CanStream(to, rows, columns, to_stride)
                          ? &CopyRowsT<false, true>
                          : &CopyRowsT<false, false>;
  kernel(rows, columns, from, from_stride, to, to_stride);
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
HWY_EXPORT(CopyRows);

void CopyPixels(ConstTensor from, Tensor to, int64_t begin, int64_t count, bool accumulate) {
  const bool dense = from.dense() && to.dense();  // then all pixels are one long row
  HWY_DYNAMIC_DISPATCH(CopyRows)
  (dense ? 1 : count, dense ? count * from.c : from.c, from.Pixel(begin), from.pixel_stride,
   to.Pixel(begin), to.pixel_stride, accumulate, BeyondCaches(8 * from.size()));
}

}  // namespace classicnn
#endif  // HWY_ONCE
