// Which of the compiled instruction sets (Highway targets) kernels are dispatched to.
#ifndef CLASSICNN_CORE_ISA_H_
#define CLASSICNN_CORE_ISA_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace classicnn {

// Names of the targets that are compiled in and that this CPU runs, best first, in lower case as
// --target takes them ("avx3", "avx2", "scalar"; "avx3" is Highway's name for AVX-512).
std::vector<std::string> UsableTargets();
// The one that dispatch takes now.
std::string ActiveTarget();
// Dispatch goes to this target from now on. "" or "best" lifts the limit; "avx512" is accepted for
// "avx3". InvalidArgument for other names, with those that would do. Not thread-safe; call it
// before kernels run.
absl::Status SetTarget(absl::string_view name);
// Bytes of a vector of the active target.
int ActiveVectorBytes();

}  // namespace classicnn

#endif  // CLASSICNN_CORE_ISA_H_
