#include "layers/channel_rows.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/channel_rows.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/partial-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

// Rows whose vectors of one column are taken together: coefficients and sums stay in registers for
// that long, and the rows' lines are few enough for the first-level cache.
constexpr int64_t kRowsTogether = 16;

// Calls step.Column<kTail>(first row, rows, column, count) for every vector of every group of rows.
template <class Step>
HWY_INLINE void ForEachColumn(int64_t rows, int64_t channels, const Step& step) {
  const int64_t lanes = Lanes();
  for (int64_t r = 0; r < rows; r += kRowsTogether) {
    const int64_t group = std::min(kRowsTogether, rows - r);
    int64_t c = 0;
    for (; c + lanes <= channels; c += lanes) step.template Column<false>(r, group, c, lanes);
    if (c < channels) step.template Column<true>(r, group, c, channels - c);
  }
}

template <bool kRelu>
struct ActivateStep {
  const float* scale;
  const float* shift;
  const float* x;
  int64_t x_stride;
  float* to;
  int64_t to_stride;

  template <bool kTail>
  HWY_INLINE void Column(int64_t first, int64_t rows, int64_t c, int64_t count) const {
    const VF a = LoadLanes<kTail>(scale + c, count);
    const VF b = LoadLanes<kTail>(shift + c, count);
    for (int64_t r = first; r < first + rows; ++r) {
      VF v = hn::MulAdd(LoadLanes<kTail>(x + r * x_stride + c, count), a, b);
      if (kRelu) v = ReluOf(v);
      StoreLanes<kTail>(v, to + r * to_stride + c, count);
    }
  }
};

void Activate(const ActivationPrologue<float>& activation, int64_t first, const float* x,
              int64_t x_stride, int64_t rows, int64_t channels, float* to, int64_t to_stride) {
  const float* const scale = activation.scale + first;
  const float* const shift = activation.shift + first;
  if (activation.relu) {
    ForEachColumn(rows, channels, ActivateStep<true>{scale, shift, x, x_stride, to, to_stride});
  } else {
    ForEachColumn(rows, channels, ActivateStep<false>{scale, shift, x, x_stride, to, to_stride});
  }
}

struct GradientStep {
  const float* gain;
  const float* slope;
  const float* offset;
  const float* dy;
  int64_t dy_stride;
  const float* x;
  int64_t x_stride;
  float* to;
  int64_t to_stride;

  template <bool kTail>
  HWY_INLINE void Column(int64_t first, int64_t rows, int64_t c, int64_t count) const {
    const VF a = LoadLanes<kTail>(gain + c, count);
    const VF b = LoadLanes<kTail>(slope + c, count);
    const VF o = LoadLanes<kTail>(offset + c, count);
    for (int64_t r = first; r < first + rows; ++r) {
      const VF v = hn::MulAdd(b, LoadLanes<kTail>(x + r * x_stride + c, count), o);
      StoreLanes<kTail>(hn::MulAdd(a, LoadLanes<kTail>(dy + r * dy_stride + c, count), v),
                        to + r * to_stride + c, count);
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
  const float* y;
  int64_t y_stride;
  const float* center;
  float* sum;
  float* sum_of_squares;

  template <bool kTail>
  HWY_INLINE void Column(int64_t first, int64_t rows, int64_t c, int64_t count) const {
    const VF middle = LoadLanes<kTail>(center + c, count);
    VF sums[2] = {LoadLanes<kTail>(sum + c, count), hn::Zero(DF())};
    VF squares[2] = {LoadLanes<kTail>(sum_of_squares + c, count), hn::Zero(DF())};
    const auto add = [&](int64_t r, int i) HWY_ATTR {
      const VF d = hn::Sub(LoadLanes<kTail>(y + r * y_stride + c, count), middle);
      sums[i] = hn::Add(sums[i], d);
      squares[i] = hn::MulAdd(d, d, squares[i]);
    };
    int64_t r = first;
    for (; r + 2 <= first + rows; r += 2) {
      add(r, 0);
      add(r + 1, 1);
    }
    if (r < first + rows) add(r, 0);
    StoreLanes<kTail>(hn::Add(sums[0], sums[1]), sum + c, count);
    StoreLanes<kTail>(hn::Add(squares[0], squares[1]), sum_of_squares + c, count);
  }
};

void AddMoments(const float* y, int64_t y_stride, int64_t rows, int64_t channels,
                const float* center, float* sum, float* sum_of_squares) {
  ForEachColumn(rows, channels, MomentStep{y, y_stride, center, sum, sum_of_squares});
}

enum class Stored { kGradient, kGained, kAdded };

template <bool kRelu, Stored kStored>
struct EpilogueStep {
  GradientEpilogue<float> e;  // its arrays begin at the first column
  const float* da;
  int64_t da_stride;
  const float* x;
  int64_t x_stride;
  float* dx;
  int64_t dx_stride;
  float* sum_g;
  float* sum_gx;

  template <bool kTail>
  HWY_INLINE void Column(int64_t first, int64_t rows, int64_t c, int64_t count) const {
    const DF d;
    const VF zero = hn::Zero(d);
    const VF scale = kRelu ? LoadLanes<kTail>(e.scale + c, count) : zero;
    const VF shift = kRelu ? LoadLanes<kTail>(e.shift + c, count) : zero;
    const VF mean = LoadLanes<kTail>(e.mean + c, count);
    const VF gain = kStored == Stored::kGradient ? zero : LoadLanes<kTail>(e.gain + c, count);
    VF sums[2] = {LoadLanes<kTail>(sum_g + c, count), zero};
    VF products[2] = {LoadLanes<kTail>(sum_gx + c, count), zero};
    const auto row = [&](int64_t r, int i) HWY_ATTR {
      const VF x_r = LoadLanes<kTail>(x + r * x_stride + c, count);
      VF g = LoadLanes<kTail>(da + r * da_stride + c, count);
      if (kRelu) g = KeepWhere(hn::Gt(hn::MulAdd(x_r, scale, shift), zero), g);
      sums[i] = hn::Add(sums[i], g);
      products[i] = hn::MulAdd(g, hn::Sub(x_r, mean), products[i]);
      float* const to = dx + r * dx_stride + c;
      if (kStored == Stored::kGained) g = hn::Mul(g, gain);
      if (kStored == Stored::kAdded) g = hn::MulAdd(g, gain, LoadLanes<kTail>(to, count));
      StoreLanes<kTail>(g, to, count);
    };
    int64_t r = first;
    for (; r + 2 <= first + rows; r += 2) {
      row(r, 0);
      row(r + 1, 1);
    }
    if (r < first + rows) row(r, 0);
    StoreLanes<kTail>(hn::Add(sums[0], sums[1]), sum_g + c, count);
    StoreLanes<kTail>(hn::Add(products[0], products[1]), sum_gx + c, count);
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
