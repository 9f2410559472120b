#include "models/executor.h"

#include <algorithm>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "core/check.h"
#include "core/random.h"
#include "core/trace.h"
#include "layers/add/add.h"
#include "layers/avg_pool2d/avg_pool2d.h"
#include "layers/batch_norm2d/batch_norm2d.h"
#include "layers/concat/concat.h"
#include "layers/conv2d/conv2d.h"
#include "layers/cross_entropy/cross_entropy.h"
#include "layers/dropout/dropout.h"
#include "layers/global_avg_pool2d/global_avg_pool2d.h"
#include "layers/linear/linear.h"
#include "layers/max_pool2d/max_pool2d.h"
#include "layers/relu/relu.h"

namespace classicnn {

absl::StatusOr<std::unique_ptr<Executor>> Executor::Create(const Graph& graph, Plan plan,
                                                           ModelState* state, Context& ctx) {
  CNN_CHECK(plan.options.num_threads == ctx.num_threads(), "plan for ", plan.options.num_threads,
            " threads, context of ", ctx.num_threads());
  CNN_CHECK(plan.options.update == Update::kNone || state->optimizer() != Optimizer::kNone,
            "an update needs an optimizer's state");
  auto arena = Arena::Create(plan.bytes, &ctx.memory());
  if (!arena.ok()) return arena.status();
  auto executor = std::unique_ptr<Executor>(new Executor(graph, std::move(plan), state, ctx));
  executor->arena_ = *std::move(arena);
  return executor;
}

Executor::Executor(const Graph& graph, Plan plan, ModelState* state, Context& ctx)
    : graph_(graph), plan_(std::move(plan)), state_(state), ctx_(ctx) {
  gradients_.resize(graph.parameters().size());
  const int64_t state_bytes = Total(ModelState::Bytes(graph, state->optimizer()));
  for (size_t i = 0; i < plan_.steps.size(); ++i) {
    const Step& step = plan_.steps[i];
    for (const Operand& o : step.parameter_gradients) gradients_[static_cast<size_t>(o.index)] = o;
    live_bytes_.push_back(state_bytes + Total(plan_.LiveBytes(static_cast<int>(i))));
    last_phase_ = std::max(last_phase_, step.phase);
  }
}

std::byte* Executor::arena_data() const { return arena_->data(); }

std::byte* Executor::data(const Operand& operand) const {
  return operand.valid() ? arena_->data() + operand.offset : nullptr;
}

Tensor Executor::view(const Operand& operand) const {
  return Tensor(reinterpret_cast<float*>(data(operand)), operand.shape, operand.pixel_stride);
}

Tensor Executor::input() const { return view(plan_.input); }
int32_t* Executor::labels() const { return reinterpret_cast<int32_t*>(data(plan_.labels)); }
ConstTensor Executor::logits() const { return view(plan_.logits); }
float Executor::loss() const { return *reinterpret_cast<const float*>(data(plan_.loss)); }

const float* Executor::gradient(int parameter) const {
  if (plan_.options.update == Update::kFused) return nullptr;
  return reinterpret_cast<const float*>(data(gradients_[static_cast<size_t>(parameter)]));
}

void Executor::SetDropoutPosition(uint64_t seed, uint64_t step) {
  dropout_seed_ = seed;
  dropout_step_ = step;
}

void Executor::SetUpdate(const UpdateParams& params) { update_ = params; }

void Executor::RunPhase(Phase first, Phase last) {
  Tracer* const tracer = ctx_.tracer();
  const bool timed = times_ != nullptr || tracer != nullptr;
  if (times_ != nullptr) times_->nanos.resize(plan_.steps.size());
  for (size_t i = 0; i < plan_.steps.size(); ++i) {
    const Step& step = plan_.steps[i];
    if (step.phase < first || step.phase > last) continue;
    if (!timed) {
      RunStep(static_cast<int>(i));
      continue;
    }
    const int64_t begin = NowNanos();
    RunStep(static_cast<int>(i));
    const int64_t end = NowNanos();
    if (times_ != nullptr) times_->nanos[i] += end - begin;
    if (tracer != nullptr) {
      tracer->Span(step.name.c_str(), PhaseName(step.phase), 0, begin, end);
      tracer->Counter("memory", begin, live_bytes_[i]);
    }
  }
  if (times_ != nullptr && last >= last_phase_) ++times_->runs;
}

void Executor::set_step_times(StepTimes* times) { times_ = times; }

void Executor::Forward() {
  RunPhase(Phase::kForward, Phase::kLoss);
  if (plan_.options.training) ++state_->batches_tracked;
}

void Executor::Backward() {
  CNN_CHECK(plan_.options.backward, "the plan has no backward pass");
  if (plan_.options.update == Update::kFused) ++state_->updates;
  RunPhase(Phase::kBackward, Phase::kBackward);
}

void Executor::ApplyUpdate() {
  CNN_CHECK(plan_.options.update == Update::kAfterBackward, "the plan has no separate update");
  ++state_->updates;
  RunPhase(Phase::kUpdate, Phase::kUpdate);
}

void Executor::TrainStep(const UpdateParams& params) {
  SetUpdate(params);
  Forward();
  Backward();
  if (plan_.options.update == Update::kAfterBackward) ApplyUpdate();
}

ParameterUpdate Executor::update_of(int parameter) const {
  const bool decay = update_.Decays(graph_.parameters()[static_cast<size_t>(parameter)]);
  ParameterUpdate update;
  update.w = state_->parameter(parameter);
  update.m = state_->momentum(parameter);
  if (state_->optimizer() == Optimizer::kSgd) {
    SgdParams params = update_.sgd;
    if (!decay) params.weight_decay = 0;
    update.rule = params;
  } else {
    AdamWParams params = update_.adamw;
    if (!decay) params.weight_decay = 0;
    params.step = state_->updates;
    update.rule = params;
    update.v = state_->second_moment(parameter);
  }
  return update;
}

void Executor::RunUpdate(const Step& step) {
  const Operand& gradient = step.parameter_gradients[0];
  const int64_t count = graph_.parameters()[static_cast<size_t>(gradient.index)].count();
  UpdateParameter(update_of(gradient.index), count, floats(gradient), ctx_);
}

void Executor::RunConv2d(const Step& step, const Workspace& workspace) {
  const Conv2dShape shape = graph_.conv2d_shape(step.node, plan_.options.batch);
  const float* const weights = state_->parameter(graph_.node(step.node).parameters[0]);
  if (step.kind == StepKind::kConv2dForward) {
    Conv2dForwardArgs<float> args;
    args.shape = shape;
    args.algorithm = step.algorithm;
    args.x = view(step.inputs[0]);
    args.weights = weights;
    args.y = view(step.outputs[0]);
    args.activation = activation(step, 0);
    args.statistics = statistics(step);
    args.workspace = workspace;
    Conv2dForward(args, ctx_);
    return;
  }
  Conv2dBackwardDataArgs<float> data;
  Conv2dBackwardWeightsArgs<float> weight;
  ParameterUpdate update;
  data.shape = weight.shape = shape;
  data.algorithm = weight.algorithm = step.algorithm;
  data.dy = weight.dy = view(step.inputs[0]);
  data.gradient = weight.gradient = gradient_prologue(step);
  data.workspace = weight.workspace = workspace;
  if (step.kind != StepKind::kConv2dBackwardWeights) {
    data.weights = weights;
    data.dx = view(step.outputs[0]);
    data.accumulate = step.accumulate;
    data.epilogue = gradient_epilogue(step);
  }
  if (step.kind != StepKind::kConv2dBackwardData) {
    weight.x = view(step.inputs[1]);
    if (step.updates) {
      update = update_of(graph_.node(step.node).parameters[0]);
      weight.update = &update;
    } else {
      weight.dweights = floats(step.parameter_gradients[0]);
    }
    weight.activation = activation(step, 0);
  }
  if (step.kind == StepKind::kConv2dBackwardData) {
    Conv2dBackwardData(data, ctx_);
  } else if (step.kind == StepKind::kConv2dBackwardWeights) {
    Conv2dBackwardWeights(weight, ctx_);
  } else {
    Conv2dBackward(data, weight, ctx_);
  }
}

void Executor::RunLinear(const Step& step, const Workspace& workspace) {
  const Node& node = graph_.node(step.node);
  const LinearShape shape{plan_.options.batch, graph_.node(node.inputs[0]).shape.size(),
                          node.shape.c};
  // Elements from one image to the next; the images themselves are contiguous.
  const auto row_stride = [](const Operand& o) { return o.shape.h * o.shape.w * o.pixel_stride; };
  const auto row_data = [this](const Operand& o) {
    CNN_CHECK(o.pixel_stride == o.shape.c || o.shape.h * o.shape.w == 1, "rows with gaps");
    return view(o).data;
  };
  const float* const weights = state_->parameter(node.parameters[0]);
  if (step.kind == StepKind::kLinearForward) {
    LinearForwardArgs<float> args;
    args.shape = shape;
    args.x = row_data(step.inputs[0]);
    args.x_stride = row_stride(step.inputs[0]);
    args.weights = weights;
    args.bias = state_->parameter(node.parameters[1]);
    args.y = row_data(step.outputs[0]);
    args.y_stride = row_stride(step.outputs[0]);
    args.workspace = workspace;
    LinearForward(args, ctx_);
  } else if (step.kind == StepKind::kLinearBackwardData) {
    LinearBackwardDataArgs<float> args;
    args.shape = shape;
    args.dy = row_data(step.inputs[0]);
    args.dy_stride = row_stride(step.inputs[0]);
    args.weights = weights;
    args.dx = row_data(step.outputs[0]);
    args.dx_stride = row_stride(step.outputs[0]);
    args.accumulate = step.accumulate;
    args.workspace = workspace;
    LinearBackwardData(args, ctx_);
  } else {
    LinearBackwardWeightsArgs<float> args;
    args.shape = shape;
    args.dy = row_data(step.inputs[0]);
    args.dy_stride = row_stride(step.inputs[0]);
    args.x = row_data(step.inputs[1]);
    args.x_stride = row_stride(step.inputs[1]);
    args.dweights = reinterpret_cast<float*>(data(step.parameter_gradients[0]));
    args.dbias = reinterpret_cast<float*>(data(step.parameter_gradients[1]));
    args.workspace = workspace;
    LinearBackwardWeights(args, ctx_);
  }
}

void Executor::RunBatchNorm2d(const Step& step, const Workspace& workspace) {
  const Node& node = graph_.node(step.node);
  const float* const gamma = state_->parameter(node.parameters[0]);
  const float* const beta = state_->parameter(node.parameters[1]);
  auto* const mean = reinterpret_cast<float*>(data(step.saved_mean));
  auto* const inv_std = reinterpret_cast<float*>(data(step.saved_inv_std));
  const bool relu = step.fused_relu != kNoNode;
  if (step.kind == StepKind::kBatchNorm2dForward) {
    BatchNorm2dForwardArgs<float> args;
    args.x = view(step.inputs[0]);
    args.gamma = gamma;
    args.beta = beta;
    args.y = view(step.outputs[0]);
    args.training = plan_.options.training;
    args.relu = relu;
    args.eps = node.eps;
    args.momentum = node.momentum;
    args.running_mean = state_->buffer(node.buffers[0]);
    args.running_var = state_->buffer(node.buffers[1]);
    args.mean = mean;
    args.inv_std = inv_std;
    args.workspace = workspace;
    BatchNorm2dForward(args, ctx_);
  } else {
    BatchNorm2dBackwardArgs<float> args;
    args.dy = view(step.inputs[0]);
    args.x = view(step.inputs[1]);
    args.gamma = gamma;
    args.beta = beta;
    args.mean = mean;
    args.inv_std = inv_std;
    args.training = plan_.options.training;
    args.relu = relu;
    args.dx = view(step.outputs[0]);
    args.accumulate = step.accumulate;
    args.dgamma = reinterpret_cast<float*>(data(step.parameter_gradients[0]));
    args.dbeta = reinterpret_cast<float*>(data(step.parameter_gradients[1]));
    args.workspace = workspace;
    BatchNorm2dBackward(args, ctx_);
  }
}

DropoutParams Executor::dropout_params(const Node& node) const {
  DropoutParams params;
  params.p = plan_.options.training ? static_cast<float>(node.dropout) : 0.0f;
  params.seed = dropout_seed_;
  params.stream = StreamId(node.name);
  params.step = dropout_step_;
  return params;
}

void Executor::RunStep(int index) {
  const Step& step = plan_.steps[static_cast<size_t>(index)];
  const Node& node = graph_.node(step.node);
  const Workspace workspace{data(step.workspace), static_cast<size_t>(step.workspace.bytes)};
  // Inputs and outputs as views; steps that have none of one kind never look at it.
  const auto in = [&](size_t i) { return ConstTensor(view(step.inputs[i])); };
  const auto out = [&] { return view(step.outputs[0]); };
  absl::InlinedVector<ConstTensor, 8> inputs;
  absl::InlinedVector<ActivationPrologue<float>, 8> activations;

  switch (step.kind) {
    case StepKind::kConv2dForward:
    case StepKind::kConv2dBackwardData:
    case StepKind::kConv2dBackwardWeights:
    case StepKind::kConv2dBackward:
      RunConv2d(step, workspace);
      break;
    case StepKind::kLinearForward:
    case StepKind::kLinearBackwardData:
    case StepKind::kLinearBackwardWeights:
      RunLinear(step, workspace);
      break;
    case StepKind::kBatchNorm2dForward:
    case StepKind::kBatchNorm2dBackward:
      RunBatchNorm2d(step, workspace);
      break;
    case StepKind::kReluForward:
      ReluForward(in(0), out(), ctx_);
      break;
    case StepKind::kReluBackward:
      ReluBackward(/*y=*/in(1), /*dy=*/in(0), out(), step.accumulate, ctx_);
      break;
    case StepKind::kMaxPool2dForward:
      MaxPool2dForward(node.pool(), in(0), out(), reinterpret_cast<uint8_t*>(data(step.argmax)),
                       ctx_, activation(step, 0));
      break;
    case StepKind::kMaxPool2dBackward:
      MaxPool2dBackward({node.pool(), in(0), reinterpret_cast<const uint8_t*>(data(step.argmax)),
                         out(), step.accumulate, gradient_epilogue(step), workspace},
                        ctx_);
      break;
    case StepKind::kAvgPool2dForward:
      AvgPool2dForward(node.pool(), in(0), out(), ctx_, statistics(step), workspace);
      break;
    case StepKind::kAvgPool2dBackward:
      AvgPool2dBackward(node.pool(), in(0), out(), step.accumulate, ctx_, gradient_prologue(step));
      break;
    case StepKind::kGlobalAvgPool2dForward:
      GlobalAvgPool2dForward(in(0), out(), ctx_, activation(step, 0));
      break;
    case StepKind::kGlobalAvgPool2dBackward:
      GlobalAvgPool2dBackward(in(0), out(), step.accumulate, ctx_, gradient_epilogue(step),
                              workspace);
      break;
    case StepKind::kAddForward:
      for (size_t i = 0; i < step.inputs.size(); ++i) {
        inputs.push_back(in(i));
        activations.push_back(activation(step, i));
      }
      AddForward(inputs, out(), step.fused_relu != kNoNode, ctx_, activations);
      break;
    case StepKind::kAddBackward:
      RunAddBackward(step, workspace);
      break;
    case StepKind::kConcatForward:
      for (size_t i = 0; i < step.inputs.size(); ++i) inputs.push_back(in(i));
      ConcatForward(inputs, out(), ctx_);
      break;
    case StepKind::kConcatBackward: {
      const Tensor dx = out();
      ConcatBackward(in(0), absl::MakeConstSpan(&dx, 1), step.accumulate, ctx_);
      break;
    }
    case StepKind::kDropoutForward:
      DropoutForward(dropout_params(node), in(0), out(), ctx_);
      break;
    case StepKind::kDropoutBackward:
      DropoutBackward(dropout_params(node), in(0), out(), step.accumulate, ctx_);
      break;
    case StepKind::kCrossEntropy: {
      const ConstTensor logits = in(0);
      CrossEntropyArgs<float> args;
      args.n = logits.n;
      args.classes = logits.c;
      args.logits = logits.data;
      args.logits_stride = logits.pixel_stride;
      args.labels = labels();
      args.label_smoothing = plan_.options.label_smoothing;
      args.loss = reinterpret_cast<float*>(data(step.loss));
      if (!step.outputs.empty()) {
        args.dlogits = out().data;
        args.dlogits_stride = out().pixel_stride;
      }
      args.workspace = workspace;
      CrossEntropy(args, ctx_);
      break;
    }
    case StepKind::kUpdateParameter:
      RunUpdate(step);
      break;
    case StepKind::kBatchNorm2dFoldForward:
    case StepKind::kBatchNorm2dFoldBackward:
    case StepKind::kStatistics:
    case StepKind::kActivation:
    case StepKind::kGradientEpilogue:
    case StepKind::kGradientPrologue:
      RunPassOrFold(step, workspace);
      break;
  }
}

}  // namespace classicnn
