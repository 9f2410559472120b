#include "reports/format.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace classicnn {

std::string FormatDigits(double value, int digits) {
  if (value == 0 || !std::isfinite(value)) return value == 0 ? "0" : "–";
  const int before = static_cast<int>(std::floor(std::log10(std::fabs(value)))) + 1;
  std::string text = absl::StrFormat("%.*f", std::max(0, digits - before), value);
  return text;
}

std::string FormatCount(int64_t value) {
  std::string digits = absl::StrCat(std::abs(value));
  for (int64_t at = static_cast<int64_t>(digits.size()) - 3; at > 0; at -= 3) {
    digits.insert(static_cast<size_t>(at), ",");
  }
  return value < 0 ? absl::StrCat("−", digits) : digits;
}

std::string FormatScaled(double value) {
  const double magnitude = std::fabs(value);
  if (magnitude >= 0.9995e9) return absl::StrCat(FormatDigits(value / 1e9, 3), " G");
  if (magnitude >= 0.9995e6) return absl::StrCat(FormatDigits(value / 1e6, 3), " M");
  if (magnitude >= 0.9995e3) return absl::StrCat(FormatDigits(value / 1e3, 3), " k");
  return FormatDigits(value, 3);
}

std::string FormatSeconds(double seconds) {
  if (seconds >= 1) return absl::StrCat(FormatDigits(seconds, 3), " s");
  if (seconds >= 1e-3) return absl::StrCat(FormatDigits(seconds * 1e3, 3), " ms");
  if (seconds >= 1e-6) return absl::StrCat(FormatDigits(seconds * 1e6, 3), " µs");
  if (seconds <= 0) return "0";
  return absl::StrCat(FormatDigits(seconds * 1e9, 3), " ns");
}

std::string FormatTiming(const Timing& timing) {
  if (timing.empty()) return "–";
  return absl::StrFormat("%s ± %.1f%%", FormatSeconds(timing.median()),
                         100 * timing.relative_spread());
}

std::string FormatPercent(double fraction) {
  if (fraction != 0 && std::fabs(fraction) < 0.0005) return "<0.1%";
  return absl::StrFormat("%.1f%%", 100 * fraction);
}

std::string FormatTimes(double ratio) { return absl::StrCat(FormatDigits(ratio, 3), " ×"); }

std::string FormatFlops(double flops_per_second) {
  if (flops_per_second >= 1e12)
    return absl::StrCat(FormatDigits(flops_per_second / 1e12, 3), " TFLOP/s");
  return absl::StrCat(FormatDigits(flops_per_second / 1e9, 3), " GFLOP/s");
}

std::string FormatBandwidth(double bytes_per_second) {
  return absl::StrCat(FormatDigits(bytes_per_second / 1e9, 3), " GB/s");
}

std::string FormatMegabytes(double bytes) {
  return absl::StrCat(FormatDigits(bytes / 1e6, 3), " MB");
}

std::string FormatSignedPercent(double fraction) {
  return absl::StrFormat("%s%.1f%%", fraction < 0 ? "−" : "+", 100 * std::fabs(fraction));
}

std::string FormatThreads(int64_t threads) {
  return absl::StrCat(threads, threads == 1 ? " thread" : " threads");
}

}  // namespace classicnn
