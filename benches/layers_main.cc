// cnn-bench-layers: single layers, forward and backward, at the shapes of the models or any other.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "benches/autotune.h"
#include "benches/compare_mode.h"
#include "benches/harness.h"
#include "benches/layer_case.h"
#include "benches/layer_selection.h"
#include "core/isa.h"
#ifdef CLASSICNN_HAVE_ONEDNN
#include "benches/peers/onednn.h"
#endif
#include "models/layer_shapes.h"
#include "models/model.h"

ABSL_FLAG(std::string, layers, "all",
          "Layers to measure, separated by commas: all, or some of conv2d, linear, batch_norm2d, "
          "relu, max_pool2d, avg_pool2d, global_avg_pool2d, dropout, cross_entropy, add, concat.");
ABSL_FLAG(std::string, shapes, "models",
          "Shapes to measure, separated by commas: models (every distinct shape of the five models "
          "at batch 64), or shapes such as n64c64h32w32k64r3s1p1 (convolution; g64 for groups), "
          "n64c512k10 (linear), n64c64h32w32m1 (batch norm, training; m0 inference), "
          "n64c64h32w32r3s1p1 (pooling), n64c10 (cross-entropy), n64c64+128+32h32w32 (concat), "
          "n64c64h32w32 (the others). Each is used for the selected layers that it fits.");
ABSL_FLAG(
    std::string, impl, "optimized",
    "Implementations, separated by commas: optimized, fused (convolutions with the prologues and "
    "epilogues of a fused plan), reference (the naive loops, on one thread), onednn (oneDNN's "
    "direct algorithms) and onednn_auto (whichever it picks), where "
    "this program was built with oneDNN.");
ABSL_FLAG(
    std::string, algorithm, "",
    "Convolution algorithm to force: pointwise, direct, depthwise, winograd4, winograd2, "
    "winograd2x5, winograd4x5, stem, few_pixels. Of the models' shapes those that it can run are "
    "measured. "
    "Empty: the one a "
    "plan would take.");
ABSL_FLAG(bool, autotune, false,
          "Measure every algorithm that does a convolution, take the fastest, and remember it: in "
          "$CLASSICNN_AUTOTUNE_CACHE, or else autotune.json in the user's cache folder.");

namespace classicnn {
namespace {

constexpr int64_t kBatch = 64;      // of the models' shapes
constexpr int64_t kCheckBatch = 2;  // at most, when a result is checked

struct Benchmark {
  LayerShape shape;
  LayerPass pass;
  std::string impl;
  LayerCaseOptions options;
  int threads;
  TuningCache* tuning;  // null: the algorithm in options, or a plan's

  bool reference() const { return impl == "reference"; }
  bool onednn() const { return impl == "onednn" || impl == "onednn_auto"; }
  std::string Name() const {
    return absl::StrCat(LayerKindName(shape.kind), "_", LayerPassName(pass), "/", impl, "/",
                        shape.ToString(), "/threads:", threads);
  }
};

// Google Benchmark calls a benchmark several times, with more and more iterations: what was set up
// stays until another one runs.
class Runner {
 public:
  void Run(const Benchmark& b, benchmark::State& state) {
    if (b.Name() != current_) {
      absl::Status status = SetUp(b);
      if (!status.ok()) {
        TearDown();
        return Fail(state, status);
      }
      current_ = b.Name();
    }
    if (b.reference()) {
      for (auto _ : state) case_->RunNaive();
    } else if (b.onednn()) {
#ifdef CLASSICNN_HAVE_ONEDNN
      for (auto _ : state) peer_->Run();
#endif
    } else {
      for (auto _ : state) case_->RunOptimized();
    }
    Report(b, state);
  }

 private:
  void TearDown() {
    current_.clear();
    case_.reset();
#ifdef CLASSICNN_HAVE_ONEDNN
    if (peer_ != nullptr) SettleOneDnnThreads();
    peer_.reset();
#endif
  }

  absl::Status SetUp(const Benchmark& b) {
    TearDown();
    if (ctx_ == nullptr || ctx_->num_threads() != b.threads) {
      ctx_.reset();
      ctx_ = std::make_unique<Context>(b.threads);
    }
    // The algorithm is chosen for the shape that is timed; what is checked runs the same one.
    LayerCaseOptions options = b.options;
    if (b.shape.kind == LayerKind::kConv2d && !b.onednn()) {
      const absl::StatusOr<Conv2dAlgorithm> algorithm =
          ChooseConv2dAlgorithm(b.shape.conv2d, b.pass, b.options);
      if (!algorithm.ok()) return algorithm.status();
      options.algorithm = *algorithm;
    }
    if (b.tuning != nullptr) {
      const auto tuned = Autotune(b.shape, b.pass, b.options.fused, *ctx_, *b.tuning);
      if (!tuned.ok()) return tuned.status();
      options.algorithm = tuned->algorithm;
    }
    if (!b.reference()) {
      if (absl::Status status = Check(b, options); !status.ok()) return status;
    }
    ctx_->memory().ResetPeak();
    auto created = LayerCase::Create(b.shape, b.pass, options, *ctx_);
    if (!created.ok()) return created.status();
    case_ = *std::move(created);
    bytes_ = static_cast<double>(case_->bytes());
    if (b.onednn()) return SetUpPeer(b);
    executed_macs_ = b.reference() ? case_->macs() : case_->executed_macs();
    if (b.reference()) {
      label_ = "naive";
      return absl::OkStatus();
    }
    label_ = absl::StrCat(LayerCaseLabel(*case_), b.tuning != nullptr ? " tuned" : "");
    case_->RunOptimized();  // pages and caches are warm from here on
    return absl::OkStatus();
  }

  absl::Status SetUpPeer([[maybe_unused]] const Benchmark& b) {
#ifdef CLASSICNN_HAVE_ONEDNN
    auto peer = OneDnnCase::Create(*case_, b.impl == "onednn_auto", b.threads);
    case_.reset();
    if (!peer.ok()) return peer.status();
    peer_ = *std::move(peer);
    executed_macs_ = peer_->executed_macs();
    label_ = peer_->label();
    peer_->Run();
#endif
    return absl::OkStatus();
  }

  // Once for each shape and implementation, against the naive reference. Our layers give the same
  // bits on any number of threads.
  absl::Status Check(const Benchmark& b, const LayerCaseOptions& options) {
    Benchmark small = b;
    small.shape = b.shape.WithBatch(std::min(b.shape.batch(), kCheckBatch));
    if (!b.onednn()) small.threads = 0;
    const std::string what =
        absl::StrCat(small.Name(), "/",
                     options.algorithm.has_value() ? Conv2dAlgorithmName(*options.algorithm) : "");
    if (checked_.count(what) > 0) return absl::OkStatus();
    auto created = LayerCase::Create(small.shape, b.pass, options, *ctx_);
    if (!created.ok()) return created.status();
    if (b.onednn()) {
#ifdef CLASSICNN_HAVE_ONEDNN
      auto peer = OneDnnCase::Create(**created, b.impl == "onednn_auto", b.threads);
      if (!peer.ok()) return peer.status();
      (*created)->RunNaive();
      if (absl::Status status = (*peer)->Check(**created); !status.ok()) return status;
#endif
    } else if (absl::Status status = (*created)->Check(); !status.ok()) {
      return status;
    }
    checked_.insert(what);
    return absl::OkStatus();
  }

  void Report(const Benchmark& b, benchmark::State& state) const {
    const auto nominal = 2 * static_cast<double>(b.shape.macs());
    const auto executed = 2 * static_cast<double>(executed_macs_);
    state.counters["num_threads"] = b.threads;
    state.counters["batch"] = static_cast<double>(b.shape.batch());
    state.counters["gflops"] = Rate(nominal * 1e-9);
    state.counters["executed_gflops"] = Rate(executed * 1e-9);
    state.counters["bytes_per_second"] = Rate(bytes_);
    if (const MachinePeaks* peaks = PeaksAt(b.threads); peaks != nullptr) {
      state.counters["peak_fraction"] = Rate(nominal / peaks->fma_flops);
      // The time that whichever bound binds allows, over the time measured.
      state.counters["roofline_fraction"] =
          Rate(std::max(executed / peaks->fma_flops, bytes_ / peaks->copy_bytes_per_second));
    }
    state.SetLabel(label_);
  }

  std::string current_;  // name of the benchmark that case_ is for
  std::unique_ptr<Context> ctx_;
  std::unique_ptr<LayerCase> case_;
#ifdef CLASSICNN_HAVE_ONEDNN
  std::unique_ptr<OneDnnCase> peer_;  // instead of case_
#endif
  int64_t executed_macs_ = 0;
  double bytes_ = 0;
  std::string label_;
  std::set<std::string> checked_;
};

struct Selection {
  std::vector<ModelLayerShape> shapes;
  LayerCaseOptions options;             // for convolutions
  std::unique_ptr<TuningCache> tuning;  // with --autotune
};

// What --layers, --shapes, --algorithm and --autotune name.
absl::StatusOr<Selection> Select() {
  auto layers = ParseChoices("layers", absl::GetFlag(FLAGS_layers), LayerKindNames());
  if (!layers.ok()) return layers.status();
  Selection selection;
  if (const std::string name = absl::GetFlag(FLAGS_algorithm); !name.empty()) {
    auto algorithm = ParseConv2dAlgorithm(name);
    if (!algorithm.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--algorithm: ", algorithm.status().message()));
    }
    if (std::find(layers->begin(), layers->end(), "conv2d") == layers->end()) {
      return absl::InvalidArgumentError(
          "--algorithm is for convolutions, and --layers leaves out conv2d");
    }
    selection.options.algorithm = *algorithm;
  }
  if (absl::GetFlag(FLAGS_autotune)) {
    if (selection.options.algorithm.has_value()) {
      return absl::InvalidArgumentError("--autotune does not go with --algorithm");
    }
    if (std::find(layers->begin(), layers->end(), "conv2d") == layers->end()) {
      return absl::InvalidArgumentError(
          "--autotune is for convolutions, and --layers leaves out conv2d");
    }
    selection.tuning = std::make_unique<TuningCache>(TuningCache::DefaultPath());
  }
  ModelOptions model;
  model.image_h = model.image_w = ImageSizeFlag();
  model.num_classes = NumClassesFlag();
  auto shapes = SelectLayerShapes(absl::GetFlag(FLAGS_shapes), *layers, kBatch, model);
  if (!shapes.ok()) return shapes.status();
  selection.shapes = *std::move(shapes);
  return selection;
}

absl::StatusOr<std::vector<Benchmark>> Benchmarks(const Selection& selection) {
  const std::string impl_text = absl::GetFlag(FLAGS_impl);
#ifdef CLASSICNN_HAVE_ONEDNN
  const auto impls =
      ParseChoices("impl", impl_text, {"optimized", "fused", "reference", "onednn", "onednn_auto"});
#else
  for (const absl::string_view word : absl::StrSplit(impl_text, ',')) {
    if (word == "onednn" || word == "onednn_auto") {
      return absl::InvalidArgumentError(
          absl::StrCat("bad value \"", word,
                       "\" for --impl: not built in, oneDNN 2 was not found when this program was "
                       "built; there are optimized, fused and reference"));
    }
  }
  const auto impls = ParseChoices("impl", impl_text, {"optimized", "fused", "reference"});
#endif
  if (!impls.ok()) return impls.status();
  if (selection.tuning != nullptr &&
      std::find(impls->begin(), impls->end(), "optimized") == impls->end() &&
      std::find(impls->begin(), impls->end(), "fused") == impls->end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--autotune is for optimized and fused, not for --impl=", impl_text));
  }

  // Of the models' shapes, a forced algorithm takes those it can; a shape that was asked for is an
  // error where it cannot.
  const bool of_models = absl::GetFlag(FLAGS_shapes) == "models";
  std::vector<Benchmark> benchmarks;
  for (const ModelLayerShape& entry : selection.shapes) {
    const LayerShape& shape = entry.shape;
    const bool convolution = shape.kind == LayerKind::kConv2d;
    for (const LayerPass pass : LayerPasses(shape.kind)) {
      for (const std::string& impl : *impls) {
        const bool fused = impl == "fused";
        if (fused && !convolution) continue;
        LayerCaseOptions own = convolution ? selection.options : LayerCaseOptions();
        own.fused = fused;
        const bool ours = fused || impl == "optimized";
#ifdef CLASSICNN_HAVE_ONEDNN
        if ((impl == "onednn" || impl == "onednn_auto") && !OneDnnHas(shape.kind)) continue;
#endif
        if (ours && own.algorithm.has_value() && of_models &&
            !ChooseConv2dAlgorithm(shape.conv2d, pass, own).ok()) {
          continue;
        }
        // The reference runs on one thread, whatever is asked for.
        for (const int threads : impl == "reference" ? std::vector<int>{1} : ThreadCounts()) {
          benchmarks.push_back({shape, pass, impl, own, threads,
                                ours && convolution ? selection.tuning.get() : nullptr});
        }
      }
    }
  }
  if (benchmarks.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--impl=", impl_text, " has none of the layers of --layers"));
  }
  return benchmarks;
}

// What this machine cannot hold is refused before anything is measured: the system may promise the
// memory and run out of it later. A comparison has the tensors of two implementations at a time,
// tuning those of every algorithm.
absl::Status CheckMemory(const Selection& selection, int implementations, bool fused) {
  const int64_t memory = GetMachineInfo().memory_bytes;
  for (const ModelLayerShape& entry : selection.shapes) {
    const LayerShape& shape = entry.shape;
    const bool convolution = shape.kind == LayerKind::kConv2d;
    LayerCaseOptions own = convolution ? selection.options : LayerCaseOptions();
    own.fused = convolution && fused;
    for (const LayerPass pass : LayerPasses(shape.kind)) {
      int times = implementations;
      if (convolution && selection.tuning != nullptr) {
        const auto candidates = Conv2dAlgorithms(shape.conv2d, Conv2dPassOf(pass)).size();
        times = std::max(times, static_cast<int>(candidates));
      }
      const int64_t bytes = LayerCase::BytesNeeded(shape, pass, own);
      if (memory > 0 && bytes > memory / times) {
        return absl::InvalidArgumentError(
            absl::StrCat("--shapes: ", LayerKindName(shape.kind), " ", shape.ToString(), " takes ",
                         times > 1 ? absl::StrCat(times, " times ") : "", FormatBytes(bytes),
                         ", and this machine has ", FormatBytes(memory)));
      }
    }
  }
  return absl::OkStatus();
}

// The first of Google Benchmark's flags on the command line.
std::string BenchmarkFlag(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (absl::StartsWith(argv[i], "--benchmark_")) return argv[i];
  }
  return "";
}

int Main(int argc, char** argv) {
  ProgramInfo info;
  info.name = "cnn-bench-layers";
  info.summary =
      "Measures single layers, forward and backward. Names are "
      "LAYER_PASS/IMPL/SHAPE/threads:N; --benchmark_filter=REGEX selects some.\n"
      "--compare=onednn prints a table of ours against oneDNN's instead, --compare=plain one of "
      "fused convolutions against plain ones.\n"
      "Each result is checked against the naive reference on a small batch before it is timed.";
  const std::string google_flag = BenchmarkFlag(argc, argv);
  ParseBenchmarkFlags(info, benchmark::kMicrosecond, argc, argv);
  const absl::Status given = RefuseEmpty({"algorithm", "compare_json"});
  if (!given.ok()) return FailUsage(given);
  auto selection = Select();
  if (!selection.ok()) return FailUsage(selection.status());
  const bool compare = CompareAsked();
  const std::string impls = absl::GetFlag(FLAGS_impl);
  const bool fused = compare ? CompareIsOfFused()
                             : absl::StrContains(impls, "fused") || absl::StrContains(impls, "all");
  if (absl::Status status = CheckMemory(*selection, compare ? 2 : 1, fused); !status.ok()) {
    return FailUsage(status);
  }
  if (compare) {
    if (google_flag.empty()) {
      return FinishOutput(
          RunCompareMode(selection->shapes, selection->options, selection->tuning.get()));
    }
    return FailUsage(
        absl::InvalidArgumentError(absl::StrCat(google_flag, " does not go with --compare")));
  }
  auto benchmarks = Benchmarks(*selection);
  if (!benchmarks.ok()) return FailUsage(benchmarks.status());
  if (!ListingOnly()) {
    std::vector<int> thread_counts;
    for (const Benchmark& b : *benchmarks) {
      if (std::find(thread_counts.begin(), thread_counts.end(), b.threads) == thread_counts.end()) {
        thread_counts.push_back(b.threads);
      }
    }
    AddConditions(thread_counts, {{"data", "warm: every iteration works on the same tensors"},
                                  {"seed", absl::StrCat(kLayerCaseSeed)},
                                  {"precision", "f32"}});
    if (selection->tuning != nullptr) {
      const std::string& path = selection->tuning->path();
      benchmark::AddCustomContext("autotune", path.empty() ? "on, kept nowhere" : path);
    }
  }
#ifdef CLASSICNN_HAVE_ONEDNN
  LimitOneDnn(ActiveTarget());
#endif
  Runner runner;
  for (const Benchmark& b : *benchmarks) {
    benchmark::RegisterBenchmark(b.Name().c_str(), [&runner, b](benchmark::State& state) {
      runner.Run(b, state);
    })->UseRealTime();
  }
  return FinishOutput(RunBenchmarks());
}

}  // namespace
}  // namespace classicnn

int main(int argc, char** argv) { return classicnn::Main(argc, argv); }
