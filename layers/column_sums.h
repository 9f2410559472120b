// sums[j] = sum over i of x[i * stride + j], i in [0, rows), j in [0, columns): the gradient of a
// bias. Rows are summed in blocks fixed by `rows` alone, the blocks' sums in order: the same bits
// on any number of threads.
#ifndef CLASSICNN_LAYERS_COLUMN_SUMS_H_
#define CLASSICNN_LAYERS_COLUMN_SUMS_H_

#include <cstddef>
#include <cstdint>

#include "core/context.h"
#include "core/view.h"

namespace classicnn {

size_t ColumnSumsWorkspaceBytes(int64_t rows, int64_t columns);
// `zone` is a string literal. `sums` must not overlap x.
void ColumnSums(const char* zone, const float* x, int64_t rows, int64_t columns, int64_t stride,
                float* sums, Workspace workspace, Context& ctx);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_COLUMN_SUMS_H_
