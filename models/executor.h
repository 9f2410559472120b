// Runs a plan on the optimized layers.
#ifndef CLASSICNN_MODELS_EXECUTOR_H_
#define CLASSICNN_MODELS_EXECUTOR_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "core/context.h"
#include "layers/dropout/dropout.h"
#include "layers/fusion.h"
#include "layers/optimizer/optimizer.h"
#include "models/graph.h"
#include "models/model_state.h"
#include "models/plan.h"

namespace classicnn {

// How parameters are updated; which struct counts follows from ModelState::optimizer().
struct UpdateParams {
  SgdParams sgd;
  AdamWParams adamw;  // its step is set by the executor
  // Weight decay of batch norms' and biases' parameters too (PyTorch's default), or of convolution
  // and linear weights only.
  bool decay_norm_and_bias = true;
  // And of depthwise convolutions' weights.
  bool decay_depthwise = true;

  bool Decays(const Parameter& parameter) const {
    return parameter.norm_or_bias() ? decay_norm_and_bias : !parameter.depthwise || decay_depthwise;
  }
};

// Nanoseconds spent in each step of the plan, summed over runs. Filled while set on an executor.
struct StepTimes {
  std::vector<int64_t> nanos;  // by step
  int64_t runs = 0;            // complete runs of the plan
};

class Executor {
 public:
  // Allocates the plan's arena. `graph`, `state` and `ctx` must outlive the executor; the plan must
  // have been made for this graph and, with an update, the state have an optimizer.
  // plan.options.num_threads must be ctx.num_threads().
  static absl::StatusOr<std::unique_ptr<Executor>> Create(const Graph& graph, Plan plan,
                                                          ModelState* state, Context& ctx);

  const Plan& plan() const { return plan_; }

  // Fill these before a run. They stay as they are until overwritten by the caller.
  Tensor input() const;     // [batch, H, W, 3], dense
  int32_t* labels() const;  // [batch]

  // Seed and step that dropout masks are drawn from.
  void SetDropoutPosition(uint64_t seed, uint64_t step);

  // Each runs the plan's steps of that phase; nothing is allocated. Forward includes the loss.
  void Forward();
  void Backward();     // kFused: with the updates, by SetUpdate's parameters
  void ApplyUpdate();  // kAfterBackward: by SetUpdate's parameters
  void SetUpdate(const UpdateParams& params);
  // Forward, loss, backward and update in one.
  void TrainStep(const UpdateParams& params);

  // After Forward():
  ConstTensor logits() const;  // [batch, 1, 1, classes]; valid until Backward()
  float loss() const;
  // After Backward() with kNone or kAfterBackward, by index in graph.parameters(); the layers'
  // layout. Null with kFused.
  const float* gradient(int parameter) const;

  // For checkers and profilers.
  void RunStep(int step);
  std::byte* data(const Operand& operand) const;
  Tensor view(const Operand& operand) const;  // of a value or gradient
  std::byte* arena_data() const;
  void set_step_times(StepTimes* times);  // null: none

 private:
  Executor(const Graph& graph, Plan plan, ModelState* state, Context& ctx);
  void RunPhase(Phase first, Phase last);
  void RunConv2d(const Step& step, const Workspace& workspace);
  void RunLinear(const Step& step, const Workspace& workspace);
  void RunBatchNorm2d(const Step& step, const Workspace& workspace);
  void RunFold(const Step& step);
  void RunPassOrFold(const Step& step, const Workspace& workspace);
  void RunAddBackward(const Step& step, const Workspace& workspace);
  void RunUpdate(const Step& step);
  ParameterUpdate update_of(int parameter) const;
  float* floats(const Operand& operand) const { return reinterpret_cast<float*>(data(operand)); }
  ActivationPrologue<float> activation(const Step& step, size_t input) const;
  GradientPrologue<float> gradient_prologue(const Step& step) const;
  StatisticsEpilogue<float> statistics(const Step& step) const;
  GradientEpilogue<float> gradient_epilogue(const Step& step) const;
  DropoutParams dropout_params(const Node& node) const;

  const Graph& graph_;
  Plan plan_;
  ModelState* state_;
  Context& ctx_;
  std::unique_ptr<Arena> arena_;
  std::vector<Operand> gradients_;      // by parameter
  std::vector<int64_t> live_bytes_;     // by step, the state's included, for the trace
  Phase last_phase_ = Phase::kForward;  // of the plan
  UpdateParams update_;
  uint64_t dropout_seed_ = 0;
  uint64_t dropout_step_ = 0;
  StepTimes* times_ = nullptr;
};

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_EXECUTOR_H_
