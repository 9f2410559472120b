// What a layer can do to a tensor as it is loaded or stored, so that batch normalization, ReLU and
// their gradients cost no pass of their own.
//
// With x the input of a batch norm (a convolution's output) and M = N*H*W, batch normalization,
// ReLU and their backward (layers/batch_norm2d) fall apart into
//   statistics   mean[c], var[c] of x                       (epilogue of what computes x)
//   activation   a = relu(x * scale + shift)                 (prologue of what reads a)
//   gradient     g = da where x * scale + shift > 0, with the sums of g and g * (x - mean)
//                                                            (epilogue of what computes da)
//   input        dx = gain * g + slope * x + offset          (prologue of what reads dx)
// and formulas on [C] arrays between them (layers/batch_norm2d/batch_norm2d_fused.h). Only x and g
// are ever stored.
//
// All arrays have C elements, C being the channels of the tensor they go with. A struct that is not
// active() does nothing.
#ifndef CLASSICNN_LAYERS_FUSION_H_
#define CLASSICNN_LAYERS_FUSION_H_

#include "core/view.h"

namespace classicnn {

// Of a tensor that is read: a = x * scale + shift, then max(0, .) with relu. Padding around x is
// zero in a.
template <typename T>
struct ActivationPrologue {
  const T* scale = nullptr;  // null: x is taken as it is
  const T* shift = nullptr;
  bool relu = false;

  bool active() const { return scale != nullptr; }
  T operator()(T value, int64_t c) const {
    if (!active()) return value;
    const T a = value * scale[c] + shift[c];
    return relu && a < T(0) ? T(0) : a;  // NaN is not below 0: it stays
  }
};

// Of a gradient that is read: gain * g + slope * x + offset.
template <typename T>
struct GradientPrologue {
  View<const T> x;  // of the gradient's shape; any pixel stride
  const T* gain = nullptr;
  const T* slope = nullptr;
  const T* offset = nullptr;

  bool active() const { return x.data != nullptr; }
};

// Of a tensor that is written: its mean and (biased) variance over images and pixels. Sums are
// taken about a per-channel estimate in pieces that are merged by Chan's formula, so that data with
// a mean far from zero keeps its variance.
template <typename T>
struct StatisticsEpilogue {
  T* mean = nullptr;  // overwritten
  T* var = nullptr;   // overwritten

  bool active() const { return mean != nullptr; }
};

// Of a gradient that is written: what is computed (added to what is there, where the layer
// accumulates) is da, and instead
//   g = da where not relu or x * scale + shift > 0, else 0
// is stored; or, where `gain` is set, gain * g is stored or (add) added to what is there.
template <typename T>
struct GradientEpilogue {
  View<const T> x;  // of the gradient's shape; any pixel stride
  const T* scale = nullptr;
  const T* shift = nullptr;
  bool relu = false;
  const T* mean = nullptr;
  const T* gain = nullptr;  // may be null
  bool add = false;         // only with gain, and where the layer does not accumulate
  T* sum_g = nullptr;       // overwritten: sum of g over images and pixels
  T* sum_gx = nullptr;      // overwritten: sum of g * (x - mean)

  bool active() const { return x.data != nullptr; }
};

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_FUSION_H_
