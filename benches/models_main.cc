// cnn-bench-models: inference, forward, backward and whole training steps of the five models.
#include <algorithm>
#include <cstdio>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "benches/harness.h"
#include "benches/malloc_counter.h"
#include "benches/model_check.h"
#include "benches/model_runner.h"
#include "models/model.h"

ABSL_FLAG(std::string, models, "all",
          "Models to measure, separated by commas: all, or some of vgg16, resnet18, googlenet, "
          "mobilenetv1, densenet121.");
ABSL_FLAG(std::string, batch, "64", "Batch sizes, separated by commas.");
ABSL_FLAG(std::string, phases, "train_step",
          "What to measure, separated by commas: inference; forward (training mode); backward; "
          "train_step (forward, loss, backward, SGD with momentum and weight decay).");
ABSL_FLAG(std::string, precision, "f32", "Precision of the arithmetic: f32.");
ABSL_FLAG(std::string, impl, "optimized",
          "Implementations, separated by commas: optimized, or reference (the naive layers, on one "
          "thread).");
ABSL_FLAG(std::string, memory_limit, "0",
          "Most memory a plan may take, weights included, such as 512M or 1.5G; 0: no limit. A "
          "limit that cannot be met is refused, with the least that can.");
ABSL_FLAG(std::string, fusion, "on",
          "on or off: batch norms, ReLUs, additions and their gradients inside the layers beside "
          "them. Off, each runs as a pass of its own.");
ABSL_FLAG(std::string, winograd, "on", "on or off: allow Winograd's algorithms.");
ABSL_FLAG(std::string, update, "fused",
          "fused (each parameter is updated as soon as its gradient is ready, no gradient is kept) "
          "or after_backward. The bits are the same.");
ABSL_FLAG(std::string, trace, "",
          "File to write a Chrome trace of two steps of each benchmark to (opens in Perfetto).");
ABSL_FLAG(bool, profile, false,
          "Print where the time of a step goes, node by node, after the results.");

namespace classicnn {
namespace {

constexpr int64_t kMaxBatch = int64_t{1} << 24;  // products of sizes stay far below 2^63

struct Selection {
  std::list<Graph> graphs;
  std::vector<ModelBenchmark> benchmarks;
};

absl::StatusOr<std::vector<BenchPhase>> SelectPhases() {
  const std::vector<BenchPhase> all = {BenchPhase::kInference, BenchPhase::kForward,
                                       BenchPhase::kBackward, BenchPhase::kTrainStep};
  std::vector<std::string> names;
  for (const BenchPhase phase : all) names.push_back(BenchPhaseName(phase));
  const auto chosen = ParseChoices("phases", absl::GetFlag(FLAGS_phases), names);
  if (!chosen.ok()) return chosen.status();
  std::vector<BenchPhase> phases;
  for (const std::string& name : *chosen) {
    phases.push_back(
        all[static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin())]);
  }
  return phases;
}

// The options that all benchmarks share.
absl::StatusOr<ModelBenchmark> SharedOptions() {
  ModelBenchmark shared;
  const auto fusion = ParseOnOff("fusion", absl::GetFlag(FLAGS_fusion));
  if (!fusion.ok()) return fusion.status();
  shared.fusion = *fusion;
  const auto winograd = ParseOnOff("winograd", absl::GetFlag(FLAGS_winograd));
  if (!winograd.ok()) return winograd.status();
  shared.winograd = *winograd;
  const auto update =
      ParseChoices("update", absl::GetFlag(FLAGS_update), {"fused", "after_backward"});
  if (!update.ok()) return update.status();
  if (update->size() != 1) {
    return absl::InvalidArgumentError("--update takes one of fused and after_backward");
  }
  shared.update = update->front() == "fused" ? Update::kFused : Update::kAfterBackward;
  const auto limit = ParseSize(absl::GetFlag(FLAGS_memory_limit));
  if (!limit.ok() || *limit < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("bad value \"", absl::GetFlag(FLAGS_memory_limit).substr(0, 80),
                     "\" for --memory_limit: must be a size such as 512M or 1.5G"));
  }
  shared.memory_limit = *limit;
  return shared;
}

// The reference follows no plan: it has nothing to limit, trace or list.
absl::Status CheckReference(const std::vector<std::string>& impls, const ModelBenchmark& shared) {
  if (std::find(impls.begin(), impls.end(), "reference") == impls.end()) return absl::OkStatus();
  const char* flag = nullptr;
  if (impls.size() == 1 && absl::GetFlag(FLAGS_profile)) flag = "profile";
  if (impls.size() == 1 && !absl::GetFlag(FLAGS_trace).empty()) flag = "trace";
  if (shared.memory_limit > 0) flag = "memory_limit";
  if (flag == nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, " does not go with --impl=reference, which follows no plan"));
}

absl::Status Select(Selection& selection) {
  const auto models = ParseChoices("models", absl::GetFlag(FLAGS_models), ModelNames());
  if (!models.ok()) return models.status();
  const auto batches = ParsePositiveList("batch", absl::GetFlag(FLAGS_batch));
  if (!batches.ok()) return batches.status();
  for (const int64_t batch : *batches) {
    if (batch > kMaxBatch) {
      return absl::InvalidArgumentError(
          absl::StrCat("bad value \"", batch, "\" for --batch: must be at most ", kMaxBatch));
    }
  }
  const auto phases = SelectPhases();
  if (!phases.ok()) return phases.status();
  const auto precision = ParseChoices("precision", absl::GetFlag(FLAGS_precision), {"f32"});
  if (!precision.ok()) return precision.status();
  const auto impls = ParseChoices("impl", absl::GetFlag(FLAGS_impl), {"optimized", "reference"});
  if (!impls.ok()) return impls.status();
  const auto shared = SharedOptions();
  if (!shared.ok()) return shared.status();
  if (absl::Status status = CheckReference(*impls, *shared); !status.ok()) return status;
  if (NumClassesFlag() < 2) {
    return absl::InvalidArgumentError(
        "--num_classes=1: of one class the loss and all gradients are 0, and nothing could be "
        "checked");
  }

  ModelOptions options;
  options.image_h = options.image_w = ImageSizeFlag();
  options.num_classes = NumClassesFlag();
  for (const std::string& model : *models) {
    auto graph = BuildModel(model, options);
    if (!graph.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--image_size=", ImageSizeFlag(), ": ", graph.status().message()));
    }
    selection.graphs.push_back(*std::move(graph));
    ModelBenchmark b = *shared;
    b.graph = &selection.graphs.back();
    for (const BenchPhase phase : *phases) {
      b.phase = phase;
      for (const std::string& impl : *impls) {
        b.reference = impl == "reference";
        for (const int64_t batch : *batches) {
          b.batch = batch;
          // The reference runs on one thread, whatever is asked for.
          for (const int threads : b.reference ? std::vector<int>{1} : ThreadCounts()) {
            b.threads = threads;
            selection.benchmarks.push_back(b);
          }
        }
      }
    }
  }
  return absl::OkStatus();
}

// Bytes that a benchmark takes; an error names the flag to blame.
absl::StatusOr<int64_t> BytesNeeded(const ModelBenchmark& b) {
  if (b.reference) return b.reference_bytes();
  const absl::StatusOr<Plan> plan = b.MakePlan();
  if (!plan.ok()) {
    const bool limit = absl::IsResourceExhausted(plan.status());
    return absl::InvalidArgumentError(absl::StrCat(
        limit ? "--memory_limit: " : "--batch: ", b.graph->model(), ": ", plan.status().message()));
  }
  return plan->arena_bytes + Total(ModelState::Bytes(*b.graph, b.optimizer()));
}

// What cannot be planned, or not be held by this machine, is refused before anything is measured:
// the system may promise memory and run out of it later.
absl::Status CheckPlans(const std::vector<ModelBenchmark>& benchmarks) {
  const int64_t memory = GetMachineInfo().memory_bytes;
  for (const ModelBenchmark& b : benchmarks) {
    const absl::StatusOr<int64_t> bytes = BytesNeeded(b);
    if (!bytes.ok()) return bytes.status();
    if (memory > 0 && *bytes > memory) {
      return absl::InvalidArgumentError(
          absl::StrCat("--batch=", b.batch, ": ", b.graph->model(), " takes ", FormatBytes(*bytes),
                       ", and this machine has ", FormatBytes(memory)));
    }
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  ProgramInfo info;
  info.name = "cnn-bench-models";
  info.summary =
      "Measures the five models. Names are PHASE/MODEL/f32/IMPL/batch:N/threads:N; lists of "
      "flags make all combinations.\nEach model is checked against the naive reference on a small "
      "batch before it is timed.";
  ParseBenchmarkFlags(info, benchmark::kMillisecond, argc, argv);
  if (absl::Status status = RefuseEmpty({"trace"}); !status.ok()) return FailUsage(status);
  Selection selection;
  if (absl::Status status = Select(selection); !status.ok()) return FailUsage(status);
  if (absl::Status status = CheckPlans(selection.benchmarks); !status.ok()) {
    return FailUsage(status);
  }
  const std::string trace_path = absl::GetFlag(FLAGS_trace);
  std::unique_ptr<Tracer> tracer;
  if (!trace_path.empty()) {
    if (absl::Status status = CheckWritable("trace", trace_path); !status.ok()) {
      return FailUsage(status);
    }
    tracer = std::make_unique<Tracer>();
  }
  if (!ListingOnly()) {
    std::vector<int> thread_counts;
    for (const ModelBenchmark& b : selection.benchmarks) {
      if (std::find(thread_counts.begin(), thread_counts.end(), b.threads) == thread_counts.end()) {
        thread_counts.push_back(b.threads);
      }
    }
    AddConditions(thread_counts, {{"image_size", absl::StrCat(ImageSizeFlag())},
                                  {"num_classes", absl::StrCat(NumClassesFlag())},
                                  {"fusion", absl::GetFlag(FLAGS_fusion)},
                                  {"winograd", absl::GetFlag(FLAGS_winograd)},
                                  {"update", absl::GetFlag(FLAGS_update)},
                                  {"memory_limit", absl::GetFlag(FLAGS_memory_limit)},
                                  {"malloc_counted", MallocCallsAreCounted() ? "yes" : "no"},
                                  {"data", "warm: every step trains on the same batch"},
                                  {"seed", absl::StrCat(kModelBenchSeed)},
                                  {"precision", "f32"}});
  }
  ModelRunner runner(tracer.get(), absl::GetFlag(FLAGS_profile));
  for (const ModelBenchmark& b : selection.benchmarks) {
    auto* registered = benchmark::RegisterBenchmark(
        b.Name().c_str(), [&runner, b](benchmark::State& state) { runner.Run(b, state); });
    // Backward alone is timed by hand: each needs a forward pass before it.
    if (b.phase == BenchPhase::kBackward) {
      registered->UseManualTime();
    } else {
      registered->UseRealTime();
    }
  }
  int code = RunBenchmarks();
  if (code == kExitBadUsage || ListingOnly()) return FinishOutput(code);
  std::fflush(stdout);
  std::fputs(runner.profiles().c_str(), ConsoleOutput() ? stdout : stderr);
  if (tracer != nullptr) {
    if (absl::Status status = tracer->WriteJson(trace_path); !status.ok()) {
      return FailUsage(status);
    }
    std::fprintf(stderr, "wrote %s\n", trace_path.c_str());
  }
  return FinishOutput(code);
}

}  // namespace
}  // namespace classicnn

int main(int argc, char** argv) { return classicnn::Main(argc, argv); }
