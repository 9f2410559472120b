#include "layers/tap_reduction.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "core/check.h"
#include "layers/channel_rows.h"
#include "layers/outer_product.h"
#include "layers/tree_sum.h"

namespace classicnn {
namespace {

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How a reduction is cut: groups of images (or of lines of few images), and within each group parts
// of the result: ranges of taps, of grad's channels (columns) and of in's channels (rows).
struct Cut {
  // Worth it for a prologue, or where each pixel meets many rows; only for a pixel's own.
  static bool Packs(const TapReductionSize& size) {
    return size.num_taps == 1 && size.in_step == 1 && size.h == size.in_h && size.w == size.in_w &&
           (size.activation || size.gradient || size.in_channels > 64);
  }

  static constexpr int64_t kMaxPartialBytes = 8 << 20;
  static constexpr int64_t kPieces = 64;  // as many as threads should find work
  static constexpr int64_t kFewPieces = 8;
  static constexpr int64_t kPiecesPerThread = 4;  // of those that pack
  static constexpr int64_t kMinGroupPixels = 256;
  static constexpr int64_t kBlockPixels =
      64;  // reduced at once: their rows stay in the first-level cache
  static constexpr int64_t kColumnRange = 64;  // least width worth a part of its own
  static constexpr int64_t kRowRange = 56;
  // What is packed: a panel of a block stays in the first-level cache, all of it in the second.
  static constexpr int64_t kMaxPackedPixels = 128;
  static constexpr int64_t kMinPackedPixels = 64;
  static constexpr int64_t kPackedFloats = 128 << 10;
  static constexpr int64_t kPartFloats = 64 << 10;  // likewise the sums of a part

  Cut(const TapReductionSize& size, int num_threads)
      : gathers(GathersTaps(size.num_taps, size.in_channels)),
        packs(Packs(size)),
        segments(gathers ? 1 : size.num_taps),
        rows(gathers ? size.num_taps * size.in_channels : size.in_channels),
        gather_stride(gathers ? GatherStride(size.num_taps, size.in_channels) : 0),
        result_floats(size.num_taps * size.in_channels * size.grad_channels),
        partial_stride(DivideUp(result_floats, 16) * 16 + 16) {
    const int64_t images = size.images;
    const int64_t pixels = size.h * size.w;
    const int64_t columns = size.grad_channels;
    int64_t most_parts = segments * std::max<int64_t>(1, rows / kRowRange) *
                         std::max<int64_t>(1, columns / kColumnRange);
    if (packs) {
      CutPacked(columns, kPieces);
      most_parts = row_parts * column_parts;
    }
    // Packed parts read rows of `in` and grad in pieces, and each packs what it reads: no more than
    // the threads want. How sums are grouped must not depend on threads: no more groups than are
    // needed for the most of them, because partial sums are written and read again.
    const int64_t most_groups = packs ? std::max(kFewPieces, kPieces / most_parts) : kPieces;
    while (2 * groups <= std::min(images, most_groups) &&
           (2 * groups - 1) * result_floats * 4 <= kMaxPartialBytes &&
           images * pixels / (2 * groups) >= kMinGroupPixels) {
      groups *= 2;
    }
    // Few images: groups of their lines, where parts of the result alone would be few pieces.
    while (groups * most_parts < kFewPieces && 2 * groups <= images * size.h &&
           images * pixels / (2 * groups) >= kMinGroupPixels &&
           (2 * groups - 1) * result_floats * 4 <= kMaxPartialBytes) {
      groups *= 2;
    }
    if (packs) {
      // Sums of a block are added to those of the blocks before: for the largest parts, since those
      // of a run depend on threads.
      CutPacked(columns, 1);
      const int64_t fit =
          kPackedFloats / (rows / row_parts * 16 / 14 + columns / column_parts) / 16 * 16;
      block_pixels = std::min(DivideUp(images, groups) * pixels,
                              std::clamp(fit, kMinPackedPixels, kMaxPackedPixels));
      CutPacked(columns, DivideUp(kPiecesPerThread * num_threads, groups));
      part_rows = DivideUp(rows, row_parts);
      part_columns = DivideUp(columns, column_parts) + 2 * kGemmMaxLanes;
      return;
    }
    int64_t wanted = DivideUp(kPieces, groups);
    tap_parts = std::min(segments, wanted);
    wanted = DivideUp(wanted, tap_parts);
    column_parts = std::min(DivideUp(columns, kColumnRange), wanted);
    wanted = DivideUp(wanted, column_parts);
    row_parts = std::min(DivideUp(rows, kRowRange), wanted);
    block_pixels = std::min(kBlockPixels, images * pixels);
    if (columns % kGemmMaxLanes != 0 || size.gradient) {
      grad_stride = Padded(DivideUp(columns, column_parts) + 2 * kGemmMaxLanes);
    }
    if (size.activation) {
      in_stride = Padded(DivideUp(rows, row_parts));
      in_pixels = size.num_taps == 1 ? block_pixels : MaxWindowPixels(size);
    }
  }

  // About `wanted` parts, more where they would be too large and less where too small, a power of
  // two. Every part packs what it reads: the squarer they are, the less.
  void CutPacked(int64_t columns, int64_t wanted) {
    row_parts = column_parts = 1;
    while (row_parts * column_parts < wanted ||
           rows * columns > kPartFloats * row_parts * column_parts) {
      const bool can_cut_columns = columns / (2 * column_parts) >= kColumnRange;
      const bool can_cut_rows = rows / (2 * row_parts) >= kRowRange;
      if (can_cut_columns && (!can_cut_rows || columns / column_parts >= rows / row_parts)) {
        column_parts *= 2;
      } else if (can_cut_rows) {
        row_parts *= 2;
      } else {
        break;
      }
    }
  }

  // An odd number of lines, so that pixels spread over the sets of a cache.
  static int64_t Padded(int64_t floats) { return DivideUp(floats, 16) / 2 * 32 + 16; }

  // From the first pixel under the taps of a block to the last.
  int64_t MaxWindowPixels(const TapReductionSize& size) const {
    const int64_t lines = DivideUp(block_pixels, size.w) + 1;
    const int64_t images = DivideUp(block_pixels, size.h * size.w) + 1;
    const int64_t rows_below = std::max<int64_t>(0, size.in_h - size.h * size.in_step);
    const int64_t in_rows =
        lines * size.in_step + images * rows_below + 2 * size.tap_rows + size.in_step;
    return std::min(size.images * size.in_h, in_rows) * size.in_w;
  }

  int64_t parts() const { return tap_parts * column_parts * row_parts; }

  bool gathers;
  bool packs;        // both operands of a block, see layers/outer_product.h
  int64_t segments;  // matrices of the result, each rows x columns: one for each tap, or for all
  int64_t rows;
  int64_t gather_stride;  // of a gathered row, or 0
  int64_t result_floats;
  int64_t partial_stride;  // from one group's partial sums to the next's, over the sets of a cache
  int64_t groups = 1;  // a power of two; the first sums into the result, the others into partials
  int64_t tap_parts = 1;
  int64_t column_parts = 1;
  int64_t row_parts = 1;
  int64_t block_pixels;
  int64_t part_rows = 0;  // where packs: at most
  int64_t part_columns = 0;
  int64_t grad_stride = 0;  // of a pixel of grad's copy; 0 where no target needs one
  int64_t in_stride = 0;    // of a pixel of in's copy; 0 without a prologue
  int64_t in_pixels = 0;    // at most
};

// One worker's scratch for a block of pixels.
struct BlockScratch {
  BlockScratch(const Cut& cut, Workspace* workspace)
      : steps(workspace->Take<OuterStep>(cut.block_pixels)),
        grad(workspace->Take<float>(cut.block_pixels * cut.grad_stride)),
        in(workspace->Take<float>(cut.in_pixels * cut.in_stride)),
        gathered(workspace->Take<float>(cut.block_pixels * cut.gather_stride)) {}

  static size_t Bytes(const Cut& cut) {
    return Workspace::BytesFor<OuterStep>(cut.block_pixels) +
           Workspace::BytesFor<float>(cut.block_pixels * cut.grad_stride) +
           Workspace::BytesFor<float>(cut.in_pixels * cut.in_stride) +
           Workspace::BytesFor<float>(cut.block_pixels * cut.gather_stride);
  }

  OuterStep* steps;
  float* grad;      // a part's columns of the block's gradients: after the prologue, or where they
                    // end in a partial vector
  float* in;        // a part's rows of the pixels under the block, after the prologue
  float* gathered;  // what is under all taps, a row for each pixel
};

// Likewise where both operands are packed.
struct PackedScratch {
  PackedScratch(const Cut& cut, Workspace* workspace)
      : rows(workspace->Take<float>(RowFloats(cut))),
        columns(workspace->Take<float>(ColumnFloats(cut))) {}

  static size_t Bytes(const Cut& cut) {
    return Workspace::BytesFor<float>(RowFloats(cut)) +
           Workspace::BytesFor<float>(ColumnFloats(cut));
  }
  static int64_t RowFloats(const Cut& cut) {
    return OuterLayout::Rows(cut.part_rows, cut.block_pixels).floats();
  }
  static int64_t ColumnFloats(const Cut& cut) {
    return OuterLayout::Columns(cut.part_columns, cut.block_pixels).floats();
  }

  float* rows;
  float* columns;
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

TapReductionSize SizeOf(const TapReduction& r) {
  int64_t low = r.taps[0].h;
  int64_t high = low;
  for (int64_t t = 1; t < r.num_taps; ++t) {
    low = std::min(low, r.taps[t].h);
    high = std::max(high, r.taps[t].h);
  }
  return {r.in.n,
          r.grad.h,
          r.grad.w,
          r.in.h,
          r.in.w,
          r.in_step,
          r.num_taps,
          high - low + 1,
          r.in.c,
          r.grad.c,
          r.activation.active(),
          r.gradient.active()};
}

struct Range {
  Range(int64_t size, int64_t parts, int64_t part, int64_t unit)
      : begin(std::min(size, DivideUp(size, unit) * part / parts * unit)),
        end(std::min(size, DivideUp(size, unit) * (part + 1) / parts * unit)) {}
  int64_t size() const { return end - begin; }
  int64_t begin, end;
};

// What a piece of the parallel loop does: a part of the result, for pixels [begin, end).
struct PieceRange {
  Range segments;
  Range rows;
  Range columns;
  int64_t begin, end;
};

// The part of `in` that a block of pixels meets: in the caller's tensor, or in scratch.
struct Source {
  const float* data;  // of pixel `first`; or of the block's first pixel, where each has its own
  int64_t first;
  int64_t stride;
  bool own = false;
  const float* Pixel(int64_t pixel, int64_t index_in_block) const {
    return data + (own ? index_in_block : pixel - first) * stride;
  }
};

// The pixels [begin, end) of `in` that hold all that taps read for pixels [first, first + pixels).
struct WindowPixels {
  WindowPixels(const TapReduction& r, int64_t first, int64_t pixels) {
    Tap low = r.taps[0];
    Tap high = r.taps[0];
    for (int64_t t = 1; t < r.num_taps; ++t) {
      low.h = std::min(low.h, r.taps[t].h);
      low.w = std::min(low.w, r.taps[t].w);
      high.h = std::max(high.h, r.taps[t].h);
      high.w = std::max(high.w, r.taps[t].w);
    }
    const PixelCursor from(r, first);
    const PixelCursor to(r, first + pixels - 1);
    const auto line = [&](const PixelCursor& at, const Tap& tap) {
      return std::clamp<int64_t>(at.i * r.in_step + tap.h, 0, r.in.h - 1);
    };
    // Whole lines of the image: a run that turns to the next line meets all of both.
    begin = (from.n * r.in.h + line(from, low)) * r.in.w;
    end = (to.n * r.in.h + line(to, high) + 1) * r.in.w;
  }
  int64_t size() const { return end - begin; }
  int64_t begin, end;
};

// What a block of pixels meets of rows [begin, end) of `in`, after the prologue. One tap reads no
// more than its own pixels: there the scratch has a pixel for each of the block's.
Source Activate(const TapReduction& r, const Cut& cut, const Range& rows, int64_t first,
                int64_t pixels, const BlockScratch& s) {
  const auto activate = [&](int64_t pixel, int64_t step, int64_t count, float* to) {
    ActivateRows(r.activation, rows.begin, r.in.Pixel(pixel) + rows.begin, step * r.in.pixel_stride,
                 count, rows.size(), to, cut.in_stride);
  };
  if (r.num_taps > 1) {
    const WindowPixels window(r, first, pixels);
    CNN_CHECK(window.size() <= cut.in_pixels);
    activate(window.begin, 1, window.size(), s.in);
    return {s.in, window.begin, cut.in_stride};
  }
  if (r.in_step == 1 && r.in.h == r.grad.h && r.in.w == r.grad.w) {
    activate(first, 1, pixels, s.in);
  } else {
    PixelCursor cursor(r, first);
    for (int64_t p = 0; p < pixels;) {
      const int64_t count = std::min(r.grad.w - cursor.j, pixels - p);
      activate(cursor.Under(r, r.taps[0]), r.in_step, count, s.in + p * cut.in_stride);
      for (const int64_t end = p + count; p < end; ++p) cursor.Next(r);
    }
  }
  return {s.in, 0, cut.in_stride, /*own=*/true};
}

// Tables of a block of pixels for one segment; returns the number of steps.
int64_t FillSteps(const TapReduction& r, const Source& in, int64_t segment, int64_t first,
                  int64_t pixels, const float* grad, int64_t grad_stride, const BlockScratch& s) {
  if (r.num_taps == 1 && r.in_step == 1 && r.in.h == r.grad.h && r.in.w == r.grad.w) {
    const float* const from = in.Pixel(first, 0);
    for (int64_t p = 0; p < pixels; ++p)
      s.steps[p] = {from + p * in.stride, grad + p * grad_stride};
    return pixels;
  }
  PixelCursor cursor(r, first);
  int64_t count = 0;
  for (int64_t p = 0; p < pixels; ++p, cursor.Next(r)) {
    const int64_t pixel = cursor.Under(r, r.taps[segment]);
    if (pixel >= 0) s.steps[count++] = {in.Pixel(pixel, p), grad + p * grad_stride};
  }
  return count;
}
int64_t FillGatheredSteps(const TapReduction& r, const Cut& cut, const TapGather& gather,
                          int64_t first_row, int64_t first, int64_t pixels, const float* grad,
                          int64_t grad_stride, const BlockScratch& s) {
  PixelCursor cursor(r, first);
  for (int64_t p = 0; p < pixels;) {
    const int64_t count = std::min(r.grad.w - cursor.j, pixels - p);
    gather.Gather(cursor.n, cursor.i * r.in_step, cursor.j * r.in_step, r.in_step, count,
                  s.gathered + p * cut.gather_stride, cut.gather_stride);
    for (const int64_t end = p + count; p < end; ++p, cursor.Next(r)) {
      s.steps[p] = {s.gathered + p * cut.gather_stride + first_row, grad + p * grad_stride};
    }
  }
  return pixels;
}

// Sums pixels [begin, end) of grad for one part of the result.
void ReducePart(const TapReduction& r, const Cut& cut, const TapGather* gather,
                const Range& segments, const Range& rows, const Range& columns, int64_t begin,
                int64_t end, int64_t lanes, float* out, int64_t out_stride, const BlockScratch& s) {
  for (int64_t first = begin; first < end; first += cut.block_pixels) {
    const int64_t pixels = std::min(cut.block_pixels, end - first);
    const float* grad = r.grad.Pixel(first) + columns.begin;
    int64_t grad_stride = r.grad.pixel_stride;
    if (r.gradient.active()) {
      GradientRows(r.gradient, columns.begin, grad, grad_stride,
                   r.gradient.x.Pixel(first) + columns.begin, pixels, columns.size(), s.grad,
                   cut.grad_stride);
      grad = s.grad;
      grad_stride = cut.grad_stride;
    } else if (columns.size() % lanes != 0) {
      // The last vector would read past the view.
      for (int64_t p = 0; p < pixels; ++p) {
        std::memcpy(s.grad + p * cut.grad_stride, grad + p * grad_stride,
                    static_cast<size_t>(columns.size()) * sizeof(float));
      }
      grad = s.grad;
      grad_stride = cut.grad_stride;
    }
    Source in{r.in.data + rows.begin, 0, r.in.pixel_stride};
    if (r.activation.active()) in = Activate(r, cut, rows, first, pixels, s);
    OuterProduct product;
    product.steps = s.steps;
    product.num_rows = rows.size();
    product.num_columns = columns.size();
    product.accumulate = first != begin;
    product.out_stride = out_stride;
    for (int64_t t = segments.begin; t < segments.end; ++t) {
      product.num_steps =
          gather != nullptr
              ? FillGatheredSteps(r, cut, *gather, rows.begin, first, pixels, grad, grad_stride, s)
              : FillSteps(r, in, t, first, pixels, grad, grad_stride, s);
      product.out = out + (t * cut.rows + rows.begin) * out_stride + columns.begin;
      if (t == segments.end - 1) {
        // The next block, maybe the next group's: walked column by column it is no pattern that
        // hardware prefetches.
        const int64_t next = first + pixels;
        const int64_t next_end = std::min(r.grad.pixels(), next + cut.block_pixels);
        product.prefetch[0] = {r.grad.Pixel(next) + columns.begin, columns.size(),
                               r.grad.pixel_stride, next_end - next};
        const int64_t in_next = next * r.in.pixels() / r.grad.pixels();
        const int64_t in_end = next_end * r.in.pixels() / r.grad.pixels();
        product.prefetch[1] = {r.in.Pixel(in_next) + (gather != nullptr ? 0 : rows.begin),
                               gather != nullptr ? r.in.c : rows.size(), r.in.pixel_stride,
                               in_end - in_next};
        if (r.gradient.active()) {
          product.prefetch[2] = {r.gradient.x.Pixel(next) + columns.begin, columns.size(),
                                 r.gradient.x.pixel_stride, next_end - next};
        }
      }
      GemmOuter(product);
    }
  }
}

// As ReducePart, for one tap that reads each pixel's own.
OuterReduction PackedPart(const TapReduction& r, const Cut& cut, const Range& rows,
                          const Range& columns, int64_t begin, int64_t end) {
  OuterReduction outer;
  outer.a = {r.in.Pixel(begin) + rows.begin, r.in.pixel_stride, rows.size(), rows.begin};
  if (r.activation.active()) outer.activation = &r.activation;
  outer.b = {r.grad.Pixel(begin) + columns.begin, r.grad.pixel_stride, columns.size(),
             columns.begin};
  if (r.gradient.active()) {
    outer.gradient = &r.gradient;
    outer.x = r.gradient.x.Pixel(begin) + columns.begin;
  }
  outer.pixels = end - begin;
  outer.block_pixels = cut.block_pixels;
  return outer;
}

size_t ScratchBytes(const Cut& cut) {
  return cut.packs ? PackedScratch::Bytes(cut) : BlockScratch::Bytes(cut);
}

}  // namespace

bool TapReductionTakesActivation(const TapReductionSize& size) {
  return size.num_taps == 1 ||
         (!GathersTaps(size.num_taps, size.in_channels) && Cut(size, 1).tap_parts == 1);
}

size_t TapReductionWorkspaceBytes(const TapReductionSize& size, int num_threads) {
  const Cut cut(size, num_threads);
  return Workspace::BytesFor<float>((cut.groups - 1) * cut.partial_stride) +
         static_cast<size_t>(num_threads) * ScratchBytes(cut);
}

void RunTapReduction(const char* zone, const TapReduction& r, Workspace workspace, Context& ctx) {
  const int64_t columns = r.grad.c;
  const Cut cut(SizeOf(r), ctx.num_threads());
  const bool by_lines = cut.groups > r.in.n;
  const int64_t units = by_lines ? r.in.n * r.grad.h : r.in.n;
  const int64_t unit_pixels = by_lines ? r.grad.w : r.grad.h * r.grad.w;
  std::optional<TapGather> gather;
  if (cut.gathers) gather.emplace(r.in, r.taps, r.num_taps);
  const GemmGeometry geometry = ActiveGemmGeometry();
  float* const partials = workspace.Take<float>((cut.groups - 1) * cut.partial_stride);
  const size_t scratch_bytes = ScratchBytes(cut);
  std::byte* const scratch =
      workspace.Take<std::byte>(static_cast<int64_t>(scratch_bytes) * ctx.num_threads());

  const auto range_of = [&](int64_t piece) {
    const int64_t group = piece / cut.parts();
    int64_t part = piece % cut.parts();
    const Range segments(cut.segments, cut.tap_parts, part % cut.tap_parts, 1);
    part /= cut.tap_parts;
    const Range column_range(columns, cut.column_parts, part % cut.column_parts,
                             geometry.panel_width());
    const Range rows(cut.rows, cut.row_parts, part / cut.column_parts, 1);
    const int64_t begin = units * group / cut.groups * unit_pixels;
    const int64_t end = units * (group + 1) / cut.groups * unit_pixels;
    return PieceRange{segments, rows, column_range, begin, end};
  };
  const int64_t pieces = cut.groups * cut.parts();
  ctx.ParallelFor(zone, pieces, [&](int64_t piece, int worker) {
    Workspace own{scratch + static_cast<size_t>(worker) * scratch_bytes, scratch_bytes};
    const PieceRange range = range_of(piece);
    if (range.rows.size() == 0 || range.columns.size() == 0) return;
    const int64_t group = piece / cut.parts();
    float* const out = group == 0 ? r.out : partials + (group - 1) * cut.partial_stride;
    const int64_t out_stride = group == 0 ? r.out_stride : columns;
    if (!cut.packs) {
      ReducePart(r, cut, gather ? &*gather : nullptr, range.segments, range.rows, range.columns,
                 range.begin, range.end, geometry.lanes, out, out_stride, BlockScratch(cut, &own));
      return;
    }
    const auto part_of = [&](const PieceRange& of) {
      return PackedPart(r, cut, of.rows, of.columns, of.begin, of.end);
    };
    OuterReduction outer = part_of(range);
    const PackedScratch packed(cut, &own);
    outer.packed_a = packed.rows;
    outer.packed_b = packed.columns;
    outer.out = out + range.rows.begin * out_stride + range.columns.begin;
    outer.out_stride = out_stride;
    const OuterReduction next = part_of(range_of(std::min(piece + 1, pieces - 1)));
    ReduceOuter(outer, piece + 1 < pieces ? &next : nullptr);
  });
  if (cut.groups == 1) return;

  // The tree: group 0 + group 1, 2 + 3, ..., then pairs of those, for each row of the result.
  const int64_t result_rows = r.num_taps * r.in.c;
  const int64_t rows_per_piece = std::max<int64_t>(1, 4096 / columns);
  ctx.ParallelFor(zone, DivideUp(result_rows, rows_per_piece), [&](int64_t piece, int /*worker*/) {
    const int64_t begin = piece * rows_per_piece;
    const int64_t end = std::min(result_rows, begin + rows_per_piece);
    const int64_t together = r.out_stride == columns ? end - begin : 1;
    for (int64_t row = begin; row < end; row += together) {
      SumTree(partials + row * columns, cut.partial_stride, cut.groups - 1, together * columns,
              r.out + row * r.out_stride);
    }
  });
}

}  // namespace classicnn
