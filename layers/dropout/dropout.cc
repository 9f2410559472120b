#include "layers/dropout/dropout.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/random.h"
#include "layers/pieces.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/dropout/dropout.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/partial-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

template <bool kTail>
HWY_INLINE void DropVector(const int32_t* draws, VI threshold, VF keep_rate, const float* from,
                           int64_t count, bool accumulate, float* to) {
  const auto dropped =
      hn::RebindMask(DF(), hn::Lt(hn::LoadU(DI(), draws), threshold));  // whole vectors of draws
  VF v = hn::IfThenZeroElse(dropped, hn::Div(LoadLanes<kTail>(from, count), keep_rate));
  if (accumulate) v = hn::Add(LoadLanes<kTail>(to, count), v);
  StoreLanes<kTail>(v, to, count);
}

// to = draw >= threshold ? from / keep_rate : 0, or with accumulate to += that. `draws` has room
// for a whole vector at its end.
void DropSpan(const int32_t* draws, int32_t threshold, float keep_rate, const float* from,
              int64_t count, bool accumulate, float* to) {
  const int64_t lanes = Lanes();
  const VI limit = hn::Set(DI(), threshold);
  const VF rate = hn::Set(DF(), keep_rate);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    DropVector<false>(draws + i, limit, rate, from + i, lanes, accumulate, to + i);
  }
  if (i < count) {
    DropVector<true>(draws + i, limit, rate, from + i, count - i, accumulate, to + i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
HWY_EXPORT(DropSpan);
namespace {

void Drop(const char* zone, const DropoutParams& params, ConstTensor from, Tensor to,
          bool accumulate, Context& ctx) {
  CNN_CHECK(from.shape() == to.shape(), from.shape().ToString(), " and ", to.shape().ToString());
  CNN_CHECK(params.p >= 0 && params.p < 1, "p = ", params.p);
  const RandomStream random(params.seed, params.stream, params.step);
  // Uniform(i) is the upper 24 bits of a word over 2^24: compared as integers, exactly.
  const auto threshold = static_cast<int32_t>(std::ceil(static_cast<double>(params.p) * 0x1p24));
  const float keep_rate = 1.0f - params.p;
  const bool dense = from.dense() && to.dense();  // then a piece is one long row
  const int64_t channels = from.c;
  // Drawing costs more than moving: pieces are smaller than the bytes would have them.
  const Pieces pieces(from.pixels(), 64 * channels);
  ctx.ParallelFor(zone, pieces.count(), [&](int64_t piece, int) {
    constexpr int64_t kChunk = 256;
    int32_t draws[kChunk + 64 + 4] = {};  // whole blocks of four, and room for a whole vector
    const int64_t rows = dense ? 1 : pieces.Size(piece);
    const int64_t columns = dense ? pieces.Size(piece) * channels : channels;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t pixel = pieces.Begin(piece) + r;
      for (int64_t begin = 0; begin < columns; begin += kChunk) {
        const int64_t count = std::min(columns - begin, kChunk);
        const int64_t element = pixel * channels + begin;  // in the order n, h, w, c
        const int64_t skip = element % 4;
        for (int64_t i = 0; i < skip + count; i += 4) {
          const auto words = random.Words(static_cast<uint64_t>((element - skip + i) / 4));
          for (size_t k = 0; k < 4; ++k) {
            draws[i + static_cast<int64_t>(k)] = static_cast<int32_t>(words[k] >> 8);
          }
        }
        HWY_DYNAMIC_DISPATCH(DropSpan)
        (draws + skip, threshold, keep_rate, from.Pixel(pixel) + begin, count, accumulate,
         to.Pixel(pixel) + begin);
      }
    }
  });
}

}  // namespace

void DropoutForward(const DropoutParams& params, ConstTensor x, Tensor y, Context& ctx) {
  Drop("dropout.forward", params, x, y, /*accumulate=*/false, ctx);
}

void DropoutBackward(const DropoutParams& params, ConstTensor dy, Tensor dx, bool accumulate,
                     Context& ctx) {
  Drop("dropout.backward", params, dy, dx, accumulate, ctx);
}

}  // namespace classicnn
#endif  // HWY_ONCE
