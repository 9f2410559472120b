#include "models/plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "models/placement.h"
#include "models/plan_builder.h"

namespace classicnn {

const char* PhaseName(Phase phase) {
  switch (phase) {
    case Phase::kForward:
      return "forward";
    case Phase::kLoss:
      return "loss";
    case Phase::kBackward:
      return "backward";
    case Phase::kUpdate:
      return "update";
  }
  return "unknown";
}

BytesByCategory Plan::LiveBytes(int step) const {
  BytesByCategory live{};
  for (const BufferLifetime& b : buffers) {
    if (b.first <= step && step <= b.last) At(live, b.category) += PlacedBytes(b.bytes);
  }
  return live;
}

int64_t Plan::macs() const {
  int64_t sum = 0;
  for (const Step& s : steps) sum += s.macs;
  return sum;
}

int64_t Plan::executed_macs() const {
  int64_t sum = 0;
  for (const Step& s : steps) sum += s.executed_macs;
  return sum;
}

PlanBuilder::PlanBuilder(const Graph& graph, const PlanOptions& options) : graph_(graph) {
  plan_.options = options;
  const size_t nodes = graph.nodes().size();
  fused_relu_.assign(nodes, kNoNode);
  absorbed_.assign(nodes, false);
  slices_.resize(nodes);
  free_concat_.assign(nodes, false);
  value_places_.resize(nodes);
  gradient_places_.resize(nodes);
  gradient_written_.assign(nodes, false);
  fused_norm_.assign(nodes, false);
  shared_norm_.assign(nodes, false);
  activated_.assign(nodes, false);
  needs_statistics_.assign(nodes, false);
  norm_.assign(nodes, kNoNode);
  folded_.assign(nodes, false);
  first_fold_.assign(nodes, true);
  writers_left_.assign(nodes, 0);
  saved_mean_.assign(nodes, -1);
  saved_inv_std_.assign(nodes, -1);
  argmax_.assign(nodes, -1);
  parameter_gradients_.assign(graph.parameters().size(), -1);
}

int PlanBuilder::NewBuffer(const std::string& name, MemoryCategory category, int64_t bytes) {
  BufferLifetime b;
  b.name = name;
  b.category = category;
  b.bytes = bytes;
  b.first = -1;  // nothing touches it yet
  plan_.buffers.push_back(std::move(b));
  return static_cast<int>(plan_.buffers.size()) - 1;
}

void PlanBuilder::KeepForever(int buffer) {
  BufferLifetime& b = plan_.buffers[static_cast<size_t>(buffer)];
  b.first = 0;
  b.last = static_cast<int>(plan_.steps.size()) - 1;
}

Operand PlanBuilder::FlatOperand(Role role, NodeId node, int buffer) const {
  Operand o;
  o.role = role;
  o.node = node;
  o.buffer = buffer;
  o.bytes = plan_.buffers[static_cast<size_t>(buffer)].bytes;
  return o;
}

Operand PlanBuilder::PlacedOperand(Role role, NodeId node, const Place& place) const {
  CNN_CHECK(place.buffer >= 0, graph_.node(node).name, " has no memory");
  Operand o;
  o.role = role;
  o.node = node;
  o.buffer = place.buffer;
  o.offset = place.channel_offset * static_cast<int64_t>(sizeof(float));
  o.shape = graph_.shape(node, batch());
  o.pixel_stride = place.pixel_stride;
  o.bytes = o.shape.size() * static_cast<int64_t>(sizeof(float));
  return o;
}

Operand PlanBuilder::Value(NodeId id) const {
  return PlacedOperand(Role::kValue, id, value_places_[static_cast<size_t>(id)]);
}

Operand PlanBuilder::Gradient(NodeId id) const {
  return PlacedOperand(Role::kGradient, id, gradient_places_[static_cast<size_t>(id)]);
}

Operand PlanBuilder::ParameterGradient(int parameter) {
  int& buffer = parameter_gradients_[static_cast<size_t>(parameter)];
  const Parameter& p = graph_.parameters()[static_cast<size_t>(parameter)];
  if (buffer < 0) {
    buffer = NewBuffer("d " + p.name, MemoryCategory::kGradients,
                       p.count() * static_cast<int64_t>(sizeof(float)));
  }
  Operand o = FlatOperand(Role::kParameterGradient, p.node, buffer);
  o.index = parameter;
  return o;
}

Operand PlanBuilder::NewWorkspace(const std::string& name, size_t bytes) {
  if (bytes == 0) return Operand();
  const int buffer =
      NewBuffer(name + " workspace", MemoryCategory::kWorkspace, static_cast<int64_t>(bytes));
  return FlatOperand(Role::kWorkspace, kNoNode, buffer);
}

Step PlanBuilder::NewStep(StepKind kind, Phase phase, NodeId node, const char* suffix) const {
  Step step;
  step.kind = kind;
  step.phase = phase;
  step.node = node;
  step.name = absl::StrCat(graph_.node(node).name, " ", suffix);
  return step;
}

void PlanBuilder::Emit(Step step) {
  const auto now = static_cast<int>(plan_.steps.size());
  step.ForEachOperand([&](const Operand& o) {
    BufferLifetime& b = plan_.buffers[static_cast<size_t>(o.buffer)];
    if (b.first < 0) b.first = now;
    b.last = now;
    if (o.role != Role::kWorkspace) step.bytes += o.bytes;
  });
  if (step.accumulate || (step.has_epilogue() && step.epilogues[0].add)) {
    for (const Operand& o : step.outputs) step.bytes += o.bytes;  // read as well
  }
  // Parameters are read or, by an update, read and written beside their momentum.
  if (step.kind == StepKind::kUpdateParameter) {
    step.bytes += 4 * step.parameter_gradients[0].bytes;
  } else if (step.phase != Phase::kLoss && step.parameter_gradients.empty()) {
    for (const int p : graph_.node(step.node).parameters) {
      step.bytes +=
          graph_.parameters()[static_cast<size_t>(p)].count() * static_cast<int64_t>(sizeof(float));
    }
  }
  plan_.steps.push_back(std::move(step));
}

void PlanBuilder::Finish() {
  // What the caller fills or reads between phases stays where it is.
  KeepForever(plan_.input.buffer);
  if (plan_.labels.valid()) KeepForever(plan_.labels.buffer);
  if (plan_.loss.valid()) KeepForever(plan_.loss.buffer);
  if (plan_.options.update != Update::kFused) {
    for (const int buffer : parameter_gradients_) {
      if (buffer >= 0) KeepForever(buffer);
    }
  }
  BufferLifetime& logits = plan_.buffers[static_cast<size_t>(plan_.logits.buffer)];
  for (size_t i = 0; i < plan_.steps.size(); ++i) {
    if (plan_.steps[i].phase <= Phase::kLoss) {
      logits.last = std::max(logits.last, static_cast<int>(i));
    }
  }
  for (BufferLifetime& b : plan_.buffers) {
    // A buffer that no step touches would be an error of the builder.
    CNN_CHECK(b.first >= 0, "buffer ", b.name, " is never used");
  }

  plan_.arena_bytes = PlaceBuffers(&plan_.buffers);
  const auto place = [&](Operand& o) {
    if (o.valid()) o.offset += plan_.buffers[static_cast<size_t>(o.buffer)].offset;
  };
  for (Step& step : plan_.steps) step.ForEachOperand(place);
  for (Operand* o : {&plan_.input, &plan_.labels, &plan_.logits, &plan_.loss}) place(*o);

  for (size_t i = 0; i < plan_.steps.size(); ++i) {
    const BytesByCategory live = plan_.LiveBytes(static_cast<int>(i));
    if (Total(live) > plan_.lower_bound_bytes) {
      plan_.lower_bound_bytes = Total(live);
      plan_.bytes = live;
    }
    plan_.peak_activation_bytes =
        std::max(plan_.peak_activation_bytes, At(live, MemoryCategory::kActivations));
    plan_.peak_workspace_bytes =
        std::max(plan_.peak_workspace_bytes, At(live, MemoryCategory::kWorkspace));
  }
  At(plan_.bytes, MemoryCategory::kWorkspace) += plan_.arena_bytes - plan_.lower_bound_bytes;
}

absl::StatusOr<Plan> PlanBuilder::Build() {
  const PlanOptions& options = plan_.options;
  if (options.batch < 1) {
    return absl::InvalidArgumentError(absl::StrCat("batch ", options.batch, " is below 1"));
  }
  if (options.training) {
    for (const Node& node : graph_.nodes()) {
      if (node.op == Op::kBatchNorm2d && options.batch * node.shape.h * node.shape.w == 1) {
        return absl::InvalidArgumentError(
            absl::StrCat(graph_.model(), ": node ", node.name,
                         ": batch statistics need more than one value for each channel: a larger "
                         "batch or image"));
      }
    }
  }
  CNN_CHECK(options.loss || !options.backward, "a backward pass starts from the loss");
  CNN_CHECK(options.backward || options.update == Update::kNone, "an update needs gradients");

  Fuse();
  ChooseSlices();
  FuseNorms();
  PlaceValues();
  plan_.input = Value(graph_.input());
  plan_.logits = Value(graph_.logits());
  if (options.loss) {
    plan_.labels = FlatOperand(Role::kLabels, kNoNode,
                               NewBuffer("labels", MemoryCategory::kData,
                                         batch() * static_cast<int64_t>(sizeof(int32_t))));
    plan_.loss = FlatOperand(Role::kLoss, kNoNode,
                             NewBuffer("loss", MemoryCategory::kActivations, sizeof(float)));
  }
  const auto nodes = static_cast<NodeId>(graph_.nodes().size());
  for (NodeId id = 0; id < nodes; ++id) EmitForward(id);
  if (options.loss) EmitLoss();
  if (options.backward) {
    for (NodeId id = nodes - 1; id >= 0; --id) EmitBackward(id);
    if (options.update == Update::kAfterBackward) {
      std::vector<int> all(graph_.parameters().size());
      for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int>(i);
      EmitUpdates(all);
    }
  }
  Finish();
  return std::move(plan_);
}

absl::StatusOr<Plan> MakePlan(const Graph& graph, const PlanOptions& options, int64_t state_bytes) {
  auto plan = PlanBuilder(graph, options).Build();
  if (!plan.ok()) return plan;
  const int64_t needed = plan->arena_bytes + state_bytes;
  if (options.memory_limit > 0 && needed > options.memory_limit) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "memory_limit of ", options.memory_limit, " bytes cannot be met: ", graph.model(),
        " at batch ", options.batch, " needs at least ", needed));
  }
  return plan;
}

}  // namespace classicnn
