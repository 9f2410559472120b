// Where a program keeps what it measured, for the next run of this user.
#ifndef CLASSICNN_CORE_USER_CACHE_H_
#define CLASSICNN_CORE_USER_CACHE_H_

#include <string>

#include "nlohmann/json_fwd.hpp"

namespace classicnn {

// The environment variable `variable`, if it is set at all (empty: nothing is kept); else
// $XDG_CACHE_HOME/classicnn/NAME, or ~/.cache/classicnn/NAME, or empty where there is no home.
std::string UserCachePath(const char* variable, const std::string& name);

// What is in a cache's file: discarded where it is no JSON. Nothing in it is nested deeper than a
// few levels: what is, is left out, since copying and writing values goes down level by level.
nlohmann::json ParseCache(const std::string& text);

// Creates the folder of `path` and those above it; a failure shows when the file is written.
void MakeCacheFolder(const std::string& path);

}  // namespace classicnn

#endif  // CLASSICNN_CORE_USER_CACHE_H_
