// Elementwise sum of two or more tensors, optionally followed by ReLU in the same pass.
//
//   y = x0 + x1 + ... (from left to right), then max(0, .) with relu
//
// All tensors [N, H, W, C], any pixel strides. y may be any one of the inputs. With activations
// (layers/fusion.h) the terms are those of the inputs, made as they are loaded.
//
// The gradient of every term is that of the sum: AddBackward copies it, or adds it, where no alias
// will do. AddReluBackward makes it where ReLU follows the sum and batch norms come before it.
// Cost: one tensor pass for each input and one for y. Same bits on any number of threads.
#ifndef CLASSICNN_LAYERS_ADD_ADD_H_
#define CLASSICNN_LAYERS_ADD_ADD_H_

#include <cstddef>

#include "absl/types/span.h"
#include "core/context.h"
#include "core/view.h"
#include "layers/fusion.h"

namespace classicnn {

// `activations`: none at all, or one for each input (those that are not active() do nothing).
void AddForward(absl::Span<const ConstTensor> inputs, Tensor y, bool relu, Context& ctx,
                absl::Span<const ActivationPrologue<float>> activations = {});
// dx = dy, or with accumulate dx += dy. No overlap.
void AddBackward(ConstTensor dy, Tensor dx, bool accumulate, Context& ctx);

// The gradient of a sum y, and what the batch norms whose outputs are its terms need of it:
//   g = dy where y > 0, else 0  (without y, g = dy)
//   sum_g = sum of g,  sum_gx of a term = sum of g * (x - mean)  over images and pixels
// g is then the gradient of every term: each batch norm's input gradient is a GradientPrologue of
// it. Tensor passes: dy, y, g and the x of each term, once each.
struct AddReluBackwardArgs {
  struct Term {
    ConstTensor x;  // the batch norm's input; no data: there is no such term
    const float* mean = nullptr;
    float* sum_gx = nullptr;  // [C], overwritten
  };
  static constexpr size_t kMaxTerms = 2;

  ConstTensor dy;
  ConstTensor y;  // as AddForward left it; no data: no ReLU followed
  Tensor g;       // overwritten; may be dy
  Term terms[kMaxTerms];
  float* sum_g = nullptr;  // [C], overwritten; null where there are no terms
  Workspace workspace;     // only with terms
};
void AddReluBackward(const AddReluBackwardArgs& args, Context& ctx);
size_t AddReluBackwardWorkspaceBytes(const Shape4& shape);

// The naive references; AddForward's without activations (layers/fusion_passes.h has theirs).
template <typename T>
void AddForwardNaive(absl::Span<const View<const T>> inputs, View<T> y, bool relu);
template <typename T>
void AddBackwardNaive(View<const T> dy, View<T> dx, bool accumulate);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_ADD_ADD_H_
