// Internal: what the Winograd drivers ask of each instruction set, for F(4x4, 3x3), F(2x2, 3x3),
// F(4x4, 5x5) and F(2x2, 5x5).
//
// Names, for F(m x m, r x r): `points` = (m + r - 1)^2 products of a tile; `tiles` = m x m blocks
// of an output image, numbered through all images row by row; `depth` = channels summed over;
// `columns` = channels produced.
//
//   v[point][tile][depth]           transformed input tiles
//   u[panel][point][depth][width]   transformed weights; a panel is `panel` columns wide, the last
//                                   one or two whole vectors
//   m[point][tile][width]           products of one panel
#ifndef CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_KERNELS_H_
#define CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_KERNELS_H_

#include <algorithm>
#include <cstdint>

#include "core/context.h"
#include "core/divide.h"
#include "core/view.h"
#include "layers/conv2d/conv2d.h"

namespace classicnn {

// A tensor that is read in tiles, and what is done to it then.
struct WinogradSource {
  ConstTensor tensor;
  ActivationPrologue<float> activation;  // at most one of the two is active
  GradientPrologue<float> gradient;
  const float* zeros = nullptr;  // as many as the tensor has channels

  // Channels [begin, begin + count).
  WinogradSource Channels(int64_t begin, int64_t count) const {
    WinogradSource some = *this;
    some.tensor = tensor.Channels(begin, count);
    if (activation.active()) {
      some.activation.scale += begin;
      some.activation.shift += begin;
    }
    if (gradient.active()) {
      some.gradient.x = gradient.x.Channels(begin, count);
      some.gradient.gain += begin;
      some.gradient.slope += begin;
      some.gradient.offset += begin;
    }
    return some;
  }
};

// Where an epilogue's sums of a few tiles are added, [columns] each: deviations from `center` and
// their squares for statistics, g and g * (x - mean) (and no center) for a gradient.
struct WinogradSums {
  const float* center = nullptr;
  float* first = nullptr;
  float* second = nullptr;

  WinogradSums From(int64_t column) const {
    return {center == nullptr ? nullptr : center + column, first + column, second + column};
  }
};

// A correlation with stride 1: the forward pass, or backward data with x and y in exchanged
// roles and the weights flipped and transposed.
struct WinogradCorrelation {
  WinogradSource in;
  Tensor out;
  int64_t padding = 0;             // of `in`
  const float* weights = nullptr;  // the layer's [r, r, C, K]
  bool transposed = false;         // depth runs over K and columns over C, taps backwards
  const float* bias = nullptr;
  bool accumulate = false;
  StatisticsEpilogue<float> statistics;  // of `out`; at most one of the two is active
  GradientEpilogue<float> epilogue;

  int64_t depth() const { return in.tensor.c; }
  int64_t columns() const { return out.c; }
};

// The tiles of an [h, w] output.
struct WinogradTiles {
  WinogradTiles(int64_t n, int64_t h, int64_t w, int64_t tile_)
      : tile(tile_), rows(DivideUp(h, tile)), cols(DivideUp(w, tile)), count(n * rows * cols) {}
  int64_t image(int64_t t) const { return t / (rows * cols); }
  int64_t row(int64_t t) const { return t / cols % rows; }
  int64_t col(int64_t t) const { return t % cols; }
  // Rows and columns of the tile's outputs that are in an [h, w] image.
  int64_t RowsInside(int64_t t, int64_t h) const { return std::min(tile, h - row(t) * tile); }
  int64_t ColsInside(int64_t t, int64_t w) const { return std::min(tile, w - col(t) * tile); }

  int64_t tile;
  int64_t rows;
  int64_t cols;
  int64_t count;
};

// Steps through tiles in their order, without divisions.
class WinogradCursor {
 public:
  WinogradCursor(const WinogradTiles& tiles, int64_t t)
      : tiles_(tiles), image_(tiles.image(t)), row_(tiles.row(t)), col_(tiles.col(t)) {}
  void Next() {
    if (++col_ < tiles_.cols) return;
    col_ = 0;
    if (++row_ < tiles_.rows) return;
    row_ = 0;
    ++image_;
  }
  int64_t image() const { return image_; }
  // The first output pixel's.
  int64_t h() const { return row_ * tiles_.tile; }
  int64_t w() const { return col_ * tiles_.tile; }

 private:
  WinogradTiles tiles_;
  int64_t image_;
  int64_t row_;
  int64_t col_;
};

// Asks for the pixels of tiles ahead of their use, a few at each Step between products, so that
// memory works while arithmetic does.
class WinogradPrefetch {
 public:
  WinogradPrefetch() = default;  // nothing
  // The m x m pixels of tiles [begin, end) of `view`, and of `other` of the same shape where it has
  // data, each tile's first pixel `offset` rows and columns from its place in the output, spread
  // over `steps` steps.
  WinogradPrefetch(const ConstTensor& view, const ConstTensor& other, const WinogradTiles& tiles,
                   int64_t offset, int64_t begin, int64_t end, int64_t steps)
      : view_(view),
        other_(other),
        tiles_(tiles),
        offset_(offset),
        cursor_(tiles, begin),
        next_(begin),
        end_(std::min(end, tiles.count)),
        tiles_per_step_(static_cast<double>(end - begin) / static_cast<double>(steps)) {}

  void Step() {
    credit_ += tiles_per_step_;
    for (; credit_ >= 1 && next_ < end_; credit_ -= 1, ++next_, cursor_.Next()) {
      Fetch(view_);
      if (other_.data != nullptr) Fetch(other_);
    }
  }

 private:
  void Fetch(const ConstTensor& view) const {
    const int64_t h0 = cursor_.h() + offset_;
    const int64_t w0 = cursor_.w() + offset_;
    const int64_t first = std::max<int64_t>(w0, 0);
    const int64_t last = std::min(w0 + tiles_.tile, view.w);
    for (int64_t h = std::max<int64_t>(h0, 0); h < std::min(h0 + tiles_.tile, view.h); ++h) {
      const float* pixel = view.Pixel(cursor_.image(), h, 0) + first * view.pixel_stride;
      for (int64_t w = first; w < last; ++w, pixel += view.pixel_stride) {
        for (int64_t c = 0; c < view.c; c += 16) __builtin_prefetch(pixel + c);
      }
    }
  }

  ConstTensor view_;
  ConstTensor other_;
  WinogradTiles tiles_{0, 1, 1, 1};
  int64_t offset_ = 0;
  WinogradCursor cursor_{tiles_, 0};
  int64_t next_ = 0;
  int64_t end_ = 0;
  double tiles_per_step_ = 0;
  double credit_ = 0;
};

// Layout of v, w and m: rows of `row` elements for each tile, `point` elements from one point to
// the next.
struct WinogradLayout {
  // `tiles` rows of `channels`, rounded up to whole vectors of any target. One more cache line
  // between points, and between rows of multiples of 1 KB: equal strides that are powers of two
  // would put everything into a few sets of the cache.
  static WinogradLayout For(int64_t tiles, int64_t channels) {
    WinogradLayout layout;
    layout.row = (channels + 15) / 16 * 16;
    if (layout.row % 256 == 0) layout.row += 16;
    layout.point = tiles * layout.row + 16;
    return layout;
  }
  int64_t row = 0;
  int64_t point = 0;
};

struct WinogradKernels {
  int64_t tile;        // m
  int64_t kernel;      // r
  int64_t points;      // (m + r - 1)^2
  int64_t block_rows;  // of the register block: tiles of a product are padded to multiples of it,
                       // channels of the weights' gradient to at most block_rows - 1 more
  int64_t vector;      // floats
  int64_t panel;       // 2 * vector

  // Writes u of one panel for depth [d0, d1) to u[point][depth - d0][width], `point_stride`
  // elements from one point to the next.
  void (*pack_weights)(const WinogradCorrelation& c, int64_t panel, int64_t d0, int64_t d1,
                       float* u, int64_t point_stride);
  // Writes v of tiles [begin, begin + count) to rows 0 to count - 1, after the prologue.
  void (*transform_input)(const WinogradSource& in, int64_t padding, const WinogradTiles& tiles,
                          int64_t begin, int64_t count, const WinogradLayout& layout, float* v);
  // m (+)= v * u over `depth` for all points: `count` rows, padded to a multiple of block_rows.
  // Steps `inputs` once for each register block.
  void (*multiply)(const float* v, const WinogradLayout& v_layout, const float* u,
                   int64_t u_point_stride, int64_t depth, int64_t width, int64_t count,
                   bool accumulate, float* m, const WinogradLayout& m_layout,
                   WinogradPrefetch* inputs);
  // Writes (or adds) the outputs of one panel of tiles [begin, begin + count). A gradient epilogue
  // is done where there is one; statistics are summed where `sums` has a center.
  void (*transform_output)(const WinogradCorrelation& c, const WinogradTiles& tiles, int64_t panel,
                           int64_t begin, int64_t count, const float* m,
                           const WinogradLayout& layout, const WinogradSums& sums);

  // Backward weights: w of the tiles of dy, like transform_input.
  void (*transform_gradient)(const WinogradSource& dy, const WinogradTiles& tiles, int64_t begin,
                             int64_t count, const WinogradLayout& layout, float* w);
  // du[point][depth][columns] (+)= sum over `count` tiles of v[tile][depth] * w[tile][columns], for
  // all points. Up to block_rows - 1 rows more than depth and columns up to whole vectors are
  // written as well; a row of du has du_row elements. Steps like multiply.
  void (*outer)(const float* v, const WinogradLayout& v_layout, const float* w,
                const WinogradLayout& w_layout, int64_t count, int64_t depth, int64_t columns,
                bool accumulate, float* du, int64_t du_row, int64_t du_point,
                WinogradPrefetch* inputs, WinogradPrefetch* gradients);
  // dw[tap][d][k] (+)= G^T du G for d in [0, depth), k in [0, columns), tap in [0, r^2), with
  // dw_row elements from one d to the next and dw_tap from one tap to the next.
  void (*transform_weight_gradient)(const float* du, int64_t du_row, int64_t du_point,
                                    int64_t depth, int64_t columns, bool accumulate, float* dw,
                                    int64_t dw_row, int64_t dw_tap);

  // Columns of one panel, rounded up to whole vectors.
  int64_t Width(int64_t columns, int64_t p) const {
    return std::min(panel, (columns - p * panel + vector - 1) / vector * vector);
  }
  int64_t Panels(int64_t columns) const { return DivideUp(columns, panel); }
  int64_t PadTiles(int64_t count) const { return DivideUp(count, block_rows) * block_rows; }
};

// Of F(tile x tile, kernel x kernel), for the instruction set that dispatch takes now.
const WinogradKernels& GetWinogradKernels(int64_t tile, int64_t kernel);

// The scratch of a parallel loop: a piece's own where there are fewer of them than threads, else a
// worker's.
struct WinogradScratch {
  int64_t pieces;
  int64_t floats;  // of one

  int64_t Floats(int num_threads) const { return floats * std::min<int64_t>(pieces, num_threads); }
  float* Of(float* all, int64_t piece, int worker, const Context& ctx) const {
    return all + (pieces < ctx.num_threads() ? piece : worker) * floats;
  }
};

// Tiles of a piece, where `count` are transformed for all threads. Each asks for the next one's
// pixels, the last one in vain.
inline int64_t WinogradInputTiles(int64_t count, int num_threads) {
  const int64_t pieces = int64_t{4} * num_threads;
  return DivideUp(count, pieces);
}

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_CONV2D_CONV2D_WINOGRAD_KERNELS_H_
