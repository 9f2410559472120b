#include "benches/process_memory.h"

#include <malloc.h>

#include <cstdio>

namespace classicnn {

int64_t PeakResidentBytes() {
  std::FILE* const file = std::fopen("/proc/self/status", "r");
  if (file == nullptr) return 0;
  char line[256];
  long long kilobytes = 0;
  while (std::fgets(line, sizeof(line), file) != nullptr) {
    if (std::sscanf(line, "VmHWM: %lld kB", &kilobytes) == 1) break;
  }
  std::fclose(file);
  return static_cast<int64_t>(kilobytes) * 1024;
}

void ForgetPeakResident() {
  malloc_trim(0);
  std::FILE* const file = std::fopen("/proc/self/clear_refs", "w");
  if (file == nullptr) return;
  std::fputs("5", file);  // resets VmHWM alone (proc(5))
  std::fclose(file);
}

}  // namespace classicnn
