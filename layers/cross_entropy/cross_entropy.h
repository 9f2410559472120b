// Softmax cross-entropy with label smoothing, the mean over the batch.
//
//   p[n,k] = exp(z[n,k] - max_n) / sum over j of exp(z[n,j] - max_n)
//   t[n,k] = (1 - smoothing) * (k == label[n]) + smoothing / K
//   loss   = -1/N * sum over n, k of t[n,k] * log p[n,k]
//   dz[n,k] = (p[n,k] - t[n,k]) / N
//
// z, dz  [N, K] rows `stride` elements apart; labels [N] in [0, K). dz may be z itself.
// Sums over the batch are taken in double in a fixed order. Cost: tensor passes 2.
#ifndef CLASSICNN_LAYERS_CROSS_ENTROPY_CROSS_ENTROPY_H_
#define CLASSICNN_LAYERS_CROSS_ENTROPY_CROSS_ENTROPY_H_

#include <cstddef>
#include <cstdint>

#include "core/context.h"
#include "core/view.h"

namespace classicnn {

template <typename T>
struct CrossEntropyArgs {
  int64_t n = 0;
  int64_t classes = 0;
  const T* logits = nullptr;
  int64_t logits_stride = 0;
  const int32_t* labels = nullptr;
  double label_smoothing = 0;
  T* loss = nullptr;     // one element, overwritten
  T* dlogits = nullptr;  // overwritten; null where no backward follows
  int64_t dlogits_stride = 0;
  Workspace workspace;
};

size_t CrossEntropyWorkspaceBytes(int64_t n, int64_t classes);

// Loss and, in the same pass, the gradient of the logits.
void CrossEntropy(const CrossEntropyArgs<float>& args, Context& ctx);
template <typename T>
void CrossEntropyNaive(const CrossEntropyArgs<T>& args);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_CROSS_ENTROPY_CROSS_ENTROPY_H_
