// cnn-report: measures the five architectures and writes the comparison report.
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/context.h"
#include "core/file.h"
#include "core/machine.h"
#include "core/program.h"
#include "models/model.h"
#include "reports/baseline.h"
#include "reports/measure.h"
#include "reports/peer.h"
#include "reports/sections.h"
#include "reports/training_runs.h"

ABSL_FLAG(std::string, out, "", "Folder for index.html, report.md and results.json (required).");
ABSL_FLAG(std::string, models, "all", "Models to compare, comma-separated.");
ABSL_FLAG(int64_t, batch, 64, "Images in a training step.");
ABSL_FLAG(bool, quick, false, "Few samples: a look in a minute or so.");
ABSL_FLAG(bool, full, false, "More samples, batch sizes and thread counts: takes many minutes.");
ABSL_FLAG(std::string, runs, "",
          "Folders of cnn-train runs whose accuracies are shown, comma-separated.");
ABSL_FLAG(std::string, peer, "", "Comparison written by scripts/compare_pytorch.");
ABSL_FLAG(std::string, baseline, "",
          "An earlier results.json: every figure then shows its change.");
ABSL_FLAG(double, fail_above, -1,
          "With --baseline: exit 1 if a model's time or peak memory is worse by more than this "
          "many percent and by more than the noise. Default: never.");

namespace classicnn {
namespace {

absl::Status CheckFlags() {
  const absl::Status given = RefuseEmpty({"out", "runs", "peer", "baseline"});
  if (!given.ok()) return given;
  if (absl::GetFlag(FLAGS_out).empty()) {
    return absl::InvalidArgumentError("--out=DIR is required: the folder to write the report to");
  }
  if (absl::GetFlag(FLAGS_batch) < 1 || absl::GetFlag(FLAGS_batch) > 65536) {
    return absl::InvalidArgumentError(
        absl::StrCat("--batch=", absl::GetFlag(FLAGS_batch), ": must be from 1 to 65536"));
  }
  if (absl::GetFlag(FLAGS_quick) && absl::GetFlag(FLAGS_full)) {
    return absl::InvalidArgumentError("--quick and --full exclude each other");
  }
  if (FlagWasGiven("fail_above")) {
    if (absl::GetFlag(FLAGS_baseline).empty()) {
      return absl::InvalidArgumentError("--fail_above needs --baseline=results.json");
    }
    if (!(absl::GetFlag(FLAGS_fail_above) >= 0)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--fail_above=", absl::GetFlag(FLAGS_fail_above), ": must be 0 or more (percent)"));
    }
  }
  return absl::OkStatus();
}

// Reads everything that is given beside the measurements: before anything is measured.
absl::Status ReadInputs(const MeasureOptions& options, ReportInput* input,
                        std::unique_ptr<Results>* baseline) {
  const std::string runs = absl::GetFlag(FLAGS_runs);
  std::vector<std::string> folders;
  if (!runs.empty()) folders = absl::StrSplit(runs, ',');
  for (const std::string& folder : folders) {
    if (folder.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("bad value \"", runs, "\" for --runs: a folder has no name"));
    }
    absl::StatusOr<TrainingRun> run = ReadTrainingRun(folder);
    if (!run.ok()) return run.status();
    input->runs.push_back(*std::move(run));
  }
  if (const std::string path = absl::GetFlag(FLAGS_peer); !path.empty()) {
    absl::StatusOr<PeerComparison> peer = ReadPeerComparison(path);
    if (!peer.ok()) return peer.status();
    input->peer.push_back(*std::move(peer));
  }
  if (const std::string path = absl::GetFlag(FLAGS_baseline); !path.empty()) {
    absl::StatusOr<Results> results = ReadResults(path);
    if (!results.ok()) return results.status();
    const absl::Status comparable =
        CheckComparable(path, *results, options.batch, options.threads, options.image_size,
                        options.num_classes, options.models);
    if (!comparable.ok()) return comparable;
    input->baseline_path = path;
    const auto commit = results->build.find("commit");
    const bool known = commit != results->build.end() && commit->is_string();
    input->baseline_commit = known ? commit->get<std::string>() : "unknown";
    *baseline = std::make_unique<Results>(*std::move(results));
  }
  return absl::OkStatus();
}

int Run() {
  if (const absl::Status status = CheckFlags(); !status.ok()) return FailUsage(status);
  const auto models = ParseChoices("models", absl::GetFlag(FLAGS_models), ModelNames());
  if (!models.ok()) return FailUsage(models.status());
  const std::string mode = absl::GetFlag(FLAGS_quick)  ? "quick"
                           : absl::GetFlag(FLAGS_full) ? "full"
                                                       : "default";
  const int threads = ThreadsFlag() > 0 ? ThreadsFlag() : AvailableThreads();
  MeasureOptions options = MeasureOptions::ForMode(mode, threads);
  options.models = *models;
  options.batch = absl::GetFlag(FLAGS_batch);
  options.image_size = ImageSizeFlag();
  options.num_classes = NumClassesFlag();

  ReportInput input;
  std::unique_ptr<Results> baseline;
  if (const absl::Status s = ReadInputs(options, &input, &baseline); !s.ok()) return FailUsage(s);
  if (const absl::Status s = CheckMeasurable(options); !s.ok()) return FailUsage(s);

  // The outputs are opened now: minutes of measuring must not end at a folder that is read-only.
  const std::string out = absl::GetFlag(FLAGS_out);
  if (const absl::Status s = MakeWritableFolder(out); !s.ok()) return FailUsage(s);
  const std::string paths[] = {absl::StrCat(out, "/results.json"), absl::StrCat(out, "/report.md"),
                               absl::StrCat(out, "/index.html")};
  std::vector<std::unique_ptr<AtomicFile>> files;
  for (const std::string& path : paths) {
    auto file = AtomicFile::Create(path);
    if (!file.ok()) return FailUsage(file.status());
    files.push_back(*std::move(file));
  }

  Progress progress("cnn-report");
  absl::StatusOr<Results> results = Measure(options, &progress);
  if (!results.ok()) return FailUsage(results.status());
  progress.Finish(absl::StrCat("measured in ", static_cast<int>(results->measured_seconds), " s"));
  input.results = *std::move(results);
  if (baseline != nullptr) input.comparison = Comparison(*baseline, input.results);

  const Document document = BuildDocument(input);
  const std::string contents[] = {nlohmann::json(input.results).dump() + "\n",
                                  RenderMarkdown(document), RenderHtml(document)};
  for (size_t i = 0; i < files.size(); ++i) {
    absl::Status s = files[i]->Append(contents[i].data(), contents[i].size());
    if (s.ok()) s = files[i]->Commit();
    if (!s.ok()) return FailUsage(s);
  }
  std::cout << document.subtitle << "\n\n" << MarkdownTable(ComparisonTable(input)) << "\n";
  for (const std::string& path : {paths[2], paths[1], paths[0]}) std::cout << path << "\n";

  std::cout.flush();
  if (!FlagWasGiven("fail_above")) return FinishOutput(kExitOk);
  const std::vector<std::string> regressions =
      input.comparison.Regressions(absl::GetFlag(FLAGS_fail_above));
  for (const std::string& regression : regressions) {
    std::cerr << "cnn-report: regression: " << regression << "\n";
  }
  return FinishOutput(regressions.empty() ? kExitOk : kExitFailed);
}

}  // namespace
}  // namespace classicnn

int main(int argc, char** argv) {
  classicnn::ProgramInfo info;
  info.name = "cnn-report";
  info.summary =
      "Measures the five architectures and writes the comparison: index.html (opens offline), "
      "report.md and results.json.";
  classicnn::ParseProgramFlags(info, &argc, argv);
  return classicnn::Run();
}
