// How the library was built (core/machine.h).
#include "build_config.h"
#include "commit.h"
#include "core/machine.h"
#include "nlohmann/json.hpp"

namespace classicnn {

BuildInfo GetBuildInfo() {
  BuildInfo info;
  info.version = CLASSICNN_VERSION;
  info.compiler = CLASSICNN_COMPILER;
  info.flags = CLASSICNN_FLAGS;
  info.build_type = CLASSICNN_BUILD_TYPE;
  info.commit = CLASSICNN_COMMIT;
  return info;
}

void to_json(nlohmann::json& j, const BuildInfo& info) {
  j = {{"version", info.version},
       {"compiler", info.compiler},
       {"flags", info.flags},
       {"build_type", info.build_type},
       {"commit", info.commit}};
}

}  // namespace classicnn
