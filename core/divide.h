// Division that rounds up.
#ifndef CLASSICNN_CORE_DIVIDE_H_
#define CLASSICNN_CORE_DIVIDE_H_

#include <cstdint>

namespace classicnn {

// How many pieces of `size` cover `count` (at least 0; `size` at least 1).
constexpr int64_t DivideUp(int64_t count, int64_t size) { return (count + size - 1) / size; }

}  // namespace classicnn

#endif  // CLASSICNN_CORE_DIVIDE_H_
