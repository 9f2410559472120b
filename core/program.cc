#include "core/program.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

#include "absl/flags/commandlineflag.h"
#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "core/isa.h"

namespace classicnn {
namespace {

// The value of --threads: one number, or several for programs that measure.
struct ThreadCounts {
  std::vector<int> counts = {0};
};

bool AbslParseFlag(absl::string_view text, ThreadCounts* value, std::string* error) {
  value->counts.clear();
  for (const absl::string_view word : absl::StrSplit(text, ',')) {
    int count = 0;
    if (!absl::SimpleAtoi(word, &count) || count < 0 || count > 4096) {
      *error = "must be from 0 to 4096";
      return false;
    }
    value->counts.push_back(count);
  }
  return true;
}

std::string AbslUnparseFlag(const ThreadCounts& value) { return absl::StrJoin(value.counts, ","); }

}  // namespace
}  // namespace classicnn

ABSL_FLAG(classicnn::ThreadCounts, threads, {},
          "Threads to use, more than there are cores too. 0: all that the affinity mask and the "
          "cgroup CPU quota allow. Benchmarks take several numbers, separated by commas.");
ABSL_FLAG(
    std::string, target, "best",
    "Instruction set to use at most: best, avx3 (AVX-512), avx2, ..., whatever is compiled in "
    "and this CPU runs.");
ABSL_FLAG(int64_t, image_size, 32, "Height and width of the input images, in pixels.");
ABSL_FLAG(int64_t, num_classes, 10, "Number of classes the model tells apart.");

namespace classicnn {
namespace {

std::string& ProgramName() {
  static auto* name = new std::string("classicnn");
  return *name;
}

std::set<std::string>& GivenFlags() {
  static auto* given = new std::set<std::string>;
  return *given;
}

// For messages: no line breaks or escape sequences from the outside, and not too long.
std::string Quoted(absl::string_view text) {
  constexpr size_t kMost = 80;
  return absl::StrCat("\"", absl::Utf8SafeCEscape(text.substr(0, kMost)),
                      text.size() > kMost ? "...\"" : "\"");
}

[[noreturn]] void ExitUsage(const std::string& message) {
  std::exit(FailUsage(absl::InvalidArgumentError(
      absl::StrCat(message, "\n", ProgramName(), " --help lists the flags"))));
}

// This program's flags by name: all that are linked in but Abseil's own and those it does not take.
using Flags = std::map<std::string, absl::CommandLineFlag*>;
Flags FlagsOf(const ProgramInfo& info) {
  Flags flags;
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    if (flag->IsRetired() || absl::StrContains(flag->Filename(), "absl/flags/")) continue;
    flags.emplace(name, flag);
  }
  for (const std::string& name : info.without_flags) flags.erase(name);
  return flags;
}

// Prints `text` with line breaks at spaces so that lines end before column 100.
void PrintWrapped(const std::string& text, size_t indent) {
  size_t column = 0;
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (column > 0 && column + 1 + word.size() > 99) {
      std::printf("\n");
      column = 0;
    }
    if (column == 0) {
      std::printf("%*s", static_cast<int>(indent), "");
      column = indent;
    } else {
      std::printf(" ");
      ++column;
    }
    std::printf("%.*s", static_cast<int>(word.size()), word.data());
    column += word.size();
  }
  std::printf("\n");
}

[[noreturn]] void PrintHelpAndExit(const ProgramInfo& info) {
  std::printf("%s: ", info.name.c_str());
  std::printf("%s\n\nFlags:\n", info.summary.c_str());
  for (const auto& [name, flag] : FlagsOf(info)) {
    const std::string value = flag->DefaultValue();
    const bool text = flag->IsOfType<std::string>();
    const std::string help = flag->Help();
    // Where the default depends on other flags the text says it, and the value stands for that.
    if (!text && absl::StrContains(help, "Default")) {
      std::printf("  --%s\n", name.c_str());
    } else {
      std::printf("  --%s (default: %s)\n", name.c_str(),
                  text ? Quoted(value).c_str() : value.c_str());
    }
    PrintWrapped(help, 6);
  }
  if (info.extra_help) {
    std::printf("\n");
    info.extra_help();
  }
  std::exit(FinishOutput(kExitOk));
}

// Levenshtein distance.
size_t Distance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j < row.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

[[noreturn]] void ExitUnknownFlag(const Flags& flags, absl::string_view name) {
  std::string hint;
  size_t best = std::max<size_t>(2, name.size() / 3) + 1;
  for (const auto& [candidate, flag] : flags) {
    const size_t distance = name.size() > 64 ? best : Distance(name, candidate);
    if (distance < best) {
      best = distance;
      hint = absl::StrCat("; did you mean --", candidate, "?");
    }
  }
  ExitUsage(absl::StrCat("unknown flag ", Quoted(absl::StrCat("--", name)), hint));
}

void SetFlag(absl::CommandLineFlag& flag, absl::string_view value) {
  const std::string name(flag.Name());
  std::string error;
  if (!flag.ParseFrom(value, &error)) {
    // Abseil's text repeats flag and value; what a custom type says follows after "; ".
    const size_t detail = error.rfind("'; ");
    ExitUsage(absl::StrCat("bad value ", Quoted(value), " for --", name,
                           detail == std::string::npos ? "" : error.substr(detail + 1)));
  }
  GivenFlags().insert(name);
}

// The value of argv[*i], a flag without "=": the next argument, if there is one and it is no flag.
absl::string_view NextValue(const Flags& flags, int argc, char** argv, int* i,
                            absl::string_view name) {
  if (*i + 1 < argc) {
    const absl::string_view next = argv[*i + 1];
    const absl::string_view next_name = next.substr(0, next.find('='));
    const bool is_flag = absl::StartsWith(next, "--") &&
                         (next == "--help" || flags.count(std::string(next_name.substr(2))) > 0);
    if (!is_flag) {
      ++*i;
      return next;
    }
  }
  ExitUsage(absl::StrCat("--", name, " needs a value"));
}

void CheckRange(const Flags& flags, const char* name, int64_t value, int64_t least, int64_t most) {
  if (flags.count(name) == 0 || (value >= least && value <= most)) return;
  ExitUsage(absl::StrCat("bad value \"", value, "\" for --", name, ": must be from ", least, " to ",
                         most));
}

}  // namespace

void ParseProgramFlags(const ProgramInfo& info, int* argc, char** argv,
                       const std::function<bool(absl::string_view)>& is_foreign) {
  ProgramName() = info.name;
  const Flags flags = FlagsOf(info);
  const auto stray = [](absl::string_view argument) {
    ExitUsage(absl::StrCat("unexpected argument ", Quoted(argument), ": flags begin with --"));
  };
  int kept = std::min(1, *argc);
  int i = 1;
  for (; i < *argc; ++i) {
    const absl::string_view argument = argv[i];
    if (argument == "--") {
      ++i;
      break;
    }
    if (argument == "-h" || argument == "-help" || argument == "--help") PrintHelpAndExit(info);
    if (is_foreign && is_foreign(argument)) {
      argv[kept++] = argv[i];
      continue;
    }
    absl::string_view name = argument;
    if (!absl::ConsumePrefix(&name, "-") || name.empty()) stray(argument);
    absl::ConsumePrefix(&name, "-");
    const size_t equals = name.find('=');
    const bool has_value = equals != absl::string_view::npos;
    const absl::string_view value = has_value ? name.substr(equals + 1) : "";
    name = name.substr(0, equals);

    auto found = flags.find(std::string(name));
    if (found != flags.end()) {
      if (has_value) {
        SetFlag(*found->second, value);
      } else if (found->second->IsOfType<bool>()) {
        SetFlag(*found->second, "true");
      } else {
        SetFlag(*found->second, NextValue(flags, *argc, argv, &i, name));
      }
      continue;
    }
    absl::string_view positive = name;
    found = absl::ConsumePrefix(&positive, "no") ? flags.find(std::string(positive)) : flags.end();
    if (found == flags.end() || !found->second->IsOfType<bool>()) ExitUnknownFlag(flags, name);
    if (has_value) ExitUsage(absl::StrCat("--", name, " takes no value"));
    SetFlag(*found->second, "false");
  }
  if (i < *argc) stray(argv[i]);
  *argc = kept;
  argv[kept] = nullptr;

  if (!info.takes_thread_list && ThreadListFlag().size() > 1) {
    ExitUsage(absl::StrCat("bad value ", Quoted(AbslUnparseFlag(absl::GetFlag(FLAGS_threads))),
                           " for --threads: one number is expected"));
  }
  CheckRange(flags, "image_size", ImageSizeFlag(), 1, 65536);
  CheckRange(flags, "num_classes", NumClassesFlag(), 1, 1000000);
  if (flags.count("target") > 0) {
    if (absl::Status s = SetTarget(absl::GetFlag(FLAGS_target)); !s.ok()) {
      ExitUsage(absl::StrCat("bad value for --target: ", s.message()));
    }
  }
}

int FailUsage(const absl::Status& status) {
  std::vector<absl::string_view> lines = absl::StrSplit(status.message(), '\n', absl::SkipEmpty());
  if (lines.size() > 3) lines.resize(3);
  std::fprintf(stderr, "%s: %s\n", ProgramName().c_str(), absl::StrJoin(lines, "\n").c_str());
  return kExitBadUsage;
}

int FinishOutput(int code) {
  // Both: an earlier flush may have failed and left nothing to write.
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  std::fprintf(stderr, "%s: cannot write to standard output: what it shows is incomplete\n",
               ProgramName().c_str());
  return code == kExitOk ? kExitFailed : code;
}

bool FlagWasGiven(absl::string_view name) { return GivenFlags().count(std::string(name)) > 0; }

absl::Status RefuseEmpty(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    const absl::CommandLineFlag* flag = absl::FindCommandLineFlag(name);
    if (FlagWasGiven(name) && flag != nullptr && flag->CurrentValue().empty()) {
      return absl::InvalidArgumentError(absl::StrCat("--", name, " is empty: give it a value"));
    }
  }
  return absl::OkStatus();
}

int ThreadsFlag() { return ThreadListFlag().front(); }
std::vector<int> ThreadListFlag() { return absl::GetFlag(FLAGS_threads).counts; }
int64_t ImageSizeFlag() { return absl::GetFlag(FLAGS_image_size); }
int64_t NumClassesFlag() { return absl::GetFlag(FLAGS_num_classes); }

}  // namespace classicnn
