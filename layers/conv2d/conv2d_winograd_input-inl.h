// Winograd's transforms of tiles of an image, with the prologues of layers/fusion.h done as pixels
// are loaded. Per-target: included after hwy/highway.h, once per instruction set.

#if defined(CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_INPUT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_INPUT_INL_H_
#undef CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_INPUT_INL_H_
#else
#define CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_INPUT_INL_H_
#endif

#include <cstdint>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "layers/conv2d/conv2d_winograd_kernels.h"
#include "layers/conv2d/conv2d_winograd_pixels-inl.h"
#include "layers/conv2d/conv2d_winograd_strips-inl.h"
#include "layers/conv2d/conv2d_winograd_transforms-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace winograd {

// The kSize x kSize pixels of a tile, row by row.
template <int kSize>
struct TilePixels {
  const float* pixels[kSize * kSize];  // zeros stand for those beyond the image
  const float* others[kSize * kSize];  // with a gradient prologue, of its x
  int32_t inside[kSize * kSize];       // with a prologue: all bits, or none beyond the image
};

// Fills what this prologue needs with the pixels of image n from (h0, w0) on; whether all of them
// are in the image, where `inside` is left as it is.
template <int kSize, Prologue kPrologue>
HWY_INLINE bool FillTile(const WinogradSource& source, int64_t n, int64_t h0, int64_t w0,
                         TilePixels<kSize>* tile) {
  const ConstTensor& view = source.tensor;
  const bool whole = FillPixels<kSize>(view, n, h0, w0, source.zeros, tile->pixels);
  if (kPrologue == Prologue::kGradient) {
    FillPixels<kSize>(source.gradient.x, n, h0, w0, source.zeros, tile->others);
  }
  if (kPrologue != Prologue::kNone && !whole) {
    for (int i = 0; i < kSize; ++i) {
      const bool row_inside = h0 + i >= 0 && h0 + i < view.h;
      for (int j = 0; j < kSize; ++j) {
        const bool inside = row_inside && w0 + j >= 0 && w0 + j < view.w;
        tile->inside[i * kSize + j] = inside ? -1 : 0;
      }
    }
  }
  return whole;
}

// Transforms a tile into one row of v (or w). Rows are padded to whole vectors, so that stores are
// never partial. Asks for the next tile's pixels, but for the first kShared columns, which this one
// has as well.
template <class T, int kShared, Prologue kPrologue, bool kWhole>
struct TileStep {
  const WinogradSource& source;
  const TilePixels<T::kFrom>& tile;
  int64_t next_tile;   // from a pixel to the same pixel of the next tile
  int64_t next_other;  // likewise of the gradient prologue's x
  float* HWY_RESTRICT to;
  int64_t point;

  template <bool kTail>
  HWY_INLINE void Step(int64_t c, MF mask) const {
    const PixelLoader<kPrologue, kTail> load(source, c, mask);
    float* const HWY_RESTRICT row = to + c;
    Transform2d<T>(
        [&](int i) HWY_ATTR {
          if (i % T::kFrom >= kShared) {
            hwy::Prefetch(tile.pixels[i] + next_tile + c);
            if (kPrologue == Prologue::kGradient) hwy::Prefetch(tile.others[i] + next_other + c);
          }
          const VF value = load(tile.pixels[i] + c,
                                kPrologue == Prologue::kGradient ? tile.others[i] + c : nullptr);
          return kWhole ? value : KeepInside(value, tile.inside[i]);
        },
        [&](int i, VF value) HWY_ATTR { hn::StoreU(value, DF(), row + i * point); });
  }
};

// Tiles [begin, begin + count) of the output's, each kFrom x kFrom pixels `padding` before its
// place and kStep pixels from the next.
template <class T, int kStep, Prologue kPrologue>
void TransformTilesOf(const WinogradSource& source, int64_t padding, const WinogradTiles& tiles,
                      int64_t begin, int64_t count, const WinogradLayout& layout, float* to) {
  constexpr int kShared = T::kFrom - kStep;
  TilePixels<T::kFrom> tile;
  const int64_t next_tile = kStep * source.tensor.pixel_stride;
  const int64_t next_other = kStep * source.gradient.x.pixel_stride;
  for (int64_t t = begin; t < begin + count; ++t, to += layout.row) {
    const bool whole =
        FillTile<T::kFrom, kPrologue>(source, tiles.image(t), tiles.row(t) * kStep - padding,
                                      tiles.col(t) * kStep - padding, &tile);
    // Without a prologue zeros need no telling apart.
    if (whole || kPrologue == Prologue::kNone) {
      ForEachVec(source.tensor.c, TileStep<T, kShared, kPrologue, true>{
                                      source, tile, next_tile, next_other, to, layout.point});
    } else {
      ForEachVec(source.tensor.c, TileStep<T, kShared, kPrologue, false>{
                                      source, tile, next_tile, next_other, to, layout.point});
    }
  }
}

template <class F>
void TransformInput(const WinogradSource& source, int64_t padding, const WinogradTiles& tiles,
                    int64_t begin, int64_t count, const WinogradLayout& layout, float* v) {
  using T = InputTransform<F>;
  const auto transform =
      source.activation.active() ? TransformTilesOf<T, F::kOut, Prologue::kActivation>
      : source.gradient.active() ? TransformTilesOf<T, F::kOut, Prologue::kGradient>
                                 : TransformTilesOf<T, F::kOut, Prologue::kNone>;
  transform(source, padding, tiles, begin, count, layout, v);
}

template <class F>
void TransformGradient(const WinogradSource& dy, const WinogradTiles& tiles, int64_t begin,
                       int64_t count, const WinogradLayout& layout, float* w) {
  using T = GradientTransform<F>;
  const auto transform = dy.gradient.active() ? TransformTilesOf<T, F::kOut, Prologue::kGradient>
                                              : TransformTilesOf<T, F::kOut, Prologue::kNone>;
  transform(dy, 0, tiles, begin, count, layout, w);
}

}  // namespace winograd
}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
