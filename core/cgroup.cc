#include "core/cgroup.h"

#include <algorithm>
#include <fstream>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace classicnn {
namespace {

// The groups from `path` up to the root of the hierarchy, whose name is "". A path is relative to
// a mount that containers usually make their own root, so each level may or may not exist.
std::vector<std::string> WithParents(std::string path) {
  std::vector<std::string> groups;
  while (!path.empty() && path != "/") {
    groups.push_back(path);
    const size_t slash = path.rfind('/');
    path.resize(slash == std::string::npos ? 0 : slash);
  }
  groups.emplace_back();
  return groups;
}

// Version 2, one file: "max 100000" or "150000 100000".
double Version2Limit(const std::string& file) {
  std::ifstream f(file);
  std::string quota_text;
  double period = 0;
  double quota = 0;
  if (!(f >> quota_text >> period) || period <= 0) return 0;
  return absl::SimpleAtod(quota_text, &quota) && quota > 0 ? quota / period : 0;
}

// Version 1, two files; a quota of -1 means none.
double Version1Limit(const std::string& folder) {
  std::ifstream quota_file(folder + "/cpu.cfs_quota_us");
  std::ifstream period_file(folder + "/cpu.cfs_period_us");
  double quota = 0;
  double period = 0;
  if (!(quota_file >> quota) || !(period_file >> period)) return 0;
  return quota > 0 && period > 0 ? quota / period : 0;
}

}  // namespace

double CgroupCpus(const std::string& root) {
  // Lines of "id:controllers:path"; id 0 with no controllers is version 2.
  std::string path2;
  std::string path1;
  std::ifstream self(root + "/proc/self/cgroup");
  for (std::string line; std::getline(self, line);) {
    const std::vector<std::string> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3) continue;
    if (fields[0] == "0" && fields[1].empty()) path2 = fields[2];
    for (const absl::string_view controller : absl::StrSplit(fields[1], ',')) {
      if (controller == "cpu") path1 = fields[2];
    }
  }

  double cpus = 0;
  const auto limit_to = [&cpus](double limit) {
    if (limit > 0) cpus = cpus == 0 ? limit : std::min(cpus, limit);
  };
  const std::string mount = root + "/sys/fs/cgroup";
  for (const std::string& group : WithParents(path2)) {
    limit_to(Version2Limit(mount + group + "/cpu.max"));
  }
  for (const std::string& group : WithParents(path1)) {
    for (const char* hierarchy : {"/cpu", "/cpu,cpuacct"}) {
      limit_to(Version1Limit(mount + hierarchy + group));
    }
  }
  return cpus;
}

}  // namespace classicnn
