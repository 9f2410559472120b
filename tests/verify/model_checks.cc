#include "tests/verify/model_checks.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/random.h"

namespace classicnn::verify {
namespace {

constexpr uint64_t kDropoutStep = 5;
constexpr double kLearningRate = 1.0;  // large, so that a missing update shows

void FillNormal(const RandomStream& stream, double scale, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) {
    to[i] = static_cast<float>(scale * stream.Normal(static_cast<uint64_t>(i)));
  }
}
void FillUniform(const RandomStream& stream, double low, double high, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) {
    to[i] = static_cast<float>(low + (high - low) * stream.Uniform(static_cast<uint64_t>(i)));
  }
}

std::vector<float> RandomInput(const Graph& graph, int64_t batch, uint64_t seed,
                               const char* purpose) {
  std::vector<float> input(static_cast<size_t>(graph.shape(graph.input(), batch).size()));
  FillNormal({seed, purpose}, 1, static_cast<int64_t>(input.size()), input.data());
  return input;
}

// Running statistics near those of a training pass over other images.
void SettleStatistics(ModelCase* c, uint64_t seed) {
  constexpr int64_t kImages = 2;
  ReferenceModel<float> model(c->graph, kImages, /*training=*/true);
  model.CopyState(*c->state);
  const std::vector<float> input = RandomInput(c->graph, kImages, seed, "verify settling");
  std::copy(input.begin(), input.end(), model.input().data);
  model.Forward();
  for (size_t i = 0; i < c->graph.nodes().size(); ++i) {
    const auto id = static_cast<NodeId>(i);
    const Node& node = c->graph.node(id);
    if (node.op != Op::kBatchNorm2d) continue;
    const RandomStream spread(seed, node.name);
    for (size_t ch = 0; ch < static_cast<size_t>(node.shape.c); ++ch) {
      const float inv_std = model.saved_inv_std(id)[ch];
      c->state->buffer(node.buffers[0])[ch] = model.saved_mean(id)[ch];
      c->state->buffer(node.buffers[1])[ch] =
          (0.8f + 0.4f * spread.Uniform(ch)) / (inv_std * inv_std);
    }
  }
}

Array Single(double value) {
  Array array(Shape4{1, 1, 1, 1});
  array.values[0] = value;
  return array;
}

double Norm(const Array& a) {
  double squares = 0;
  for (const double v : a.values) squares += v * v;
  return std::sqrt(squares);
}

// Where every value passes, the next batch norm takes away what a bias adds: its gradient is zero
// but for rounding. Such expectations prove nothing.
void DropZeroGradients(Arrays* expected) {
  const auto is_gradient = [](const std::string& name) { return absl::StartsWith(name, "grad."); };
  double largest = 0;
  for (const auto& [name, array] : *expected) {
    if (is_gradient(name)) largest = std::max(largest, Norm(array));
  }
  for (auto i = expected->begin(); i != expected->end();) {
    const bool zero = is_gradient(i->first) && Norm(i->second) < 1e-6 * largest;
    i = zero ? expected->erase(i) : std::next(i);
  }
}

std::string OnOff(bool on) { return on ? "on" : "off"; }

// Two images, or as many as give each batch normalization eight values of a channel: of two values
// it leaves the sign of their difference, which rounding may turn.
int64_t BatchOf(const Graph& graph) {
  constexpr int64_t kValues = 8;
  int64_t batch = 2;
  for (const Node& node : graph.nodes()) {
    if (node.op == Op::kBatchNorm2d) {
      batch = std::max(batch, (kValues - 1) / node.shape.pixels() + 1);
    }
  }
  return batch;
}

}  // namespace

std::unique_ptr<ModelState> CloneState(const Graph& graph, const ModelState& state) {
  auto clone = ModelState::Create(graph, state.optimizer(), nullptr);
  CNN_CHECK(clone.ok(), clone.status().ToString());
  for (size_t i = 0; i < graph.parameters().size(); ++i) {
    const auto p = static_cast<int>(i);
    std::copy_n(state.parameter(p), graph.parameters()[i].count(), (*clone)->parameter(p));
  }
  for (size_t i = 0; i < graph.buffers().size(); ++i) {
    const auto b = static_cast<int>(i);
    std::copy_n(state.buffer(b), graph.buffers()[i].count, (*clone)->buffer(b));
  }
  return *std::move(clone);
}

absl::StatusOr<ModelCase> MakeModelCase(const std::string& model, const ModelOptions& options,
                                        bool training, int64_t batch, uint64_t seed) {
  absl::StatusOr<Graph> graph = BuildModel(model, options);
  if (!graph.ok()) return graph.status();
  return MakeGraphCase(*std::move(graph), training, batch, seed);
}

ModelCase MakeGraphCase(Graph graph, bool training, int64_t batch, uint64_t seed) {
  ModelCase c;
  c.graph = std::move(graph);
  c.training = training;
  c.batch = batch;
  c.dropout_seed = seed;
  auto state = ModelState::Create(c.graph, Optimizer::kSgd, nullptr);
  CNN_CHECK(state.ok(), state.status().ToString());
  c.state = *std::move(state);
  c.state->Initialize(c.graph, seed);
  for (size_t i = 0; i < c.graph.parameters().size(); ++i) {
    const Parameter& p = c.graph.parameters()[i];
    if (!p.norm_or_bias()) continue;
    float* const values = c.state->parameter(static_cast<int>(i));
    const RandomStream stream(seed, absl::StrCat("verify ", p.name));
    if (p.kind == ParameterKind::kNormWeight) {
      FillUniform(stream, 0.5, 1.5, p.count(), values);
    } else {
      FillNormal(stream, 0.1, p.count(), values);
    }
  }
  for (size_t i = 0; i < c.graph.buffers().size(); ++i) {
    const Buffer& b = c.graph.buffers()[i];
    float* const values = c.state->buffer(static_cast<int>(i));
    const RandomStream stream(seed, absl::StrCat("verify ", b.name));
    if (b.initial == 0) {
      FillNormal(stream, 0.1, b.count, values);
    } else {
      FillUniform(stream, 0.5, 1.5, b.count, values);
    }
  }
  if (!training) SettleStatistics(&c, seed);
  c.input = RandomInput(c.graph, batch, seed, "verify input");
  const RandomStream labels(seed, "verify labels");
  for (int64_t i = 0; i < batch; ++i) {
    c.labels.push_back(static_cast<int32_t>(
        labels.Below(static_cast<uint64_t>(i), static_cast<uint64_t>(c.graph.num_classes()))));
  }
  return c;
}

void MoveOffTheKinks(ModelCase* c, uint64_t seed) {
  constexpr float kFar = 6;
  for (size_t i = 0; i < c->graph.parameters().size(); ++i) {
    const Parameter& p = c->graph.parameters()[i];
    if (p.kind != ParameterKind::kNormBias) continue;
    const RandomStream stream(seed, absl::StrCat("verify side ", p.name));
    float* const values = c->state->parameter(static_cast<int>(i));
    for (int64_t k = 0; k < p.count(); ++k) {
      values[k] = stream.Uniform(static_cast<uint64_t>(k)) < 0.5f ? -kFar : kFar;
    }
  }
}

template <typename T>
Arrays RunReferenceModel(const ModelCase& c, ReferenceModel<T>* model) {
  model->CopyState(*c.state);
  std::copy(c.input.begin(), c.input.end(), model->input().data);
  model->labels() = c.labels;
  model->SetDropoutPosition(c.dropout_seed, kDropoutStep);
  model->Forward();
  model->Backward();
  Arrays results;
  results["logits"] = ToArray(View<const T>(model->logits()));
  results["loss"] = Single(static_cast<double>(model->loss()));
  for (size_t i = 0; i < c.graph.parameters().size(); ++i) {
    const Parameter& p = c.graph.parameters()[i];
    results["grad." + p.name] = ToArray(model->gradient(static_cast<int>(i)).data(), p.count());
  }
  for (size_t i = 0; i < c.graph.buffers().size(); ++i) {
    const Buffer& b = c.graph.buffers()[i];
    results["buffer." + b.name] = ToArray(model->buffer(static_cast<int>(i)).data(), b.count);
  }
  return results;
}
template Arrays RunReferenceModel(const ModelCase&, ReferenceModel<float>*);
template Arrays RunReferenceModel(const ModelCase&, ReferenceModel<double>*);

Arrays RunOptimizedModel(const ModelCase& c, const PlanOptions& options,
                         OptimizedThreads& optimized) {
  const std::unique_ptr<ModelState> state = CloneState(c.graph, *c.state);
  absl::StatusOr<Plan> plan = MakePlan(c.graph, options);
  CNN_CHECK(plan.ok(), plan.status().ToString());
  auto executor = Executor::Create(c.graph, *std::move(plan), state.get(), optimized.context());
  CNN_CHECK(executor.ok(), executor.status().ToString());
  Executor& run = **executor;
  // Whatever is not computed shows.
  auto* const arena = reinterpret_cast<float*>(run.arena_data());
  std::fill_n(arena, run.plan().arena_bytes / static_cast<int64_t>(sizeof(float)), NAN);
  std::copy(c.input.begin(), c.input.end(), run.input().data);
  std::copy(c.labels.begin(), c.labels.end(), run.labels());
  run.SetDropoutPosition(c.dropout_seed, kDropoutStep);
  UpdateParams update;
  update.sgd = {kLearningRate, 0.9, /*weight_decay=*/0, /*nesterov=*/false};

  Arrays results;
  optimized.Run([&](Context&) {
    run.SetUpdate(update);
    run.Forward();
    results["logits"] = ToArray(run.logits());
    results["loss"] = Single(static_cast<double>(run.loss()));
    run.Backward();
    if (options.update == Update::kAfterBackward) run.ApplyUpdate();
  });
  for (size_t i = 0; i < c.graph.parameters().size(); ++i) {
    const Parameter& p = c.graph.parameters()[i];
    results["grad." + p.name] = ToArray(state->momentum(static_cast<int>(i)), p.count());
    results["updated." + p.name] = ToArray(state->parameter(static_cast<int>(i)), p.count());
  }
  for (size_t i = 0; i < c.graph.buffers().size(); ++i) {
    const Buffer& b = c.graph.buffers()[i];
    results["buffer." + b.name] = ToArray(state->buffer(static_cast<int>(i)), b.count);
  }
  return results;
}

Row CompareModel(const std::string& what, const std::string& impl, const ModelCase& c,
                 const Arrays& actual, const Arrays& expected, const ModelBounds& model_bounds,
                 Bounds bounds, const std::string& command) {
  Row group;
  group.what = what;
  group.impl = impl;
  group.command = command;
  const auto part = [&](const std::string& tensor, const Array& expectation, double bound) {
    Row row;
    row.what = what;
    row.impl = impl;
    row.bound = bounds(bound);
    row.command = command;
    const auto found = actual.find(tensor);
    if (found == actual.end()) {
      Fail(tensor, "not computed", &row);
    } else if (!c.training && absl::StartsWith(tensor, "buffer.")) {
      JudgeUnchanged(tensor, found->second, expectation, &row);
    } else {
      Judge(tensor, found->second, expectation, row.bound, &row);
    }
    group.parts.push_back(row);
    return row.error;
  };
  std::vector<double> gradient_errors;
  for (const auto& [tensor, expectation] : expected) {
    const bool gradient = absl::StartsWith(tensor, "grad.");
    const double error =
        part(tensor, expectation, gradient ? model_bounds.gradient : model_bounds.value);
    if (gradient) gradient_errors.push_back(std::isfinite(error) ? error : HUGE_VAL);
  }
  if (!gradient_errors.empty() && model_bounds.median > 0) {
    std::sort(gradient_errors.begin(), gradient_errors.end());
    Row row;
    row.what = what;
    row.tensor = "median of the gradients";
    row.impl = impl;
    row.error = gradient_errors[gradient_errors.size() / 2];
    row.bound = bounds(model_bounds.median);
    row.verdict = row.error <= row.bound ? Verdict::kPass : Verdict::kFail;
    row.comparisons = 1;
    row.command = command;
    if (row.verdict != Verdict::kPass) row.detail = "half of the gradients are further off";
    group.parts.push_back(row);
  }
  for (size_t i = 0; i < c.graph.parameters().size(); ++i) {
    const Parameter& p = c.graph.parameters()[i];
    const auto updated = actual.find("updated." + p.name);
    if (updated == actual.end()) continue;
    const std::vector<double>& gradient = actual.at("grad." + p.name).values;
    Array expectation(updated->second.shape);
    const float* const before = c.state->parameter(static_cast<int>(i));
    for (size_t k = 0; k < gradient.size(); ++k) {
      expectation.values[k] = static_cast<double>(before[k]) - kLearningRate * gradient[k];
    }
    part("updated." + p.name, expectation, model_bounds.update);
  }
  Summarize(&group);
  return group;
}

std::vector<Row> CheckModel(const std::string& model, const ModelOptions& options, bool training,
                            uint64_t seed, Bounds bounds, OptimizedThreads& optimized) {
  const ModelOptions defaults;
  std::string command = absl::StrCat("cnn-verify --models=", model, " --seed=", seed);
  if (options.image_h != defaults.image_h) {
    absl::StrAppend(&command, " --image_size=", options.image_h);
  }
  if (options.num_classes != defaults.num_classes) {
    absl::StrAppend(&command, " --num_classes=", options.num_classes);
  }
  absl::StatusOr<Graph> graph = BuildModel(model, options);
  CNN_CHECK(graph.ok(), graph.status().ToString());
  const int64_t batch = BatchOf(*graph);
  ModelCase made = MakeGraphCase(*std::move(graph), training, batch, seed);
  const ModelCase& c = made;
  ReferenceModel<double> reference(c.graph, c.batch, training);
  const Arrays expected = RunReferenceModel(c, &reference);

  PlanOptions plan;
  plan.batch = c.batch;
  plan.training = training;
  plan.num_threads = optimized.num_threads();
  const auto with = [&plan](bool fusion, bool winograd, Update update) {
    PlanOptions result = plan;
    result.fusion = fusion;
    result.winograd = winograd;
    result.update = update;
    return result;
  };
  const auto name = [&](const char* how, const PlanOptions& p) {
    return absl::StrCat(model, training ? " train " : " eval ", how, " fusion=", OnOff(p.fusion),
                        " winograd=", OnOff(p.winograd),
                        " update=", p.update == Update::kFused ? "fused" : "after_backward");
  };
  std::vector<Row> rows;
  for (const PlanOptions& p :
       {with(true, true, Update::kFused), with(false, true, Update::kFused),
        with(true, false, Update::kFused), with(false, false, Update::kAfterBackward)}) {
    rows.push_back(CompareModel(name("end to end", p), "optimized", c,
                                RunOptimizedModel(c, p, optimized), expected, ModelBounds(), bounds,
                                command));
  }
  for (const PlanOptions& p :
       {with(true, true, Update::kFused), with(false, false, Update::kAfterBackward)}) {
    rows.push_back(
        CheckNodeByNode(name("node by node", p), c, reference, p, bounds, command, optimized));
  }
  if (!training) return rows;
  MoveOffTheKinks(&made, seed);
  Arrays off_the_kinks = RunReferenceModel(c, &reference);
  DropZeroGradients(&off_the_kinks);
  for (const PlanOptions& p :
       {with(true, true, Update::kFused), with(false, true, Update::kFused)}) {
    rows.push_back(CompareModel(name("off the kinks", p), "optimized", c,
                                RunOptimizedModel(c, p, optimized), off_the_kinks, kFewKinksBounds,
                                bounds, command));
  }
  return rows;
}

}  // namespace classicnn::verify
