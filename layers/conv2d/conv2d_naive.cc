// The naive references: the header's formula as plain loops. Padding shows as a range check on the
// input's row and column.
#include <cstdint>

#include "core/check.h"
#include "layers/conv2d/algorithms.h"
#include "layers/conv2d/conv2d.h"

namespace classicnn {
namespace {

// Prologues and epilogues have references of their own (layers/fusion_passes.h).
void CheckPlain(bool plain) { CNN_CHECK(plain, "the naive convolution fuses nothing"); }

bool Inside(int64_t i, int64_t size) { return i >= 0 && i < size; }

// Index of w[r, s, c, k].
int64_t WeightIndex(const Conv2dShape& p, int64_t r, int64_t s, int64_t c, int64_t k) {
  return ((r * p.kernel + s) * (p.in_channels / p.groups) + c) * p.out_channels + k;
}

}  // namespace

// y[n,oh,ow,k] = bias[k] + sum over (r,s,c) of x[n,ih,iw,g*C/G + c] * w[r,s,c,k]
template <typename T>
void Conv2dForwardNaive(const Conv2dForwardArgs<T>& args) {
  CheckConv2dArgs(args);
  CheckPlain(!args.activation.active() && !args.statistics.active());
  const Conv2dShape& p = args.shape;
  const int64_t group_in = p.in_channels / p.groups;
  const int64_t group_out = p.out_channels / p.groups;
  for (int64_t n = 0; n < p.n; ++n) {
    for (int64_t oh = 0; oh < p.out_h(); ++oh) {
      for (int64_t ow = 0; ow < p.out_w(); ++ow) {
        for (int64_t k = 0; k < p.out_channels; ++k) {
          const int64_t first_in = k / group_out * group_in;
          double sum = args.bias != nullptr ? static_cast<double>(args.bias[k]) : 0.0;
          for (int64_t r = 0; r < p.kernel; ++r) {
            for (int64_t s = 0; s < p.kernel; ++s) {
              const int64_t ih = oh * p.stride - p.padding + r;
              const int64_t iw = ow * p.stride - p.padding + s;
              if (!Inside(ih, p.h) || !Inside(iw, p.w)) continue;
              for (int64_t c = 0; c < group_in; ++c) {
                sum += static_cast<double>(args.x.At(n, ih, iw, first_in + c)) *
                       static_cast<double>(args.weights[WeightIndex(p, r, s, c, k)]);
              }
            }
          }
          args.y.At(n, oh, ow, k) = static_cast<T>(sum);
        }
      }
    }
  }
}

// dx[n,ih,iw,g*C/G + c] = sum over (r,s,k) of dy[n,oh,ow,k] * w[r,s,c,k]
// over the outputs with oh*stride - padding + r == ih, and ow alike.
template <typename T>
void Conv2dBackwardDataNaive(const Conv2dBackwardDataArgs<T>& args) {
  CheckConv2dArgs(args);
  CheckPlain(!args.gradient.active() && !args.epilogue.active());
  const Conv2dShape& p = args.shape;
  const int64_t group_in = p.in_channels / p.groups;
  const int64_t group_out = p.out_channels / p.groups;
  for (int64_t n = 0; n < p.n; ++n) {
    for (int64_t ih = 0; ih < p.h; ++ih) {
      for (int64_t iw = 0; iw < p.w; ++iw) {
        for (int64_t in = 0; in < p.in_channels; ++in) {
          const int64_t c = in % group_in;
          const int64_t first_out = in / group_in * group_out;
          double sum = 0.0;
          for (int64_t r = 0; r < p.kernel; ++r) {
            for (int64_t s = 0; s < p.kernel; ++s) {
              const int64_t h = ih + p.padding - r;  // oh * stride
              const int64_t w = iw + p.padding - s;
              if (h % p.stride != 0 || w % p.stride != 0) continue;
              const int64_t oh = h / p.stride;
              const int64_t ow = w / p.stride;
              if (!Inside(oh, p.out_h()) || !Inside(ow, p.out_w())) continue;
              for (int64_t k = first_out; k < first_out + group_out; ++k) {
                sum += static_cast<double>(args.dy.At(n, oh, ow, k)) *
                       static_cast<double>(args.weights[WeightIndex(p, r, s, c, k)]);
              }
            }
          }
          T& dx = args.dx.At(n, ih, iw, in);
          dx = static_cast<T>(args.accumulate ? static_cast<double>(dx) + sum : sum);
        }
      }
    }
  }
}

// dw[r,s,c,k] = sum over (n,oh,ow) of x[n,ih,iw,g*C/G + c] * dy[n,oh,ow,k]
// dbias[k] = sum over (n,oh,ow) of dy[n,oh,ow,k]
template <typename T>
void Conv2dBackwardWeightsNaive(const Conv2dBackwardWeightsArgs<T>& args) {
  CheckConv2dArgs(args);
  CheckPlain(!args.activation.active() && !args.gradient.active() && args.update == nullptr);
  const Conv2dShape& p = args.shape;
  const int64_t group_in = p.in_channels / p.groups;
  const int64_t group_out = p.out_channels / p.groups;
  for (int64_t r = 0; r < p.kernel; ++r) {
    for (int64_t s = 0; s < p.kernel; ++s) {
      for (int64_t c = 0; c < group_in; ++c) {
        for (int64_t k = 0; k < p.out_channels; ++k) {
          const int64_t in = k / group_out * group_in + c;
          double sum = 0.0;
          for (int64_t n = 0; n < p.n; ++n) {
            for (int64_t oh = 0; oh < p.out_h(); ++oh) {
              for (int64_t ow = 0; ow < p.out_w(); ++ow) {
                const int64_t ih = oh * p.stride - p.padding + r;
                const int64_t iw = ow * p.stride - p.padding + s;
                if (!Inside(ih, p.h) || !Inside(iw, p.w)) continue;
                sum += static_cast<double>(args.x.At(n, ih, iw, in)) *
                       static_cast<double>(args.dy.At(n, oh, ow, k));
              }
            }
          }
          args.dweights[WeightIndex(p, r, s, c, k)] = static_cast<T>(sum);
        }
      }
    }
  }
  if (args.dbias == nullptr) return;
  for (int64_t k = 0; k < p.out_channels; ++k) {
    double sum = 0.0;
    for (int64_t pixel = 0; pixel < args.dy.pixels(); ++pixel) {
      sum += static_cast<double>(args.dy.Pixel(pixel)[k]);
    }
    args.dbias[k] = static_cast<T>(sum);
  }
}

template void Conv2dForwardNaive(const Conv2dForwardArgs<float>&);
template void Conv2dForwardNaive(const Conv2dForwardArgs<double>&);
template void Conv2dBackwardDataNaive(const Conv2dBackwardDataArgs<float>&);
template void Conv2dBackwardDataNaive(const Conv2dBackwardDataArgs<double>&);
template void Conv2dBackwardWeightsNaive(const Conv2dBackwardWeightsArgs<float>&);
template void Conv2dBackwardWeightsNaive(const Conv2dBackwardWeightsArgs<double>&);

}  // namespace classicnn
