#include <cmath>

#include "layers/optimizer/optimizer.h"

namespace classicnn {

template <typename T>
void SgdUpdateNaive(const SgdParams& params, int64_t count, T* w, const T* g, T* v) {
  for (int64_t i = 0; i < count; ++i) {
    const double gradient = g[i] + params.weight_decay * w[i];
    const double velocity = params.momentum * v[i] + gradient;
    const double step = params.nesterov ? gradient + params.momentum * velocity : velocity;
    v[i] = static_cast<T>(velocity);
    w[i] = static_cast<T>(w[i] - params.lr * step);
  }
}

template <typename T>
void AdamWUpdateNaive(const AdamWParams& params, int64_t count, T* w, const T* g, T* m, T* v) {
  const double step = static_cast<double>(params.step);
  const double correction1 = 1 - std::pow(params.beta1, step);
  const double correction2 = 1 - std::pow(params.beta2, step);
  for (int64_t i = 0; i < count; ++i) {
    const double gradient = g[i];
    const double decayed = w[i] - params.lr * params.weight_decay * w[i];
    const double m1 = params.beta1 * m[i] + (1 - params.beta1) * gradient;
    const double m2 = params.beta2 * v[i] + (1 - params.beta2) * gradient * gradient;
    m[i] = static_cast<T>(m1);
    v[i] = static_cast<T>(m2);
    w[i] = static_cast<T>(decayed - params.lr * (m1 / correction1) /
                                        (std::sqrt(m2 / correction2) + params.eps));
  }
}

template void SgdUpdateNaive(const SgdParams&, int64_t, float*, const float*, float*);
template void SgdUpdateNaive(const SgdParams&, int64_t, double*, const double*, double*);
template void AdamWUpdateNaive(const AdamWParams&, int64_t, float*, const float*, float*, float*);
template void AdamWUpdateNaive(const AdamWParams&, int64_t, double*, const double*, double*,
                               double*);

}  // namespace classicnn
