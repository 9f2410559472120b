#include "core/trace.h"

#include <time.h>

#include <algorithm>
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

Tracer::Tracer(int64_t max_events) {
  CNN_CHECK(max_events >= 0, max_events, " events");
  events_.resize(static_cast<size_t>(max_events));
}

void Tracer::Span(const char* name, const char* category, int worker, int64_t begin_ns,
                  int64_t end_ns) {
  const int64_t slot = next_.fetch_add(1, std::memory_order_relaxed);
  if (slot >= static_cast<int64_t>(events_.size())) return;
  events_[static_cast<size_t>(slot)] = {name, category, worker, begin_ns, end_ns};
}

void Tracer::Counter(const char* name, int64_t at_ns, int64_t value) {
  const int64_t slot = next_.fetch_add(1, std::memory_order_relaxed);
  if (slot >= static_cast<int64_t>(events_.size())) return;
  events_[static_cast<size_t>(slot)] = {name, nullptr, 0, at_ns, value};
}

int64_t Tracer::dropped() const {
  return std::max<int64_t>(0, next_.load() - static_cast<int64_t>(events_.size()));
}

void Tracer::Clear() {
  next_ = 0;
  kept_ = 0;
}

void Tracer::KeepNames() {
  const int64_t count = std::min<int64_t>(next_.load(), static_cast<int64_t>(events_.size()));
  for (; kept_ < count; ++kept_) {
    Event& event = events_[static_cast<size_t>(kept_)];
    event.name = names_.emplace(event.name).first->c_str();
    if (event.category != nullptr) event.category = names_.emplace(event.category).first->c_str();
  }
}

absl::Status Tracer::WriteJson(const std::string& path) const {
  auto file = AtomicFile::Create(path);
  if (!file.ok()) return file.status();
  const auto count =
      static_cast<size_t>(std::min<int64_t>(next_.load(), static_cast<int64_t>(events_.size())));
  int64_t origin_ns = 0;
  std::set<int> workers;
  for (size_t i = 0; i < count; ++i) {
    const Event& e = events_[i];
    origin_ns = i == 0 ? e.begin_ns : std::min(origin_ns, e.begin_ns);
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
  for (size_t i = 0; i < count; ++i) {
    const Event& e = events_[i];
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
