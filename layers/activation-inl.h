// ActivationPrologue of layers/fusion.h on vectors, for kernels that apply it as they load.
// Included once for each target, after hwy/foreach_target.h.
#if defined(CLASSICNN_LAYERS_ACTIVATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CLASSICNN_LAYERS_ACTIVATION_INL_H_
#undef CLASSICNN_LAYERS_ACTIVATION_INL_H_
#else
#define CLASSICNN_LAYERS_ACTIVATION_INL_H_
#endif

#include <cstdint>

#include "hwy/highway.h"
#include "layers/fusion.h"
#include "layers/partial-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

// What is done to a tensor as it is loaded; known where kernels are compiled.
enum class Activation { kNone, kAffine, kAffineRelu };

HWY_INLINE Activation KindOf(const ActivationPrologue<float>& activation) {
  if (!activation.active()) return Activation::kNone;
  return activation.relu ? Activation::kAffineRelu : Activation::kAffine;
}

// The scales or shifts of `count` channels; nothing is read where there are none.
template <Activation kActivation, bool kTail>
HWY_INLINE VF LoadCoefficients(const float* p, int64_t count) {
  return kActivation == Activation::kNone ? hn::Zero(DF()) : LoadLanes<kTail>(p, count);
}

template <Activation kActivation>
HWY_INLINE VF Activated(VF v, VF scale, VF shift) {
  if (kActivation == Activation::kNone) return v;
  const VF a = hn::MulAdd(v, scale, shift);
  return kActivation == Activation::kAffineRelu ? ReluOf(a) : a;
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#endif  // CLASSICNN_LAYERS_ACTIVATION_INL_H_
