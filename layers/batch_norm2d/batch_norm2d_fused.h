// Batch normalization in training as formulas on [C] arrays, where its tensor passes happen in the
// layers around it (layers/fusion.h). Any range of channels of a tensor can be done by itself.
#ifndef CLASSICNN_LAYERS_BATCH_NORM2D_BATCH_NORM2D_FUSED_H_
#define CLASSICNN_LAYERS_BATCH_NORM2D_BATCH_NORM2D_FUSED_H_

#include <cstdint>

namespace classicnn {

// After the statistics of x are known:
//   inv_std = 1 / sqrt(var + eps), scale = gamma * inv_std, shift = beta - mean * scale,
// and the running statistics move as in BatchNorm2dForwardArgs.
struct BatchNorm2dFoldForwardArgs {
  int64_t channels = 0;
  int64_t pixels = 0;  // M, over all images
  const float* mean = nullptr;
  const float* var = nullptr;  // biased
  const float* gamma = nullptr;
  const float* beta = nullptr;
  double eps = 1e-5;
  double momentum = 0.1;
  float* running_mean = nullptr;  // updated; null: left alone, as in a rerun of a forward pass
  float* running_var = nullptr;
  float* scale = nullptr;  // overwritten
  float* shift = nullptr;  // overwritten
};
void BatchNorm2dFoldForward(const BatchNorm2dFoldForwardArgs& args);

// After the sums of g = dL/d(output) and g * (x - mean) are known:
//   dbeta = sum_g, dgamma = sum_gx * inv_std,
//   dx = gain * g + slope * x + offset  with
//   gain = gamma * inv_std, slope = -gain * inv_std * dgamma / M,
//   offset = -gain * dbeta / M - slope * mean.
// Where several batch norms read the same x, their gradients add up: each gives g already
// multiplied by its gain, and slope and offset are sums over all of them (gain is then 1).
struct BatchNorm2dFoldBackwardArgs {
  int64_t channels = 0;
  int64_t pixels = 0;
  const float* mean = nullptr;
  const float* var = nullptr;
  const float* gamma = nullptr;
  double eps = 1e-5;
  const float* sum_g = nullptr;
  const float* sum_gx = nullptr;
  float* dgamma = nullptr;  // overwritten; may be sum_gx
  float* dbeta = nullptr;   // overwritten; may be sum_g
  float* gain = nullptr;    // overwritten; null: g was multiplied by it, and
  bool accumulate = false;  // slope and offset are added to instead of overwritten
  float* slope = nullptr;
  float* offset = nullptr;
};
void BatchNorm2dFoldBackward(const BatchNorm2dFoldBackwardArgs& args);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_BATCH_NORM2D_BATCH_NORM2D_FUSED_H_
