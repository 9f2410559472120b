// Numbers as reports show them.
#ifndef CLASSICNN_REPORTS_FORMAT_H_
#define CLASSICNN_REPORTS_FORMAT_H_

#include <cstdint>
#include <string>

#include "reports/timing.h"

namespace classicnn {

std::string FormatDigits(double value, int digits);    // significant digits, no exponent
std::string FormatCount(int64_t value);                // "14,986,698"
std::string FormatScaled(double value);                // "15.0 M": three digits
std::string FormatSeconds(double seconds);             // "12.3 ms"
std::string FormatTiming(const Timing& timing);        // "12.3 ms ± 1.2%"; "–" where empty
std::string FormatPercent(double fraction);            // "12.3%"
std::string FormatTimes(double ratio);                 // "8.41 ×"
std::string FormatFlops(double flops_per_second);      // "432 GFLOP/s"
std::string FormatBandwidth(double bytes_per_second);  // "35.1 GB/s"
std::string FormatMegabytes(double bytes);             // "59.9 MB", powers of 1000
std::string FormatSignedPercent(double fraction);      // "+1.2%", "−3.4%"

// "1 thread", "2 threads".
std::string FormatThreads(int64_t threads);

}  // namespace classicnn

#endif  // CLASSICNN_REPORTS_FORMAT_H_
