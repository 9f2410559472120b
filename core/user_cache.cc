#include "core/user_cache.h"

#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "nlohmann/json.hpp"

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

nlohmann::json ParseCache(const std::string& text) {
  constexpr int kDeepest = 8;
  const auto keep = [](int depth, nlohmann::json::parse_event_t, const nlohmann::json&) {
    return depth <= kDeepest;
  };
  return nlohmann::json::parse(text, keep, /*allow_exceptions=*/false);
}

void MakeCacheFolder(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  std::error_code error;
  if (!folder.empty()) std::filesystem::create_directories(folder, error);
}

}  // namespace classicnn
