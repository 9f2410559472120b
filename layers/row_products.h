// Products of a matrix with a few vectors, for a matrix that is read once and bound by that.
//
//   RowProducts:  out[i][r] = sum over k of rows[r * depth + k] * a[i][k]
//   RowSums:      out[i][j] = sum over r of a[i][r] * rows[r * stride + j]
//
// The first is what a product with the transpose is where too few vectors meet the matrix to pay
// for a transposed copy; the second what layers/gemm.h does with blocks that are wider instead of
// high.
#ifndef CLASSICNN_LAYERS_ROW_PRODUCTS_H_
#define CLASSICNN_LAYERS_ROW_PRODUCTS_H_

#include <cstdint>

namespace classicnn {

// Rows come in fours, and `depth` in whole vectors of any target.
inline constexpr int64_t kRowProductRows = 4;

struct RowProducts {
  const float* rows = nullptr;  // follow each other in memory
  int64_t num_rows = 0;         // a multiple of kRowProductRows
  int64_t depth = 0;            // a multiple of kGemmMaxLanes
  int64_t num_vectors = 0;
  const float* const* a = nullptr;  // [num_vectors]
  float* const* out = nullptr;      // [num_vectors], each to num_rows values; overwritten
  // Fetched on the way, as much of it as of the rows: what is read after them. Or null.
  const float* next = nullptr;
  int64_t next_floats = 0;
};
void MultiplyRows(const RowProducts& product);

struct RowSums {
  const float* rows = nullptr;
  int64_t row_stride = 0;
  int64_t num_rows = 0;
  int64_t columns = 0;  // a multiple of kGemmMaxLanes
  int64_t num_vectors = 0;
  const float* const* a = nullptr;  // [num_vectors], each to num_rows values
  float* const* out = nullptr;      // [num_vectors], each to `columns` values; overwritten
  const float* next = nullptr;      // rows that are read after these, to be fetched; or null
  int64_t next_rows = 0;
};
void SumRows(const RowSums& sums);

// out[j] = first[j] + rows[0][j] + rows[1][j] + ..., in that order, for j in [0, size). `first` may
// be null (nothing) or `out`.
void AddRowsTo(const float* first, const float* const* rows, int64_t num_rows, int64_t size,
               float* out);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_ROW_PRODUCTS_H_
