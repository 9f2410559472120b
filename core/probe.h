// The measurements behind core/machine.h.
#ifndef CLASSICNN_CORE_PROBE_H_
#define CLASSICNN_CORE_PROBE_H_

#include <cstdint>

namespace classicnn {

struct ProbeRates {
  double fma_flops = 0;
  double ordinary_copy = 0;   // bytes read + written per second, ordinary stores
  double streaming_copy = 0;  // the same past the caches
};

// Runs on `num_threads` plain threads of its own with the active target. Source and destination of
// the copies are `copy_bytes` each. Many short windows are measured and the best counts: other
// programs' bursts then disturb some of them, not the result. Takes about a second.
ProbeRates RunProbe(int num_threads, int64_t copy_bytes);

// RunProbe in a child process. False where that is not possible or does not end in time.
bool RunProbeInChild(int num_threads, int64_t copy_bytes, ProbeRates* rates);

}  // namespace classicnn

#endif  // CLASSICNN_CORE_PROBE_H_
