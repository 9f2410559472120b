// Winograd's transforms of tiles of an image, with the prologues of layers/fusion.h done as pixels
// are loaded. Per-target: included after hwy/highway.h, once per instruction set.

#if defined(CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_INPUT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_INPUT_INL_H_
#undef CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_INPUT_INL_H_
#else
#define CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_INPUT_INL_H_
#endif

#include <cstdint>
#include <limits>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "layers/conv2d/conv2d_winograd_kernels.h"
#include "layers/conv2d/conv2d_winograd_pixels-inl.h"
#include "layers/conv2d/conv2d_winograd_transforms-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace winograd {

enum class Prologue { kNone, kActivation, kGradient };

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

// One vector of channels of a tile's pixels, after the prologue.
template <int kSize, Prologue kPrologue, bool kWhole, bool kTail>
class PixelLoader {
 public:
  HWY_INLINE PixelLoader(const WinogradSource& source, const TilePixels<kSize>& tile, int64_t c,
                         MF mask)
      : tile_(tile), c_(c), mask_(mask) {
    if constexpr (kPrologue == Prologue::kActivation) {
      factor_ = LoadVec<kTail>(mask, source.activation.scale + c);
      offset_ = LoadVec<kTail>(mask, source.activation.shift + c);
      floor_ = Const(source.activation.relu ? 0.0f : -std::numeric_limits<float>::infinity());
    } else if constexpr (kPrologue == Prologue::kGradient) {
      factor_ = LoadVec<kTail>(mask, source.gradient.gain + c);
      slope_ = LoadVec<kTail>(mask, source.gradient.slope + c);
      offset_ = LoadVec<kTail>(mask, source.gradient.offset + c);
    }
  }

  HWY_INLINE VF operator()(int i) const {
    const VF value = LoadVec<kTail>(mask_, tile_.pixels[i] + c_);
    if constexpr (kPrologue == Prologue::kNone) {
      return value;
    } else {
      VF result;
      if constexpr (kPrologue == Prologue::kActivation) {
        // In this order NaN stays NaN.
        result = hn::Max(floor_, hn::MulAdd(value, factor_, offset_));
      } else {
        const VF other = LoadVec<kTail>(mask_, tile_.others[i] + c_);
        result = hn::MulAdd(value, factor_, hn::MulAdd(other, slope_, offset_));
      }
      if constexpr (!kWhole) {
        const hn::RebindToSigned<DF> di;
        result = hn::And(result, hn::BitCast(DF(), hn::Set(di, tile_.inside[i])));
      }
      return result;
    }
  }

 private:
  const TilePixels<kSize>& tile_;
  int64_t c_;
  MF mask_;
  VF factor_ = hn::Zero(DF());
  VF slope_ = hn::Zero(DF());
  VF offset_ = hn::Zero(DF());
  VF floor_ = hn::Zero(DF());
};

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
    const PixelLoader<T::kFrom, kPrologue, kWhole, kTail> load(source, tile, c, mask);
    float* const HWY_RESTRICT row = to + c;
    Transform2d<T>(
        [&](int i) HWY_ATTR {
          if (i % T::kFrom >= kShared) {
            hwy::Prefetch(tile.pixels[i] + next_tile + c);
            if (kPrologue == Prologue::kGradient) hwy::Prefetch(tile.others[i] + next_other + c);
          }
          return load(i);
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
