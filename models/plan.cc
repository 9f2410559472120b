#include "models/plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "models/placement.h"
#include "models/plan_builder.h"
#include "models/plan_recompute.h"

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

int64_t Plan::recomputed_macs() const {
  int64_t sum = 0;
  for (const Step& s : steps) sum += s.recomputed ? s.executed_macs : 0;
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

bool PlanBuilder::FeedsLinear(NodeId id) const {
  for (const NodeId reader : graph_.readers(id)) {
    const Op op = graph_.node(reader).op;
    if (op == Op::kLinear) return true;
    if ((op == Op::kRelu || op == Op::kDropout) && FeedsLinear(reader)) return true;
  }
  return false;
}

PlanBuilder::Place PlanBuilder::NewPlace(const std::string& name, MemoryCategory category,
                                         NodeId id) {
  // Pixels a multiple of 1 KB apart share a few sets of a cache: the rows of a register block with
  // what its epilogue reads would be more than their ways. One more line spreads them. A fully
  // connected layer reads an image as one row, without gaps.
  constexpr int64_t kCollides = 256;  // floats
  constexpr int64_t kLine = 16;
  const Shape4 shape = graph_.shape(id, batch());
  const bool pad = shape.c % kCollides == 0 && shape.h * shape.w > 1 && !FeedsLinear(id);
  Place place;
  place.pixel_stride = shape.c + (pad ? kLine : 0);
  place.buffer = NewBuffer(
      name, category, shape.pixels() * place.pixel_stride * static_cast<int64_t>(sizeof(float)));
  return place;
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

int64_t PlanBuilder::ParameterBytes(NodeId node) const {
  int64_t count = 0;
  for (const int p : graph_.node(node).parameters) {
    count += graph_.parameters()[static_cast<size_t>(p)].count();
  }
  return count * static_cast<int64_t>(sizeof(float));
}

Conv2dAlgorithm PlanBuilder::AlgorithmOf(NodeId conv2d, Conv2dPass pass) const {
  const auto algorithms = [&](int64_t batch) {
    return Conv2dAlgorithms(graph_.conv2d_shape(conv2d, batch), pass, plan_.options.winograd);
  };
  const std::vector<Conv2dAlgorithm> usable = algorithms(batch());
  if (plan_.options.algorithm_batch <= 0) return usable[0];
  const Conv2dAlgorithm wanted = algorithms(plan_.options.algorithm_batch)[0];
  return std::find(usable.begin(), usable.end(), wanted) != usable.end() ? wanted : usable[0];
}

bool PlanBuilder::TakesOneSweep(NodeId conv2d, Conv2dAlgorithm algorithm) const {
  const int64_t as = plan_.options.algorithm_batch;
  return Conv2dHasBackward(graph_.conv2d_shape(conv2d, batch()), algorithm) &&
         Conv2dPrefersBackward(graph_.conv2d_shape(conv2d, as > 0 ? as : batch()), algorithm);
}

void PlanBuilder::Emit(Step step) {
  step.ForEachOperand([&](const Operand& o) {
    if (o.role != Role::kWorkspace) step.bytes += o.bytes;
  });
  if (step.accumulate || (step.has_epilogue() && step.epilogues[0].add)) {
    for (const Operand& o : step.outputs) step.bytes += o.bytes;  // read as well
  }
  // Parameters are read or, by an update, read and written beside their momentum.
  if (step.kind == StepKind::kUpdateParameter) {
    step.bytes += 4 * step.parameter_gradients[0].bytes;
  } else if (step.updates) {
    step.bytes += 4 * ParameterBytes(step.node);
  } else if (step.phase != Phase::kLoss &&
             (step.parameter_gradients.empty() || step.kind == StepKind::kConv2dBackward)) {
    step.bytes += ParameterBytes(step.node);
  }
  plan_.steps.push_back(std::move(step));
}

absl::StatusOr<UnplacedPlan> PlanBuilder::Build() {
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
  std::vector<int> forever = {plan_.input.buffer};
  if (plan_.labels.valid()) forever.push_back(plan_.labels.buffer);
  if (plan_.loss.valid()) forever.push_back(plan_.loss.buffer);
  if (options.update != Update::kFused) {
    for (const int buffer : parameter_gradients_) {
      if (buffer >= 0) forever.push_back(buffer);
    }
  }
  return UnplacedPlan{std::move(plan_), std::move(forever)};
}

namespace {

// Lifetimes of all buffers, then their offsets, and what follows from both.
void PlacePlan(const std::vector<int>& forever, Plan* plan) {
  for (BufferLifetime& b : plan->buffers) b.first = -1;
  for (size_t i = 0; i < plan->steps.size(); ++i) {
    plan->steps[i].ForEachOperand([&](const Operand& o) {
      BufferLifetime& b = plan->buffers[static_cast<size_t>(o.buffer)];
      if (b.first < 0) b.first = static_cast<int>(i);
      b.last = static_cast<int>(i);
    });
  }
  // What the caller fills or reads between phases stays where it is.
  for (const int buffer : forever) {
    BufferLifetime& b = plan->buffers[static_cast<size_t>(buffer)];
    b.first = 0;
    b.last = static_cast<int>(plan->steps.size()) - 1;
  }
  BufferLifetime& logits = plan->buffers[static_cast<size_t>(plan->logits.buffer)];
  for (size_t i = 0; i < plan->steps.size(); ++i) {
    if (plan->steps[i].phase <= Phase::kLoss) {
      logits.last = std::max(logits.last, static_cast<int>(i));
    }
  }
  for (BufferLifetime& b : plan->buffers) {
    if (b.first < 0) b.bytes = b.first = b.last = 0;  // dropped before its first use
  }

  plan->arena_bytes = PlaceBuffers(&plan->buffers);
  const auto place = [&](Operand& o) {
    if (o.valid()) o.offset += plan->buffers[static_cast<size_t>(o.buffer)].offset;
  };
  for (Step& step : plan->steps) step.ForEachOperand(place);
  for (Operand* o : {&plan->input, &plan->labels, &plan->logits, &plan->loss}) place(*o);

  plan->lower_bound_bytes = plan->peak_activation_bytes = plan->peak_workspace_bytes = 0;
  for (size_t i = 0; i < plan->steps.size(); ++i) {
    const BytesByCategory live = plan->LiveBytes(static_cast<int>(i));
    if (Total(live) > plan->lower_bound_bytes) {
      plan->lower_bound_bytes = Total(live);
      plan->bytes = live;
    }
    plan->peak_activation_bytes =
        std::max(plan->peak_activation_bytes, At(live, MemoryCategory::kActivations));
    plan->peak_workspace_bytes =
        std::max(plan->peak_workspace_bytes, At(live, MemoryCategory::kWorkspace));
  }
  At(plan->bytes, MemoryCategory::kWorkspace) += plan->arena_bytes - plan->lower_bound_bytes;
}

Plan PlacedWithout(const UnplacedPlan& base, const std::vector<int>& dropped) {
  Plan plan = base.plan;
  DropBuffers(dropped, &plan);
  PlacePlan(base.forever, &plan);
  return plan;
}

// Buffers that a fused plan drops without a limit, too. Overlapping max pooling makes many values
// out of as many: they cost but a pass to make again, which is always worth their memory.
std::vector<int> DroppedAnyway(const Graph& graph, const UnplacedPlan& base) {
  std::vector<int> buffers;
  if (!base.plan.options.fusion) return buffers;
  for (const DropCandidate& candidate : FindDropCandidates(base.plan)) {
    for (const Step& step : base.plan.steps) {
      if (step.kind == StepKind::kMaxPool2dForward && step.outputs[0].buffer == candidate.buffer &&
          graph.node(step.node).stride == 1) {
        buffers.push_back(candidate.buffer);
      }
    }
  }
  return buffers;
}

// The plan that needs at most `limit` bytes of arena and computes least again; where there is none,
// the smallest that was found.
Plan PlanWithin(int64_t limit, const UnplacedPlan& base, std::vector<int> dropped) {
  std::vector<int> more;  // cheapest for each byte first
  for (const DropCandidate& candidate : FindDropCandidates(base.plan)) {
    if (std::count(dropped.begin(), dropped.end(), candidate.buffer) == 0) {
      more.push_back(candidate.buffer);
    }
  }
  const size_t fixed = dropped.size();
  Plan smallest = PlacedWithout(base, dropped);
  std::vector<int> smallest_dropped = dropped;
  // Steps are taken by what is alive at once: where buffers are placed makes a plan a little larger
  // or smaller by chance.
  int64_t alive = smallest.lower_bound_bytes;
  const auto keep = [&](Plan plan) {
    alive = plan.lower_bound_bytes;
    if (plan.arena_bytes > smallest.arena_bytes) return;
    smallest = std::move(plan);
    smallest_dropped = dropped;
  };
  for (bool progress = true; progress && smallest.arena_bytes > limit;) {
    const int64_t before = alive;
    std::vector<int> refused;
    for (size_t next = 0; smallest.arena_bytes > limit && next < more.size(); ++next) {
      dropped.push_back(more[next]);
      Plan plan = PlacedWithout(base, dropped);
      if (plan.lower_bound_bytes <= alive) {
        keep(std::move(plan));
      } else {
        dropped.pop_back();  // what it takes to compute this again is more than it frees
        refused.push_back(more[next]);
      }
    }
    // Nor may one that was dropped be worth it any more: with a concatenation, all that goes into
    // it is computed again at once, where without only what each of its readers needs is.
    for (size_t i = dropped.size(); smallest.arena_bytes > limit && i-- > fixed;) {
      const int buffer = dropped[i];
      dropped.erase(dropped.begin() + static_cast<std::ptrdiff_t>(i));
      Plan plan = PlacedWithout(base, dropped);
      if (plan.lower_bound_bytes < alive) {
        keep(std::move(plan));
        refused.push_back(buffer);
      } else {
        dropped.insert(dropped.begin() + static_cast<std::ptrdiff_t>(i), buffer);
      }
    }
    progress = alive < before;
    more = std::move(refused);
  }
  if (smallest.arena_bytes > limit) return smallest;
  dropped = std::move(smallest_dropped);
  // Some that were dropped on the way may not be needed: the dearest are asked first.
  for (size_t i = dropped.size(); i-- > fixed;) {
    std::vector<int> fewer = dropped;
    fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(i));
    Plan plan = PlacedWithout(base, fewer);
    if (plan.arena_bytes > limit) continue;
    smallest = std::move(plan);
    dropped = std::move(fewer);
  }
  return smallest;
}

}  // namespace

absl::StatusOr<Plan> MakePlan(const Graph& graph, const PlanOptions& options, int64_t state_bytes) {
  const absl::StatusOr<UnplacedPlan> base = PlanBuilder(graph, options).Build();
  if (!base.ok()) return base.status();
  std::vector<int> dropped = DroppedAnyway(graph, *base);
  if (options.memory_limit <= 0) return PlacedWithout(*base, dropped);
  Plan plan = PlanWithin(options.memory_limit - state_bytes, *base, std::move(dropped));
  const int64_t needed = plan.arena_bytes + state_bytes;
  if (needed > options.memory_limit) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "memory_limit of ", options.memory_limit, " bytes cannot be met: ", graph.model(),
        " at batch ", options.batch, " needs at least ", needed));
  }
  return plan;
}

absl::StatusOr<int64_t> LeastPlanBytes(const Graph& graph, const PlanOptions& options,
                                       int64_t state_bytes) {
  const absl::StatusOr<UnplacedPlan> base = PlanBuilder(graph, options).Build();
  if (!base.ok()) return base.status();
  return PlanWithin(0, *base, DroppedAnyway(graph, *base)).arena_bytes + state_bytes;
}

}  // namespace classicnn
