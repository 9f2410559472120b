#include "layers/global_avg_pool2d/global_avg_pool2d.h"

#include <algorithm>

#include "core/check.h"
#include "layers/pieces.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/global_avg_pool2d/global_avg_pool2d.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/partial-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

// The sum of `pixels` vectors `stride` apart, in four interleaved sums.
template <bool kTail>
HWY_INLINE VF SumPixels(const float* x, int64_t stride, int64_t pixels, int64_t count) {
  VF sum0 = hn::Zero(DF());
  VF sum1 = sum0;
  VF sum2 = sum0;
  VF sum3 = sum0;
  int64_t p = 0;
  for (; p + 4 <= pixels; p += 4, x += 4 * stride) {
    sum0 = hn::Add(sum0, LoadLanes<kTail>(x, count));
    sum1 = hn::Add(sum1, LoadLanes<kTail>(x + stride, count));
    sum2 = hn::Add(sum2, LoadLanes<kTail>(x + 2 * stride, count));
    sum3 = hn::Add(sum3, LoadLanes<kTail>(x + 3 * stride, count));
  }
  for (; p < pixels; ++p, x += stride) sum0 = hn::Add(sum0, LoadLanes<kTail>(x, count));
  return hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3));
}

// y[c] = the mean over `pixels` pixels of x, c in [0, channels).
void AveragePixels(const float* x, int64_t stride, int64_t pixels, int64_t channels, float* y) {
  const int64_t lanes = Lanes();
  const VF area = hn::Set(DF(), static_cast<float>(pixels));
  int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) {
    hn::StoreU(hn::Div(SumPixels<false>(x + c, stride, pixels, lanes), area), DF(), y + c);
  }
  if (c < channels) {
    const int64_t rest = channels - c;
    StoreFirst(hn::Div(SumPixels<true>(x + c, stride, pixels, rest), area), y + c, rest);
  }
}

template <bool kTail>
HWY_INLINE void SpreadVector(const float* dy, VF area, float* dx, int64_t stride, int64_t pixels,
                             int64_t count, bool accumulate) {
  const VF g = hn::Div(LoadLanes<kTail>(dy, count), area);
  for (int64_t p = 0; p < pixels; ++p, dx += stride) {
    const VF v = accumulate ? hn::Add(LoadLanes<kTail>(dx, count), g) : g;
    StoreLanes<kTail>(v, dx, count);
  }
}

// Four whole vectors at once: pixels are often a multiple of 4 KiB apart, and stores that walk them
// one vector wide all fall into one set of the cache (0.46 x the naive loop at 1,024 channels).
HWY_INLINE void SpreadFourVectors(const float* dy, VF area, float* dx, int64_t stride,
                                  int64_t pixels, bool accumulate) {
  const int64_t lanes = Lanes();
  const VF g0 = hn::Div(hn::LoadU(DF(), dy), area);
  const VF g1 = hn::Div(hn::LoadU(DF(), dy + lanes), area);
  const VF g2 = hn::Div(hn::LoadU(DF(), dy + 2 * lanes), area);
  const VF g3 = hn::Div(hn::LoadU(DF(), dy + 3 * lanes), area);
  const auto put = [&](VF g, float* to) HWY_ATTR {
    hn::StoreU(accumulate ? hn::Add(hn::LoadU(DF(), to), g) : g, DF(), to);
  };
  for (int64_t p = 0; p < pixels; ++p, dx += stride) {
    put(g0, dx);
    put(g1, dx + lanes);
    put(g2, dx + 2 * lanes);
    put(g3, dx + 3 * lanes);
  }
}

void SpreadPixels(const float* dy, int64_t channels, float* dx, int64_t stride, int64_t pixels,
                  bool accumulate) {
  const int64_t lanes = Lanes();
  const VF area = hn::Set(DF(), static_cast<float>(pixels));
  int64_t c = 0;
  for (; c + 4 * lanes <= channels; c += 4 * lanes) {
    SpreadFourVectors(dy + c, area, dx + c, stride, pixels, accumulate);
  }
  for (; c + lanes <= channels; c += lanes) {
    SpreadVector<false>(dy + c, area, dx + c, stride, pixels, lanes, accumulate);
  }
  if (c < channels) {
    SpreadVector<true>(dy + c, area, dx + c, stride, pixels, channels - c, accumulate);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
HWY_EXPORT(AveragePixels);
HWY_EXPORT(SpreadPixels);
namespace {

// Calls body(image, first channel, channels) for every image and block of channels. A block is a
// multiple of the longest vectors, so that only the last one has a tail.
template <typename Body>
void ForImageBlocks(const char* zone, const Shape4& shape, Context& ctx, const Body& body) {
  constexpr int64_t kBlock = 64;
  const int64_t blocks = (shape.c + kBlock - 1) / kBlock;
  const Pieces pieces(shape.n * blocks, 4 * shape.h * shape.w * kBlock);
  ctx.ParallelFor(zone, pieces.count(), [&](int64_t piece, int) {
    // Neighbouring blocks of one image go in one call.
    for (int64_t b = pieces.Begin(piece); b < pieces.End(piece);) {
      const int64_t image = b / blocks;
      const int64_t end = std::min(pieces.End(piece), (image + 1) * blocks);
      const int64_t first = (b - image * blocks) * kBlock;
      body(image, first, std::min(shape.c, (end - image * blocks) * kBlock) - first);
      b = end;
    }
  });
}

}  // namespace

void GlobalAvgPool2dForward(ConstTensor x, Tensor y, Context& ctx) {
  CNN_CHECK((y.shape() == Shape4{x.n, 1, 1, x.c}), x.shape().ToString(), " to ",
            y.shape().ToString());
  ForImageBlocks(
      "global_avg_pool2d.forward", x.shape(), ctx, [&](int64_t image, int64_t c, int64_t channels) {
        HWY_DYNAMIC_DISPATCH(AveragePixels)
        (x.Pixel(image, 0, 0) + c, x.pixel_stride, x.h * x.w, channels, y.Pixel(image) + c);
      });
}

void GlobalAvgPool2dBackward(ConstTensor dy, Tensor dx, bool accumulate, Context& ctx) {
  CNN_CHECK((dy.shape() == Shape4{dx.n, 1, 1, dx.c}), dy.shape().ToString(), " to ",
            dx.shape().ToString());
  ForImageBlocks("global_avg_pool2d.backward", dx.shape(), ctx,
                 [&](int64_t image, int64_t c, int64_t channels) {
                   HWY_DYNAMIC_DISPATCH(SpreadPixels)
                   (dy.Pixel(image) + c, channels, dx.Pixel(image, 0, 0) + c, dx.pixel_stride,
                    dx.h * dx.w, accumulate);
                 });
}

}  // namespace classicnn
#endif  // HWY_ONCE
