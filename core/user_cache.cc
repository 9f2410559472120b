#include "core/user_cache.h"

#include <cstdlib>
#include <filesystem>
#include <system_error>

namespace classicnn {

std::string UserCachePath(const char* variable, const std::string& name) {
  if (const char* path = std::getenv(variable)) return path;
  // Relative values are to be ignored, says the XDG specification.
  const auto absolute = [](const char* folder) -> std::string {
    const char* value = std::getenv(folder);
    return value != nullptr && value[0] == '/' ? value : "";
  };
  std::string base = absolute("XDG_CACHE_HOME");
  if (base.empty() && !absolute("HOME").empty()) base = absolute("HOME") + "/.cache";
  return base.empty() ? "" : base + "/classicnn/" + name;
}

void MakeCacheFolder(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  std::error_code error;
  if (!folder.empty()) std::filesystem::create_directories(folder, error);
}

}  // namespace classicnn
