#include "core/check.h"

#include <cstdio>
#include <cstdlib>

namespace classicnn {

void CheckFailed(const char* file, int line, const char* condition, const std::string& details) {
  std::fprintf(stderr, "%s:%d: check failed: %s%s%s%s\n", file, line, condition,
               details.empty() ? "" : " (", details.c_str(), details.empty() ? "" : ")");
  std::abort();
}

}  // namespace classicnn
