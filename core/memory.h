// Memory: one mapping for each arena, and the accounting of all of them by category.
#ifndef CLASSICNN_CORE_MEMORY_H_
#define CLASSICNN_CORE_MEMORY_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

namespace classicnn {

enum class MemoryCategory {
  kWeights,      // parameters and running statistics
  kGradients,    // gradients of parameters
  kOptimizer,    // momentum and moments
  kActivations,  // values of nodes, their gradients, what backward keeps
  kWorkspace,    // kernels' scratch, and what alignment and placement cost
  kData,         // data sets and staged batches
};
inline constexpr int kNumMemoryCategories = 6;
const char* MemoryCategoryName(MemoryCategory category);  // "weights", ...

using BytesByCategory = std::array<int64_t, kNumMemoryCategories>;
inline int64_t& At(BytesByCategory& bytes, MemoryCategory c) {
  return bytes[static_cast<size_t>(c)];
}
inline int64_t At(const BytesByCategory& bytes, MemoryCategory c) {
  return bytes[static_cast<size_t>(c)];
}
int64_t Total(const BytesByCategory& bytes);

// Current and highest byte counts. Thread-safe.
class MemoryTracker {
 public:
  void Add(const BytesByCategory& bytes);
  void Remove(const BytesByCategory& bytes);
  int64_t current(MemoryCategory category) const;
  int64_t current() const;
  int64_t peak() const;  // high-water mark of the sum since construction or ResetPeak()
  void ResetPeak();

 private:
  std::array<std::atomic<int64_t>, kNumMemoryCategories> current_{};
  std::atomic<int64_t> total_{0};
  std::atomic<int64_t> peak_{0};
};

// A block of memory from one anonymous mapping, 2 MiB aligned, with transparent huge pages asked
// for where it is 2 MiB or larger. Zero when fresh. Pages are touched by whoever uses them first.
class Arena {
 public:
  // `bytes` by category sum to the size of the arena and are reported to `tracker` (which must
  // outlive the arena; may be null) until the arena is destroyed. ResourceExhausted where the
  // system refuses the memory, or the machine has less than that.
  static absl::StatusOr<std::unique_ptr<Arena>> Create(const BytesByCategory& bytes,
                                                       MemoryTracker* tracker);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  Arena() = default;

  std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::byte* mapping_ = nullptr;
  size_t mapping_size_ = 0;
  BytesByCategory bytes_{};
  MemoryTracker* tracker_ = nullptr;
};

}  // namespace classicnn

#endif  // CLASSICNN_CORE_MEMORY_H_
