// The CPU quota that the kernel's control groups put on this process.
#ifndef CLASSICNN_CORE_CGROUP_H_
#define CLASSICNN_CORE_CGROUP_H_

#include <string>

namespace classicnn {

// CPUs' worth of run time that the process may use, 0 where there is no quota: the smallest over
// its own group and each above it, version 2 (cpu.max) and version 1 (cpu.cfs_quota_us over
// cpu.cfs_period_us). Files are read below `root` ("" is the real file system): root +
// "/proc/self/cgroup" and root + "/sys/fs/cgroup/...". What cannot be read or parsed sets no limit.
double CgroupCpus(const std::string& root = "");

}  // namespace classicnn

#endif  // CLASSICNN_CORE_CGROUP_H_
