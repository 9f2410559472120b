// Copies between views of any pixel strides, for the layers whose backward is a copy.
#ifndef CLASSICNN_LAYERS_COPY_ROWS_H_
#define CLASSICNN_LAYERS_COPY_ROWS_H_

#include <cstdint>

#include "core/view.h"

namespace classicnn {

// to = from, or with accumulate to += from, for pixels [begin, begin + count). One thread; the
// views have the same shape and do not overlap.
void CopyPixels(ConstTensor from, Tensor to, int64_t begin, int64_t count, bool accumulate);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_COPY_ROWS_H_
