// What every program's main() shares: flags, exit codes, errors, progress.
#ifndef CLASSICNN_CORE_PROGRAM_H_
#define CLASSICNN_CORE_PROGRAM_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// --threads, --target, --image_size and --num_classes are declared once, in program.cc; read them
// through the accessors below.

namespace classicnn {

enum ExitCode { kExitOk = 0, kExitFailed = 1, kExitBadUsage = 2 };

struct ProgramInfo {
  std::string name;     // "cnn-train"
  std::string summary;  // what it does, printed by --help above the flags
  // Names of flags of the common set that this program does not take.
  std::vector<std::string> without_flags;
  // --threads may be several numbers, separated by commas.
  bool takes_thread_list = false;
  // Prints the help of flags another library handles (Google Benchmark's), after ours.
  std::function<void()> extra_help;
};

// Parses Abseil flags as Abseil does: --flag=value, --flag value, --bool, --nobool, one dash or
// two, "--" ends them, of repeated flags the last counts. --help prints every flag of this program
// and exits 0; an unknown flag, a bad value or a stray argument prints at most three lines to
// stderr and exits 2. Arguments for which `is_foreign` holds are left in argv for another library
// to read. Applies --target.
void ParseProgramFlags(const ProgramInfo& info, int* argc, char** argv,
                       const std::function<bool(absl::string_view)>& is_foreign = nullptr);

// Prints "NAME: message" to stderr (at most three lines) and returns the exit code for it:
// kExitBadUsage.
int FailUsage(const absl::Status& status);

// For the end of main(): flushes stdout. Where something of it could not be written (a full
// disk), says so on stderr and turns kExitOk into kExitFailed.
int FinishOutput(int code);

// Whether the flag stood on the command line (and not only has its default).
bool FlagWasGiven(absl::string_view name);

// InvalidArgument where one of these flags was given without a value ("--trace="): that is a
// variable that was empty, not a wish to do without.
absl::Status RefuseEmpty(const std::vector<std::string>& names);

// Their ranges are checked while flags are parsed.
int ThreadsFlag();  // --threads, 0 (the default) to 4096; 0 means AvailableThreads()
std::vector<int> ThreadListFlag();  // the same where takes_thread_list is set
int64_t ImageSizeFlag();            // --image_size, 1 to 65536, 32 by default
int64_t NumClassesFlag();           // --num_classes, 1 to 1000000, 10 by default

// "64", "512M", "1.5G": powers of 1024. InvalidArgument for anything else.
absl::StatusOr<int64_t> ParseSize(absl::string_view text);
std::string FormatBytes(int64_t bytes);  // "1.50 GiB"

// Splits a comma-separated list and checks every word against `allowed`; "all" gives all of them.
// InvalidArgument names the flag, the word and what would be accepted.
absl::StatusOr<std::vector<std::string>> ParseChoices(absl::string_view flag,
                                                      absl::string_view text,
                                                      const std::vector<std::string>& allowed);
// Positive integers, comma-separated. InvalidArgument names the flag and the word.
absl::StatusOr<std::vector<int64_t>> ParsePositiveList(absl::string_view flag,
                                                       absl::string_view text);

// A progress bar on stderr when that is a terminal, else a plain line now and then. NO_COLOR is
// honoured. Not thread-safe.
class Progress {
 public:
  explicit Progress(std::string label);
  ~Progress();
  // `done` of `total`, and a short text beside it.
  void Update(int64_t done, int64_t total, const std::string& text);
  // Takes the bar off the terminal, for a line in its place; the next Update() draws it again.
  void Clear();
  // Ends the bar's line, leaving `text` as a line of its own.
  void Finish(const std::string& text);

 private:
  std::string label_;
  bool terminal_;
  bool color_;
  int64_t started_ns_;
  int64_t last_shown_ns_ = 0;
  bool open_ = false;
};

}  // namespace classicnn

#endif  // CLASSICNN_CORE_PROGRAM_H_
