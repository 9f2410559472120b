#include "core/random.h"

#include <cmath>

#include "Random123/philox.h"

namespace classicnn {

uint64_t StreamId(absl::string_view purpose) {
  uint64_t hash = 14695981039346656037u;
  for (const char ch : purpose) {
    hash ^= static_cast<unsigned char>(ch);
    hash *= 1099511628211u;
  }
  return hash;
}

RandomStream::RandomStream(uint64_t seed, uint64_t stream, uint64_t step) {
  // Seed, stream and step are 192 bits, key and upper counter 128: the stream and step are mixed
  // into them by one Philox block, so that nearby streams and steps share nothing.
  const r123::Philox4x32 philox;
  const r123::Philox4x32::ctr_type in = {
      {static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32),
       static_cast<uint32_t>(step), static_cast<uint32_t>(step >> 32)}};
  const r123::Philox4x32::key_type seed_key = {
      {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}};
  const auto mixed = philox(in, seed_key);
  key_ = {mixed[0], mixed[1]};
  counter_high_ = {mixed[2], mixed[3]};
}

std::array<uint32_t, 4> RandomStream::Words(uint64_t index) const {
  const r123::Philox4x32 philox;
  const r123::Philox4x32::ctr_type counter = {{static_cast<uint32_t>(index),
                                               static_cast<uint32_t>(index >> 32), counter_high_[0],
                                               counter_high_[1]}};
  const auto words = philox(counter, {{key_[0], key_[1]}});
  return {words[0], words[1], words[2], words[3]};
}

float RandomStream::Uniform(uint64_t index) const {
  return static_cast<float>(Word(index) >> 8) * 0x1p-24f;
}

float RandomStream::Normal(uint64_t index) const {
  // Words of one block make two pairs; each pair makes a sine and a cosine value.
  const auto words = Words(index / 4);
  const size_t pair = (index % 4) / 2 * 2;
  const double u1 = (words[pair] + 1.0) * 0x1p-32;  // (0, 1]
  const double u2 = words[pair + 1] * 0x1p-32;
  const double radius = std::sqrt(-2.0 * std::log(u1));
  const double angle = 6.283185307179586476925 * u2;
  return static_cast<float>(radius * (index % 2 == 0 ? std::cos(angle) : std::sin(angle)));
}

uint64_t RandomStream::Below(uint64_t index, uint64_t bound) const {
  const auto words = Words(index);
  const uint64_t value = (static_cast<uint64_t>(words[1]) << 32) | words[0];
  return static_cast<uint64_t>((static_cast<unsigned __int128>(value) * bound) >> 64);
}

}  // namespace classicnn
