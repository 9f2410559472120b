#include "benches/compare_mode.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "benches/comparison.h"
#include "benches/harness.h"
#include "core/file.h"
#include "core/isa.h"
#include "core/machine.h"
#include "core/program.h"
#include "core/trace.h"
#include "nlohmann/json.hpp"
#ifdef CLASSICNN_HAVE_ONEDNN
#include "benches/peers/onednn.h"
#endif

ABSL_FLAG(
    std::string, compare, "",
    "Instead of benchmarks: measure ours and a peer in turns and print a table with the ratio "
    "of each shape and pass, geometric means by kind of layer, and the sum of each model's "
    "convolutions. onednn (its direct algorithms) or onednn_auto (whichever it picks), where "
    "this program was built with oneDNN. --layers, --shapes, --algorithm, --threads and "
    "--target limit it as usual; Google Benchmark's flags do not apply.");
ABSL_FLAG(std::string, compare_json, "", "With --compare: write the table to this file too.");

namespace classicnn {

bool CompareAsked() { return FlagWasGiven("compare") || FlagWasGiven("compare_json"); }

#ifdef CLASSICNN_HAVE_ONEDNN
namespace {

constexpr int64_t kCheckBatch = 2;  // at most
// Each implementation gets about 60 ms, and at least one call in each turn.
constexpr int kTurns = 3;
constexpr int64_t kTurnNanos = 20'000'000;
// Calls before those that count: they bring the tensors back into the caches that the other one
// filled, wake the threads, and outlast those of the other that have not gone to sleep. A call that
// takes a whole turn needs them once, for its pages.
constexpr int64_t kWarmUpNanos = 1'000'000;

struct Case {
  ModelLayerShape entry;
  LayerPass pass;
  LayerCaseOptions options;  // with the algorithm, for convolutions
  bool left_out = false;     // --algorithm does not do it
};

void TakeTurn(const std::function<void()>& run, std::vector<int64_t>& nanos) {
  const bool warm_up = nanos.empty() || nanos.back() < kTurnNanos;
  const int64_t begin = NowNanos();
  int64_t now = begin;
  while (warm_up && now - begin < kWarmUpNanos) {
    run();
    now = NowNanos();
  }
  const int64_t end = now + kTurnNanos;
  while (now < end) {
    const int64_t started = now;
    run();
    now = NowNanos();
    nanos.push_back(now - started);
  }
}

double MedianSeconds(std::vector<int64_t> nanos) {
  const size_t middle = nanos.size() / 2;
  std::nth_element(nanos.begin(), nanos.begin() + static_cast<std::ptrdiff_t>(middle), nanos.end());
  return static_cast<double>(std::max<int64_t>(nanos[middle], 1)) * 1e-9;
}

// Both against the naive reference, on a small batch.
absl::Status CheckBoth(const Case& c, bool automatic, int threads, Context& ctx) {
  const LayerShape& shape = c.entry.shape;
  auto small = LayerCase::Create(shape.WithBatch(std::min(shape.batch(), kCheckBatch)), c.pass,
                                 c.options, ctx);
  if (!small.ok()) return small.status();
  if (absl::Status status = (*small)->Check(); !status.ok()) return status;
  auto peer = OneDnnCase::Create(**small, automatic, threads);
  if (!peer.ok()) return peer.status();
  return (*peer)->Check(**small);
}

absl::Status Measure(const Case& c, bool automatic, int threads, Context& ctx, ComparisonRow& row) {
  if (absl::Status status = CheckBoth(c, automatic, threads, ctx); !status.ok()) return status;
  auto ours = LayerCase::Create(c.entry.shape, c.pass, c.options, ctx);
  if (!ours.ok()) return ours.status();
  auto peer = OneDnnCase::Create(**ours, automatic, threads);
  if (!peer.ok()) return peer.status();
  std::vector<int64_t> our_nanos, peer_nanos;
  for (int turn = 0; turn < kTurns; ++turn) {
    SettleOneDnnThreads();
    TakeTurn([&ours] { (*ours)->RunOptimized(); }, our_nanos);
    TakeTurn([&peer] { (*peer)->Run(); }, peer_nanos);
  }
  row.seconds = MedianSeconds(std::move(our_nanos));
  row.peer_seconds = MedianSeconds(std::move(peer_nanos));
  row.executed_macs = (*ours)->executed_macs();
  row.label =
      absl::StrCat((*ours)->algorithm(), (*ours)->algorithm().empty() ? "" : " ", ActiveTarget());
  row.peer_label = (*peer)->label();
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Case>> SelectCases(const std::vector<ModelLayerShape>& shapes,
                                              const LayerCaseOptions& options) {
  std::vector<Case> cases;
  bool any = false;
  for (const ModelLayerShape& entry : shapes) {
    if (!OneDnnHas(entry.shape.kind)) continue;
    for (const LayerPass pass : LayerPasses(entry.shape.kind)) {
      Case c = {entry, pass, {}};
      if (entry.shape.kind == LayerKind::kConv2d) {
        const auto algorithm = ChooseConv2dAlgorithm(entry.shape.conv2d, pass, options);
        c.left_out = !algorithm.ok();
        if (algorithm.ok()) c.options.algorithm = *algorithm;
      }
      any |= !c.left_out;
      cases.push_back(std::move(c));
    }
  }
  if (any) return cases;
  return absl::InvalidArgumentError(
      cases.empty() ? "--compare: oneDNN has none of the layers of --layers"
                    : "--algorithm does no pass of any of the shapes of --shapes");
}

Comparison RunComparison(const std::vector<Case>& cases, const std::string& peer, int threads) {
  Comparison comparison;
  comparison.peer = peer;
  comparison.num_threads = threads;
  if (const auto peaks = GetMachinePeaks(threads); peaks.ok()) {
    comparison.fma_flops = peaks->fma_flops;
    comparison.copy_bytes_per_second = peaks->copy_bytes_per_second;
  } else {
    std::fprintf(stderr, "peaks at %d threads are unknown: %s\n", threads,
                 std::string(peaks.status().message()).c_str());
  }
  Context ctx(threads);
  Progress progress(absl::StrCat("compare on ", threads, threads == 1 ? " thread" : " threads"));
  for (const Case& c : cases) {
    ComparisonRow row;
    row.shape = c.entry.shape;
    row.pass = c.pass;
    row.uses = c.entry.uses;
    if (!c.left_out) {
      const absl::Status status = Measure(c, peer == "onednn_auto", threads, ctx, row);
      if (!status.ok()) row.error = std::string(status.message());
    }
    comparison.rows.push_back(std::move(row));
    progress.Update(static_cast<int64_t>(comparison.rows.size()),
                    static_cast<int64_t>(cases.size()),
                    absl::StrCat(LayerKindName(c.entry.shape.kind), "_", LayerPassName(c.pass), " ",
                                 c.entry.shape.ToString()));
  }
  progress.Finish(absl::StrCat(cases.size(), " cases"));
  return comparison;
}

}  // namespace

int RunCompareMode(const std::vector<ModelLayerShape>& shapes, const LayerCaseOptions& options) {
  const std::string peer = absl::GetFlag(FLAGS_compare);
  if (!FlagWasGiven("compare")) {
    return FailUsage(absl::InvalidArgumentError("--compare_json goes with --compare"));
  }
  if (peer != "onednn" && peer != "onednn_auto") {
    return FailUsage(absl::InvalidArgumentError(
        absl::StrCat("bad value \"", peer, "\" for --compare: there are onednn and onednn_auto")));
  }
  if (FlagWasGiven("impl")) {
    return FailUsage(absl::InvalidArgumentError("--impl does not go with --compare"));
  }
  auto cases = SelectCases(shapes, options);
  if (!cases.ok()) return FailUsage(cases.status());
  const std::string path = absl::GetFlag(FLAGS_compare_json);
  std::unique_ptr<AtomicFile> file;
  if (!path.empty()) {
    auto created = AtomicFile::Create(path);
    if (!created.ok()) {
      return FailUsage(
          absl::InvalidArgumentError(absl::StrCat("--compare_json: ", created.status().message())));
    }
    file = *std::move(created);
  }

  LimitOneDnn(ActiveTarget());
  bool failed = false;
  nlohmann::json json = {{"schema", 1},
                         {"machine", GetMachineInfo()},
                         {"build", GetBuildInfo()},
                         {"comparisons", nlohmann::json::array()}};
  for (const int threads : ThreadCounts()) {
    const Comparison comparison = RunComparison(*cases, peer, threads);
    for (const ComparisonRow& row : comparison.rows) failed |= !row.error.empty();
    std::printf("%s\n", FormatComparison(comparison).c_str());
    std::fflush(stdout);
    json["comparisons"].push_back(comparison);
  }
  if (file != nullptr) {
    const std::string text = json.dump(2) + "\n";
    absl::Status status = file->Append(text.data(), text.size());
    if (status.ok()) status = file->Commit();
    if (!status.ok()) {
      std::fprintf(stderr, "cnn-bench-layers: --compare_json: %s\n",
                   std::string(status.message()).c_str());
      return kExitFailed;
    }
  }
  return failed ? kExitFailed : kExitOk;
}

#else

int RunCompareMode(const std::vector<ModelLayerShape>&, const LayerCaseOptions&) {
  const std::string peer = absl::GetFlag(FLAGS_compare);
  return FailUsage(absl::InvalidArgumentError(absl::StrCat(
      "bad value \"", peer,
      "\" for --compare: not built in, oneDNN 2 was not found when this program was built")));
}

#endif  // CLASSICNN_HAVE_ONEDNN

}  // namespace classicnn
