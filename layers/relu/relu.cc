#include "layers/relu/relu.h"

#include "core/check.h"
#include "layers/pieces.h"
#include "layers/stream.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/relu/relu.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/partial-inl.h"
#include "layers/stream-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

template <bool kStream>
void ReluRowsT(int64_t rows, int64_t columns, const float* x, int64_t x_stride, float* y,
               int64_t y_stride) {
  const int64_t lanes = Lanes();
  for (int64_t r = 0; r < rows; ++r, x += x_stride, y += y_stride) {
    int64_t i = 0;
    for (; i + lanes <= columns; i += lanes) {
      StoreWhole<kStream>(ReluOf(hn::LoadU(DF(), x + i)), y + i);
    }
    if (i < columns) StoreFirst(ReluOf(LoadFirst(x + i, columns - i)), y + i, columns - i);
  }
  if (kStream) hwy::FlushStream();
}

void ReluRows(int64_t rows, int64_t columns, const float* x, int64_t x_stride, float* y,
              int64_t y_stride, bool stream) {
  const bool streams = stream && CanStream(y, rows, columns, y_stride);
  (streams ? ReluRowsT<true> : ReluRowsT<false>)(rows, columns, x, x_stride, y, y_stride);
}

template <bool kAccumulate, bool kTail, bool kStream>
HWY_INLINE void ReluBackwardVector(const float* y, const float* dy, float* dx, int64_t count) {
  const auto passed = hn::Gt(LoadLanes<kTail>(y, count), hn::Zero(DF()));
  VF g = KeepWhere(passed, LoadLanes<kTail>(dy, count));
  if (kAccumulate) g = hn::Add(LoadLanes<kTail>(dx, count), g);
  if (kTail) {
    StoreFirst(g, dx, count);
  } else {
    StoreWhole<kStream>(g, dx);
  }
}

template <bool kAccumulate, bool kStream>
void ReluBackwardRowsT(int64_t rows, int64_t columns, const float* y, int64_t y_stride,
                       const float* dy, int64_t dy_stride, float* dx, int64_t dx_stride) {
  const int64_t lanes = Lanes();
  for (int64_t r = 0; r < rows; ++r, y += y_stride, dy += dy_stride, dx += dx_stride) {
    int64_t i = 0;
    for (; i + lanes <= columns; i += lanes) {
      ReluBackwardVector<kAccumulate, false, kStream>(y + i, dy + i, dx + i, lanes);
    }
    if (i < columns) {
      ReluBackwardVector<kAccumulate, true, false>(y + i, dy + i, dx + i, columns - i);
    }
  }
  if (kStream) hwy::FlushStream();
}

void ReluBackwardRows(int64_t rows, int64_t columns, const float* y, int64_t y_stride,
                      const float* dy, int64_t dy_stride, float* dx, int64_t dx_stride,
                      bool accumulate, bool stream) {
  const auto kernel = accumulate ? &ReluBackwardRowsT<true, false>
                      : stream && CanStream(dx, rows, columns, dx_stride)
                          ? &ReluBackwardRowsT<false, true>
                          : &ReluBackwardRowsT<false, false>;
  kernel(rows, columns, y, y_stride, dy, dy_stride, dx, dx_stride);
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
HWY_EXPORT(ReluRows);
HWY_EXPORT(ReluBackwardRows);

void ReluForward(ConstTensor x, Tensor y, Context& ctx) {
  CNN_CHECK(x.shape() == y.shape(), x.shape().ToString(), " and ", y.shape().ToString());
  const bool dense = x.dense() && y.dense();  // then a piece is one long row
  const bool stream = BeyondCaches(8 * x.size());
  const Pieces pieces(x.pixels(), 8 * x.c);
  ctx.ParallelFor("relu.forward", pieces.count(), [&](int64_t piece, int) {
    const int64_t pixels = pieces.Size(piece);
    const int64_t begin = pieces.Begin(piece);
    HWY_DYNAMIC_DISPATCH(ReluRows)
    (dense ? 1 : pixels, dense ? pixels * x.c : x.c, x.Pixel(begin), x.pixel_stride, y.Pixel(begin),
     y.pixel_stride, stream);
  });
}

void ReluBackward(ConstTensor y, ConstTensor dy, Tensor dx, bool accumulate, Context& ctx) {
  CNN_CHECK(y.shape() == dy.shape() && y.shape() == dx.shape(), y.shape().ToString(), ", ",
            dy.shape().ToString(), " and ", dx.shape().ToString());
  const bool dense = y.dense() && dy.dense() && dx.dense();
  const bool stream = BeyondCaches(12 * y.size());
  const Pieces pieces(y.pixels(), 12 * y.c);
  ctx.ParallelFor("relu.backward", pieces.count(), [&](int64_t piece, int) {
    const int64_t pixels = pieces.Size(piece);
    const int64_t begin = pieces.Begin(piece);
    HWY_DYNAMIC_DISPATCH(ReluBackwardRows)
    (dense ? 1 : pixels, dense ? pixels * y.c : y.c, y.Pixel(begin), y.pixel_stride,
     dy.Pixel(begin), dy.pixel_stride, dx.Pixel(begin), dx.pixel_stride, accumulate, stream);
  });
}

}  // namespace classicnn
#endif  // HWY_ONCE
