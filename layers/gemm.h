// Matrix products in the shapes that convolutions and fully connected layers need them.
//
//   Gemm:   out[i][j] (+)= sum over t, d of a[t][i][d] * b[t][d][j]      (rows given by pointers)
//   Outer:  out[i][j] (+)= sum over p of a[p][i] * b[p][j]               (a reduction over pixels)
//
// Both keep a block of `rows` x two (Gemm also four) vectors of sums in registers. Gemm reads A in
// place: each row of a block is a pointer for every segment t (a tap of a convolution), so that no
// im2col is ever stored; rows outside the image point to zeros. B is packed once into panels of two
// or four vectors of columns, or read in place where that is no slower. Sums are taken in the order
// of t and d (of p), so that a result does not depend on how the work is cut.
#ifndef CLASSICNN_LAYERS_GEMM_H_
#define CLASSICNN_LAYERS_GEMM_H_

#include <cstdint>

#include "core/divide.h"
#include "layers/fusion.h"
#include "layers/prefetch_queue.h"

namespace classicnn {

// Upper bounds over all targets, for the sizes of workspaces.
inline constexpr int64_t kGemmMaxRows = 14;
inline constexpr int64_t kGemmMaxLanes = 16;

// Register block: `rows` x `vectors` of `lanes`.
struct GemmGeometry {
  int64_t rows = 0;
  int64_t lanes = 0;
  int64_t vectors = 0;

  int64_t panel_width() const { return vectors * lanes; }
  int64_t num_panels(int64_t columns) const { return DivideUp(columns, panel_width()); }
};
// Of the active target: two vectors and as many rows as registers allow; and four vectors, where
// there are registers enough (else the first again), of which Gemm's panels may be.
GemmGeometry ActiveGemmGeometry();
GemmGeometry WideGemmGeometry();

// Floats of B with all its columns packed.
inline int64_t GemmPackedFloats(int64_t depth, int64_t columns) {
  return depth * DivideUp(columns, kGemmMaxLanes) * kGemmMaxLanes;
}

// One segment of a panel: packed[d][j] = b[d * row_stride + j * column_stride] for d in [0, depth)
// and j in [0, columns), columns <= panel_width; zeros up to the next multiple of the vector
// length, which is also the packed row's length. Either row_stride or column_stride is 1.
void GemmPackPanel(const float* b, int64_t row_stride, int64_t column_stride, int64_t depth,
                   int64_t columns, float* packed);

// Rows of A and where their sums go.
struct GemmBlock {
  int64_t rows = 0;                  // at most those of the panels' geometry
  int64_t segments = 0;              // how many there are for this block; may be 0
  const float* const* a = nullptr;   // [segments][rows], each to `depth` values
  const int32_t* segment = nullptr;  // [segments], ascending: which segment of the panel it meets
  float* const* out = nullptr;       // [rows], column 0 of all panels
  const float* const* x = nullptr;   // [rows], the pixels of GemmEpilogue::gradient->x, likewise
};

// What is done to a block of sums as it is written.
struct GemmEpilogue {
  const float* bias = nullptr;  // [all columns], or null
  bool accumulate = false;      // out += instead of out =
  // What GradientEpilogue says, or null. Adds to the sums, which are for all columns as its arrays
  // are.
  const GradientEpilogue<float>* gradient = nullptr;
  float* sum_g = nullptr;
  float* sum_gx = nullptr;
  // Or, not with accumulate or gradient: out - center and its square are added to these, likewise.
  const float* center = nullptr;
  float* sum = nullptr;
  float* sum_of_squares = nullptr;
};

// What is fetched while products are computed.
struct GemmPrefetch {
  // Each block's rows of A during the block before; worth it for the first panel that meets them.
  bool next_rows = false;
  // The block that meets the next panel after the last of these has met this one, or null. What
  // epilogues read GemmMultiply always fetches a block ahead.
  const GemmBlock* first = nullptr;
  // Whatever else; or null.
  PrefetchQueue* queue = nullptr;
};
// Steps of the queue that a block takes for each segment.
inline int64_t GemmPrefetchSteps(int64_t depth) { return (depth + 15) / 16; }

// Columns [first_column, first_column + columns) of B, one row of all segments after the other.
struct GemmPanel {
  const float* data = nullptr;
  // From one row to the next: when packed, `columns` rounded up to whole vectors. Or B's own, where
  // `columns` are whole vectors.
  int64_t row_stride = 0;
  int64_t first_column = 0;
  int64_t columns = 0;
};

// Multiplies blocks by one panel. `depth` is that of one segment.
void GemmMultiply(const GemmBlock* blocks, int64_t num_blocks, int64_t depth,
                  const GemmPanel& panel, const GemmEpilogue& epilogue,
                  const GemmPrefetch& prefetch = {});

// Multiplies blocks by panels that follow each other, each block by all of them before the next:
// for products so shallow that writing `out` takes as long as computing it. Rows are then written
// (and what the epilogue reads is read) one after the other, which hardware fetches ahead: no
// hints.
void GemmMultiplyByRows(const GemmBlock* blocks, int64_t num_blocks, int64_t depth,
                        const GemmPanel* panels, int64_t num_panels, const GemmEpilogue& epilogue);

// One step of the reduction of Outer: where a[p] and b[p] begin.
struct OuterStep {
  const float* a;
  const float* b;
};

// What a product may prefetch while it computes: `count` runs of `floats`, `stride` apart.
struct PrefetchRuns {
  const float* data = nullptr;
  int64_t floats = 0;
  int64_t stride = 0;
  int64_t count = 0;
};

// out[i * out_stride + j] (+)= sum over p of steps[p].a[i] * steps[p].b[j], for any numbers of rows
// i and columns j. Where the number of columns is no multiple of the vector length, b is readable
// up to the next. The `prefetch`ed are evenly spread over the time this takes.
struct OuterProduct {
  const OuterStep* steps = nullptr;
  int64_t num_steps = 0;
  int64_t num_rows = 0;
  int64_t num_columns = 0;
  bool accumulate = false;
  float* out = nullptr;
  int64_t out_stride = 0;
  PrefetchRuns prefetch[3];
};
void GemmOuter(const OuterProduct& product);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_GEMM_H_
