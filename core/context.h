// What every kernel call gets beside its operands: the threads, the accounting of memory, and the
// trace. Passed by reference; there are no globals.
#ifndef CLASSICNN_CORE_CONTEXT_H_
#define CLASSICNN_CORE_CONTEXT_H_

#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "core/memory.h"

namespace classicnn {

class Tracer;  // core/trace.h

// Threads this process may use: the affinity mask, cut down to the cgroup CPU quota (version 2
// cpu.max or version 1 cpu.cfs_quota_us, rounded up), at least 1.
int AvailableThreads();

class Context {
 public:
  // Exactly `num_threads` threads, the caller's included; more than the machine has cores is
  // allowed. 0 means AvailableThreads().
  explicit Context(int num_threads = 0);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls body(piece, worker) once for every piece in [0, count), in any order and on any thread,
  // and returns when all are done. `worker` is in [0, num_threads()) and no two calls that run at
  // the same time have the same one: use it to index per-thread scratch. `zone` names the work in
  // traces ("conv2d.forward.direct"); it must be a string literal.
  //
  // Sums must be cut by the problem's shape alone, never by num_threads(), and pieces must not
  // combine their results in an order that depends on who runs them: that is what keeps results the
  // same bits on any number of threads. Which values a piece computes may depend on the threads,
  // what a value is the sum of may not. Denormals are flushed to zero while body runs. Not
  // reentrant: body must not call ParallelFor.
  void ParallelFor(const char* zone, int64_t count,
                   absl::FunctionRef<void(int64_t piece, int worker)> body);

  MemoryTracker& memory() { return memory_; }

  // Null when nothing is traced. The tracer must outlive its use here.
  Tracer* tracer() const { return tracer_; }
  void set_tracer(Tracer* tracer) { tracer_ = tracer; }

 private:
  struct Threads;

  int num_threads_;
  std::unique_ptr<Threads> threads_;  // null for one thread
  MemoryTracker memory_;
  Tracer* tracer_ = nullptr;
};

// While it lives, denormal inputs and results of this thread's float arithmetic are zero (FTZ and
// DAZ; trained weights are full of denormals, and each costs a hundred cycles).
class FlushDenormals {
 public:
  FlushDenormals();
  ~FlushDenormals();
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  uint64_t saved_;
};

}  // namespace classicnn

#endif  // CLASSICNN_CORE_CONTEXT_H_
