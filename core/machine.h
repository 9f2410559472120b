// The machine: what it is, and what it measurably can do.
#ifndef CLASSICNN_CORE_MACHINE_H_
#define CLASSICNN_CORE_MACHINE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"

namespace classicnn {

struct MachineInfo {
  std::string cpu_model;
  int logical_cpus = 0;
  int available_threads = 0;  // core/context.h
  int64_t l1d_bytes = 0;      // of one core
  int64_t l2_bytes = 0;
  int64_t l3_bytes = 0;  // of one shared instance
  int64_t memory_bytes = 0;
  std::vector<std::string> targets;  // core/isa.h
  std::string active_target;
};
MachineInfo GetMachineInfo();

// Rates measured on `num_threads` threads with the given target; where that is more than
// AvailableThreads(), they are those of all that are available.
struct MachinePeaks {
  int num_threads = 0;
  std::string target;
  double fma_flops = 0;              // f32, FLOP/s: independent FMA chains in registers
  double copy_bytes_per_second = 0;  // read + written, out of cache; the better of ordinary and
                                     // streaming stores
};

// Measures in a child process (the probe's memory never counts as this program's) and remembers the
// result in a cache file of this machine, CPU model, target and thread count:
// $XDG_CACHE_HOME/classicnn/peaks.json, or ~/.cache/..., or nowhere if that cannot be written.
// CLASSICNN_PEAKS_CACHE names another file; empty switches the cache off. A probe takes about a
// second. The first three programs that ask all measure, and the best counts: a probe that met a
// busy machine is not believed for ever. Within a process the answer stays the same. Where a
// machine is given less than a whole number of CPUs, this is what it reaches between two
// throttlings.
absl::StatusOr<MachinePeaks> GetMachinePeaks(int num_threads);

// How this library was built.
struct BuildInfo {
  std::string version;   // of this library
  std::string compiler;  // and its version
  std::string flags;     // sanitizers and definitions included
  std::string build_type;
  std::string commit;  // "unknown" outside a git checkout; "-dirty" appended where it applies
};
BuildInfo GetBuildInfo();

void to_json(nlohmann::json& j, const MachineInfo& info);
void to_json(nlohmann::json& j, const MachinePeaks& peaks);
void to_json(nlohmann::json& j, const BuildInfo& info);

}  // namespace classicnn

#endif  // CLASSICNN_CORE_MACHINE_H_
