// The naive references: the header's formula as plain loops.
#include <cstdint>

#include "layers/linear/linear.h"

namespace classicnn {

// y[n,k] = bias[k] + sum over c of x[n,c] * w[c,k]
template <typename T>
void LinearForwardNaive(const LinearForwardArgs<T>& args) {
  const LinearShape& p = args.shape;
  for (int64_t n = 0; n < p.n; ++n) {
    for (int64_t k = 0; k < p.out_features; ++k) {
      double sum = args.bias != nullptr ? static_cast<double>(args.bias[k]) : 0.0;
      for (int64_t c = 0; c < p.in_features; ++c) {
        sum += static_cast<double>(args.x[n * args.x_stride + c]) *
               static_cast<double>(args.weights[c * p.out_features + k]);
      }
      args.y[n * args.y_stride + k] = static_cast<T>(sum);
    }
  }
}

// dx[n,c] = sum over k of dy[n,k] * w[c,k]
template <typename T>
void LinearBackwardDataNaive(const LinearBackwardDataArgs<T>& args) {
  const LinearShape& p = args.shape;
  for (int64_t n = 0; n < p.n; ++n) {
    for (int64_t c = 0; c < p.in_features; ++c) {
      double sum = 0.0;
      for (int64_t k = 0; k < p.out_features; ++k) {
        sum += static_cast<double>(args.dy[n * args.dy_stride + k]) *
               static_cast<double>(args.weights[c * p.out_features + k]);
      }
      T& dx = args.dx[n * args.dx_stride + c];
      dx = static_cast<T>(args.accumulate ? static_cast<double>(dx) + sum : sum);
    }
  }
}

// dw[c,k] = sum over n of x[n,c] * dy[n,k],  dbias[k] = sum over n of dy[n,k]
template <typename T>
void LinearBackwardWeightsNaive(const LinearBackwardWeightsArgs<T>& args) {
  const LinearShape& p = args.shape;
  for (int64_t c = 0; c < p.in_features; ++c) {
    for (int64_t k = 0; k < p.out_features; ++k) {
      double sum = 0.0;
      for (int64_t n = 0; n < p.n; ++n) {
        sum += static_cast<double>(args.x[n * args.x_stride + c]) *
               static_cast<double>(args.dy[n * args.dy_stride + k]);
      }
      args.dweights[c * p.out_features + k] = static_cast<T>(sum);
    }
  }
  if (args.dbias == nullptr) return;
  for (int64_t k = 0; k < p.out_features; ++k) {
    double sum = 0.0;
    for (int64_t n = 0; n < p.n; ++n) sum += static_cast<double>(args.dy[n * args.dy_stride + k]);
    args.dbias[k] = static_cast<T>(sum);
  }
}

template void LinearForwardNaive(const LinearForwardArgs<float>&);
template void LinearForwardNaive(const LinearForwardArgs<double>&);
template void LinearBackwardDataNaive(const LinearBackwardDataArgs<float>&);
template void LinearBackwardDataNaive(const LinearBackwardDataArgs<double>&);
template void LinearBackwardWeightsNaive(const LinearBackwardWeightsArgs<float>&);
template void LinearBackwardWeightsNaive(const LinearBackwardWeightsArgs<double>&);

}  // namespace classicnn
