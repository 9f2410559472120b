// cnn-verify: is what the programs compute right?
#include <chrono>
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "core/file.h"
#include "core/isa.h"
#include "core/machine.h"
#include "core/program.h"
#include "models/layer_shapes.h"
#include "models/model.h"
#include "nlohmann/json.hpp"
#include "tests/verify/golden.h"
#include "tests/verify/layer_checks.h"
#include "tests/verify/model_checks.h"
#include "tests/verify/results.h"
#include "tests/verify/runner.h"

ABSL_FLAG(std::string, layers, "all",
          "Layers to check, separated by commas: conv2d, linear, batch_norm2d, relu, max_pool2d, "
          "avg_pool2d, global_avg_pool2d, dropout, cross_entropy, add, concat, optimizer, or all. "
          "Given without --models, only layers are checked.");
ABSL_FLAG(std::string, models, "all",
          "Models to check, separated by commas: vgg16, resnet18, googlenet, mobilenetv1, "
          "densenet121, or all. Given without --layers, only models are checked.");
ABSL_FLAG(std::string, shapes, "",
          "Shapes to check the layers of --layers at, separated by commas, such as "
          "n2c64h32w32k64r3s1p1 for conv2d. Without it: every distinct shape of the five models "
          "at a batch of 2, odd ones, and tiny ones for finite differences.");
ABSL_FLAG(int64_t, seed, 1, "Seed of all random data and of the random odd shapes, from 0.");
ABSL_FLAG(std::string, golden, "",
          "A file of values computed by another framework (scripts/make_golden makes them with "
          "PyTorch): only it is checked.");
ABSL_FLAG(std::string, precision, "f32",
          "f32 checks the optimized code; f64, with --golden, the reference in double with a "
          "bound of 1e-5 for every tensor.");
ABSL_FLAG(double, tolerance, 0,
          "Replaces all bounds on relative errors. Default: each check's own.");
ABSL_FLAG(std::string, json, "", "Also write the results to this file, a row for each tensor.");

namespace classicnn::verify {
namespace {

constexpr int64_t kLayerBatch = 2;

struct Options {
  std::vector<std::string> layers, models, shapes;
  uint64_t seed = 1;
  std::string golden, json;
  Precision precision = Precision::kF32;
  Bounds bounds;
  ModelOptions model;
  int threads = 1;
};

absl::Status Bad(const std::string& message) { return absl::InvalidArgumentError(message); }

absl::StatusOr<Options> ReadFlags() {
  Options o;
  o.golden = absl::GetFlag(FLAGS_golden);
  o.json = absl::GetFlag(FLAGS_json);
  o.threads = ThreadsFlag();
  for (const char* name : {"golden", "json"}) {
    if (FlagWasGiven(name) && (name[0] == 'g' ? o.golden : o.json).empty()) {
      return Bad(absl::StrCat("--", name, " needs the path of a file"));
    }
  }
  const int64_t seed = absl::GetFlag(FLAGS_seed);
  if (seed < 0) return Bad(absl::StrCat("--seed=", seed, " is below 0"));
  o.seed = static_cast<uint64_t>(seed);
  const std::string precision = absl::GetFlag(FLAGS_precision);
  if (precision != "f32" && precision != "f64") {
    return Bad(absl::StrCat("--precision=", precision, ": accepted are f32, f64"));
  }
  o.precision = precision == "f64" ? Precision::kF64 : Precision::kF32;
  if (o.precision == Precision::kF64 && o.golden.empty()) {
    return Bad("--precision=f64 goes with --golden: other checks are of the f32 code");
  }
  o.bounds.replacement = absl::GetFlag(FLAGS_tolerance);
  if (!(o.bounds.replacement >= 0) || std::isinf(o.bounds.replacement) ||
      (FlagWasGiven("tolerance") && o.bounds.replacement == 0)) {
    return Bad(absl::StrCat("--tolerance=", o.bounds.replacement, " is not above 0"));
  }
  if (!o.golden.empty()) {
    for (const char* flag : {"layers", "models", "shapes", "seed", "image_size", "num_classes"}) {
      if (FlagWasGiven(flag)) {
        return Bad(absl::StrCat("--", flag, " does not go with --golden: the file says it all"));
      }
    }
    return o;
  }

  std::vector<std::string> known = LayerKindNames();
  known.push_back(kOptimizerLayer);
  if (FlagWasGiven("layers") || !FlagWasGiven("models")) {
    auto layers = ParseChoices("layers", absl::GetFlag(FLAGS_layers), known);
    if (!layers.ok()) return layers.status();
    o.layers = *std::move(layers);
  }
  if (FlagWasGiven("models") || !FlagWasGiven("layers")) {
    auto models = ParseChoices("models", absl::GetFlag(FLAGS_models), ModelNames());
    if (!models.ok()) return models.status();
    o.models = *std::move(models);
  }
  if (FlagWasGiven("shapes")) {
    if (!FlagWasGiven("layers")) {
      return Bad("--shapes needs --layers: the same text means other things to other layers");
    }
    o.shapes = absl::StrSplit(absl::GetFlag(FLAGS_shapes), ',');
  }
  o.model.image_h = o.model.image_w = ImageSizeFlag();
  o.model.num_classes = NumClassesFlag();
  return o;
}

absl::Status AtImageSize(const absl::Status& status) {
  return Bad(absl::StrCat("--image_size=", ImageSizeFlag(), ": ", status.message()));
}

// A check holds every tensor some times over: both implementations' results, in doubles too. What
// this machine cannot hold is refused at once: the system may promise memory and run out of it.
absl::Status CheckMemory(const char* flag, const std::string& what, double floats) {
  const double bytes = 4 * 4 * floats;
  const auto memory = static_cast<double>(GetMachineInfo().memory_bytes);
  if (memory <= 0 || bytes <= memory) return absl::OkStatus();
  return Bad(absl::StrFormat("%s: %s takes %.1f GiB to check, and this machine has %.1f GiB", flag,
                             what, bytes * 0x1p-30, memory * 0x1p-30));
}

void AddLayerCheck(const LayerShape& shape, const Options& o, OptimizedThreads& optimized,
                   std::vector<Check>* checks) {
  const std::string name = absl::StrCat(LayerKindName(shape.kind), " ", shape.ToString());
  // Elements weigh little beside multiply-adds.
  const double cost =
      static_cast<double>(shape.macs() + shape.traffic(LayerPasses(shape.kind).back()));
  checks->push_back({name, cost, [shape, &o, &optimized] {
                       return CheckLayer(shape, o.seed, o.bounds, optimized);
                     }});
}

void AddDifferencesCheck(const LayerShape& shape, const Options& o, std::vector<Check>* checks) {
  checks->push_back({absl::StrCat(LayerKindName(shape.kind), " finite differences"), 1e6,
                     [shape, &o] { return CheckFiniteDifferences(shape, o.seed, o.bounds); }});
}

absl::Status AddOptimizerChecks(const Options& o, OptimizedThreads& optimized,
                                std::vector<Check>* checks) {
  std::vector<int64_t> counts = {1, 7, 64, 1000, 100003};
  if (!o.shapes.empty()) {
    counts.clear();
    for (const std::string& text : o.shapes) {
      int64_t count = 0;
      if (!absl::StartsWith(text, "c") || !absl::SimpleAtoi(text.substr(1), &count) || count < 1 ||
          count > int64_t{1} << 30) {
        return Bad(absl::StrCat("--shapes: optimizer shape \"", text, "\", expected c1000"));
      }
      counts.push_back(count);
    }
  }
  for (const int64_t count : counts) {
    checks->push_back({"optimizer", static_cast<double>(count), [count, &o, &optimized] {
                         return CheckOptimizers(count, o.seed, o.bounds, optimized);
                       }});
  }
  return absl::OkStatus();
}

absl::Status AddChecks(const Options& o, OptimizedThreads& optimized, std::vector<Check>* checks) {
  std::vector<ModelLayerShape> of_models;
  if (!o.layers.empty() && o.shapes.empty()) {
    auto shapes = ModelLayerShapes(ModelNames(), kLayerBatch, o.model);
    if (!shapes.ok()) return AtImageSize(shapes.status());
    of_models = *std::move(shapes);
  }
  for (const std::string& layer : o.layers) {
    if (layer == kOptimizerLayer) {
      const absl::Status status = AddOptimizerChecks(o, optimized, checks);
      if (!status.ok()) return status;
      continue;
    }
    const LayerKind kind = *ParseLayerKind(layer);
    if (!o.shapes.empty()) {
      for (const std::string& text : o.shapes) {
        const absl::StatusOr<LayerShape> shape = LayerShape::Parse(kind, text);
        if (!shape.ok()) {
          return Bad(absl::StrCat("--shapes: ", layer, ": ", shape.status().message()));
        }
        const auto floats = static_cast<double>(shape->traffic(LayerPasses(kind).front()));
        if (absl::Status s = CheckMemory("--shapes", absl::StrCat(layer, " ", text), floats);
            !s.ok()) {
          return s;
        }
        AddLayerCheck(*shape, o, optimized, checks);
        if (DifferencesInputs(*shape) <= kMaxDifferencesInputs) {
          AddDifferencesCheck(*shape, o, checks);
        } else {
          std::fprintf(stderr, "cnn-verify: %s is too large for finite differences\n",
                       text.c_str());
        }
      }
      continue;
    }
    for (const ModelLayerShape& shape : of_models) {
      if (shape.shape.kind == kind) AddLayerCheck(shape.shape, o, optimized, checks);
    }
    for (const LayerShape& shape : OddShapes(kind, o.seed)) {
      AddLayerCheck(shape, o, optimized, checks);
    }
    for (const LayerShape& shape : TinyShapes(kind)) AddDifferencesCheck(shape, o, checks);
  }
  for (const std::string& model : o.models) {
    const absl::StatusOr<Graph> graph = BuildModel(model, o.model);
    if (!graph.ok()) return AtImageSize(graph.status());
    double floats = static_cast<double>(graph->parameter_count());
    for (size_t i = 0; i < graph->nodes().size(); ++i) {
      floats += static_cast<double>(graph->shape(static_cast<NodeId>(i), kLayerBatch).size());
    }
    if (absl::Status status = CheckMemory("--image_size", model, floats); !status.ok()) {
      return status;
    }
    for (const bool training : {true, false}) {
      checks->push_back({absl::StrCat(model, training ? " train" : " eval"),
                         static_cast<double>(graph->macs_per_image()) * 10,
                         [model, training, &o, &optimized] {
                           return CheckModel(model, o.model, training, o.seed, o.bounds, optimized);
                         }});
    }
  }
  return absl::OkStatus();
}

// What all checks of this call share and a repetition needs.
std::string SharedFlags(const Options& o) {
  std::string flags;
  if (o.bounds.replacement > 0) absl::StrAppend(&flags, " --tolerance=", o.bounds.replacement);
  if (FlagWasGiven("target")) absl::StrAppend(&flags, " --target=", ActiveTarget());
  if (FlagWasGiven("threads")) absl::StrAppend(&flags, " --threads=", o.threads);
  return flags;
}

nlohmann::ordered_json Conditions(const Options& o) {
  return {{"threads", o.threads},
          {"isa_target", ActiveTarget()},
          {"seed", o.seed},
          {"machine", nlohmann::json(GetMachineInfo())},
          {"build", nlohmann::json(GetBuildInfo())}};
}

int Run() {
  const absl::StatusOr<Options> options = ReadFlags();
  if (!options.ok()) return FailUsage(options.status());
  OptimizedThreads optimized(options->threads);
  std::vector<Check> checks;
  if (options->golden.empty()) {
    if (absl::Status status = AddChecks(*options, optimized, &checks); !status.ok()) {
      return FailUsage(status);
    }
  }
  std::unique_ptr<AtomicFile> json;
  if (!options->json.empty()) {
    absl::StatusOr<std::unique_ptr<AtomicFile>> file = AtomicFile::Create(options->json);
    if (!file.ok()) return FailUsage(file.status());
    json = *std::move(file);
  }

  const auto start = std::chrono::steady_clock::now();
  std::vector<Row> rows;
  if (!options->golden.empty()) {
    absl::StatusOr<std::vector<Row>> golden =
        CheckGolden(options->golden, options->precision, options->bounds, optimized);
    if (!golden.ok()) return FailUsage(golden.status());
    rows = *std::move(golden);
  } else {
    rows = RunChecks(checks, optimized.num_threads());
  }
  AppendToCommands(SharedFlags(*options), &rows);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  std::printf("%s", FormatTable(rows).c_str());
  const Totals totals = CountVerdicts(rows);
  std::printf("\n%s: %d checks, %d passed, %d failed, %d mistrusted, in %.1f s\n",
              VerdictName(totals.verdict()), static_cast<int>(totals.checks()),
              static_cast<int>(totals.pass), static_cast<int>(totals.fail),
              static_cast<int>(totals.mistrusted), seconds);
  if (json != nullptr) {
    const std::string text = FormatJson(rows, seconds, Conditions(*options));
    absl::Status status = json->Append(text.data(), text.size());
    if (status.ok()) status = json->Commit();
    if (!status.ok()) return FailUsage(status);
  }
  const bool passed = totals.verdict() == Verdict::kPass && totals.checks() > 0;
  return FinishOutput(passed ? kExitOk : kExitFailed);
}

}  // namespace
}  // namespace classicnn::verify

int main(int argc, char** argv) {
  classicnn::ProgramInfo info;
  info.name = "cnn-verify";
  info.summary =
      "checks every layer and model against plain references, the references against finite "
      "differences, and with --golden both against another framework. Exits 1 where a check failed "
      "or proves nothing.";
  classicnn::ParseProgramFlags(info, &argc, argv);
  return classicnn::verify::Run();
}
