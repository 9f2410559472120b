// Vectors of channels and tables of a tile's pixels, for Winograd's transforms. Per-target:
// included after hwy/highway.h, once per instruction set.

#if defined(CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_PIXELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_PIXELS_INL_H_
#undef CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_PIXELS_INL_H_
#else
#define CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_PIXELS_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <limits>

#include "core/view.h"
#include "hwy/highway.h"
#include "layers/conv2d/conv2d_winograd_kernels.h"
#include "layers/conv2d/conv2d_winograd_transforms-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace winograd {

// Loads and stores of whole vectors, or of the channels that are left.
template <bool kTail>
HWY_INLINE VF LoadVec(MF mask, const float* from) {
  if constexpr (kTail) {
    return hn::MaskedLoad(mask, DF(), from);
  } else {
    return hn::LoadU(DF(), from);
  }
}
template <bool kTail>
HWY_INLINE void StoreVec(VF v, MF mask, float* to) {
  if constexpr (kTail) {
    hn::BlendedStore(v, mask, DF(), to);
  } else {
    hn::StoreU(v, DF(), to);
  }
}

// Calls body.Step<is_tail>(c, mask) for each vector of `channels`.
template <class Body>
HWY_INLINE void ForEachVec(int64_t channels, const Body& body) {
  const DF d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const MF all = hn::FirstN(d, hn::Lanes(d));
  int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) body.template Step<false>(c, all);
  if (c < channels) body.template Step<true>(c, hn::FirstN(d, static_cast<size_t>(channels - c)));
}

// The kSize x kSize pixels of image n from (h0, w0) on; `outside` stands for those beyond the
// image. Whether none is.
template <int kSize, typename T>
HWY_INLINE bool FillPixels(const View<T>& view, int64_t n, int64_t h0, int64_t w0, T* outside,
                           T** table) {
  if (h0 >= 0 && w0 >= 0 && h0 + kSize <= view.h && w0 + kSize <= view.w) {
    for (int i = 0; i < kSize; ++i) {
      T* pixel = view.Pixel(n, h0 + i, w0);
      HWY_UNROLL(6)
      for (int j = 0; j < kSize; ++j, pixel += view.pixel_stride) table[i * kSize + j] = pixel;
    }
    return true;
  }
  for (int i = 0; i < kSize; ++i) {
    const bool row_inside = h0 + i >= 0 && h0 + i < view.h;
    for (int j = 0; j < kSize; ++j) {
      const bool inside = row_inside && w0 + j >= 0 && w0 + j < view.w;
      table[i * kSize + j] = inside ? view.Pixel(n, h0 + i, w0 + j) : outside;
    }
  }
  return false;
}

// What is done to pixels as they are loaded.
enum class Prologue { kNone, kActivation, kGradient };

// One vector of channels of a pixel, after the prologue.
template <Prologue kPrologue, bool kTail>
class PixelLoader {
 public:
  HWY_INLINE PixelLoader(const WinogradSource& source, int64_t c, MF mask) : mask_(mask) {
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

  HWY_INLINE VF operator()(const float* pixel, const float* other) const {
    const VF value = LoadVec<kTail>(mask_, pixel);
    if constexpr (kPrologue == Prologue::kActivation) {
      // In this order NaN stays NaN.
      return hn::Max(floor_, hn::MulAdd(value, factor_, offset_));
    } else if constexpr (kPrologue == Prologue::kGradient) {
      return hn::MulAdd(value, factor_, hn::MulAdd(LoadVec<kTail>(mask_, other), slope_, offset_));
    } else {
      return value;
    }
  }

 private:
  MF mask_;
  VF factor_ = hn::Zero(DF());
  VF slope_ = hn::Zero(DF());
  VF offset_ = hn::Zero(DF());
  VF floor_ = hn::Zero(DF());
};

// v where `inside` is all bits, 0 where it is none.
HWY_INLINE VF KeepInside(VF v, int32_t inside) {
  const hn::RebindToSigned<DF> di;
  return hn::And(v, hn::BitCast(DF(), hn::Set(di, inside)));
}

}  // namespace winograd
}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
