#include "core/isa.h"

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/isa.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Asked through dispatch, the answers cannot differ from what kernels get.
int64_t Target() { return HWY_TARGET; }
int VectorBytes() { return static_cast<int>(hn::Lanes(hn::ScalableTag<float>()) * sizeof(float)); }

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
namespace {

HWY_EXPORT(Target);
HWY_EXPORT(VectorBytes);

// Taken before main(), when no limit can be in force yet: Highway does not tell the unlimited set
// apart from the limited one later.
const int64_t kUsable = [] {
  const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  return targets != 0 ? targets : int64_t{HWY_STATIC_TARGET};
}();

std::string NameOf(int64_t target) { return absl::AsciiStrToLower(hwy::TargetName(target)); }

// Better targets have lower bits.
std::vector<int64_t> BestFirst(int64_t targets) {
  std::vector<int64_t> list;
  for (; targets != 0; targets &= targets - 1) list.push_back(targets & -targets);
  return list;
}

}  // namespace

std::vector<std::string> UsableTargets() {
  std::vector<std::string> names;
  for (const int64_t target : BestFirst(kUsable)) names.push_back(NameOf(target));
  return names;
}

std::string ActiveTarget() { return NameOf(HWY_DYNAMIC_DISPATCH(Target)()); }

int ActiveVectorBytes() { return HWY_DYNAMIC_DISPATCH(VectorBytes)(); }

absl::Status SetTarget(absl::string_view name) {
  std::string wanted = absl::AsciiStrToLower(name);
  if (wanted == "avx512") wanted = "avx3";
  int64_t allowed = 0;  // no limit
  if (!wanted.empty() && wanted != "best") {
    for (const int64_t target : BestFirst(kUsable)) {
      // This one and those below it, so that there is always something to fall back on.
      if (NameOf(target) == wanted) allowed = kUsable & ~(target - 1);
    }
    if (allowed == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("no instruction set \"", absl::CHexEscape(name), "\" here; this CPU runs ",
                       absl::StrJoin(UsableTargets(), ", ")));
    }
  }
  hwy::SetSupportedTargetsForTest(allowed);
  // Dispatch looks its table up by this index; without an update it would keep the old choice.
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  return absl::OkStatus();
}

}  // namespace classicnn
#endif  // HWY_ONCE
