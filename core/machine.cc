#include "core/machine.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/context.h"
#include "core/file.h"
#include "core/isa.h"
#include "core/probe.h"
#include "core/trace.h"
#include "core/user_cache.h"
#include "nlohmann/json.hpp"

namespace classicnn {
namespace {

// To be raised when the probe measures something else than before, or is remembered in another
// form.
constexpr int kProbeVersion = 2;
// So many programs measure, and the best counts: the first may have met a busy machine.
constexpr int kProbes = 3;

std::string FirstLine(const std::string& path) {
  std::ifstream f(path);
  std::string line;
  std::getline(f, line);
  return std::string(absl::StripAsciiWhitespace(line));
}

std::string CpuModel() {
  std::ifstream f("/proc/cpuinfo");
  for (std::string line; std::getline(f, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const auto key = absl::StripAsciiWhitespace(absl::string_view(line).substr(0, colon));
    if (key == "model name" || key == "Model" || key == "cpu model") {
      return std::string(absl::StripAsciiWhitespace(absl::string_view(line).substr(colon + 1)));
    }
  }
  utsname name;
  return uname(&name) == 0 ? name.machine : "unknown";
}

// sysfs says "48K" or "32M".
int64_t CacheSize(const std::string& text) {
  if (text.empty()) return 0;
  int64_t unit = 1;
  absl::string_view digits = text;
  if (text.back() == 'K') unit = int64_t{1} << 10;
  if (text.back() == 'M') unit = int64_t{1} << 20;
  if (unit > 1) digits.remove_suffix(1);
  int64_t value = 0;
  return absl::SimpleAtoi(digits, &value) && value > 0 && value < (int64_t{1} << 30) ? value * unit
                                                                                     : 0;
}

void ReadCaches(MachineInfo* info) {
  for (int index = 0;; ++index) {
    const std::string folder = absl::StrCat("/sys/devices/system/cpu/cpu0/cache/index", index, "/");
    const std::string level = FirstLine(folder + "level");
    if (level.empty()) break;
    if (FirstLine(folder + "type") == "Instruction") continue;
    const int64_t size = CacheSize(FirstLine(folder + "size"));
    if (level == "1") info->l1d_bytes = size;
    if (level == "2") info->l2_bytes = size;
    if (level == "3") info->l3_bytes = size;
  }
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  // Containers may hide sysfs.
  const auto fill = [](int64_t* bytes, int name) {
    if (*bytes == 0) *bytes = std::max<int64_t>(0, sysconf(name));
  };
  fill(&info->l1d_bytes, _SC_LEVEL1_DCACHE_SIZE);
  fill(&info->l2_bytes, _SC_LEVEL2_CACHE_SIZE);
  fill(&info->l3_bytes, _SC_LEVEL3_CACHE_SIZE);
#endif
}

// Last caches of the machine: large ones have many, each shared by a few cores.
int64_t CountLastCaches(int cpus) {
  std::set<std::string> sharers;
  for (int cpu = 0; cpu < cpus; ++cpu) {
    sharers.insert(FirstLine(
        absl::StrCat("/sys/devices/system/cpu/cpu", cpu, "/cache/index3/shared_cpu_list")));
  }
  sharers.erase("");
  return std::max<int64_t>(1, static_cast<int64_t>(sharers.size()));
}

// Source and destination together are at least eight times the last caches, as far as an eighth of
// the memory allows.
int64_t CopyBytes(const MachineInfo& info) {
  constexpr int64_t kLeast = int64_t{128} << 20;
  constexpr int64_t kMost = int64_t{1} << 30;
  const int64_t wanted =
      std::clamp(4 * info.l3_bytes * CountLastCaches(info.logical_cpus), kLeast, kMost);
  return std::max(int64_t{8} << 20, std::min(wanted, info.memory_bytes / 16));
}

// Everything that a result depends on.
std::string CacheKey(const MachineInfo& info, int num_threads) {
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  std::string machine = FirstLine("/etc/machine-id");
  if (machine.empty()) machine = host;
  return absl::StrCat("probe ", kProbeVersion, ", version ", GetBuildInfo().version, ", ", machine,
                      ", ", info.cpu_model, ", ", info.logical_cpus, " cpus, ",
                      info.available_threads, " available, ", info.active_target, ", ", num_threads,
                      " threads");
}

// One program probes at a time: two would measure each other. Waiting has an end, in case the other
// one was stopped; the file itself is safe anyway, because it is only ever replaced as a whole.
class ProbeLock {
 public:
  explicit ProbeLock(const std::string& cache_path) {
    if (cache_path.empty()) return;
    fd_ = open((cache_path + ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    const int64_t deadline_ns = NowNanos() + int64_t{20'000'000'000};
    while (fd_ >= 0 && flock(fd_, LOCK_EX | LOCK_NB) != 0 && NowNanos() < deadline_ns) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
  ~ProbeLock() {
    if (fd_ >= 0) close(fd_);
  }
  ProbeLock(const ProbeLock&) = delete;
  ProbeLock& operator=(const ProbeLock&) = delete;

 private:
  int fd_ = -1;
};

// The cache file's contents; an empty object where it is missing or damaged.
nlohmann::json ReadCache(const std::string& path) {
  const auto text = path.empty() ? absl::NotFoundError("") : ReadFile(path);
  if (!text.ok() || text->size() > (size_t{1} << 20)) return nlohmann::json::object();
  auto cache = ParseCache(*text);
  return cache.is_object() ? cache : nlohmann::json::object();
}

// What the cache has for a key, and how many programs measured it: 0 without (whole) figures.
int FindInCache(const nlohmann::json& cache, const std::string& key, MachinePeaks* peaks) {
  const auto found = cache.find(key);
  if (found == cache.end() || !found->is_object()) return 0;
  const auto positive = [&](const char* field) {
    const auto number = found->find(field);
    return number != found->end() && number->is_number() ? std::max(0.0, number->get<double>()) : 0;
  };
  const double fma_flops = positive("fma_flops");
  const double copy_bytes_per_second = positive("copy_bytes_per_second");
  if (fma_flops == 0 || copy_bytes_per_second == 0) return 0;
  peaks->fma_flops = fma_flops;
  peaks->copy_bytes_per_second = copy_bytes_per_second;
  return static_cast<int>(std::clamp(positive("probes"), 0.0, double{kProbes}));
}

}  // namespace

MachineInfo GetMachineInfo() {
  MachineInfo info;
  info.cpu_model = CpuModel();
  info.logical_cpus = static_cast<int>(std::max<int64_t>(1, sysconf(_SC_NPROCESSORS_ONLN)));
  info.available_threads = AvailableThreads();
  ReadCaches(&info);
  info.memory_bytes = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  info.targets = UsableTargets();
  info.active_target = ActiveTarget();
  return info;
}

absl::StatusOr<MachinePeaks> GetMachinePeaks(int num_threads) {
  CNN_CHECK(num_threads >= 1, num_threads, " threads");
  static std::mutex mutex;
  static auto* known = new std::map<std::string, MachinePeaks>;
  const std::lock_guard<std::mutex> guard(mutex);

  const MachineInfo info = GetMachineInfo();
  const std::string path = UserCachePath("CLASSICNN_PEAKS_CACHE", "peaks.json");
  const std::string key = CacheKey(info, num_threads);
  const std::string known_key = absl::StrCat(path, "\n", key);
  if (const auto found = known->find(known_key); found != known->end()) return found->second;
  MachinePeaks peaks;
  peaks.num_threads = num_threads;
  peaks.target = info.active_target;

  if (!path.empty()) MakeCacheFolder(path);
  if (FindInCache(ReadCache(path), key, &peaks) < kProbes) {
    const ProbeLock lock(path);
    nlohmann::json cache = ReadCache(path);  // another program may have measured meanwhile
    const int probes = FindInCache(cache, key, &peaks);
    if (probes < kProbes) {
      ProbeRates rates;
      // Threads beyond the cores add nothing but the scheduler's noise.
      const int threads = std::min(num_threads, info.available_threads);
      if (!RunProbeInChild(threads, CopyBytes(info), &rates)) {
        return absl::InternalError("the machine probe's child process failed");
      }
      peaks.fma_flops = std::max(peaks.fma_flops, rates.fma_flops);
      peaks.copy_bytes_per_second =
          std::max({peaks.copy_bytes_per_second, rates.ordinary_copy, rates.streaming_copy});
      if (peaks.fma_flops <= 0 || peaks.copy_bytes_per_second <= 0) {
        return absl::ResourceExhaustedError("not enough memory for the machine probe");
      }
      cache[key] = {{"fma_flops", peaks.fma_flops},
                    {"copy_bytes_per_second", peaks.copy_bytes_per_second},
                    {"probes", probes + 1}};
      // A cache that cannot be written costs the next program a second, nothing else.
      if (!path.empty()) WriteFileAtomically(path, cache.dump(2) + "\n").IgnoreError();
    }
  }
  known->emplace(known_key, peaks);
  return peaks;
}

void to_json(nlohmann::json& j, const MachineInfo& info) {
  j = {{"cpu_model", info.cpu_model},
       {"logical_cpus", info.logical_cpus},
       {"available_threads", info.available_threads},
       {"l1d_bytes", info.l1d_bytes},
       {"l2_bytes", info.l2_bytes},
       {"l3_bytes", info.l3_bytes},
       {"memory_bytes", info.memory_bytes},
       {"targets", info.targets},
       {"active_target", info.active_target}};
}

void to_json(nlohmann::json& j, const MachinePeaks& peaks) {
  j = {{"num_threads", peaks.num_threads},
       {"target", peaks.target},
       {"fma_flops", peaks.fma_flops},
       {"copy_bytes_per_second", peaks.copy_bytes_per_second}};
}

}  // namespace classicnn
