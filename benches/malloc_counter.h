// Counts calls of the C library's allocation functions, and with them operator new, on all threads.
//
// A program that links malloc_counter.cc replaces malloc, calloc, realloc, memalign, aligned_alloc,
// posix_memalign, valloc and pvalloc by functions that count and then call the C library's own.
// (glibc has no hooks for this any more.) Not counted: mmap, through which arenas get their memory,
// and what a library's own allocator hands out from memory it already has.
#ifndef CLASSICNN_BENCHES_MALLOC_COUNTER_H_
#define CLASSICNN_BENCHES_MALLOC_COUNTER_H_

#include <cstdint>

namespace classicnn {

// False where calls are not counted: under sanitizers, which replace malloc themselves, and with C
// libraries other than glibc.
bool MallocCallsAreCounted();

// Calls since the program started; 0 where they are not counted. Calls that free memory do not
// count, a realloc does.
int64_t MallocCalls();

}  // namespace classicnn

#endif  // CLASSICNN_BENCHES_MALLOC_COUNTER_H_
