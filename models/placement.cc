#include "models/placement.h"

#include <algorithm>
#include <numeric>

namespace classicnn {

int64_t PlaceBuffers(std::vector<BufferLifetime>* buffers) {
  std::vector<size_t> order(buffers->size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return (*buffers)[a].bytes > (*buffers)[b].bytes; });

  std::vector<size_t> placed;  // by offset
  int64_t total = 0;
  for (const size_t i : order) {
    BufferLifetime& buffer = (*buffers)[i];
    const int64_t bytes = PlacedBytes(buffer.bytes);
    int64_t offset = 0;
    for (const size_t j : placed) {
      const BufferLifetime& other = (*buffers)[j];
      if (other.last < buffer.first || buffer.last < other.first) continue;
      if (other.offset - offset >= bytes) break;  // the gap before it is large enough
      offset = std::max(offset, other.offset + PlacedBytes(other.bytes));
    }
    buffer.offset = offset;
    total = std::max(total, offset + bytes);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), offset,
                                   [&](int64_t o, size_t j) { return o < (*buffers)[j].offset; }),
                  i);
  }
  return total;
}

}  // namespace classicnn
