// Winograd's transform of products into an image, with the epilogues of layers/fusion.h done before
// pixels are stored. Per-target: included after hwy/highway.h, once per instruction set.

#if defined(CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_OUTPUT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_OUTPUT_INL_H_
#undef CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_OUTPUT_INL_H_
#else
#define CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_OUTPUT_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "layers/conv2d/conv2d_winograd_kernels.h"
#include "layers/conv2d/conv2d_winograd_pixels-inl.h"
#include "layers/conv2d/conv2d_winograd_transforms-inl.h"
#include "layers/partial-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace winograd {

// Steps through tiles, asking for the pixels of those a few ahead in `view`.
class FetchAhead {
 public:
  FetchAhead(const ConstTensor& view, const WinogradTiles& tiles, int64_t begin, int64_t count)
      : view_(view), cursor_(tiles, begin), tile_(tiles.tile), left_(count) {
    for (int i = 0; i < kAhead; ++i) Next();
  }
  HWY_INLINE void Next() {
    if (left_ == 0) return;
    --left_;
    const int64_t rows = std::min(tile_, view_.h - cursor_.h());
    const int64_t cols = std::min(tile_, view_.w - cursor_.w());
    const float* row = view_.Pixel(cursor_.image(), cursor_.h(), cursor_.w());
    for (int64_t i = 0; i < rows; ++i, row += view_.w * view_.pixel_stride) {
      const float* pixel = row;
      for (int64_t j = 0; j < cols; ++j, pixel += view_.pixel_stride) {
        for (int64_t c = 0; c < view_.c; c += 16) hwy::Prefetch(pixel + c);
      }
    }
    cursor_.Next();
  }

 private:
  static constexpr int kAhead = 2;
  ConstTensor view_;
  WinogradCursor cursor_;
  int64_t tile_;
  int64_t left_;
};

// The products of one tile, and where its pixels go.
struct TileProducts {
  const float* HWY_RESTRICT m;
  int64_t row;
  int64_t point;
  float* const* HWY_RESTRICT pixels;  // null beyond the image

  // Asks for the next tile's as well.
  HWY_INLINE VF Load(int i, int64_t c) const {
    hwy::Prefetch(m + i * point + row + c);
    return hn::LoadU(DF(), m + i * point + c);
  }
};

// One vector of columns. kStatistics: adds the deviations from `center` and their squares to sums.
template <class F, bool kWhole, bool kStatistics>
struct OutputStep {
  TileProducts tile;
  const float* HWY_RESTRICT bias;
  bool accumulate;
  WinogradSums sums;

  template <bool kTail>
  HWY_INLINE void Step(int64_t c, MF mask) const {
    const VF start = bias == nullptr ? hn::Zero(DF()) : LoadVec<kTail>(mask, bias + c);
    const VF center = kStatistics ? LoadVec<kTail>(mask, sums.center + c) : start;
    VF sum[2] = {hn::Zero(DF()), hn::Zero(DF())};
    VF squares[2] = {hn::Zero(DF()), hn::Zero(DF())};
    Transform2d<OutputTransform<F>>(
        [&](int i) HWY_ATTR { return tile.Load(i, c); },
        [&](int i, VF value) HWY_ATTR {
          if (!kWhole && tile.pixels[i] == nullptr) return;
          float* const to = tile.pixels[i] + c;
          value = hn::Add(value, accumulate ? LoadVec<kTail>(mask, to) : start);
          StoreVec<kTail>(value, mask, to);
          if (kStatistics) {
            const VF deviation = hn::Sub(value, center);
            sum[i % 2] = hn::Add(sum[i % 2], deviation);
            squares[i % 2] = hn::MulAdd(deviation, deviation, squares[i % 2]);
          }
        });
    if (kStatistics) {
      const auto add = [&](const VF* pair, float* to) HWY_ATTR {
        const VF both = hn::Add(pair[0], pair[1]);
        StoreVec<kTail>(hn::Add(LoadVec<kTail>(mask, to), both), mask, to);
      };
      add(sum, sums.first + c);
      add(squares, sums.second + c);
    }
  }
};

// One vector of columns as it comes of the products, into to[pixel][lanes].
template <class F>
HWY_INLINE void OutputsOf(const TileProducts& tile, int64_t c, float* HWY_RESTRICT to) {
  Transform2d<OutputTransform<F>>(
      [&](int i) HWY_ATTR { return tile.Load(i, c); },
      [&](int i, VF value)
          HWY_ATTR { hn::StoreU(value, DF(), to + i * static_cast<int64_t>(hn::Lanes(DF()))); });
}

enum class Stored { kGradient, kGained, kAdded };

// GradientEpilogue on one vector of columns of a tile. The epilogue's arrays, x and the pixels
// begin at the panel's first column.
template <bool kRelu, Stored kStored>
struct GradientEpilogueStep {
  const GradientEpilogue<float>& e;
  const float* HWY_RESTRICT da;  // [column vector][pixel][lanes]
  int num_pixels;
  bool accumulate;
  const float* const* HWY_RESTRICT x;
  float* const* HWY_RESTRICT pixels;  // null beyond the image
  WinogradSums sums;

  template <bool kTail>
  HWY_INLINE void Step(int64_t c, MF mask) const {
    const VF zero = hn::Zero(DF());
    const VF scale = kRelu ? LoadVec<kTail>(mask, e.scale + c) : zero;
    const VF shift = kRelu ? LoadVec<kTail>(mask, e.shift + c) : zero;
    const VF mean = LoadVec<kTail>(mask, e.mean + c);
    const VF gain = kStored == Stored::kGradient ? zero : LoadVec<kTail>(mask, e.gain + c);
    VF sum_g[2] = {LoadVec<kTail>(mask, sums.first + c), zero};
    VF sum_gx[2] = {LoadVec<kTail>(mask, sums.second + c), zero};
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(DF()));
    const float* value = da + c * num_pixels;
    for (int i = 0; i < num_pixels; i += 2) {
      HWY_UNROLL(2)
      for (int j = 0; j < 2; ++j, value += lanes) {
        if (pixels[i + j] == nullptr) continue;
        float* const to = pixels[i + j] + c;
        const VF x_i = LoadVec<kTail>(mask, x[i + j] + c);
        VF g = hn::LoadU(DF(), value);
        if (accumulate) g = hn::Add(g, LoadVec<kTail>(mask, to));
        if (kRelu) g = KeepWhere(hn::Gt(hn::MulAdd(x_i, scale, shift), zero), g);
        sum_g[j] = hn::Add(sum_g[j], g);
        sum_gx[j] = hn::MulAdd(g, hn::Sub(x_i, mean), sum_gx[j]);
        if (kStored == Stored::kGained) g = hn::Mul(g, gain);
        if (kStored == Stored::kAdded) g = hn::MulAdd(g, gain, LoadVec<kTail>(mask, to));
        StoreVec<kTail>(g, mask, to);
      }
    }
    StoreVec<kTail>(hn::Add(sum_g[0], sum_g[1]), mask, sums.first + c);
    StoreVec<kTail>(hn::Add(sum_gx[0], sum_gx[1]), mask, sums.second + c);
  }
};

template <bool kRelu, Stored kStored>
HWY_NOINLINE void GradientEpilogueTile(const GradientEpilogue<float>& e, int64_t columns,
                                       const float* da, int num_pixels, bool accumulate,
                                       const float* const* x, float* const* pixels,
                                       const WinogradSums& sums) {
  ForEachVec(columns,
             GradientEpilogueStep<kRelu, kStored>{e, da, num_pixels, accumulate, x, pixels, sums});
}

using GradientEpilogueKernel = decltype(&GradientEpilogueTile<false, Stored::kGradient>);

inline GradientEpilogueKernel KernelFor(const GradientEpilogue<float>& e) {
  static constexpr GradientEpilogueKernel kKernels[2][3] = {
      {GradientEpilogueTile<false, Stored::kGradient>, GradientEpilogueTile<false, Stored::kGained>,
       GradientEpilogueTile<false, Stored::kAdded>},
      {GradientEpilogueTile<true, Stored::kGradient>, GradientEpilogueTile<true, Stored::kGained>,
       GradientEpilogueTile<true, Stored::kAdded>}};
  return kKernels[e.relu][e.gain == nullptr ? 0 : e.add ? 2 : 1];
}

// The columns of one panel.
template <class F, bool kStatistics>
void WriteOutputs(const WinogradCorrelation& c, const Tensor& out, const WinogradTiles& tiles,
                  int64_t first, int64_t begin, int64_t count, const float* m,
                  const WinogradLayout& layout, const WinogradSums& sums) {
  const float* bias = c.bias == nullptr ? nullptr : c.bias + first;
  float* pixels[F::kOut * F::kOut];
  FetchAhead outputs(out, tiles, begin, count);
  WinogradCursor at(tiles, begin);
  for (int64_t i = 0; i < count; ++i, m += layout.row, at.Next()) {
    const TileProducts tile{m, layout.row, layout.point, pixels};
    outputs.Next();
    if (FillPixels<F::kOut, float>(out, at.image(), at.h(), at.w(), nullptr, pixels)) {
      ForEachVec(out.c, OutputStep<F, true, kStatistics>{tile, bias, c.accumulate, sums});
    } else {
      ForEachVec(out.c, OutputStep<F, false, kStatistics>{tile, bias, c.accumulate, sums});
    }
  }
}

template <class F>
void WriteGradients(const WinogradCorrelation& c, const Tensor& out, const WinogradTiles& tiles,
                    int64_t first, int64_t begin, int64_t count, const float* m,
                    const WinogradLayout& layout, const WinogradSums& sums) {
  constexpr int kPixels = F::kOut * F::kOut;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(DF()));
  GradientEpilogue<float> e = c.epilogue;
  e.x = e.x.Channels(first, out.c);
  if (e.relu) {
    e.scale += first;
    e.shift += first;
  }
  e.mean += first;
  if (e.gain != nullptr) e.gain += first;
  const GradientEpilogueKernel finish = KernelFor(e);
  float* pixels[kPixels];
  const float* x[kPixels];
  HWY_ALIGN float da[2 * kPixels * hn::MaxLanes(DF())];
  FetchAhead outputs(out, tiles, begin, count);
  FetchAhead others(e.x, tiles, begin, count);
  WinogradCursor at(tiles, begin);
  for (int64_t i = 0; i < count; ++i, m += layout.row, at.Next()) {
    const TileProducts tile{m, layout.row, layout.point, pixels};
    outputs.Next();
    others.Next();
    FillPixels<F::kOut, float>(out, at.image(), at.h(), at.w(), nullptr, pixels);
    FillPixels<F::kOut, const float>(e.x, at.image(), at.h(), at.w(), nullptr, x);
    for (int64_t j = 0; j < out.c; j += lanes) OutputsOf<F>(tile, j, da + j * kPixels);
    finish(e, out.c, da, kPixels, c.accumulate, x, pixels, sums);
  }
}

template <class F>
void TransformOutput(const WinogradCorrelation& c, const WinogradTiles& tiles, int64_t panel,
                     int64_t begin, int64_t count, const float* m, const WinogradLayout& layout,
                     const WinogradSums& sums) {
  const int64_t width = 2 * static_cast<int64_t>(hn::Lanes(DF()));
  const int64_t first = panel * width;
  const Tensor out = c.out.Channels(first, std::min(width, c.columns() - first));
  if (c.epilogue.active()) {
    WriteGradients<F>(c, out, tiles, first, begin, count, m, layout, sums.From(first));
  } else if (sums.center != nullptr) {
    WriteOutputs<F, true>(c, out, tiles, first, begin, count, m, layout, sums.From(first));
  } else {
    WriteOutputs<F, false>(c, out, tiles, first, begin, count, m, layout, sums);
  }
}

}  // namespace winograd
}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
