#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/layout.h"
#include "tests/verify/golden.h"
#include "tests/verify/golden_reader.h"
#include "tests/verify/model_checks.h"

namespace classicnn::verify {
namespace {

struct GoldenModel {
  ModelCase c;
  Arrays expected;
};

Array ToLayerLayout(const Parameter& p, const std::vector<double>& values) {
  Array array(Shape4{1, 1, 1, p.count()});
  FromPytorchLayout(p, values.data(), array.values.data());
  return array;
}

Array Vector(std::vector<double> values) {
  Array array;
  array.shape = {1, 1, 1, static_cast<int64_t>(values.size())};
  array.values = std::move(values);
  return array;
}

absl::StatusOr<GoldenModel> ReadModel(const SafetensorsFile& file) {
  GoldenReader reader(file);
  GoldenModel golden;
  const std::string model = reader.Text("model", nullptr);
  const std::string mode = reader.Text("mode", nullptr);
  if (reader.ok() && mode != "train" && mode != "eval") {
    reader.Fail("metadata mode must be train or eval");
  }
  ModelOptions options;
  options.dropout = 0;
  options.num_classes = reader.Integer("num_classes", "10", 1, 1000000);
  const std::vector<int64_t> input = reader.Shape("input");
  if (reader.ok() && (input.size() != 4 || input[1] != 3)) {
    reader.FailTensor("input",
                      absl::StrCat("shape ", ShapeText(input), ", should be [N, 3, H, W]"));
  }
  if (!reader.ok()) return reader.status();
  options.image_h = input[2];
  options.image_w = input[3];
  absl::StatusOr<Graph> graph = BuildModel(model, options);
  if (!graph.ok()) {
    reader.Fail(graph.status().message());
    return reader.status();
  }

  ModelCase& c = golden.c;
  c.graph = *std::move(graph);
  c.training = mode == "train";
  c.batch = input[0];
  PlanOptions plan;
  plan.batch = c.batch;
  plan.training = c.training;
  if (const auto made = MakePlan(c.graph, plan); !made.ok()) {  // one value for each channel
    reader.FailTensor("input", made.status().message());
    return reader.status();
  }
  auto state = ModelState::Create(c.graph, Optimizer::kSgd, nullptr);
  if (!state.ok()) return state.status();
  c.state = *std::move(state);
  const std::vector<double> pixels = reader.Values("input", input);
  if (reader.ok()) {
    c.input.resize(pixels.size());
    NchwToNhwc(pixels.data(), View<float>(c.input.data(), c.graph.shape(c.graph.input(), c.batch)));
  }
  c.labels = reader.Labels("labels", c.batch, options.num_classes);

  const std::vector<double> logits =
      reader.Values("expected.logits", {c.batch, options.num_classes});
  if (reader.ok()) {
    golden.expected["logits"] = Array(c.graph.shape(c.graph.logits(), c.batch));
    golden.expected["logits"].values = logits;
  }
  const std::vector<int64_t> loss_shape = reader.Shape("expected.loss");
  golden.expected["loss"] = Vector(reader.Values(
      "expected.loss", loss_shape.size() == 1 ? std::vector<int64_t>{1} : std::vector<int64_t>{}));
  for (size_t i = 0; i < c.graph.parameters().size() && reader.ok(); ++i) {
    const Parameter& p = c.graph.parameters()[i];
    const std::vector<double> values = reader.Values("param." + p.name, p.shape);
    const std::vector<double> gradient = reader.Values("expected.grad." + p.name, p.shape);
    if (!reader.ok()) break;
    FromPytorchLayout(p, values.data(), c.state->parameter(static_cast<int>(i)));
    golden.expected["grad." + p.name] = ToLayerLayout(p, gradient);
  }
  for (size_t i = 0; i < c.graph.buffers().size() && reader.ok(); ++i) {
    const Buffer& b = c.graph.buffers()[i];
    const std::vector<double> before = reader.Values("buffer." + b.name, {b.count});
    golden.expected["buffer." + b.name] =
        Vector(reader.Values("expected.buffer." + b.name, {b.count}));
    if (!reader.ok()) break;
    std::transform(before.begin(), before.end(), c.state->buffer(static_cast<int>(i)),
                   [](double v) { return static_cast<float>(v); });
    if (absl::EndsWith(b.name, ".running_mean")) {
      const std::string counter = b.name.substr(0, b.name.rfind('.')) + ".num_batches_tracked";
      reader.Ignore("buffer." + counter);
      reader.Ignore("expected.buffer." + counter);
    }
  }
  reader.ExpectAllUsed();
  if (!reader.ok()) return reader.status();
  return golden;
}

}  // namespace

absl::StatusOr<std::vector<Row>> CheckGoldenModel(const SafetensorsFile& file, Precision precision,
                                                  Bounds bounds, const std::string& command,
                                                  OptimizedThreads& optimized) {
  absl::StatusOr<GoldenModel> golden = ReadModel(file);
  if (!golden.ok()) return golden.status();
  const ModelCase& c = golden->c;
  const std::string what =
      absl::StrCat(c.graph.model(), c.training ? " train" : " eval", " n", c.batch, " golden");
  Row group;
  if (precision == Precision::kF64) {
    ReferenceModel<double> reference(c.graph, c.batch, c.training);
    ModelBounds f64;
    f64.value = f64.gradient = kF64Bound;
    f64.median = 0;
    group = CompareModel(what, "reference f64", c, RunReferenceModel(c, &reference),
                         golden->expected, f64, bounds, command);
  } else {
    PlanOptions plan;
    plan.batch = c.batch;
    plan.training = c.training;
    plan.num_threads = optimized.num_threads();
    Arrays actual = RunOptimizedModel(c, plan, optimized);
    for (const Parameter& p : c.graph.parameters()) actual.erase("updated." + p.name);
    group = CompareModel(what, "optimized", c, actual, golden->expected, ModelBounds(), bounds,
                         command);
  }
  for (Row& part : group.parts) {
    if (golden->expected.count(part.tensor) != 0) part.tensor = "expected." + part.tensor;
    part.what = what;
  }
  return std::vector<Row>{group};
}

}  // namespace classicnn::verify
