// What the two benchmark programs share: Google Benchmark behind the project's command line and
// exit codes, the conditions of a run in its context, and the machine's peaks.
#ifndef CLASSICNN_BENCHES_HARNESS_H_
#define CLASSICNN_BENCHES_HARNESS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "benchmark/benchmark.h"
#include "core/machine.h"
#include "core/program.h"

namespace classicnn {

// Parses our flags and Google Benchmark's. --help lists both and exits 0, bad usage exits 2. Times
// are shown in `unit` unless --benchmark_time_unit says otherwise.
void ParseBenchmarkFlags(ProgramInfo info, benchmark::TimeUnit unit, int argc, char** argv);

// --benchmark_list_tests was given: nothing will be measured.
bool ListingOnly();
// Results on stdout are for people (--benchmark_format=console).
bool ConsoleOutput();

// --threads without repeats, 0 replaced by what this process may use.
std::vector<int> ThreadCounts();

// "on" or "off".
absl::StatusOr<bool> ParseOnOff(absl::string_view flag, absl::string_view text);

// InvalidArgument naming flag and path where the file cannot be written. Leaves no file behind.
absl::Status CheckWritable(absl::string_view flag, const std::string& path);

// Puts the machine, the build and the peaks at each thread count into the context of all results,
// measuring peaks that are not known yet. `more` is added: {key, value} pairs.
void AddConditions(const std::vector<int>& thread_counts,
                   const std::vector<std::pair<std::string, std::string>>& more);
// Measured peaks at a thread count given to AddConditions; null where they could not be measured
// (which was said on stderr).
const MachinePeaks* PeaksAt(int num_threads);

// Ends this benchmark with an error: the program will exit 1. Return after it.
void Fail(benchmark::State& state, const absl::Status& status);

// Runs what was registered; the exit code of the program: 0, 1 where a benchmark failed, 2 where
// --benchmark_filter left nothing to run or --benchmark_out cannot be written.
int RunBenchmarks();

// A counter that is `per_iteration` in each iteration, shown as a rate over the measured time: in
// the table with "/s" behind it only where the counter's name ends in _per_second.
benchmark::Counter Rate(double per_iteration);

}  // namespace classicnn

#endif  // CLASSICNN_BENCHES_HARNESS_H_
