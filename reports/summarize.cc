// Results from a graph, a plan and the times of its steps.
#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/check.h"
#include "reports/layer_types.h"
#include "reports/model_bench.h"

namespace classicnn {
namespace {

// The node a step works for; an update works for the node that has the parameter.
NodeId StepNode(const Graph& graph, const Step& step) {
  if (step.node != kNoNode || step.parameter_gradients.empty()) return step.node;
  return graph.parameters()[static_cast<size_t>(step.parameter_gradients[0].index)].node;
}

// The phase that reports count a step in: an update that is fused into the backward pass is an
// update all the same. Only one that is part of backward weights (Step::updates) is not told apart.
Phase ReportedPhase(const Step& step) {
  return step.kind == StepKind::kUpdateParameter ? Phase::kUpdate : step.phase;
}

// Adds one step's time to every sample of `timing`.
void Accumulate(const MeasuredPass& pass, size_t step, Timing* timing) {
  timing->samples.resize(pass.nanos.size(), 0);
  for (size_t i = 0; i < pass.nanos.size(); ++i) {
    timing->samples[i] += static_cast<double>(pass.nanos[i][step]) * 1e-9;
  }
}

std::string ShapeText(const Shape4& s) {
  if (s.h == 1 && s.w == 1) return absl::StrCat(s.c);
  return absl::StrCat(s.c, " × ", s.h, " × ", s.w);
}

double MedianSeconds(const MeasuredPass& pass, size_t step) {
  Timing t;
  Accumulate(pass, step, &t);
  return t.median();
}

// Which roof each step is under. What takes less than this by either is not worth telling apart:
// calling a kernel and waking its threads takes as long.
constexpr double kSmallRoofSeconds = 5e-6;

std::vector<BoundResult> SummarizeBounds(const MeasuredPass& pass, const MachinePeaks& peaks) {
  if (!(peaks.fma_flops > 0) || !(peaks.copy_bytes_per_second > 0)) return {};
  std::vector<BoundResult> bounds(3);
  bounds[0].bound = "arithmetic";
  bounds[1].bound = "memory";
  bounds[2].bound = "small";
  for (size_t i = 0; i < pass.plan.steps.size(); ++i) {
    const Step& step = pass.plan.steps[i];
    const double arithmetic = 2.0 * static_cast<double>(step.executed_macs) / peaks.fma_flops;
    const double memory = static_cast<double>(step.bytes) / peaks.copy_bytes_per_second;
    const double roof = std::max(arithmetic, memory);
    BoundResult& b = bounds[roof < kSmallRoofSeconds ? 2 : memory > arithmetic ? 1 : 0];
    Accumulate(pass, i, &b.seconds);
    ++b.steps;
    b.executed_macs += step.executed_macs;
    b.bytes += step.bytes;
    b.roof_seconds += roof;
  }
  bounds.erase(std::remove_if(bounds.begin(), bounds.end(),
                              [](const BoundResult& b) { return b.steps == 0; }),
               bounds.end());
  return bounds;
}

}  // namespace

ModelResult DescribeModel(const Graph& graph) {
  ModelResult r;
  r.parameters = graph.parameter_count();
  r.parameter_tensors = static_cast<int64_t>(graph.parameters().size());
  r.nodes = static_cast<int64_t>(graph.nodes().size());
  r.macs = graph.macs_per_image();
  r.weight_bytes = r.parameters * static_cast<int64_t>(sizeof(float));
  r.receptive_field = ReceptiveField(graph, LastImageNode(graph));
  for (const Parameter& p : graph.parameters()) {
    switch (p.kind) {
      case ParameterKind::kConvWeight:
        r.conv_parameters += p.count();
        ++r.convolutions;
        break;
      case ParameterKind::kLinearWeight:
        r.linear_parameters += p.count();
        ++r.linear_layers;
        break;
      case ParameterKind::kLinearBias:
        r.linear_parameters += p.count();
        break;
      case ParameterKind::kNormWeight:
      case ParameterKind::kNormBias:
        r.norm_parameters += p.count();
        break;
    }
  }
  return r;
}

PassResult SummarizePass(const Graph& graph, const MeasuredPass& pass, const MachinePeaks& peaks) {
  PassResult r;
  r.batch = pass.batch;
  r.threads = pass.threads;
  r.seconds.samples = pass.seconds;
  std::map<std::pair<std::string, std::string>, TypeResult> types;
  for (size_t i = 0; i < pass.plan.steps.size(); ++i) {
    const Step& step = pass.plan.steps[i];
    switch (ReportedPhase(step)) {
      case Phase::kForward:
      case Phase::kLoss:
        Accumulate(pass, i, &r.forward);
        break;
      case Phase::kBackward:
        Accumulate(pass, i, &r.backward);
        break;
      case Phase::kUpdate:
        Accumulate(pass, i, &r.update);
        break;
    }
    TypeResult& type = types[{StepType(graph, step), StepPass(step)}];
    Accumulate(pass, i, &type.seconds);
    ++type.steps;
    type.macs += step.macs;
    type.executed_macs += step.executed_macs;
    type.bytes += step.bytes;
  }
  for (auto& [key, type] : types) {
    type.type = key.first;
    type.pass = key.second;
    r.types.push_back(std::move(type));
  }
  std::stable_sort(r.types.begin(), r.types.end(), [](const TypeResult& a, const TypeResult& b) {
    return TypeBefore(a.type, b.type);
  });

  r.bounds = SummarizeBounds(pass, peaks);

  const double seconds = r.seconds.median();
  // A training step counts as three forward passes, whatever the plan leaves out (the gradient of
  // the images): so the figure compares with other programs'.
  const double nominal =
      2.0 * static_cast<double>(graph.macs_per_image() * pass.batch) * (pass.train ? 3.0 : 1.0);
  r.images_per_second = static_cast<double>(pass.batch) / seconds;
  r.flops_per_second = nominal / seconds;
  r.peak_fraction = peaks.fma_flops > 0 ? r.flops_per_second / peaks.fma_flops : 0;
  r.executed_flops_per_second = 2.0 * static_cast<double>(pass.plan.executed_macs()) / seconds;
  return r;
}

std::vector<LayerResult> SummarizeLayers(const Graph& graph, const MeasuredPass& pass) {
  std::map<NodeId, LayerResult> layers;
  std::map<NodeId, std::vector<std::string>> algorithms;
  LayerResult loss;
  for (size_t i = 0; i < pass.plan.steps.size(); ++i) {
    const Step& step = pass.plan.steps[i];
    const NodeId id = StepNode(graph, step);
    const bool is_loss = step.kind == StepKind::kCrossEntropy || id == kNoNode;
    LayerResult& layer = is_loss ? loss : layers[id];
    switch (ReportedPhase(step)) {
      case Phase::kForward:
      case Phase::kLoss:
        Accumulate(pass, i, &layer.forward);
        break;
      case Phase::kBackward:
        Accumulate(pass, i, &layer.backward);
        break;
      case Phase::kUpdate:
        Accumulate(pass, i, &layer.update);
        break;
    }
    if (!is_loss && graph.node(id).op == Op::kConv2d && step.kind != StepKind::kUpdateParameter &&
        !step.recomputed) {
      algorithms[id].push_back(Conv2dAlgorithmName(step.algorithm));
    }
  }
  std::vector<LayerResult> result;
  for (auto& [id, layer] : layers) {
    const Node& node = graph.node(id);
    layer.name = node.name;
    layer.type = LayerType(node);
    std::vector<std::string> inputs;
    for (const NodeId input : node.inputs) inputs.push_back(ShapeText(graph.node(input).shape));
    layer.input = absl::StrJoin(inputs, " + ");
    layer.output = ShapeText(node.shape);
    layer.macs = graph.node_macs_per_image(id);
    layer.output_bytes = graph.shape(id, pass.batch).size() * static_cast<int64_t>(sizeof(float));
    for (const int p : node.parameters) {
      layer.parameters += graph.parameters()[static_cast<size_t>(p)].count();
    }
    std::vector<std::string>& names = algorithms[id];
    const bool same = std::all_of(names.begin(), names.end(),
                                  [&](const std::string& name) { return name == names[0]; });
    if (!names.empty()) layer.algorithms = same ? names[0] : absl::StrJoin(names, ", ");
    result.push_back(std::move(layer));
  }
  if (!loss.forward.empty()) {
    loss.name = "loss";
    loss.type = "cross_entropy";
    loss.input = ShapeText(graph.node(graph.logits()).shape);
    loss.output = "1";
    loss.output_bytes = static_cast<int64_t>(sizeof(float));
    result.push_back(std::move(loss));
  }
  return result;
}

MemoryResult SummarizeMemory(const Graph& graph, const MeasuredPass& pass) {
  const Plan& plan = pass.plan;
  const BytesByCategory state = ModelState::Bytes(graph, Optimizer::kSgd);
  MemoryResult r;
  r.peak_bytes = pass.peak_bytes;
  r.arena_bytes = plan.arena_bytes;
  r.least_bytes = plan.lower_bound_bytes + Total(state);
  const auto total = [&](MemoryCategory c) { return At(plan.bytes, c) + At(state, c); };
  r.weights = total(MemoryCategory::kWeights);
  r.gradients = total(MemoryCategory::kGradients);
  r.optimizer = total(MemoryCategory::kOptimizer);
  // The staged batch is an activation to whoever reads the table: the network's input.
  r.activations = total(MemoryCategory::kActivations) + total(MemoryCategory::kData);
  r.workspace = total(MemoryCategory::kWorkspace);

  // At most this many points: of each bucket of steps the fullest one.
  constexpr size_t kPoints = 400;
  const size_t per_point = (plan.steps.size() + kPoints - 1) / kPoints;
  double elapsed = 0;
  int64_t fullest = 0;
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    const BytesByCategory live = plan.LiveBytes(static_cast<int>(i));
    elapsed += MedianSeconds(pass, i);
    MemoryPoint point;
    point.seconds = elapsed;
    point.phase = PhaseName(plan.steps[i].phase);
    point.weights = At(live, MemoryCategory::kWeights) + At(state, MemoryCategory::kWeights);
    point.gradients = At(live, MemoryCategory::kGradients) + At(state, MemoryCategory::kGradients);
    point.optimizer = At(live, MemoryCategory::kOptimizer) + At(state, MemoryCategory::kOptimizer);
    point.activations = At(live, MemoryCategory::kActivations) + At(live, MemoryCategory::kData);
    point.workspace = At(live, MemoryCategory::kWorkspace);
    const int64_t bytes = Total(live);
    if (i % per_point == 0) {
      r.timeline.push_back(point);
      fullest = bytes;
    } else if (bytes > fullest) {
      r.timeline.back() = point;
      fullest = bytes;
    }
  }
  return r;
}

MemoryLimitResult SummarizeMemoryLimit(const Graph& graph, const MeasuredPass& pass) {
  MemoryLimitResult r;
  r.limit_bytes = pass.memory_limit;
  r.plan_bytes = pass.plan.arena_bytes + Total(ModelState::Bytes(graph, Optimizer::kSgd));
  r.peak_bytes = pass.peak_bytes;
  r.activation_bytes = pass.plan.peak_activation_bytes;
  r.executed_macs = pass.plan.executed_macs();
  r.recomputed_macs = pass.plan.recomputed_macs();
  r.recomputed_steps = std::count_if(pass.plan.steps.begin(), pass.plan.steps.end(),
                                     [](const Step& step) { return step.recomputed; });
  r.seconds.samples = pass.seconds;
  return r;
}

}  // namespace classicnn
