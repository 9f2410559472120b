// Winograd's transforms of tiles that lie side by side: the columns that two of them share are
// loaded, put through the prologue and transformed once. Per-target: included after hwy/highway.h,
// once per instruction set.

#if defined(CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_STRIPS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_STRIPS_INL_H_
#undef CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_STRIPS_INL_H_
#else
#define CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_STRIPS_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "layers/conv2d/conv2d_winograd_kernels.h"
#include "layers/conv2d/conv2d_winograd_pixels-inl.h"
#include "layers/conv2d/conv2d_winograd_transforms-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace winograd {

// Tiles side by side: from the pixel (h0, w0) of image n on, `count` of them. Columns that two of
// them share are loaded and transformed once.
template <int kRows, Prologue kPrologue>
struct TileStrip {
  TileStrip(const WinogradSource& s, int64_t n, int64_t h0, int64_t w0_, int64_t count_)
      : source(s), w0(w0_), count(count_) {
    const ConstTensor& view = s.tensor;
    for (int i = 0; i < kRows; ++i) {
      const int64_t h = std::min(std::max<int64_t>(h0 + i, 0), view.h - 1);
      inside[i] = h == h0 + i ? -1 : 0;
      whole = whole && h == h0 + i;
      rows[i] = view.Pixel(n, h, 0);
      if (kPrologue == Prologue::kGradient) others[i] = s.gradient.x.Pixel(n, h, 0);
    }
  }

  const WinogradSource& source;
  int64_t w0;
  int64_t count;
  bool whole = true;           // all rows are in the image
  int32_t inside[kRows];       // all bits, or none for a row beyond the image
  const float* rows[kRows];    // their pixels at column 0; some other row beyond the image
  const float* others[kRows];  // of the gradient prologue's x
};

// Transforms one vector of channels of a strip, kStep columns from tile to tile, into as many rows
// of v. Rows are padded to whole vectors, so that stores are never partial.
template <class T, int kStep, Prologue kPrologue, bool kWhole>
struct StripStep {
  static constexpr int kFrom = T::kFrom;
  static constexpr int kTo = T::kTo;
  static constexpr int kShared = kFrom - kStep;
  const TileStrip<kFrom, kPrologue>& strip;
  const WinogradLayout& layout;
  float* HWY_RESTRICT to;

  template <bool kTail>
  HWY_INLINE void Step(int64_t c, MF mask) const {
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(DF()));
    const PixelLoader<kPrologue, kTail> load(strip.source, c, mask);
    HWY_ALIGN float half[kFrom * kTo * hn::MaxLanes(DF())];  // transformed columns, [column][row]
    float* HWY_RESTRICT row_to = to + c;
    int64_t column = strip.w0;
    for (int64_t tile = 0; tile < strip.count; ++tile, row_to += layout.row) {
      for (int j = tile == 0 ? 0 : kShared; j < kFrom; ++j, ++column) {
        VF out[kTo];
        TransformColumn(load, column, c, out);
        HWY_UNROLL(6)
        for (int i = 0; i < kTo; ++i) hn::StoreU(out[i], DF(), half + (j * kTo + i) * lanes);
      }
      for (int i = 0; i < kTo; ++i) {
        float* HWY_RESTRICT const row = half + i * lanes;
        VF in[kFrom], out[kTo];
        HWY_UNROLL(6)
        for (int j = 0; j < kFrom; ++j) {
          in[j] = hn::LoadU(DF(), row + j * kTo * lanes);
          // The columns that the next tile has as well.
          if (j >= kStep) hn::StoreU(in[j], DF(), row + (j - kStep) * kTo * lanes);
        }
        T::Apply(in, out);
        HWY_UNROLL(6)
        for (int j = 0; j < kTo; ++j) {
          hn::StoreU(out[j], DF(), row_to + (i * kTo + j) * layout.point);
        }
      }
    }
  }

  template <class Load>
  HWY_INLINE void TransformColumn(const Load& load, int64_t column, int64_t c,
                                  VF* HWY_RESTRICT out) const {
    constexpr int kAhead = 6;  // columns that are asked for before their use
    if (column < 0 || column >= strip.source.tensor.w) {
      HWY_UNROLL(6)
      for (int i = 0; i < kTo; ++i) out[i] = hn::Zero(DF());
      return;
    }
    VF in[kFrom];
    const int64_t stride = strip.source.tensor.pixel_stride;
    const int64_t other_stride = strip.source.gradient.x.pixel_stride;
    const int64_t at = column * stride + c;
    const int64_t other_at = column * other_stride + c;
    HWY_UNROLL(6)
    for (int i = 0; i < kFrom; ++i) {
      hwy::Prefetch(strip.rows[i] + (at + kAhead * stride));
      if constexpr (kPrologue == Prologue::kGradient) {
        hwy::Prefetch(strip.others[i] + (other_at + kAhead * other_stride));
        in[i] = load(strip.rows[i] + at, strip.others[i] + other_at);
      } else {
        in[i] = load(strip.rows[i] + at, nullptr);
      }
      if (!kWhole) in[i] = KeepInside(in[i], strip.inside[i]);
    }
    T::Apply(in, out);
  }
};

// Tiles [begin, begin + count) of the output's, each kFrom x kFrom pixels `padding` before its
// place and kStep pixels from the next.
template <class T, int kStep, Prologue kPrologue>
void TransformStripsOf(const WinogradSource& source, int64_t padding, const WinogradTiles& tiles,
                       int64_t begin, int64_t count, const WinogradLayout& layout, float* to) {
  const int64_t end = begin + count;
  for (int64_t t = begin; t < end;) {
    const int64_t col = tiles.col(t);
    const int64_t run = std::min(tiles.cols - col, end - t);
    const TileStrip<T::kFrom, kPrologue> strip(
        source, tiles.image(t), tiles.row(t) * kStep - padding, col * kStep - padding, run);
    if (strip.whole) {
      ForEachVec(source.tensor.c, StripStep<T, kStep, kPrologue, true>{strip, layout, to});
    } else {
      ForEachVec(source.tensor.c, StripStep<T, kStep, kPrologue, false>{strip, layout, to});
    }
    t += run;
    to += run * layout.row;
  }
}

}  // namespace winograd
}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
