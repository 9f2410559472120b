#include "reports/extra.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "benches/layer_case.h"
#include "core/context.h"
#include "models/model.h"
#include "models/plan.h"

namespace classicnn {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

absl::StatusOr<double> MedianForwardSeconds(const Conv2dShape& conv, Context& ctx) {
  LayerShape shape;
  shape.kind = LayerKind::kConv2d;
  shape.conv2d = conv;
  auto layer = LayerCase::Create(shape, LayerPass::kForward, {}, ctx);
  if (!layer.ok()) return layer.status();
  (*layer)->RunOptimized();
  Timing timing;
  for (int i = 0; i < 9; ++i) {
    const double start = Now();
    (*layer)->RunOptimized();
    timing.samples.push_back(Now() - start);
  }
  return timing.median();
}

absl::Status MeasureSeparable(const MeasureOptions& options, Results* results) {
  const int64_t n = options.batch;
  const Conv2dShape standard{n, 64, 32, 32, 128, 3, 1, 1, 1};
  const Conv2dShape depthwise{n, 64, 32, 32, 64, 3, 1, 1, 64};
  const Conv2dShape pointwise{n, 64, 32, 32, 128, 1, 1, 0, 1};
  results->extra["separable.standard_macs"] = static_cast<double>(standard.macs() / n);
  results->extra["separable.macs"] = static_cast<double>((depthwise.macs() + pointwise.macs()) / n);
  Context ctx(options.threads);
  std::vector<double> seconds;
  for (const Conv2dShape& shape : {standard, depthwise, pointwise}) {
    const absl::StatusOr<double> s = MedianForwardSeconds(shape, ctx);
    if (!s.ok()) return s.status();
    seconds.push_back(*s);
  }
  results->extra["separable.standard_seconds"] = seconds[0];
  results->extra["separable.seconds"] = seconds[1] + seconds[2];
  return absl::OkStatus();
}

// Dense layers by block, from the names of their 3x3 convolutions:
// features.denseblockB.denselayerL.conv2.
std::map<int, int> DenseLayers(const Graph& graph, int64_t* convolutions) {
  std::map<int, int> layers;
  *convolutions = 0;
  for (const Node& node : graph.nodes()) {
    if (node.op != Op::kConv2d || !absl::StrContains(node.name, ".denselayer")) continue;
    ++*convolutions;
    const std::vector<std::string> parts = absl::StrSplit(node.name, '.');
    int block = 0;
    if (parts.size() != 4 || parts[3] != "conv2") continue;
    if (absl::SimpleAtoi(absl::StripPrefix(parts[1], "denseblock"), &block)) ++layers[block];
  }
  return layers;
}

// What the forward pass has in activations after each dense layer of the longest block; the
// difference from one layer to the next is what that layer adds.
absl::Status CountDenseMemory(const Graph& graph, const std::map<int, int>& layers,
                              const MeasureOptions& options, Results* results) {
  const auto longest =
      std::max_element(layers.begin(), layers.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  PlanOptions plan_options;
  plan_options.batch = options.batch;
  plan_options.num_threads = options.threads;
  const absl::StatusOr<Plan> plan = MakePlan(graph, plan_options);
  if (!plan.ok()) return plan.status();
  const std::string prefix = absl::StrCat("features.denseblock", longest->first, ".denselayer");
  std::vector<double> kept;
  for (size_t i = 0; i < plan->steps.size(); ++i) {
    const Step& step = plan->steps[i];
    if (step.phase != Phase::kForward || step.kind != StepKind::kConv2dForward) continue;
    const std::string& name = graph.node(step.node).name;
    if (!absl::StartsWith(name, prefix) || !absl::EndsWith(name, ".conv2")) continue;
    kept.push_back(static_cast<double>(
        At(plan->LiveBytes(static_cast<int>(i)), MemoryCategory::kActivations)));
  }
  if (kept.size() >= 3) {
    results->extra["densenet121.layer_bytes_first"] = kept[1] - kept[0];
    results->extra["densenet121.layer_bytes_last"] = kept.back() - kept[kept.size() - 2];
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status MeasureExtra(const MeasureOptions& options, Results* results, Progress* progress) {
  progress->Update(0, 1, "single claims");
  for (const std::string& model : results->model_order) {
    ModelOptions thousand, large;
    thousand.image_h = thousand.image_w = options.image_size;
    thousand.num_classes = 1000;
    large.image_h = large.image_w = 224;
    large.num_classes = 1000;
    const absl::StatusOr<Graph> graph_1000 = BuildModel(model, thousand);
    const absl::StatusOr<Graph> graph_224 = BuildModel(model, large);
    if (!graph_1000.ok()) return graph_1000.status();
    if (!graph_224.ok()) return graph_224.status();
    results->extra[absl::StrCat(model, ".parameters_1000")] =
        static_cast<double>(graph_1000->parameter_count());
    results->extra[absl::StrCat(model, ".macs_224")] =
        static_cast<double>(graph_224->macs_per_image());
    if (model != "densenet121") continue;
    ModelOptions measured;
    measured.image_h = measured.image_w = options.image_size;
    measured.num_classes = options.num_classes;
    const absl::StatusOr<Graph> graph = BuildModel(model, measured);
    if (!graph.ok()) return graph.status();
    int64_t convolutions = 0;
    const std::map<int, int> layers = DenseLayers(*graph, &convolutions);
    double connections = 0;
    for (const auto& [block, count] : layers) connections += count * (count + 1) / 2.0;
    results->extra["densenet121.dense_connections"] = connections;
    results->extra["densenet121.block_convolutions"] = static_cast<double>(convolutions);
    if (layers.empty()) continue;
    const absl::Status status = CountDenseMemory(*graph, layers, options, results);
    if (!status.ok()) return status;
  }
  return MeasureSeparable(options, results);
}

}  // namespace classicnn
