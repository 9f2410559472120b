// What the operands of a plan's steps hold, by the reference.
//
// A plan whose batch norms are spread over their neighbours keeps tensors that the graph does not
// have: raw values with scale and shift, masked and folded gradients, sums. All of them follow from
// the reference's values and gradients by the formulas of layers/fusion.h, here in double.
#ifndef CLASSICNN_TESTS_VERIFY_REFERENCE_OPERANDS_H_
#define CLASSICNN_TESTS_VERIFY_REFERENCE_OPERANDS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "models/graph.h"
#include "models/plan.h"
#include "models/reference_model.h"
#include "tests/verify/array.h"

namespace classicnn::verify {

class ReferenceOperands {
 public:
  // Both must outlive it; `reference` has run forward and backward.
  ReferenceOperands(const Graph& graph, int64_t batch, ReferenceModel<double>& reference)
      : graph_(graph), batch_(batch), reference_(reference) {}

  const Graph& graph() const { return graph_; }
  ReferenceModel<double>& reference() const { return reference_; }

  // What an operand of `step` holds once every step that writes to it has; of constant terms that
  // the step itself writes, its own share. Values and gradients in their shape, arrays as [C]. Not
  // for labels, argmax and workspaces.
  Array Get(const Step& step, const Operand& o) const;

  // What node `reader` contributes to the gradient of `input`, which it reads.
  Array EdgeGradient(NodeId reader, NodeId input) const;

  // The batch norms whose values, side by side and through a ReLU or not, are the value of a node;
  // none for nodes that are something else.
  std::vector<NodeId> Norms(NodeId activated) const;
  bool HasRelu(NodeId activated) const;
  // Of such a node.
  Array Scale(NodeId activated) const;  // gamma * inv_std
  Array Shift(NodeId activated) const;  // beta - mean * scale
  Array RawValue(NodeId activated) const;
  Array RawMean(NodeId activated) const;
  // The raw value, but for elements so near the ReLU's kink that rounding decides on their side:
  // these are moved away from it to where no rounding of float moves them across.
  Array RawValueOffTheKinks(NodeId activated) const;

  // Of batch norm `norm`: the gradient of its input is gain * masked gradient + slope * input +
  // offset.
  struct Fold {
    Array gain, slope, offset, sum_g, sum_gx;
  };
  const Fold& FoldOf(NodeId norm) const;

 private:
  // Calls visit(norm, channel) for each batch norm that reads the node, by itself or inside
  // concatenations: the node's channels are those from `channel` on of what it reads.
  void ForEachNormReader(NodeId id, int64_t channel,
                         const std::function<void(NodeId, int64_t)>& visit) const;
  Array SideBySide(NodeId activated, const std::function<Array(NodeId)>& of_norm) const;
  Array FoldedGradient(NodeId id) const;
  Array SumOfFolds(NodeId id, Array Fold::*what) const;
  struct Moments {
    Array mean, var;
  };
  const Moments& MomentsOf(NodeId id) const;
  Array ConstantTerm(const Step& step, const Operand& o) const;
  // Concatenation's backward reads the channels of one input out of the whole gradient.
  Array GradientSlice(const Step& step, const Operand& o) const;

  const Graph& graph_;
  int64_t batch_;
  ReferenceModel<double>& reference_;
  mutable std::map<NodeId, Fold> folds_;  // what has been asked for
  mutable std::map<NodeId, Moments> moments_;
};

}  // namespace classicnn::verify

#endif  // CLASSICNN_TESTS_VERIFY_REFERENCE_OPERANDS_H_
