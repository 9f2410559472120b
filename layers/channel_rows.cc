#include "layers/channel_rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/channel_rows.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/activation-inl.h"
#include "layers/columns-inl.h"
#include "layers/partial-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

template <Activation kActivation>
struct ActivateStep {
  static constexpr int kVectors = 8;
  const float* scale;
  const float* shift;
  const float* x;
  int64_t x_stride;
  float* to;
  int64_t to_stride;

  template <int kV, bool kTail>
  HWY_INLINE void Columns(int64_t first, int64_t rows, int64_t c, int64_t count) const {
    VF a[kV];
    VF b[kV];
    LoadVectors<kV, kTail>(scale + c, count, a);
    LoadVectors<kV, kTail>(shift + c, count, b);
    for (int64_t r = first; r < first + rows; ++r) {
      for (int i = 0; i < kV; ++i) {
        const int64_t at = c + i * Lanes();
        const VF v = LoadLanes<kTail>(x + r * x_stride + at, count);
        StoreLanes<kTail>(Activated<kActivation>(v, a[i], b[i]), to + r * to_stride + at, count);
      }
    }
  }
};

void Activate(const ActivationPrologue<float>& activation, int64_t first, const float* x,
              int64_t x_stride, int64_t rows, int64_t channels, float* to, int64_t to_stride) {
  const float* const scale = activation.scale + first;
  const float* const shift = activation.shift + first;
  if (activation.relu) {
    ForEachColumn(rows, channels,
                  ActivateStep<Activation::kAffineRelu>{scale, shift, x, x_stride, to, to_stride});
  } else {
    ForEachColumn(rows, channels,
                  ActivateStep<Activation::kAffine>{scale, shift, x, x_stride, to, to_stride});
  }
}

struct GradientStep {
  static constexpr int kVectors = 8;
  const float* gain;
  const float* slope;
  const float* offset;
  const float* dy;
  int64_t dy_stride;
  const float* x;
  int64_t x_stride;
  float* to;
  int64_t to_stride;

  template <int kV, bool kTail>
  HWY_INLINE void Columns(int64_t first, int64_t rows, int64_t c, int64_t count) const {
    VF a[kV];
    VF b[kV];
    VF o[kV];
    LoadVectors<kV, kTail>(gain + c, count, a);
    LoadVectors<kV, kTail>(slope + c, count, b);
    LoadVectors<kV, kTail>(offset + c, count, o);
    for (int64_t r = first; r < first + rows; ++r) {
      for (int i = 0; i < kV; ++i) {
        const int64_t at = c + i * Lanes();
        const VF v = hn::MulAdd(b[i], LoadLanes<kTail>(x + r * x_stride + at, count), o[i]);
        const VF g = LoadLanes<kTail>(dy + r * dy_stride + at, count);
        StoreLanes<kTail>(hn::MulAdd(a[i], g, v), to + r * to_stride + at, count);
      }
    }
  }
};

void Gradient(const GradientPrologue<float>& gradient, int64_t first, const float* dy,
              int64_t dy_stride, const float* x, int64_t rows, int64_t channels, float* to,
              int64_t to_stride) {
  ForEachColumn(rows, channels,
                GradientStep{gradient.gain + first, gradient.slope + first, gradient.offset + first,
                             dy, dy_stride, x, gradient.x.pixel_stride, to, to_stride});
}

struct MomentStep {
  static constexpr int kVectors = 8;
  const float* y;
  int64_t y_stride;
  const float* center;
  float* sum;
  float* sum_of_squares;

  template <int kV, bool kTail>
  HWY_INLINE void Columns(int64_t first, int64_t rows, int64_t c, int64_t count) const {
    VF middle[kV];
    VF sums[kV];
    VF squares[kV];
    LoadVectors<kV, kTail>(center + c, count, middle);
    LoadVectors<kV, kTail>(sum + c, count, sums);
    LoadVectors<kV, kTail>(sum_of_squares + c, count, squares);
    for (int64_t r = first; r < first + rows; ++r) {
      for (int i = 0; i < kV; ++i) {
        const VF v = LoadLanes<kTail>(y + r * y_stride + c + i * Lanes(), count);
        const VF d = hn::Sub(v, middle[i]);
        sums[i] = hn::Add(sums[i], d);
        squares[i] = hn::MulAdd(d, d, squares[i]);
      }
    }
    StoreVectors<kV, kTail>(sums, count, sum + c);
    StoreVectors<kV, kTail>(squares, count, sum_of_squares + c);
  }
};

void AddMoments(const float* y, int64_t y_stride, int64_t rows, int64_t channels,
                const float* center, float* sum, float* sum_of_squares) {
  ForEachColumn(rows, channels, MomentStep{y, y_stride, center, sum, sum_of_squares});
}

enum class Stored { kGradient, kGained, kAdded };

template <bool kRelu, Stored kStored>
struct EpilogueStep {
  static constexpr int kVectors = 4;
  GradientEpilogue<float> e;  // its arrays begin at the first column
  const float* da;
  int64_t da_stride;
  const float* x;
  int64_t x_stride;
  float* dx;
  int64_t dx_stride;
  float* sum_g;
  float* sum_gx;

  template <int kV, bool kTail>
  HWY_INLINE void Columns(int64_t first, int64_t rows, int64_t c, int64_t count) const {
    const VF zero = hn::Zero(DF());
    VF scale[kV];
    VF shift[kV];
    VF mean[kV];
    VF gain[kV];
    VF sums[kV];
    VF products[kV];
    if (kRelu) {
      LoadVectors<kV, kTail>(e.scale + c, count, scale);
      LoadVectors<kV, kTail>(e.shift + c, count, shift);
    }
    if (kStored != Stored::kGradient) LoadVectors<kV, kTail>(e.gain + c, count, gain);
    LoadVectors<kV, kTail>(e.mean + c, count, mean);
    LoadVectors<kV, kTail>(sum_g + c, count, sums);
    LoadVectors<kV, kTail>(sum_gx + c, count, products);
    for (int64_t r = first; r < first + rows; ++r) {
      for (int i = 0; i < kV; ++i) {
        const int64_t at = c + i * Lanes();
        const VF x_r = LoadLanes<kTail>(x + r * x_stride + at, count);
        VF g = LoadLanes<kTail>(da + r * da_stride + at, count);
        if (kRelu) g = KeepWhere(hn::Gt(hn::MulAdd(x_r, scale[i], shift[i]), zero), g);
        sums[i] = hn::Add(sums[i], g);
        products[i] = hn::MulAdd(g, hn::Sub(x_r, mean[i]), products[i]);
        float* const to = dx + r * dx_stride + at;
        if (kStored == Stored::kGained) g = hn::Mul(g, gain[i]);
        if (kStored == Stored::kAdded) g = hn::MulAdd(g, gain[i], LoadLanes<kTail>(to, count));
        StoreLanes<kTail>(g, to, count);
      }
    }
    StoreVectors<kV, kTail>(sums, count, sum_g + c);
    StoreVectors<kV, kTail>(products, count, sum_gx + c);
  }
};

template <bool kRelu, Stored kStored>
void EpilogueOf(const GradientEpilogue<float>& epilogue, int64_t first, const float* da,
                int64_t da_stride, const float* x, int64_t rows, int64_t channels, float* dx,
                int64_t dx_stride, float* sum_g, float* sum_gx) {
  GradientEpilogue<float> e = epilogue;
  if (kRelu) {
    e.scale += first;
    e.shift += first;
  }
  e.mean += first;
  if (kStored != Stored::kGradient) e.gain += first;
  ForEachColumn(rows, channels,
                EpilogueStep<kRelu, kStored>{e, da, da_stride, x, e.x.pixel_stride, dx, dx_stride,
                                             sum_g, sum_gx});
}

void Epilogue(const GradientEpilogue<float>& epilogue, int64_t first, const float* da,
              int64_t da_stride, const float* x, int64_t rows, int64_t channels, float* dx,
              int64_t dx_stride, float* sum_g, float* sum_gx) {
  using Kernel = void (*)(const GradientEpilogue<float>&, int64_t, const float*, int64_t,
                          const float*, int64_t, int64_t, float*, int64_t, float*, float*);
  static constexpr Kernel kKernels[2][3] = {
      {EpilogueOf<false, Stored::kGradient>, EpilogueOf<false, Stored::kGained>,
       EpilogueOf<false, Stored::kAdded>},
      {EpilogueOf<true, Stored::kGradient>, EpilogueOf<true, Stored::kGained>,
       EpilogueOf<true, Stored::kAdded>}};
  const int stored = epilogue.gain == nullptr ? 0 : (epilogue.add ? 2 : 1);
  kKernels[epilogue.relu][stored](epilogue, first, da, da_stride, x, rows, channels, dx, dx_stride,
                                  sum_g, sum_gx);
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
HWY_EXPORT(Activate);
HWY_EXPORT(Gradient);
HWY_EXPORT(AddMoments);
HWY_EXPORT(Epilogue);

void ActivateRows(const ActivationPrologue<float>& activation, int64_t first, const float* x,
                  int64_t x_stride, int64_t rows, int64_t channels, float* to, int64_t to_stride) {
  HWY_DYNAMIC_DISPATCH(Activate)
  (activation, first, x, x_stride, rows, channels, to, to_stride);
}

void GradientRows(const GradientPrologue<float>& gradient, int64_t first, const float* dy,
                  int64_t dy_stride, const float* x, int64_t rows, int64_t channels, float* to,
                  int64_t to_stride) {
  HWY_DYNAMIC_DISPATCH(Gradient)
  (gradient, first, dy, dy_stride, x, rows, channels, to, to_stride);
}

void AddMomentRows(const float* y, int64_t y_stride, int64_t rows, int64_t channels,
                   const float* center, float* sum, float* sum_of_squares) {
  HWY_DYNAMIC_DISPATCH(AddMoments)(y, y_stride, rows, channels, center, sum, sum_of_squares);
}

void GradientEpilogueRows(const GradientEpilogue<float>& epilogue, int64_t first, const float* da,
                          int64_t da_stride, const float* x, int64_t rows, int64_t channels,
                          float* dx, int64_t dx_stride, float* sum_g, float* sum_gx) {
  HWY_DYNAMIC_DISPATCH(Epilogue)
  (epilogue, first, da, da_stride, x, rows, channels, dx, dx_stride, sum_g, sum_gx);
}

}  // namespace classicnn
#endif  // HWY_ONCE
