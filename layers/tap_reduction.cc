#include "layers/tap_reduction.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"

namespace classicnn {
namespace {

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How a reduction is cut: groups of images, and within each group parts of the result: ranges of
// taps, of grad's channels (columns) and of in's channels (rows).
struct Cut {
  static constexpr int64_t kMaxPartialBytes = 8 << 20;
  static constexpr int64_t kPieces = 64;  // as many as threads should find work
  static constexpr int64_t kMinGroupPixels = 256;
  static constexpr int64_t kBlockPixels =
      64;  // reduced at once: their rows stay in the first-level cache
  static constexpr int64_t kColumnRange = 64;  // least width worth a part of its own
  static constexpr int64_t kRowRange = 56;

  // `run`: how many taps make a segment.
  Cut(int64_t images, int64_t pixels, int64_t num_taps, int64_t run, int64_t channels,
      int64_t columns)
      : segments(num_taps / run),
        rows(run * channels),
        max_gathered(UsesTapRuns(num_taps, channels) ? num_taps * channels : 0),
        result_floats(num_taps * channels * columns) {
    while (2 * groups <= std::min(images, kPieces) &&
           (2 * groups - 1) * result_floats * 4 <= kMaxPartialBytes &&
           images * pixels / (2 * groups) >= kMinGroupPixels) {
      groups *= 2;
    }
    int64_t wanted = DivideUp(kPieces, groups);
    tap_parts = std::min(segments, wanted);
    wanted = DivideUp(wanted, tap_parts);
    column_parts = std::min(DivideUp(columns, kColumnRange), wanted);
    wanted = DivideUp(wanted, column_parts);
    row_parts = std::min(DivideUp(rows, kRowRange), wanted);
    block_pixels = std::min(kBlockPixels, images * pixels);
    if (columns % kGemmMaxLanes != 0) {
      padded_columns = DivideUp(columns, kGemmMaxLanes) * kGemmMaxLanes;
    }
  }

  int64_t parts() const { return tap_parts * column_parts * row_parts; }

  int64_t segments;  // matrices of the result, each rows x columns: one for each run of taps
  int64_t rows;
  int64_t max_gathered;  // floats for each pixel
  int64_t result_floats;
  int64_t groups = 1;  // a power of two; the first sums into the result, the others into partials
  int64_t tap_parts;
  int64_t column_parts;
  int64_t row_parts;
  int64_t block_pixels;
  int64_t padded_columns = 0;  // 0 where no target has partial vectors
};

// One worker's scratch for a block of pixels.
struct BlockScratch {
  BlockScratch(const Cut& cut, Workspace* workspace)
      : steps(workspace->Take<OuterStep>(cut.block_pixels)),
        grad(workspace->Take<float>(cut.block_pixels * cut.padded_columns)),
        gathered(workspace->Take<float>(cut.block_pixels * cut.max_gathered)) {}

  static size_t Bytes(const Cut& cut) {
    return Workspace::BytesFor<OuterStep>(cut.block_pixels) +
           Workspace::BytesFor<float>(cut.block_pixels * cut.padded_columns) +
           Workspace::BytesFor<float>(cut.block_pixels * cut.max_gathered);
  }

  OuterStep* steps;
  float* grad;      // the block's gradients with padded rows, where they end in a partial vector
  float* gathered;  // runs of taps that cannot be read in place
};

// Walks the pixels of grad in order.
struct PixelCursor {
  PixelCursor(const TapReduction& r, int64_t pixel)
      : n(pixel / r.grad.w / r.grad.h), i(pixel / r.grad.w % r.grad.h), j(pixel % r.grad.w) {}
  void Next(const TapReduction& r) {
    if (++j < r.grad.w) return;
    j = 0;
    if (++i < r.grad.h) return;
    i = 0;
    ++n;
  }
  // Pixel of `in` under a tap, or -1 outside the image.
  int64_t Under(const TapReduction& r, const Tap& tap) const {
    const int64_t h = i * r.in_step + tap.h;
    const int64_t w = j * r.in_step + tap.w;
    if (h < 0 || h >= r.in.h || w < 0 || w >= r.in.w) return -1;
    return (n * r.in.h + h) * r.in.w + w;
  }
  int64_t n, i, j;
};

struct Range {
  Range(int64_t size, int64_t parts, int64_t part, int64_t unit)
      : begin(std::min(size, DivideUp(size, unit) * part / parts * unit)),
        end(std::min(size, DivideUp(size, unit) * (part + 1) / parts * unit)) {}
  int64_t size() const { return end - begin; }
  int64_t begin, end;
};

// Tables of a block of pixels for one segment; returns the number of steps.
int64_t FillSteps(const TapReduction& r, const TapRuns& runs, int64_t segment, int64_t first,
                  int64_t pixels, const float* grad, int64_t grad_stride, const BlockScratch& s) {
  PixelCursor cursor(r, first);
  int64_t count = 0;
  if (!UsesTapRuns(r.num_taps, r.in.c)) {
    for (int64_t p = 0; p < pixels; ++p, cursor.Next(r)) {
      const int64_t pixel = cursor.Under(r, r.taps[segment]);
      if (pixel >= 0) s.steps[count++] = {r.in.Pixel(pixel), grad + p * grad_stride};
    }
    return count;
  }
  float* gathered = s.gathered;
  for (int64_t p = 0; p < pixels; ++p, cursor.Next(r), gathered += runs.length * r.in.c) {
    const int64_t h = cursor.i * r.in_step;
    const int64_t w = cursor.j * r.in_step;
    const float* const origin =
        r.in.data + ((cursor.n * r.in.h + h) * r.in.w + w) * r.in.pixel_stride;
    const float* const in =
        TapRunAt(r.in, r.taps + segment * runs.length, runs, origin, h, w, gathered);
    if (in != nullptr) s.steps[count++] = {in, grad + p * grad_stride};
  }
  return count;
}

// Sums pixels [begin, end) of grad for one part of the result.
void ReducePart(const TapReduction& r, const Cut& cut, const TapRuns& runs, const Range& segments,
                const Range& rows, const Range& columns, int64_t begin, int64_t end, int64_t lanes,
                float* out, int64_t out_stride, const BlockScratch& s) {
  if (columns.size() == 0 || rows.size() == 0) return;
  for (int64_t first = begin; first < end; first += cut.block_pixels) {
    const int64_t pixels = std::min(cut.block_pixels, end - first);
    const float* grad = r.grad.Pixel(first);
    int64_t grad_stride = r.grad.pixel_stride;
    if (columns.size() % lanes != 0) {
      // The last vector would read past the view: copy, with rows padded.
      grad_stride = DivideUp(columns.end, lanes) * lanes;
      for (int64_t p = 0; p < pixels; ++p) {
        float* const to = s.grad + p * grad_stride;
        std::memcpy(to + columns.begin, grad + p * r.grad.pixel_stride + columns.begin,
                    static_cast<size_t>(columns.size()) * sizeof(float));
        std::fill(to + columns.end, to + grad_stride, 0.0f);
      }
      grad = s.grad;
    }
    OuterProduct product;
    product.steps = s.steps;
    product.row_begin = rows.begin;
    product.row_end = rows.end;
    product.column_begin = columns.begin;
    product.column_end = columns.end;
    product.accumulate = first != begin;
    product.out_stride = out_stride;
    for (int64_t t = segments.begin; t < segments.end; ++t) {
      product.num_steps = FillSteps(r, runs, t, first, pixels, grad, grad_stride, s);
      product.out = out + t * cut.rows * out_stride;
      if (t == segments.end - 1) {
        // The next block, maybe the next group's: walked column by column it is no pattern that
        // hardware prefetches.
        const int64_t next = first + pixels;
        const int64_t next_end = std::min(r.grad.pixels(), next + cut.block_pixels);
        product.prefetch[0] = {r.grad.Pixel(next) + columns.begin, columns.size(),
                               r.grad.pixel_stride, next_end - next};
        const int64_t in_next = next * r.in.pixels() / r.grad.pixels();
        const int64_t in_end = next_end * r.in.pixels() / r.grad.pixels();
        product.prefetch[1] = {r.in.Pixel(in_next) + (runs.length > 1 ? 0 : rows.begin),
                               runs.length > 1 ? r.in.c : rows.size(), r.in.pixel_stride,
                               in_end - in_next};
      }
      GemmOuter(product);
    }
  }
}

}  // namespace

size_t TapReductionWorkspaceBytes(int64_t images, int64_t grad_pixels_per_image, int64_t num_taps,
                                  int64_t in_channels, int64_t grad_channels, int num_threads) {
  // The scratch does not depend on the runs.
  const Cut cut(images, grad_pixels_per_image, num_taps, 1, in_channels, grad_channels);
  return Workspace::BytesFor<float>((cut.groups - 1) * cut.result_floats) +
         static_cast<size_t>(num_threads) * BlockScratch::Bytes(cut);
}

void RunTapReduction(const char* zone, const TapReduction& r, Workspace workspace, Context& ctx) {
  const int64_t image_pixels = r.grad.h * r.grad.w;
  const int64_t columns = r.grad.c;
  const TapRuns runs = FindTapRuns(r.in, r.taps, r.num_taps);
  const Cut cut(r.in.n, image_pixels, r.num_taps, runs.length, r.in.c, columns);
  const GemmGeometry geometry = ActiveGemmGeometry();
  float* const partials = workspace.Take<float>((cut.groups - 1) * cut.result_floats);
  const size_t scratch_bytes = BlockScratch::Bytes(cut);
  std::byte* const scratch =
      workspace.Take<std::byte>(static_cast<int64_t>(scratch_bytes) * ctx.num_threads());

  ctx.ParallelFor(zone, cut.groups * cut.parts(), [&](int64_t piece, int worker) {
    Workspace own{scratch + static_cast<size_t>(worker) * scratch_bytes, scratch_bytes};
    const int64_t group = piece / cut.parts();
    int64_t part = piece % cut.parts();
    const Range segments(cut.segments, cut.tap_parts, part % cut.tap_parts, 1);
    part /= cut.tap_parts;
    const Range column_range(columns, cut.column_parts, part % cut.column_parts,
                             geometry.panel_width());
    const Range rows(cut.rows, cut.row_parts, part / cut.column_parts, 1);
    const int64_t begin = r.in.n * group / cut.groups * image_pixels;
    const int64_t end = r.in.n * (group + 1) / cut.groups * image_pixels;
    float* const out = group == 0 ? r.out : partials + (group - 1) * cut.result_floats;
    ReducePart(r, cut, runs, segments, rows, column_range, begin, end, geometry.lanes, out,
               group == 0 ? r.out_stride : columns, BlockScratch(cut, &own));
  });
  if (cut.groups == 1) return;

  // The tree: group 0 + group 1, 2 + 3, ..., then pairs of those, for each row of the result.
  const int64_t result_rows = r.num_taps * r.in.c;
  const int64_t rows_per_piece = std::max<int64_t>(1, 4096 / columns);
  const auto row_of = [&](int64_t group, int64_t row) {
    return group == 0 ? r.out + row * r.out_stride
                      : partials + (group - 1) * cut.result_floats + row * columns;
  };
  ctx.ParallelFor(zone, DivideUp(result_rows, rows_per_piece), [&](int64_t piece, int /*worker*/) {
    const int64_t end = std::min(result_rows, (piece + 1) * rows_per_piece);
    for (int64_t row = piece * rows_per_piece; row < end; ++row) {
      for (int64_t distance = 1; distance < cut.groups; distance *= 2) {
        for (int64_t group = 0; group < cut.groups; group += 2 * distance) {
          float* const to = row_of(group, row);
          const float* const from = row_of(group + distance, row);
          for (int64_t k = 0; k < columns; ++k) to[k] += from[k];
        }
      }
    }
  });
}

}  // namespace classicnn
