// How MakePlan works: internal to plan_*.cc.
//
// 1. Fusion: a ReLU that is the only reader of a batch norm or an addition runs inside it. In
//    training, batch norms whose inputs only batch norms read are spread over their neighbours
//    (plan_batch_norms.cc).
// 2. Places: which values share memory. Inputs of a concatenation become slices of its output; a
//    value whose only reader is elementwise is overwritten by it where nobody needs it any more.
// 3. Steps, forward and then backward. A gradient's first writer overwrites and the others add;
//    gradients share memory by the same rules as values.
// 4. Recomputation, to stay below a limit (plan_recompute.h): what wrote a dropped buffer runs
// again
//    before the first backward step that needs it.
// 5. Lifetimes follow from the steps that touch a buffer, offsets from the lifetimes.
#ifndef CLASSICNN_MODELS_PLAN_BUILDER_H_
#define CLASSICNN_MODELS_PLAN_BUILDER_H_

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "models/plan.h"

namespace classicnn {

// Steps whose buffers have neither lifetimes nor offsets yet: a buffer's operands have offsets from
// its beginning.
struct UnplacedPlan {
  Plan plan;
  std::vector<int> forever;  // buffers that the caller fills or reads between phases
};

class PlanBuilder {
 public:
  PlanBuilder(const Graph& graph, const PlanOptions& options);
  absl::StatusOr<UnplacedPlan> Build();

 private:
  // A region of a buffer that holds a value or a gradient.
  struct Place {
    int buffer = -1;
    int64_t channel_offset = 0;
    int64_t pixel_stride = 0;
  };
  struct Slice {
    NodeId concat = kNoNode;
    int64_t channel_offset = 0;
  };

  // plan_places.cc
  void Fuse();
  void ChooseSlices();
  NodeId LastReader(NodeId id, NodeId except) const;
  void PlaceValues();
  NodeId InPlaceReader(NodeId id) const;
  bool NeedsOwnOutputInBackward(NodeId id) const;

  // plan_batch_norms.cc
  void FuseNorms();
  bool CanReadActivated(NodeId reader, NodeId activated) const;
  void ChooseActivated();
  NodeId NormOf(NodeId activated) const;  // of a batch norm's value (with its ReLU): itself
  Operand RawValue(NodeId activated) const;
  Operand ChannelArray(Role role, NodeId node);
  ActivationOperands Activation(NodeId activated);
  Operand ReadValue(NodeId input, Step* step);
  void EmitStatistics(NodeId id, Step* producer);
  void EmitNormForward(NodeId id);
  void EmitNormBackward(NodeId id);
  void EmitAddNormsBackward(NodeId id, const Operand& dy);
  // The gradient of what node `id` leaves behind, as its backward steps read it; a step that cannot
  // apply a prologue (null) gets one that has been applied.
  Operand ReadGradient(NodeId id, Step* step);
  GradientEpilogueOperands Epilogue(NodeId activated);
  GradientEpilogueOperands FoldedEpilogue(NodeId activated, Step* step);
  void MarkFolded(NodeId id);
  // The output of a step that writes the gradient of `input`, and what else that asks of it.
  void AddGradientOutput(NodeId input, Step* step);

  // plan_forward.cc
  void EmitForward(NodeId id);
  void EmitLoss();

  // plan_backward.cc
  void EmitBackward(NodeId id);
  void EmitAddBackward(NodeId id, const Operand& dy);
  void EmitConcatBackward(NodeId id, const Operand& dy);
  void EmitUpdates(const std::vector<int>& parameters);
  // Operand for the gradient of `input` as `reader` writes it. `in_place` is where the gradient may
  // overwrite another that is not needed any more (invalid: nowhere).
  Operand WriteGradient(NodeId input, const Operand& in_place, bool* accumulate);
  bool CanOverwriteGradient(NodeId input) const;

  // Shared.
  int NewBuffer(const std::string& name, MemoryCategory category, int64_t bytes);
  // A buffer for a node's value or gradient.
  Place NewPlace(const std::string& name, MemoryCategory category, NodeId id);
  // Whether a fully connected layer reads its value, maybe changed in place.
  bool FeedsLinear(NodeId id) const;
  Operand FlatOperand(Role role, NodeId node, int buffer) const;
  Operand PlacedOperand(Role role, NodeId node, const Place& place) const;
  Operand Value(NodeId id) const;
  Operand Gradient(NodeId id) const;
  Operand ParameterGradient(int parameter);
  Operand NewWorkspace(const std::string& name, size_t bytes);
  Step NewStep(StepKind kind, Phase phase, NodeId node, const char* suffix) const;
  int64_t ParameterBytes(NodeId node) const;
  Conv2dAlgorithm AlgorithmOf(NodeId conv2d, Conv2dPass pass) const;
  // Whether both backwards of a convolution are one step.
  bool TakesOneSweep(NodeId conv2d, Conv2dAlgorithm algorithm) const;
  void Emit(Step step);
  // The node whose value a step of `id` leaves behind: the ReLU fused into it, or itself.
  NodeId Out(NodeId id) const {
    const NodeId relu = fused_relu_[static_cast<size_t>(id)];
    return relu == kNoNode ? id : relu;
  }
  int64_t batch() const { return plan_.options.batch; }

  const Graph& graph_;
  Plan plan_;
  std::vector<NodeId> fused_relu_;   // by node: the ReLU that runs inside it
  std::vector<bool> absorbed_;       // this ReLU runs inside another node
  std::vector<Slice> slices_;        // by node: of which concatenation its value is a slice
  std::vector<bool> free_concat_;    // by node: no copy needed
  std::vector<Place> value_places_;  // by node
  std::vector<Place> gradient_places_;
  std::vector<bool> gradient_written_;
  std::vector<bool> fused_norm_;        // by node: a batch norm that is spread over its neighbours
  std::vector<bool> shared_norm_;       // its input is read by other batch norms as well
  std::vector<bool> activated_;         // by node: value is never stored, readers activate it
  std::vector<bool> needs_statistics_;  // by node
  std::vector<NodeId> norm_;       // by node: a fused batch norm that reads it directly, or none
  std::vector<bool> folded_;       // by node: its gradient is read through a prologue
  std::vector<bool> first_fold_;   // by node: no batch norm has written its constant terms yet
  std::vector<int> writers_left_;  // by activated node: readers that have not written a gradient
  std::map<std::pair<Role, NodeId>, int> arrays_;         // buffers
  std::vector<int> saved_mean_, saved_inv_std_, argmax_;  // buffers, by node
  std::vector<int> parameter_gradients_;                  // buffers, by parameter
};

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_PLAN_BUILDER_H_
