#include "benches/harness.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "core/context.h"

namespace classicnn {
namespace {

struct HarnessState {
  bool failed = false;
  std::string out_path;            // --benchmark_out
  std::string partial_path;        // what is written until all is there; empty: out_path itself
  std::string format = "console";  // --benchmark_format
  std::string color = "auto";      // --benchmark_color
  bool tabular = false;            // --benchmark_counters_tabular
  bool list = false;               // --benchmark_list_tests
  std::map<int, MachinePeaks> peaks;
};
HarnessState& Harness() {
  static auto* state = new HarnessState;
  return *state;
}

bool IsBenchmarkFlag(absl::string_view argument) {
  return absl::StartsWith(argument, "--benchmark_") || absl::StartsWith(argument, "--v=");
}

// Google Benchmark takes its flags from the environment too, the command line wins.
std::string FlagValue(absl::string_view name, int argc, char** argv, std::string fallback) {
  std::string variable(name);
  std::transform(variable.begin(), variable.end(), variable.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  if (const char* value = std::getenv(variable.c_str()); value != nullptr) fallback = value;
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (!absl::ConsumePrefix(&argument, "--") || !absl::ConsumePrefix(&argument, name)) continue;
    if (argument.empty()) fallback = "true";
    if (absl::ConsumePrefix(&argument, "=")) fallback = std::string(argument);
  }
  return fallback;
}

bool Truthy(absl::string_view value) {
  return !value.empty() && value != "0" && !absl::EqualsIgnoreCase(value, "false") &&
         !absl::EqualsIgnoreCase(value, "no") && !absl::EqualsIgnoreCase(value, "off") &&
         !absl::EqualsIgnoreCase(value, "f") && !absl::EqualsIgnoreCase(value, "n");
}

bool NoColor() {
  const char* value = std::getenv("NO_COLOR");
  return value != nullptr && *value != '\0';
}

// Google Benchmark's table, but "/s" stands only behind the rates whose names say that they are per
// second: GFLOP/s and fractions of a peak are rates already. The figures stay as they are.
class Console : public benchmark::ConsoleReporter {
 public:
  using ConsoleReporter::ConsoleReporter;
  void ReportRuns(const std::vector<Run>& reports) override {
    std::vector<Run> runs = reports;
    for (Run& run : runs) {
      for (auto& [name, counter] : run.counters) {
        if (!absl::EndsWith(name, "_per_second")) counter.flags = benchmark::Counter::kDefaults;
      }
    }
    ConsoleReporter::ReportRuns(runs);
  }
};

// Google Benchmark's CSV, whose header has the counters of what is reported first, and which gives
// up where others follow: benchmarks that failed have none and wait for one that did not.
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#endif
class Csv : public benchmark::CSVReporter {
 public:
  void ReportRuns(const std::vector<Run>& runs) override {
    const bool failed =
        std::all_of(runs.begin(), runs.end(), [](const Run& run) { return run.error_occurred; });
    if (failed && !begun_) {
      failed_.insert(failed_.end(), runs.begin(), runs.end());
      return;
    }
    CSVReporter::ReportRuns(runs);
    begun_ = true;
    Finalize();
  }
  void Finalize() override {
    if (!failed_.empty()) CSVReporter::ReportRuns(failed_);
    failed_.clear();
  }

 private:
  bool begun_ = false;
  std::vector<Run> failed_;
};
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

Console::OutputOptions ConsoleOptions(const std::string& color, bool tabular) {
  const char* terminal = std::getenv("TERM");
  const bool capable =
      isatty(STDOUT_FILENO) != 0 && terminal != nullptr && absl::string_view(terminal) != "dumb";
  int options = Console::OO_None;
  if (color == "auto" ? capable : Truthy(color)) options |= Console::OO_Color;
  if (tabular) options |= Console::OO_Tabular;
  return static_cast<Console::OutputOptions>(options);
}

// Google Benchmark calls this instead of printing its usage when a value makes no sense to it, and
// would then exit with 0.
void RefuseBenchmarkFlags() {
  std::exit(FailUsage(absl::InvalidArgumentError(
      "bad value for one of --benchmark_format, --benchmark_out_format, --benchmark_color and "
      "--benchmark_time_unit")));
}

bool Exists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0;
}

// Beside a file that is there or will be; empty for a pipe, a device or a folder.
std::string PartialPath(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) return "";
  return absl::StrCat(std::filesystem::weakly_canonical(path, error).string(), ".partial");
}

}  // namespace

void ParseBenchmarkFlags(ProgramInfo info, benchmark::TimeUnit unit, int argc, char** argv) {
  info.takes_thread_list = true;
  info.extra_help = [] {
    std::printf("Google Benchmark's flags:\n");
    std::fflush(stdout);
    benchmark::PrintDefaultHelp();
  };
  ParseProgramFlags(info, &argc, argv, IsBenchmarkFlag);
  HarnessState& harness = Harness();
  harness.out_path = FlagValue("benchmark_out", argc, argv, "");
  harness.format = FlagValue("benchmark_format", argc, argv, "console");
  harness.color = FlagValue("benchmark_color", argc, argv, NoColor() ? "false" : "auto");
  harness.tabular = Truthy(FlagValue("benchmark_counters_tabular", argc, argv, "false"));
  harness.list = Truthy(FlagValue("benchmark_list_tests", argc, argv, "false"));
  benchmark::SetDefaultTimeUnit(unit);
  // Google Benchmark does not know NO_COLOR. A flag on the command line comes later and wins.
  static char colorless[] = "--benchmark_color=false";
  std::vector<char*> arguments(argv, argv + argc);
  if (argc > 0 && NoColor()) {
    arguments.insert(arguments.begin() + 1, colorless);
  }
  // Google Benchmark empties its output before it knows whether there is anything to run.
  static std::string partial_flag;
  if (!harness.out_path.empty()) harness.partial_path = PartialPath(harness.out_path);
  if (!harness.partial_path.empty()) {
    partial_flag = absl::StrCat("--benchmark_out=", harness.partial_path);
    arguments.push_back(partial_flag.data());
  }
  argc = static_cast<int>(arguments.size());
  arguments.push_back(nullptr);
  argv = arguments.data();
  benchmark::Initialize(&argc, argv, RefuseBenchmarkFlags);
  if (argc > 1) {
    std::exit(FailUsage(absl::InvalidArgumentError(
        absl::StrCat("Google Benchmark does not take ", argv[1], "; --help lists its flags"))));
  }
}

bool ListingOnly() { return Harness().list; }
bool ConsoleOutput() { return Harness().format == "console"; }

std::vector<int> ThreadCounts() {
  std::vector<int> counts;
  for (int count : ThreadListFlag()) {
    if (count == 0) count = AvailableThreads();
    if (std::find(counts.begin(), counts.end(), count) == counts.end()) counts.push_back(count);
  }
  return counts;
}

absl::StatusOr<bool> ParseOnOff(absl::string_view flag, absl::string_view text) {
  if (text == "on") return true;
  if (text == "off") return false;
  return absl::InvalidArgumentError(
      absl::StrCat("bad value \"", text, "\" for --", flag, ": must be on or off"));
}

absl::Status CheckWritable(absl::string_view flag, const std::string& path) {
  const bool existed = Exists(path);
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", flag, ": cannot write ", path, ": ", std::strerror(errno)));
  }
  close(fd);
  if (!existed) unlink(path.c_str());
  return absl::OkStatus();
}

void AddConditions(const std::vector<int>& thread_counts,
                   const std::vector<std::pair<std::string, std::string>>& more) {
  const MachineInfo machine = GetMachineInfo();
  const BuildInfo build = GetBuildInfo();
  const auto add = [](const std::string& key, const std::string& value) {
    benchmark::AddCustomContext(key, value);
  };
  add("cpu_model", machine.cpu_model);
  add("isa_target", machine.active_target);
  add("isa_targets", absl::StrJoin(machine.targets, ","));
  add("logical_cpus", absl::StrCat(machine.logical_cpus));
  add("available_threads", absl::StrCat(machine.available_threads));
  add("threads", absl::StrJoin(thread_counts, ","));
  add("l1d_bytes", absl::StrCat(machine.l1d_bytes));
  add("l2_bytes", absl::StrCat(machine.l2_bytes));
  add("l3_bytes", absl::StrCat(machine.l3_bytes));
  add("memory_bytes", absl::StrCat(machine.memory_bytes));
  add("compiler", build.compiler);
  add("compiler_flags", build.flags);
  add("build_type", build.build_type);
  add("commit", build.commit);
  for (const int threads : thread_counts) {
    const absl::StatusOr<MachinePeaks> peaks = GetMachinePeaks(threads);
    const std::string suffix = absl::StrCat("_threads_", threads);
    if (!peaks.ok()) {
      std::fprintf(stderr, "peaks at %d threads are unknown: %s\n", threads,
                   std::string(peaks.status().message()).c_str());
      add("peaks" + suffix, "unknown");
      continue;
    }
    Harness().peaks[threads] = *peaks;
    add("peak_fma_gflops" + suffix, absl::StrFormat("%.1f", peaks->fma_flops * 1e-9));
    add("peak_copy_gigabytes_per_second" + suffix,
        absl::StrFormat("%.1f", peaks->copy_bytes_per_second * 1e-9));
  }
  for (const auto& [key, value] : more) add(key, value);
}

const MachinePeaks* PeaksAt(int num_threads) {
  const std::map<int, MachinePeaks>& peaks = Harness().peaks;
  const auto found = peaks.find(num_threads);
  return found == peaks.end() ? nullptr : &found->second;
}

void Fail(benchmark::State& state, const absl::Status& status) {
  Harness().failed = true;
  state.SkipWithError(std::string(status.message()).c_str());
}

int RunBenchmarks() {
  HarnessState& harness = Harness();
  for (const std::string& path : {harness.out_path, harness.partial_path}) {
    if (path.empty()) continue;
    if (absl::Status status = CheckWritable("benchmark_out", path); !status.ok()) {
      return FailUsage(status);
    }
  }
  Console console(ConsoleOptions(harness.color, harness.tabular));
  Csv csv;
  benchmark::BenchmarkReporter* const reporter =
      ConsoleOutput()           ? static_cast<benchmark::BenchmarkReporter*>(&console)
      : harness.format == "csv" ? &csv
                                : nullptr;
  const size_t matched = reporter != nullptr ? benchmark::RunSpecifiedBenchmarks(reporter)
                                             : benchmark::RunSpecifiedBenchmarks();
  const std::string& partial = harness.partial_path;
  if (!partial.empty() && (matched == 0 || harness.list)) unlink(partial.c_str());
  if (matched == 0) {  // Google Benchmark has said why
    return FailUsage(absl::InvalidArgumentError("--benchmark_filter leaves nothing to run"));
  }
  benchmark::Shutdown();
  if (!partial.empty() && !harness.list &&
      std::rename(partial.c_str(), partial.substr(0, partial.rfind('.')).c_str()) != 0) {
    std::fprintf(stderr, "--benchmark_out: cannot write %s: %s; the results are in %s\n",
                 harness.out_path.c_str(), std::strerror(errno), partial.c_str());
    return kExitFailed;
  }
  return harness.failed ? kExitFailed : kExitOk;
}

benchmark::Counter Rate(double per_iteration) {
  return benchmark::Counter(per_iteration, benchmark::Counter::kIsIterationInvariantRate);
}

}  // namespace classicnn
