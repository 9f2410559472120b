#include "layers/optimizer/optimizer.h"

#include <cmath>

#include "core/check.h"
#include "layers/pieces.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/optimizer/optimizer.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/partial-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

template <bool kTail>
HWY_INLINE void SgdVector(VF lr, VF momentum, VF weight_decay, bool nesterov, int64_t count,
                          float* w, const float* g, float* v) {
  const VF weight = LoadLanes<kTail>(w, count);
  const VF gradient = hn::MulAdd(weight_decay, weight, LoadLanes<kTail>(g, count));
  const VF velocity = hn::MulAdd(momentum, LoadLanes<kTail>(v, count), gradient);
  const VF step = nesterov ? hn::MulAdd(momentum, velocity, gradient) : velocity;
  StoreLanes<kTail>(velocity, v, count);
  StoreLanes<kTail>(hn::NegMulAdd(lr, step, weight), w, count);
}

void SgdSpan(const SgdParams& params, int64_t count, float* w, const float* g, float* v) {
  const DF d;
  const int64_t lanes = Lanes();
  const VF lr = hn::Set(d, static_cast<float>(params.lr));
  const VF momentum = hn::Set(d, static_cast<float>(params.momentum));
  const VF weight_decay = hn::Set(d, static_cast<float>(params.weight_decay));
  const bool nesterov = params.nesterov;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    SgdVector<false>(lr, momentum, weight_decay, nesterov, lanes, w + i, g + i, v + i);
  }
  if (i < count) {
    SgdVector<true>(lr, momentum, weight_decay, nesterov, count - i, w + i, g + i, v + i);
  }
}

// With both bias corrections moved out of the elements:
//   w <- (1 - lr * weight_decay) * w - step_size * m / (sqrt(v) * root_scale + eps)
struct AdamWFactors {
  float keep, beta1, rest1, beta2, rest2, step_size, root_scale, eps;
};

template <bool kTail>
HWY_INLINE void AdamWVector(AdamWFactors f, int64_t count, float* w, const float* g, float* m,
                            float* v) {
  const DF d;
  const VF gradient = LoadLanes<kTail>(g, count);
  const VF m1 = hn::MulAdd(hn::Set(d, f.beta1), LoadLanes<kTail>(m, count),
                           hn::Mul(hn::Set(d, f.rest1), gradient));
  const VF m2 = hn::MulAdd(hn::Set(d, f.beta2), LoadLanes<kTail>(v, count),
                           hn::Mul(hn::Mul(hn::Set(d, f.rest2), gradient), gradient));
  const VF divisor = hn::MulAdd(hn::Sqrt(m2), hn::Set(d, f.root_scale), hn::Set(d, f.eps));
  const VF decayed = hn::Mul(hn::Set(d, f.keep), LoadLanes<kTail>(w, count));
  StoreLanes<kTail>(m1, m, count);
  StoreLanes<kTail>(m2, v, count);
  StoreLanes<kTail>(hn::Sub(decayed, hn::Div(hn::Mul(hn::Set(d, f.step_size), m1), divisor)), w,
                    count);
}

void AdamWSpan(const AdamWParams& params, int64_t count, float* w, const float* g, float* m,
               float* v) {
  const auto set = [](double value) { return static_cast<float>(value); };
  const double step = static_cast<double>(params.step);
  const AdamWFactors factors = {set(1 - params.lr * params.weight_decay),
                                set(params.beta1),
                                set(1 - params.beta1),
                                set(params.beta2),
                                set(1 - params.beta2),
                                set(params.lr / (1 - std::pow(params.beta1, step))),
                                set(1 / std::sqrt(1 - std::pow(params.beta2, step))),
                                set(params.eps)};
  const int64_t lanes = Lanes();
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    AdamWVector<false>(factors, lanes, w + i, g + i, m + i, v + i);
  }
  if (i < count) AdamWVector<true>(factors, count - i, w + i, g + i, m + i, v + i);
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
HWY_EXPORT(SgdSpan);
HWY_EXPORT(AdamWSpan);

void SgdUpdate(const SgdParams& params, int64_t count, float* w, const float* g, float* v,
               Context& ctx) {
  CNN_CHECK(count >= 0, count, " elements");
  const Pieces pieces(count, 20);
  ctx.ParallelFor("sgd.update", pieces.count(), [&](int64_t piece, int) {
    const int64_t begin = pieces.Begin(piece);
    HWY_DYNAMIC_DISPATCH(SgdSpan)(params, pieces.Size(piece), w + begin, g + begin, v + begin);
  });
}

void AdamWUpdate(const AdamWParams& params, int64_t count, float* w, const float* g, float* m,
                 float* v, Context& ctx) {
  CNN_CHECK(count >= 0 && params.step >= 1, count, " elements, step ", params.step);
  const Pieces pieces(count, 28);
  ctx.ParallelFor("adamw.update", pieces.count(), [&](int64_t piece, int) {
    const int64_t begin = pieces.Begin(piece);
    HWY_DYNAMIC_DISPATCH(AdamWSpan)
    (params, pieces.Size(piece), w + begin, g + begin, m + begin, v + begin);
  });
}

void UpdateParameter(const ParameterUpdate& update, int64_t count, const float* g, Context& ctx) {
  if (const auto* sgd = std::get_if<SgdParams>(&update.rule)) {
    SgdUpdate(*sgd, count, update.w, g, update.m, ctx);
  } else {
    AdamWUpdate(std::get<AdamWParams>(update.rule), count, update.w, g, update.m, update.v, ctx);
  }
}

void ApplyUpdate(const ParameterUpdate& update, int64_t begin, int64_t count, const float* g) {
  if (const auto* sgd = std::get_if<SgdParams>(&update.rule)) {
    HWY_DYNAMIC_DISPATCH(SgdSpan)(*sgd, count, update.w + begin, g, update.m + begin);
  } else {
    const AdamWParams& adamw = std::get<AdamWParams>(update.rule);
    CNN_CHECK(adamw.step >= 1, "step ", adamw.step);
    HWY_DYNAMIC_DISPATCH(AdamWSpan)
    (adamw, count, update.w + begin, g, update.m + begin, update.v + begin);
  }
}

}  // namespace classicnn
#endif  // HWY_ONCE
