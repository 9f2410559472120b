// Trace events in Chrome's JSON format (opens in Perfetto and chrome://tracing).
#ifndef CLASSICNN_CORE_TRACE_H_
#define CLASSICNN_CORE_TRACE_H_

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace classicnn {

// Nanoseconds of a monotonic clock.
int64_t NowNanos();

// Records spans and counters into memory reserved up front, so that recording neither allocates nor
// locks. Threads take the reserve in blocks: a counter that all of them raise for each event cost a
// step of a hundred short zones 1% of its time. (A thread that changes to another tracer leaves the
// rest of its block unused.) When the reserve is used up further events are
// dropped and counted. Recording is thread-safe; the other functions are not.
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
  // Copies all names recorded so far, so that their owners may go.
  void KeepNames();

  // {"traceEvents":[...]}: ph "X" spans with ts and dur in microseconds, ph "C" counters, ph "M"
  // names of threads. Written beside `path` and renamed.
  absl::Status WriteJson(const std::string& path) const;

 private:
  struct Event {
    const char* name = nullptr;      // null where nothing was recorded
    const char* category = nullptr;  // null for a counter
    int worker = 0;
    int64_t begin_ns = 0;
    int64_t end_or_value = 0;
  };
  // Null where nothing is left.
  Event* TakeEvent();
  size_t Taken() const;
  void RetireBlocks();  // threads take new ones for what they record from now on

  struct Free {
    void operator()(Event* events) const { std::free(events); }
  };
  // All zero, so as good as constructed. Memory that no event came to is never touched.
  std::unique_ptr<Event[], Free> events_;
  const size_t max_events_;
  const int64_t block_;          // events
  std::set<std::string> names_;  // those copied; a set's strings stay where they are
  size_t kept_ = 0;              // events before this one have copied names
  uint64_t generation_ = 0;      // of blocks: different for every tracer and time
  std::atomic<int64_t> next_{0};
  std::atomic<int64_t> dropped_{0};
};

}  // namespace classicnn

#endif  // CLASSICNN_CORE_TRACE_H_
