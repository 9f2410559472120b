#include "benches/malloc_counter.h"

#include <atomic>
#include <cstddef>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CLASSICNN_COUNT_MALLOC 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define CLASSICNN_COUNT_MALLOC 0
#endif
#endif
#ifndef CLASSICNN_COUNT_MALLOC
#ifdef __GLIBC__
#define CLASSICNN_COUNT_MALLOC 1
#else
#define CLASSICNN_COUNT_MALLOC 0
#endif
#endif

#if CLASSICNN_COUNT_MALLOC

#include <unistd.h>

#include <cerrno>

namespace {

// Constant-initialized: malloc is called before any constructor runs.
std::atomic<int64_t> calls{0};

void Count() { calls.fetch_add(1, std::memory_order_relaxed); }

bool IsPowerOfTwo(size_t value) { return value != 0 && (value & (value - 1)) == 0; }

size_t PageSize() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

}  // namespace

extern "C" {

// glibc's functions under the names it keeps for those who replace the others.
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* pointer, size_t size);
void* __libc_memalign(size_t alignment, size_t size);
void __libc_free(void* pointer);

void* malloc(size_t size) noexcept {
  Count();
  return __libc_malloc(size);
}

void* calloc(size_t count, size_t size) noexcept {
  Count();
  return __libc_calloc(count, size);
}

void* realloc(void* pointer, size_t size) noexcept {
  Count();
  return __libc_realloc(pointer, size);
}

// Replaced with the others, so that memory always goes back to where it came from.
void free(void* pointer) noexcept { __libc_free(pointer); }

void* memalign(size_t alignment, size_t size) noexcept {
  Count();
  return __libc_memalign(alignment, size);
}

void* aligned_alloc(size_t alignment, size_t size) noexcept {
  Count();
  if (!IsPowerOfTwo(alignment)) {
    errno = EINVAL;
    return nullptr;
  }
  return __libc_memalign(alignment, size);
}

int posix_memalign(void** result, size_t alignment, size_t size) noexcept {
  Count();
  if (!IsPowerOfTwo(alignment) || alignment % sizeof(void*) != 0) return EINVAL;
  const int saved = errno;
  void* pointer = __libc_memalign(alignment, size);
  errno = saved;
  if (pointer == nullptr) return ENOMEM;
  *result = pointer;
  return 0;
}

void* valloc(size_t size) noexcept {
  Count();
  return __libc_memalign(PageSize(), size);
}

void* pvalloc(size_t size) noexcept {
  Count();
  const size_t page = PageSize();
  if (size > static_cast<size_t>(-1) - page) {
    errno = ENOMEM;
    return nullptr;
  }
  return __libc_memalign(page, (size + page - 1) / page * page);
}

}  // extern "C"

namespace classicnn {
bool MallocCallsAreCounted() { return true; }
int64_t MallocCalls() { return calls.load(std::memory_order_relaxed); }
}  // namespace classicnn

#else  // !CLASSICNN_COUNT_MALLOC

namespace classicnn {
bool MallocCallsAreCounted() { return false; }
int64_t MallocCalls() { return 0; }
}  // namespace classicnn

#endif  // CLASSICNN_COUNT_MALLOC
