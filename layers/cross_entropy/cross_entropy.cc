#include "layers/cross_entropy/cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "layers/pieces.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/cross_entropy/cross_entropy.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "layers/partial-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

// The loss of one row, not yet divided by the batch; with dz != null also the row's gradient. dz
// may be z.
double CrossEntropyRow(const float* z, int64_t classes, int64_t label, double smoothing,
                       double batch, float* dz) {
  const DF d;
  const int64_t lanes = Lanes();
  const float max = *std::max_element(z, z + classes);
  const double spread = smoothing / static_cast<double>(classes);  // target of every class
  const double label_logit = static_cast<double>(z[label]) - max;
  // Exponentials are kept where they are wanted; without a gradient only their sum is.
  constexpr int64_t kChunk = 256;
  HWY_ALIGN float exps[kChunk];
  double sum = 0;
  double sum_of_logits = 0;  // about max
  for (int64_t begin = 0; begin < classes; begin += kChunk) {
    const int64_t count = std::min(classes - begin, kChunk);
    if (smoothing != 0) {
      for (int64_t k = begin; k < begin + count; ++k) {
        sum_of_logits += static_cast<double>(z[k]) - max;
      }
    }
    for (int64_t k = 0; k < count; k += lanes) {
      const VF logit = LoadFirst(z + begin + k, std::min(lanes, count - k));
      hn::Store(hn::Exp(d, hn::Sub(logit, hn::Set(d, max))), d, exps + k);
    }
    for (int64_t k = 0; k < count; ++k) sum += exps[k];
    if (dz != nullptr) std::copy(exps, exps + count, dz + begin);
  }
  const double log_sum = std::log(sum);
  if (dz != nullptr) {
    const VF factor = hn::Set(d, static_cast<float>(1 / (sum * batch)));
    const VF target = hn::Set(d, static_cast<float>(spread / batch));
    // The label's own, in double: p - 1 is all cancellation once it is learnt.
    const double p = std::exp(label_logit - log_sum);
    for (int64_t k = 0; k < classes; k += lanes) {
      const int64_t count = std::min(lanes, classes - k);
      StoreFirst(hn::Sub(hn::Mul(LoadFirst(dz + k, count), factor), target), dz + k, count);
    }
    dz[label] = static_cast<float>((p - (1 - smoothing) - spread) / batch);
  }
  return -(1 - smoothing) * (label_logit - log_sum) -
         (smoothing != 0 ? spread * (sum_of_logits - static_cast<double>(classes) * log_sum) : 0);
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
HWY_EXPORT(CrossEntropyRow);

size_t CrossEntropyWorkspaceBytes(int64_t n, int64_t /*classes*/) {
  return Workspace::BytesFor<double>(n);
}

void CrossEntropy(const CrossEntropyArgs<float>& args, Context& ctx) {
  CNN_CHECK(args.n >= 1 && args.classes >= 1, args.n, " rows of ", args.classes);
  Workspace workspace = args.workspace;
  double* const losses = workspace.Take<double>(args.n);
  const double batch = static_cast<double>(args.n);
  const Pieces pieces(args.n, 64 * args.classes);  // exponentials cost more than their bytes
  ctx.ParallelFor("cross_entropy", pieces.count(), [&](int64_t piece, int) {
    for (int64_t n = pieces.Begin(piece); n < pieces.End(piece); ++n) {
      const int64_t label = args.labels[n];
      CNN_CHECK(label >= 0 && label < args.classes, "label ", label, " of ", args.classes,
                " classes");
      losses[n] = HWY_DYNAMIC_DISPATCH(CrossEntropyRow)(
          args.logits + n * args.logits_stride, args.classes, label, args.label_smoothing, batch,
          args.dlogits == nullptr ? nullptr : args.dlogits + n * args.dlogits_stride);
    }
  });
  double loss = 0;
  for (int64_t n = 0; n < args.n; ++n) loss += losses[n];
  *args.loss = static_cast<float>(loss / batch);
}

}  // namespace classicnn
#endif  // HWY_ONCE
