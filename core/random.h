// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC'11) from Random123.
//
// A value is a pure function of (seed, stream, step, index), so it does not depend on threads, on
// order, or on what else was drawn.
#ifndef CLASSICNN_CORE_RANDOM_H_
#define CLASSICNN_CORE_RANDOM_H_

#include <array>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace classicnn {

// A stream's number from its purpose or a tensor's name (64-bit FNV-1a).
uint64_t StreamId(absl::string_view purpose);

class RandomStream {
 public:
  // `step` separates uses of one purpose over time (a training step, an epoch).
  RandomStream(uint64_t seed, uint64_t stream, uint64_t step = 0);
  RandomStream(uint64_t seed, absl::string_view purpose, uint64_t step = 0)
      : RandomStream(seed, StreamId(purpose), step) {}

  // Four independent 32-bit words for each index.
  std::array<uint32_t, 4> Words(uint64_t index) const;
  uint32_t Word(uint64_t index) const { return Words(index / 4)[index % 4]; }
  // Uniform in [0, 1), 24 bits.
  float Uniform(uint64_t index) const;
  // Standard normal (Box-Muller in double, rounded).
  float Normal(uint64_t index) const;
  // Uniform in [0, bound), bound > 0; bias below bound / 2^64.
  uint64_t Below(uint64_t index, uint64_t bound) const;

 private:
  std::array<uint32_t, 2> key_;
  std::array<uint32_t, 2> counter_high_;
};

}  // namespace classicnn

#endif  // CLASSICNN_CORE_RANDOM_H_
