// Runs independent checks on several threads.
//
// References are slow, on one thread each, and so run side by side. Optimized code is fast and has
// threads of its own: one check at a time may use them.
#ifndef CLASSICNN_TESTS_VERIFY_RUNNER_H_
#define CLASSICNN_TESTS_VERIFY_RUNNER_H_

#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/context.h"
#include "tests/verify/results.h"

namespace classicnn::verify {

// The threads of optimized code, shared by all checks.
class OptimizedThreads {
 public:
  explicit OptimizedThreads(int num_threads) : ctx_(num_threads) {}
  int num_threads() const { return ctx_.num_threads(); }
  // For what needs a context to exist; work on its threads only within Run.
  Context& context() { return ctx_; }
  void Run(absl::FunctionRef<void(Context&)> body) {
    const std::lock_guard<std::mutex> lock(mutex_);
    body(ctx_);
  }

 private:
  std::mutex mutex_;
  Context ctx_;
};

struct Check {
  std::string name;
  double cost = 0;  // the most expensive ones start first
  std::function<std::vector<Row>()> run;
};

// The rows of all checks, in the order of the checks. Progress goes to stderr.
std::vector<Row> RunChecks(const std::vector<Check>& checks, int num_threads);

}  // namespace classicnn::verify

#endif  // CLASSICNN_TESTS_VERIFY_RUNNER_H_
