// Batch normalization over the images and pixels of each channel (Ioffe and Szegedy, 2015),
// optionally followed by ReLU in the same pass.
//
//   y[n,h,w,c] = gamma[c] * (x[n,h,w,c] - mean[c]) * inv_std[c] + beta[c]
//   inv_std[c] = 1 / sqrt(var[c] + eps)
//
// and with relu max(0, y).
//
// Training: mean and var are those of the batch (var biased: divided by M = N*H*W), and
//   running_mean = (1 - momentum) * running_mean + momentum * mean
//   running_var  = (1 - momentum) * running_var  + momentum * var * M / (M - 1)
// Inference: mean and var are the running ones, which stay as they are.
//
// The variance survives data with a mean far from zero: sums are taken about a per-channel
// estimate and pieces are merged by Chan's formula (Chan, Golub, LeVeque, 1979).
//
// Backward, with g = dy where relu let the value pass (y > 0), else 0 (without relu g = dy), and
// xhat = (x - mean) * inv_std:
//   dbeta = sum g,  dgamma = sum g * xhat
//   training:   dx = gamma * inv_std * (g - dbeta / M - xhat * dgamma / M)
//   inference:  dx = gamma * inv_std * g
//
// x, y, dy, dx  [N, H, W, C] views with any pixel stride; gamma, beta, mean, ... [C].
// y may be x itself; dx may be dy itself; no other overlap. Same bits on any number of threads.
// Cost (tensor passes): training forward 3, backward 5, inference forward 2, backward 3.
#ifndef CLASSICNN_LAYERS_BATCH_NORM2D_BATCH_NORM2D_H_
#define CLASSICNN_LAYERS_BATCH_NORM2D_BATCH_NORM2D_H_

#include <cstddef>
#include <cstdint>

#include "core/context.h"
#include "core/view.h"

namespace classicnn {

template <typename T>
struct BatchNorm2dForwardArgs {
  View<const T> x;
  const T* gamma = nullptr;
  const T* beta = nullptr;
  View<T> y;  // overwritten
  bool training = true;
  bool relu = false;
  double eps = 1e-5;
  double momentum = 0.1;      // weight of the batch in the running statistics
  T* running_mean = nullptr;  // training: updated; inference: read
  T* running_var = nullptr;
  T* mean = nullptr;     // overwritten in both modes with what was used: backward needs it
  T* inv_std = nullptr;  // likewise
  Workspace workspace;
};

template <typename T>
struct BatchNorm2dBackwardArgs {
  View<const T> x;
  View<const T> dy;
  const T* gamma = nullptr;
  const T* beta = nullptr;  // read only with relu, whose mask is recomputed from x
  const T* mean = nullptr;  // as forward left them
  const T* inv_std = nullptr;
  bool training = true;
  bool relu = false;
  View<T> dx;               // overwritten, or added to:
  bool accumulate = false;  // dx += instead of dx =; dx must then not be dy
  T* dgamma = nullptr;      // overwritten
  T* dbeta = nullptr;       // overwritten
  Workspace workspace;
};

// Scratch for a forward or a backward call.
size_t BatchNorm2dWorkspaceBytes(const Shape4& shape, int num_threads);

void BatchNorm2dForward(const BatchNorm2dForwardArgs<float>& args, Context& ctx);
void BatchNorm2dBackward(const BatchNorm2dBackwardArgs<float>& args, Context& ctx);

template <typename T>
void BatchNorm2dForwardNaive(const BatchNorm2dForwardArgs<T>& args);
template <typename T>
void BatchNorm2dBackwardNaive(const BatchNorm2dBackwardArgs<T>& args);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_BATCH_NORM2D_BATCH_NORM2D_H_
