#include "core/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace classicnn {

const char* MemoryCategoryName(MemoryCategory category) {
  switch (category) {
    case MemoryCategory::kWeights:
      return "weights";
    case MemoryCategory::kGradients:
      return "gradients";
    case MemoryCategory::kOptimizer:
      return "optimizer";
    case MemoryCategory::kActivations:
      return "activations";
    case MemoryCategory::kWorkspace:
      return "workspace";
    case MemoryCategory::kData:
      return "data";
  }
  return "unknown";
}

int64_t Total(const BytesByCategory& bytes) {
  int64_t total = 0;
  for (const int64_t b : bytes) total += b;
  return total;
}

void MemoryTracker::Add(const BytesByCategory& bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) current_[i] += bytes[i];
  const int64_t added = Total(bytes);
  const int64_t now = total_.fetch_add(added) + added;
  int64_t peak = peak_.load();
  while (now > peak && !peak_.compare_exchange_weak(peak, now)) {
  }
}

void MemoryTracker::Remove(const BytesByCategory& bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) current_[i] -= bytes[i];
  total_ -= Total(bytes);
}

int64_t MemoryTracker::current(MemoryCategory category) const {
  return current_[static_cast<size_t>(category)].load();
}
int64_t MemoryTracker::current() const { return total_.load(); }
int64_t MemoryTracker::peak() const { return peak_.load(); }
void MemoryTracker::ResetPeak() { peak_ = total_.load(); }

absl::StatusOr<std::unique_ptr<Arena>> Arena::Create(const BytesByCategory& bytes,
                                                     MemoryTracker* tracker) {
  constexpr size_t kHugePage = size_t{2} << 20;
  auto arena = std::unique_ptr<Arena>(new Arena);
  arena->bytes_ = bytes;
  arena->size_ = static_cast<size_t>(Total(bytes));
  // The system would promise more than there is, and end the program once it is touched.
  const int64_t machine = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  if (machine > 0 && Total(bytes) > machine) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot map ", arena->size_, " bytes of memory: this machine has ", machine));
  }
  if (arena->size_ > 0) {
    // One huge page more than asked for, so that the start can be aligned to one.
    arena->mapping_size_ = arena->size_ + kHugePage;
    void* p = mmap(nullptr, arena->mapping_size_, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
      arena->mapping_size_ = 0;
      return absl::ResourceExhaustedError(
          absl::StrCat("cannot map ", arena->size_, " bytes of memory: ", std::strerror(errno)));
    }
    arena->mapping_ = static_cast<std::byte*>(p);
    const size_t misalignment = reinterpret_cast<uintptr_t>(p) & (kHugePage - 1);
    arena->data_ = arena->mapping_ + (misalignment == 0 ? 0 : kHugePage - misalignment);
    if (arena->size_ >= kHugePage) {
      madvise(arena->data_, arena->size_, MADV_HUGEPAGE);  // advice: without it only slower
    }
  }
  arena->tracker_ = tracker;
  if (tracker != nullptr) tracker->Add(bytes);
  return arena;
}

Arena::~Arena() {
  if (mapping_ != nullptr) munmap(mapping_, mapping_size_);
  if (tracker_ != nullptr) tracker_->Remove(bytes_);
}

}  // namespace classicnn
