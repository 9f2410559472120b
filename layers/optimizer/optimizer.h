// Updates of one parameter tensor: dense arrays of `count` elements, updated in place, no overlap.
//
// SGD (PyTorch's definition; Sutskever et al., 2013, for Nesterov's form):
//   g <- g + weight_decay * w;  v <- momentum * v + g  (v is zero before the first step);
//   w <- w - lr * (nesterov ? g + momentum * v : v)
// AdamW (Loshchilov and Hutter, 2019), step counted from 1:
//   w <- w - lr * weight_decay * w;  m <- beta1 * m + (1 - beta1) * g;
//   v <- beta2 * v + (1 - beta2) * g^2;
//   w <- w - lr * (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
// Cost: SGD 5 tensor passes, AdamW 7.
#ifndef CLASSICNN_LAYERS_OPTIMIZER_OPTIMIZER_H_
#define CLASSICNN_LAYERS_OPTIMIZER_OPTIMIZER_H_

#include <cstdint>
#include <variant>

#include "core/context.h"

namespace classicnn {

struct SgdParams {
  double lr = 0.1;
  double momentum = 0.9;
  double weight_decay = 5e-4;
  bool nesterov = false;
};

struct AdamWParams {
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 1e-2;
  int64_t step = 1;
};

// w, v: updated. g: read only.
void SgdUpdate(const SgdParams& params, int64_t count, float* w, const float* g, float* v,
               Context& ctx);
void AdamWUpdate(const AdamWParams& params, int64_t count, float* w, const float* g, float* m,
                 float* v, Context& ctx);

// Either, of one tensor as a whole or in parts as their gradients become known: each element once,
// with the same bits.
struct ParameterUpdate {
  std::variant<SgdParams, AdamWParams> rule;
  float* w = nullptr;
  float* m = nullptr;  // SGD's v, AdamW's m
  float* v = nullptr;  // AdamW's
};
void UpdateParameter(const ParameterUpdate& update, int64_t count, const float* g, Context& ctx);
// Elements [begin, begin + count), on this thread, a worker of ParallelFor; g[0] is the gradient of
// the first.
void ApplyUpdate(const ParameterUpdate& update, int64_t begin, int64_t count, const float* g);

template <typename T>
void SgdUpdateNaive(const SgdParams& params, int64_t count, T* w, const T* g, T* v);
template <typename T>
void AdamWUpdateNaive(const AdamWParams& params, int64_t count, T* w, const T* g, T* m, T* v);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_OPTIMIZER_OPTIMIZER_H_
