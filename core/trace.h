// Trace events in Chrome's JSON format (opens in Perfetto and chrome://tracing).
#ifndef CLASSICNN_CORE_TRACE_H_
#define CLASSICNN_CORE_TRACE_H_

#include <atomic>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace classicnn {

// Nanoseconds of a monotonic clock.
int64_t NowNanos();

// Records spans and counters into memory reserved up front, so that recording neither allocates nor
// locks. When the reserve is used up further events are dropped and counted. Recording is
// thread-safe; WriteJson is not.
class Tracer {
 public:
  explicit Tracer(int64_t max_events = int64_t{1} << 20);

  // A span of work of thread `worker`. `name` and `category` are not copied: they must live until
  // KeepNames or WriteJson (string literals, names of a plan's steps).
  void Span(const char* name, const char* category, int worker, int64_t begin_ns, int64_t end_ns);
  // A counter track ("memory"), its value from `at_ns` on.
  void Counter(const char* name, int64_t at_ns, int64_t value);

  int64_t dropped() const;
  void Clear();
  // Copies all names recorded so far, so that their owners may go. Not thread-safe.
  void KeepNames();

  // {"traceEvents":[...]}: ph "X" spans with ts and dur in microseconds, ph "C" counters, ph "M"
  // names of threads. Written beside `path` and renamed.
  absl::Status WriteJson(const std::string& path) const;

 private:
  struct Event {
    const char* name;
    const char* category;  // null for a counter
    int worker;
    int64_t begin_ns;
    int64_t end_or_value;
  };
  std::vector<Event> events_;
  std::set<std::string> names_;  // those copied; a set's strings stay where they are
  int64_t kept_ = 0;             // events before this one have copied names
  std::atomic<int64_t> next_{0};
};

}  // namespace classicnn

#endif  // CLASSICNN_CORE_TRACE_H_
