// Resident memory of this process, as the kernel counts it.
#ifndef CLASSICNN_BENCHES_PROCESS_MEMORY_H_
#define CLASSICNN_BENCHES_PROCESS_MEMORY_H_

#include <cstdint>

namespace classicnn {

// High-water mark of resident memory (VmHWM); 0 where the kernel does not say.
int64_t PeakResidentBytes();

// Gives back what was freed and starts the high-water mark anew, so that what was needed before
// (the check against the reference) does not count as what is measured next.
void ForgetPeakResident();

}  // namespace classicnn

#endif  // CLASSICNN_BENCHES_PROCESS_MEMORY_H_
