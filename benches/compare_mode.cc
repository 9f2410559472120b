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
    "this program was built with oneDNN; or plain: convolutions with the prologues and epilogues "
    "of a fused plan against the same without. --layers, --shapes, --algorithm, --autotune, "
    "--threads and --target limit it as usual; Google Benchmark's flags do not apply.");
ABSL_FLAG(std::string, compare_json, "", "With --compare: write the table to this file too.");

namespace classicnn {
namespace {

constexpr char kPlain[] = "plain";

}  // namespace

bool CompareAsked() { return FlagWasGiven("compare") || FlagWasGiven("compare_json"); }
bool CompareIsOfFused() { return absl::GetFlag(FLAGS_compare) == kPlain; }

namespace {

constexpr int64_t kCheckBatch = 2;  // at most
// Each implementation gets about 60 ms, and at least one call in each turn.
constexpr int kTurns = 3;
constexpr int64_t kTurnNanos = 20'000'000;
// Calls before those that count: they bring the tensors back into the caches that the other one
// filled, wake the threads, and give the processor time to get up to speed (after 1 ms products
// were still 3% slower than after 10). A call that takes a whole turn needs them once, for its
// pages.
constexpr int64_t kWarmUpNanos = 5'000'000;

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
  std::sort(nanos.begin(), nanos.end());
  const double twice = static_cast<double>(nanos[(nanos.size() - 1) / 2]) +
                       static_cast<double>(nanos[nanos.size() / 2]);
  return std::max(twice / 2, 1.0) * 1e-9;
}

// What ours is measured against.
class Peer {
 public:
  // For the same problem as `ours`, and with its tensors' values.
  static absl::StatusOr<Peer> Create(const std::string& name, const LayerCase& ours,
                                     const LayerCaseOptions& options, Context& ctx) {
    Peer peer;
    if (name == kPlain) {
      LayerCaseOptions plain = options;
      plain.fused = false;
      auto layer = LayerCase::Create(ours.shape(), ours.pass(), plain, ctx);
      if (!layer.ok()) return layer.status();
      peer.plain_ = *std::move(layer);
      return peer;
    }
#ifdef CLASSICNN_HAVE_ONEDNN
    auto layer = OneDnnCase::Create(ours, name == "onednn_auto", ctx.num_threads());
    if (!layer.ok()) return layer.status();
    peer.onednn_ = *std::move(layer);
#endif
    return peer;
  }

  void Run() {
    if (plain_ != nullptr) return plain_->RunOptimized();
#ifdef CLASSICNN_HAVE_ONEDNN
    onednn_->Run();
#endif
  }
  // Once the reference's results are in `ours`.
  absl::Status Check([[maybe_unused]] const LayerCase& ours) {
    if (plain_ != nullptr) return plain_->Check();
#ifdef CLASSICNN_HAVE_ONEDNN
    return onednn_->Check(ours);
#else
    return absl::OkStatus();
#endif
  }
  // Waits until the threads of neither disturb the other. Before each turn, so that both begin
  // alike.
  void Settle() {
#ifdef CLASSICNN_HAVE_ONEDNN
    if (onednn_ != nullptr) SettleOneDnnThreads();
#endif
  }
  std::string label() const {
    if (plain_ != nullptr) return LayerCaseLabel(*plain_);
#ifdef CLASSICNN_HAVE_ONEDNN
    return onednn_->label();
#else
    return "";
#endif
  }

 private:
  std::unique_ptr<LayerCase> plain_;
#ifdef CLASSICNN_HAVE_ONEDNN
  std::unique_ptr<OneDnnCase> onednn_;
#endif
};

bool PeerHas(const std::string& name, LayerKind kind) {
  if (name == kPlain) return kind == LayerKind::kConv2d;
#ifdef CLASSICNN_HAVE_ONEDNN
  return OneDnnHas(kind);
#else
  return false;
#endif
}

// Both against the naive reference, on a small batch.
absl::Status CheckBoth(const Case& c, const LayerCaseOptions& options, const std::string& name,
                       Context& ctx) {
  const LayerShape& shape = c.entry.shape;
  auto small = LayerCase::Create(shape.WithBatch(std::min(shape.batch(), kCheckBatch)), c.pass,
                                 options, ctx);
  if (!small.ok()) return small.status();
  if (absl::Status status = (*small)->Check(); !status.ok()) return status;
  auto peer = Peer::Create(name, **small, options, ctx);
  if (!peer.ok()) return peer.status();
  return peer->Check(**small);
}

absl::Status Measure(const Case& c, const std::string& name, TuningCache* tuning, Context& ctx,
                     ComparisonRow& row) {
  LayerCaseOptions options = c.options;
  const bool tuned = tuning != nullptr && c.entry.shape.kind == LayerKind::kConv2d;
  if (tuned) {
    const auto choice = Autotune(c.entry.shape, c.pass, /*fused=*/false, ctx, *tuning);
    if (!choice.ok()) return choice.status();
    options.algorithm = choice->algorithm;
  }
  if (absl::Status status = CheckBoth(c, options, name, ctx); !status.ok()) return status;
  auto ours = LayerCase::Create(c.entry.shape, c.pass, options, ctx);
  if (!ours.ok()) return ours.status();
  auto peer = Peer::Create(name, **ours, options, ctx);
  if (!peer.ok()) return peer.status();
  std::vector<int64_t> our_nanos, peer_nanos;
  for (int turn = 0; turn < kTurns; ++turn) {
    peer->Settle();
    TakeTurn([&ours] { (*ours)->RunOptimized(); }, our_nanos);
    peer->Settle();
    TakeTurn([&peer] { peer->Run(); }, peer_nanos);
  }
  row.seconds = MedianSeconds(std::move(our_nanos));
  row.peer_seconds = MedianSeconds(std::move(peer_nanos));
  row.executed_macs = (*ours)->executed_macs();
  row.fused_traffic = (*ours)->fused_traffic();
  row.label = absl::StrCat(LayerCaseLabel(**ours), tuned ? " tuned" : "");
  row.peer_label = peer->label();
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Case>> SelectCases(const std::vector<ModelLayerShape>& shapes,
                                              const LayerCaseOptions& options,
                                              const std::string& peer) {
  std::vector<Case> cases;
  bool any = false;
  for (const ModelLayerShape& entry : shapes) {
    if (!PeerHas(peer, entry.shape.kind)) continue;
    for (const LayerPass pass : LayerPasses(entry.shape.kind)) {
      Case c = {entry, pass, {}};
      if (entry.shape.kind == LayerKind::kConv2d) {
        const auto algorithm = ChooseConv2dAlgorithm(entry.shape.conv2d, pass, options);
        c.left_out = !algorithm.ok();
        if (algorithm.ok()) c.options.algorithm = *algorithm;
        c.options.fused = peer == kPlain;
      }
      any |= !c.left_out;
      cases.push_back(std::move(c));
    }
  }
  if (any) return cases;
  return absl::InvalidArgumentError(
      cases.empty() ? peer == kPlain
                          ? "--compare=plain is for convolutions, and --layers or --shapes has none"
                          : "--compare: oneDNN has none of the layers of --layers"
                    : "--algorithm does no pass of any of the shapes of --shapes");
}

Comparison RunComparison(const std::vector<Case>& cases, const std::string& peer,
                         TuningCache* tuning, int threads) {
  Comparison comparison;
  if (peer == kPlain) comparison.ours = "fused";
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
      const absl::Status status = Measure(c, peer, tuning, ctx, row);
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

int RunCompareMode(const std::vector<ModelLayerShape>& shapes, const LayerCaseOptions& options,
                   TuningCache* tuning) {
  const std::string peer = absl::GetFlag(FLAGS_compare);
  if (!FlagWasGiven("compare")) {
    return FailUsage(absl::InvalidArgumentError("--compare_json goes with --compare"));
  }
  if (peer != kPlain && peer != "onednn" && peer != "onednn_auto") {
    return FailUsage(absl::InvalidArgumentError(absl::StrCat(
        "bad value \"", peer, "\" for --compare: there are onednn, onednn_auto and plain")));
  }
#ifndef CLASSICNN_HAVE_ONEDNN
  if (peer != kPlain) {
    return FailUsage(absl::InvalidArgumentError(absl::StrCat(
        "bad value \"", peer,
        "\" for --compare: not built in, oneDNN 2 was not found when this program was built; "
        "there is plain")));
  }
#endif
  if (FlagWasGiven("impl")) {
    return FailUsage(absl::InvalidArgumentError("--impl does not go with --compare"));
  }
  auto cases = SelectCases(shapes, options, peer);
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

#ifdef CLASSICNN_HAVE_ONEDNN
  LimitOneDnn(ActiveTarget());
#endif
  bool failed = false;
  nlohmann::json json = {{"schema", 1},
                         {"machine", GetMachineInfo()},
                         {"build", GetBuildInfo()},
                         {"comparisons", nlohmann::json::array()}};
  for (const int threads : ThreadCounts()) {
    const Comparison comparison = RunComparison(*cases, peer, tuning, threads);
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

}  // namespace classicnn
