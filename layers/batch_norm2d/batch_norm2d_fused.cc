#include "layers/batch_norm2d/batch_norm2d_fused.h"

#include <algorithm>
#include <cmath>

namespace classicnn {

void BatchNorm2dFoldForward(const BatchNorm2dFoldForwardArgs& a) {
  const auto m = static_cast<double>(a.pixels);
  const double unbiased = m / std::max(m - 1, 1.0);  // one value has no spread
  for (int64_t c = 0; c < a.channels; ++c) {
    const auto inv_std = static_cast<float>(1 / std::sqrt(a.var[c] + a.eps));
    a.scale[c] = a.gamma[c] * inv_std;
    a.shift[c] = a.beta[c] - a.mean[c] * a.scale[c];
    if (a.running_mean == nullptr) continue;
    const auto moved = [&](float running, double batch) {
      return static_cast<float>((1 - a.momentum) * running + a.momentum * batch);
    };
    a.running_mean[c] = moved(a.running_mean[c], a.mean[c]);
    a.running_var[c] = moved(a.running_var[c], a.var[c] * unbiased);
  }
}

void BatchNorm2dFoldBackward(const BatchNorm2dFoldBackwardArgs& a) {
  const auto m = static_cast<double>(a.pixels);
  for (int64_t c = 0; c < a.channels; ++c) {
    const double inv_std = 1 / std::sqrt(a.var[c] + a.eps);
    const double dbeta = a.sum_g[c];
    const double dgamma = a.sum_gx[c] * inv_std;
    const double gain = a.gamma[c] * inv_std;
    const double slope = -gain * inv_std * dgamma / m;
    const double offset = -gain * dbeta / m - slope * a.mean[c];
    if (a.gain != nullptr) a.gain[c] = static_cast<float>(gain);
    a.slope[c] = static_cast<float>(a.accumulate ? a.slope[c] + slope : slope);
    a.offset[c] = static_cast<float>(a.accumulate ? a.offset[c] + offset : offset);
    a.dgamma[c] = static_cast<float>(dgamma);
    a.dbeta[c] = static_cast<float>(dbeta);
  }
}

}  // namespace classicnn
