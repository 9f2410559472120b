// Sizes and lists, as flags spell them, and the progress bar (core/program.h).
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/program.h"
#include "core/trace.h"

namespace classicnn {
namespace {

constexpr int64_t kBarPeriodNanos = 100'000'000;
constexpr int64_t kLinePeriodNanos = 10'000'000'000;

std::string Escaped(absl::string_view word) {
  return absl::StrCat("\"", absl::Utf8SafeCEscape(word.substr(0, 80)), "\"");
}

size_t TerminalWidth() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string Seconds(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  if (s < 60) return absl::StrCat(s, " s");
  if (s < 3600) return absl::StrFormat("%d:%02d min", s / 60, s % 60);
  return absl::StrFormat("%d:%02d h", s / 3600, s / 60 % 60);
}

}  // namespace

absl::StatusOr<int64_t> ParseSize(absl::string_view text) {
  const auto bad = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat(Escaped(text), " is not a size: say 64, 512M or 1.5G"));
  };
  absl::string_view digits = text;
  double unit = 1;
  if (!digits.empty()) {
    const char last = absl::ascii_toupper(static_cast<unsigned char>(digits.back()));
    if (last == 'K') unit = 0x1p10;
    if (last == 'M') unit = 0x1p20;
    if (last == 'G') unit = 0x1p30;
    if (unit != 1) digits.remove_suffix(1);
  }
  // SimpleAtod alone would take "-1", " 1", "1e3", "inf" and "0x10".
  if (digits.empty() || digits.find_first_not_of("0123456789.") != absl::string_view::npos) {
    return bad();
  }
  int64_t exact = 0;  // doubles have 53 bits only
  if (unit == 1 && absl::SimpleAtoi(digits, &exact)) return exact;
  double value = 0;
  if (!absl::SimpleAtod(digits, &value)) return bad();
  if (unit == 1 && value != std::floor(value)) return bad();
  value *= unit;  // "1.1G" is no whole number of bytes: rounded down
  if (value >= 0x1p63) return bad();
  return static_cast<int64_t>(value);
}

std::string FormatBytes(int64_t bytes) {
  const double value = static_cast<double>(bytes);
  const double magnitude = std::abs(value);
  if (magnitude < 0x1p10) return absl::StrCat(bytes, " B");
  if (magnitude < 0x1p20) return absl::StrFormat("%.2f KiB", value * 0x1p-10);
  if (magnitude < 0x1p30) return absl::StrFormat("%.2f MiB", value * 0x1p-20);
  return absl::StrFormat("%.2f GiB", value * 0x1p-30);
}

absl::StatusOr<std::vector<std::string>> ParseChoices(absl::string_view flag,
                                                      absl::string_view text,
                                                      const std::vector<std::string>& allowed) {
  std::vector<std::string> chosen;
  bool all = false;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    const std::string word(absl::StripAsciiWhitespace(part));
    if (word == "all") {
      all = true;
    } else if (std::find(allowed.begin(), allowed.end(), word) == allowed.end()) {
      return absl::InvalidArgumentError(absl::StrCat("bad value ", Escaped(word), " for --", flag,
                                                     ": must be all or from ",
                                                     absl::StrJoin(allowed, ", ")));
    } else if (std::find(chosen.begin(), chosen.end(), word) == chosen.end()) {
      chosen.push_back(word);
    }
  }
  return all ? allowed : chosen;
}

absl::StatusOr<std::vector<int64_t>> ParsePositiveList(absl::string_view flag,
                                                       absl::string_view text) {
  std::vector<int64_t> values;
  for (const absl::string_view word : absl::StrSplit(text, ',')) {
    int64_t value = 0;
    if (!absl::SimpleAtoi(word, &value) || value <= 0) {
      return absl::InvalidArgumentError(absl::StrCat("bad value ", Escaped(word), " for --", flag,
                                                     ": must be positive integers, "
                                                     "separated by commas"));
    }
    values.push_back(value);
  }
  return values;
}

Progress::Progress(std::string label)
    : label_(std::move(label)), started_ns_(NowNanos()), last_shown_ns_(started_ns_) {
  const char* term = std::getenv("TERM");
  const char* no_color = std::getenv("NO_COLOR");
  terminal_ = isatty(STDERR_FILENO) == 1 && !(term != nullptr && absl::string_view(term) == "dumb");
  color_ = terminal_ && (no_color == nullptr || *no_color == '\0');
}

Progress::~Progress() {
  if (open_) std::fputc('\n', stderr);
}

void Progress::Update(int64_t done, int64_t total, const std::string& text) {
  const int64_t now = NowNanos();
  if (now - last_shown_ns_ < (terminal_ ? kBarPeriodNanos : kLinePeriodNanos)) return;
  last_shown_ns_ = now;
  const double fraction =
      total > 0 ? std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0) : 0;
  const double elapsed = static_cast<double>(now - started_ns_) * 1e-9;
  std::string tail = absl::StrFormat("%3.0f%% %s", fraction * 100, text);
  if (fraction > 0) absl::StrAppend(&tail, ", ", Seconds(elapsed / fraction - elapsed), " left");
  if (!terminal_) {
    std::fprintf(stderr, "%s: %s\n", label_.c_str(), tail.c_str());
    return;
  }
  constexpr size_t kBar = 24;
  const auto full = static_cast<size_t>(fraction * kBar);
  const size_t width = TerminalWidth() - 1;  // a full line would wrap
  const size_t used = label_.size() + kBar + 4;
  tail.resize(std::min(tail.size(), width > used ? width - used : 0));
  std::fprintf(stderr, "\r%s [%s%s%s%s] %s\x1b[K", label_.c_str(), color_ ? "\x1b[32m" : "",
               std::string(full, '#').c_str(), color_ ? "\x1b[0m" : "",
               std::string(kBar - full, '.').c_str(), tail.c_str());
  std::fflush(stderr);
  open_ = true;
}

void Progress::Clear() {
  if (open_) std::fprintf(stderr, "\r\x1b[K");
  open_ = false;
}

void Progress::Finish(const std::string& text) {
  std::fprintf(stderr, "%s%s: %s%s\n", open_ ? "\r" : "", label_.c_str(), text.c_str(),
               open_ ? "\x1b[K" : "");
  open_ = false;
}

}  // namespace classicnn
