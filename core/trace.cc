#include "core/trace.h"

#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/file.h"
#include "nlohmann/json.hpp"

namespace classicnn {

int64_t NowNanos() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

Tracer::Tracer(int64_t max_events)
    : events_(static_cast<Event*>(
          std::calloc(static_cast<size_t>(std::max<int64_t>(1, max_events)), sizeof(Event)))),
      max_events_(static_cast<size_t>(std::max<int64_t>(0, max_events))),
      block_(max_events >= 10000 ? 64 : 1) {
  CNN_CHECK(max_events >= 0 && events_ != nullptr, max_events, " events");
  RetireBlocks();
}

void Tracer::RetireBlocks() {
  static std::atomic<uint64_t> generations{0};
  generation_ = ++generations;
}

Tracer::Event* Tracer::TakeEvent() {
  struct Block {
    uint64_t generation = 0;
    size_t next = 0;
    size_t end = 0;
  };
  thread_local Block block;
  if (block.generation != generation_ || block.next == block.end) {
    const auto first = static_cast<size_t>(next_.fetch_add(block_, std::memory_order_relaxed));
    const size_t end = std::min(first + static_cast<size_t>(block_), max_events_);
    block = {generation_, std::min(first, end), end};
    if (first >= end) {
      dropped_.fetch_add(1, std::memory_order_relaxed);
      return nullptr;
    }
  }
  return &events_[block.next++];
}

size_t Tracer::Taken() const { return std::min(static_cast<size_t>(next_.load()), max_events_); }

void Tracer::Span(const char* name, const char* category, int worker, int64_t begin_ns,
                  int64_t end_ns) {
  Event* const event = TakeEvent();
  if (event != nullptr) *event = {name, category, worker, begin_ns, end_ns};
}

void Tracer::Counter(const char* name, int64_t at_ns, int64_t value) {
  Event* const event = TakeEvent();
  if (event != nullptr) *event = {name, nullptr, 0, at_ns, value};
}

int64_t Tracer::dropped() const { return dropped_; }

void Tracer::Clear() {
  std::fill_n(events_.get(), Taken(), Event());
  next_ = 0;
  dropped_ = 0;
  kept_ = 0;
  RetireBlocks();
}

void Tracer::KeepNames() {
  for (; kept_ < Taken(); ++kept_) {
    Event& event = events_[kept_];
    if (event.name == nullptr) continue;
    event.name = names_.emplace(event.name).first->c_str();
    if (event.category != nullptr) event.category = names_.emplace(event.category).first->c_str();
  }
  RetireBlocks();
}

absl::Status Tracer::WriteJson(const std::string& path) const {
  auto file = AtomicFile::Create(path);
  if (!file.ok()) return file.status();
  int64_t origin_ns = std::numeric_limits<int64_t>::max();
  std::set<int> workers;
  for (size_t i = 0; i < Taken(); ++i) {
    const Event& e = events_[i];
    if (e.name == nullptr) continue;
    origin_ns = std::min(origin_ns, e.begin_ns);
    if (e.category != nullptr) workers.insert(e.worker);
  }

  std::string text = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
  const char* separator = "";
  const auto add = [&](const nlohmann::json& event) {
    // Names come from graphs and may hold anything: bytes that are no UTF-8 are replaced.
    absl::StrAppend(&text, separator,
                    event.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    separator = ",\n";
  };
  for (const int worker : workers) {
    add({{"ph", "M"},
         {"name", "thread_name"},
         {"pid", 1},
         {"tid", worker},
         {"args", {{"name", absl::StrCat("worker ", worker)}}}});
  }
  const auto micros = [](int64_t ns) { return static_cast<double>(ns) * 1e-3; };
  for (size_t i = 0; i < Taken(); ++i) {
    const Event& e = events_[i];
    if (e.name == nullptr) continue;
    if (e.category != nullptr) {
      add({{"ph", "X"},
           {"name", e.name},
           {"cat", e.category},
           {"pid", 1},
           {"tid", e.worker},
           {"ts", micros(e.begin_ns - origin_ns)},
           {"dur", micros(e.end_or_value - e.begin_ns)}});
    } else {
      add({{"ph", "C"},
           {"name", e.name},
           {"pid", 1},
           {"ts", micros(e.begin_ns - origin_ns)},
           {"args", {{"value", e.end_or_value}}}});
    }
    if (text.size() > (size_t{1} << 20)) {
      if (absl::Status s = (*file)->Append(text.data(), text.size()); !s.ok()) return s;
      text.clear();
    }
  }
  absl::StrAppend(&text, "\n],\"otherData\":{\"dropped_events\":", dropped(), "}}\n");
  if (absl::Status s = (*file)->Append(text.data(), text.size()); !s.ok()) return s;
  return (*file)->Commit();
}

}  // namespace classicnn
