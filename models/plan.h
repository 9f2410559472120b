// A plan: the ordered kernel calls of one pass over a graph at one batch size, and where every
// buffer lies in one arena. Made without allocating any of that memory.
//
// The backward pass is derived by walking the graph in reverse and asking each operation for its
// gradient. Values and gradients that can share memory do (an in-place ReLU, the inputs of a
// concatenation as slices of the whole), and lifetimes decide the offsets of all others.
#ifndef CLASSICNN_MODELS_PLAN_H_
#define CLASSICNN_MODELS_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/memory.h"
#include "core/view.h"
#include "models/graph.h"

namespace classicnn {

enum class Update {
  kNone,   // gradients are kept until the next backward pass, nothing is updated
  kFused,  // each parameter is updated as soon as its gradient is ready; no gradient is kept
  kAfterBackward,  // all gradients first, then all updates; the same bits as kFused
};

struct PlanOptions {
  int64_t batch = 64;
  bool training = true;  // batch statistics and dropout, or running statistics and no dropout
  bool loss = true;      // cross-entropy behind the logits; needed for backward
  bool backward = true;
  Update update = Update::kFused;
  // ReLU runs inside the batch norm or addition before it; in training a batch norm costs no pass
  // of its own (layers/fusion.h).
  bool fusion = true;
  bool winograd = true;
  // Batch for which convolution algorithms are chosen; 0: `batch`. What cannot run at `batch` is
  // replaced. To check at a small batch what runs at a large one.
  int64_t algorithm_batch = 0;
  int num_threads = 1;  // sizes per-thread scratch; never what is computed
  double label_smoothing = 0;
  // Bytes, state included; 0: none (a fused plan computes overlapping max pools again all the
  // same). What does not fit is dropped after forward and computed again
  // in backward, with the same bits.
  int64_t memory_limit = 0;
  // Values of fewer bytes are not worth dropping.
  int64_t least_dropped_bytes = 64 << 10;
};

enum class Phase { kForward, kLoss, kBackward, kUpdate };
const char* PhaseName(Phase phase);

enum class StepKind {
  kConv2dForward,
  kConv2dBackwardData,
  kConv2dBackwardWeights,
  kConv2dBackward,  // both in one sweep
  kBatchNorm2dForward,
  kBatchNorm2dBackward,
  kReluForward,
  kReluBackward,
  kMaxPool2dForward,
  kMaxPool2dBackward,
  kAvgPool2dForward,
  kAvgPool2dBackward,
  kGlobalAvgPool2dForward,
  kGlobalAvgPool2dBackward,
  kLinearForward,
  kLinearBackwardData,
  kLinearBackwardWeights,
  kAddForward,
  kAddBackward,
  kConcatForward,
  kConcatBackward,
  kDropoutForward,
  kDropoutBackward,
  kCrossEntropy,
  kUpdateParameter,
  // What is left of batch norms that are done in the layers around them: arithmetic on [C] arrays,
  kBatchNorm2dFoldForward,   // statistics to scale and shift, running statistics
  kBatchNorm2dFoldBackward,  // sums to parameter gradients, gain, slope and offset
  // and passes where a neighbour cannot take part.
  kStatistics,        // mean and variance of a value
  kActivation,        // the activated value, stored
  kGradientEpilogue,  // mask and sums
  kGradientPrologue,  // the gradient of a batch norm's input, stored
};

// What an operand is, so that a checker can tell which reference tensor belongs there.
//
// An activated node is a batch norm (with the ReLU inside it), or a concatenation of such: it may
// never be stored, its readers then apply scale and shift to what its batch norm reads.
enum class Role {
  kNone,
  kValue,      // output of `node`
  kGradient,   // gradient of the output of `node`
  kArgmax,     // winners of max pooling `node`, one byte each
  kSavedMean,  // what batch norm `node` used in forward, [C]
  kSavedInvStd,
  kRawValue,  // of activated `node`: what its batch norm reads (a concatenation: theirs, side by
              // side)
  kScale,     // of activated `node`, [C]: value = max(0, raw * scale + shift)
  kShift,
  kMaskedGradient,     // of activated `node`: its gradient where the ReLU let the value pass
  kSumG,               // of activated `node`, [C]: sums of the masked gradient
  kSumGx,              // and of its products with raw - mean
  kFoldedGradient,     // of the output of `node`, which several batch norms read: sum over them of
                       // scale * masked gradient, as far as the steps before have come
  kMean,               // of the output of `node` over images and pixels, [C]
  kVar,                // likewise, biased
  kGain,               // gradient of the output of `node` = gain * (masked or folded gradient)
  kSlope,              // + slope * value
  kOffset,             // + offset, [C] each
  kParameterGradient,  // of parameter `index`
  kWorkspace,
  kLoss,    // one float
  kLabels,  // [batch] int32
};

struct Operand {
  Role role = Role::kNone;
  NodeId node = kNoNode;
  int index = -1;      // of a parameter
  int buffer = -1;     // in Plan::buffers: operands with the same one share its memory
  int64_t offset = 0;  // bytes from the start of the arena
  int64_t bytes = 0;   // of the flat kinds (all but values and gradients), for a workspace its size
  Shape4 shape;        // of values and gradients
  int64_t pixel_stride = 0;

  bool valid() const { return role != Role::kNone; }
};

// Of an input that is read through ActivationPrologue: inputs[i] is then a raw value.
struct ActivationOperands {
  Operand scale, shift;
  bool relu = false;

  bool active() const { return scale.valid(); }
};

// Of a gradient that is read through GradientPrologue: inputs[0] is then a masked or folded one.
struct GradientPrologueOperands {
  Operand x, gain, slope, offset;

  bool active() const { return x.valid(); }
};

// Of a gradient that is written through GradientEpilogue: outputs[0] is then a masked one or, with
// gain, a folded one.
struct GradientEpilogueOperands {
  Operand x, scale, shift, mean, sum_g, sum_gx;
  Operand gain;  // the same array as scale; invalid: the masked gradient itself is stored
  bool relu = false;
  bool add = false;

  bool active() const { return x.valid(); }
};

// Whether a step's algorithm matters.
inline bool IsConv2d(StepKind kind) {
  return kind == StepKind::kConv2dForward || kind == StepKind::kConv2dBackwardData ||
         kind == StepKind::kConv2dBackwardWeights || kind == StepKind::kConv2dBackward;
}

struct Step {
  StepKind kind = StepKind::kConv2dForward;
  Phase phase = Phase::kForward;
  NodeId node = kNoNode;                                 // whose layer runs
  NodeId fused_relu = kNoNode;                           // the ReLU node that runs inside it
  std::string name;                                      // "layer1.0.conv1 backward_data"
  Conv2dAlgorithm algorithm = Conv2dAlgorithm::kDirect;  // convolutions

  // By kind (x: value of an input, y: value of the node or its fused ReLU, d*: gradients):
  //   forward steps     inputs: x...            outputs: y
  //   ..Backward,       inputs: dy, then what the layer needs (ReLU: y; batch norm: x; pooling:
  //   ..BackwardData            argmax)         outputs: dx... (concat: one for each input)
  //   ..BackwardWeights inputs: dy, x           outputs: none; parameter_gradients, or none where
  //                                             it updates
  //   convolution's Backward: what the two above have
  //   cross-entropy     inputs: logits, labels  outputs: dlogits (invalid without backward)
  //   update            parameter_gradients: the one it applies
  //   statistics        inputs: value           mean, var
  //   activation        inputs: raw value       outputs: value; activations
  //   fold forward      mean, var               activations[0]
  //   fold backward     epilogues[0]: sums and mean; var        gradient: gain, slope, offset;
  //                                             parameter_gradients
  //   gradient epilogue inputs: gradient        outputs: masked or folded gradient; epilogues
  //   gradient prologue inputs: masked or folded gradient       outputs: gradient; gradient
  // and of convolutions, pooling and additions in a fused plan:
  //   forward           activations, by input; mean, var of the output (convolution, average pool)
  //   ..BackwardWeights activations[0] of x; gradient of dy
  //   ..BackwardData, pooling   gradient of dy; epilogues[0] of dx
  //   add backward      inputs: dy, y; outputs: g = dy where y > 0; epilogues, one for each input
  //                     that is a batch norm: x, mean and sums, nothing else
  std::vector<Operand> inputs;
  std::vector<Operand> outputs;
  std::vector<Operand> parameter_gradients;
  Operand saved_mean, saved_inv_std;  // batch norm, both passes
  Operand argmax;                     // max pooling, both passes; invalid without backward
  Operand loss;                       // cross-entropy
  Operand workspace;
  bool accumulate = false;  // outputs are added to, not overwritten
  bool updates = false;     // backward (weights): applies the gradient instead of storing it

  std::vector<ActivationOperands> activations;  // by input; empty: none is active
  Operand mean, var;
  GradientPrologueOperands gradient;
  std::vector<GradientEpilogueOperands> epilogues;
  bool recomputed = false;  // a forward step that runs again in backward; its macs are 0
  bool shared = false;      // fold backward: several batch norms read x, gain is 1

  int64_t macs = 0;           // nominal multiply-adds (direct algorithm)
  int64_t executed_macs = 0;  // of the algorithm
  int64_t bytes = 0;          // least traffic: every operand read or written once

  bool activates(size_t input) const {
    return input < activations.size() && activations[input].active();
  }
  bool has_epilogue() const { return !epilogues.empty() && epilogues[0].active(); }
  // Of a convolution's step.
  Conv2dFusion fusion() const {
    return {activates(0), gradient.active(), mean.valid(), has_epilogue()};
  }
  // Calls visit(operand) for every valid operand.
  template <class Visit>
  void ForEachOperand(const Visit& visit) {
    VisitOperands(*this, visit);
  }
  template <class Visit>
  void ForEachOperand(const Visit& visit) const {
    VisitOperands(*this, visit);
  }

 private:
  template <class S, class Visit>
  static void VisitOperands(S& step, const Visit& visit) {
    const auto one = [&](auto& operand) {
      if (operand.valid()) visit(operand);
    };
    for (auto& o : step.inputs) one(o);
    for (auto& o : step.outputs) one(o);
    for (auto& o : step.parameter_gradients) one(o);
    for (auto& a : step.activations) one(a.scale), one(a.shift);
    for (auto& e : step.epilogues) {
      for (auto* o : {&e.x, &e.scale, &e.shift, &e.mean, &e.sum_g, &e.sum_gx, &e.gain}) one(*o);
    }
    auto& g = step.gradient;
    for (auto* o : {&g.x, &g.gain, &g.slope, &g.offset, &step.mean, &step.var, &step.saved_mean,
                    &step.saved_inv_std, &step.argmax, &step.loss, &step.workspace}) {
      one(*o);
    }
  }
};

// The parameter that a step updates, or -1.
inline int UpdatedParameter(const Graph& graph, const Step& step) {
  if (step.kind == StepKind::kUpdateParameter) return step.parameter_gradients[0].index;
  return step.updates ? graph.node(step.node).parameters[0] : -1;
}

// Memory that one buffer occupies from step `first` to step `last`, both included.
struct BufferLifetime {
  std::string name;
  MemoryCategory category = MemoryCategory::kActivations;
  int64_t offset = 0;
  int64_t bytes = 0;
  int first = 0;
  int last = 0;
};

struct Plan {
  PlanOptions options;
  std::vector<Step> steps;
  std::vector<BufferLifetime> buffers;
  Operand input, labels, logits, loss;

  int64_t arena_bytes = 0;
  // Arena by category: what is live at the fullest step; alignment and placement losses count as
  // workspace. Sums to arena_bytes.
  BytesByCategory bytes{};
  // Largest live set of any step: the least any placement needs.
  int64_t lower_bound_bytes = 0;
  // Largest sum of activations, and of workspace, over the steps.
  int64_t peak_activation_bytes = 0;
  int64_t peak_workspace_bytes = 0;

  // Live bytes by category while step i runs.
  BytesByCategory LiveBytes(int step) const;
  int64_t macs() const;             // nominal, all steps
  int64_t executed_macs() const;    // all steps
  int64_t recomputed_macs() const;  // executed ones of steps that run again
};

// InvalidArgument for a batch below 1 or one value per channel in training; ResourceExhausted, with
// the least limit that would do, where memory_limit cannot be met. `state_bytes` is what the
// ModelState takes (counted against the limit).
absl::StatusOr<Plan> MakePlan(const Graph& graph, const PlanOptions& options,
                              int64_t state_bytes = 0);
// The least memory_limit that MakePlan meets with these options otherwise (their own limit is
// ignored): what that error names. As slow as planning for a limit that cannot be met.
absl::StatusOr<int64_t> LeastPlanBytes(const Graph& graph, const PlanOptions& options,
                                       int64_t state_bytes = 0);

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_PLAN_H_
