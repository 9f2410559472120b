#include "tests/verify/runner.h"

#include <algorithm>
#include <atomic>
#include <iterator>
#include <numeric>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/program.h"

namespace classicnn::verify {

std::vector<Row> RunChecks(const std::vector<Check>& checks, int num_threads) {
  std::vector<size_t> order(checks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return checks[a].cost > checks[b].cost; });

  std::vector<std::vector<Row>> rows(checks.size());
  std::atomic<size_t> next{0};
  std::mutex progress_mutex;
  Progress progress("verify");
  int64_t done = 0;
  const auto work = [&] {
    for (size_t i = next++; i < order.size(); i = next++) {
      const Check& check = checks[order[i]];
      rows[order[i]] = check.run();
      const std::lock_guard<std::mutex> lock(progress_mutex);
      progress.Update(++done, static_cast<int64_t>(checks.size()), check.name);
    }
  };
  std::vector<std::thread> threads;
  for (int t = 1; t < num_threads; ++t) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  progress.Finish(absl::StrCat(checks.size(), " groups of checks run"));

  std::vector<Row> all;
  for (std::vector<Row>& some : rows) {
    all.insert(all.end(), std::make_move_iterator(some.begin()),
               std::make_move_iterator(some.end()));
  }
  return all;
}

}  // namespace classicnn::verify
