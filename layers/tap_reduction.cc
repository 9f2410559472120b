#include "layers/tap_reduction.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <optional>

#include "core/check.h"
#include "core/divide.h"
#include "layers/channel_rows.h"
#include "layers/gemm.h"
#include "layers/narrow_product.h"
#include "layers/outer_product.h"
#include "layers/tap_reduction_cut.h"
#include "layers/tap_runs.h"
#include "layers/tree_sum.h"

namespace classicnn {
namespace {

using Cut = TapReductionCut;

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

// Likewise of kPacked.
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
    for (int64_t p = 0; p < pixels; ++p) {
      s.steps[p] = {from + p * in.stride, grad + p * grad_stride};
    }
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

// A piece of one tap that reads each pixel's own.
OuterReduction OwnPixelsPart(const TapReduction& r, const Cut& cut, const PieceRange& range) {
  const Range& rows = range.rows;
  const Range& columns = range.columns;
  const int64_t begin = range.begin;
  OuterReduction outer;
  outer.a = {r.in.Pixel(begin) + rows.begin, r.in.pixel_stride, rows.size(), rows.begin};
  if (r.activation.active()) outer.activation = &r.activation;
  outer.b = {r.grad.Pixel(begin) + columns.begin, r.grad.pixel_stride, columns.size(),
             columns.begin};
  if (r.gradient.active()) {
    outer.gradient = &r.gradient;
    outer.x = r.gradient.x.Pixel(begin) + columns.begin;
  }
  outer.pixels = range.end - begin;
  outer.block_pixels = cut.block_pixels;
  return outer;
}

// Of the narrow operand.
int64_t NarrowFloats(const Cut& cut, const TapReductionSize& size) {
  return NarrowPackedFloats(std::min(size.in_channels, size.grad_channels), cut.block_pixels);
}

size_t ScratchBytes(const Cut& cut, const TapReductionSize& size) {
  switch (cut.kind) {
    case TapReductionKind::kSteps:
      return BlockScratch::Bytes(cut);
    case TapReductionKind::kPacked:
      return PackedScratch::Bytes(cut);
    case TapReductionKind::kNarrow:
      return Workspace::BytesFor<float>(NarrowFloats(cut, size));
  }
  return 0;
}

// The tree: group 0 + group 1, 2 + 3, ..., then pairs of those, for each row of the result.
void SumGroups(const char* zone, const TapReduction& r, const Cut& cut, const float* partials,
               Context& ctx) {
  const int64_t columns = r.grad.c;
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

// The same of partial sums [grad's channels][in's channels], of which group 0 has its own.
void SumTransposed(const char* zone, const TapReduction& r, const Cut& cut, float* partials,
                   Context& ctx) {
  constexpr int64_t kRowsPerPiece = 16;
  ctx.ParallelFor(zone, DivideUp(cut.rows, kRowsPerPiece), [&](int64_t piece, int /*worker*/) {
    const int64_t begin = piece * kRowsPerPiece;
    const int64_t count = std::min(cut.rows - begin, kRowsPerPiece);
    for (int64_t k = 0; k < r.grad.c; ++k) {
      float* const sums = partials + k * cut.rows + begin;
      SumTree(sums + cut.partial_stride, cut.partial_stride, cut.groups - 1, count, sums);
    }
    for (int64_t i = 0; i < count; ++i) {
      const float* const sums = partials + begin + i;
      float* const out = r.out + (begin + i) * r.out_stride;
      for (int64_t k = 0; k < r.grad.c; ++k) out[k] = sums[k * cut.rows];
    }
  });
}

}  // namespace

bool TapReductionTakesActivation(const TapReductionSize& size) {
  return size.num_taps == 1 ||
         (!GathersTaps(size.num_taps, size.in_channels) && Cut(size, 1).tap_parts == 1);
}

size_t TapReductionWorkspaceBytes(const TapReductionSize& size, int num_threads) {
  const Cut cut(size, num_threads);
  return Workspace::BytesFor<float>(cut.partials() * cut.partial_stride) +
         static_cast<size_t>(num_threads) * ScratchBytes(cut, size);
}

void RunTapReduction(const char* zone, const TapReduction& r, Workspace workspace, Context& ctx) {
  const int64_t columns = r.grad.c;
  const TapReductionSize size = SizeOf(r);
  const Cut cut(size, ctx.num_threads());
  const bool by_lines = cut.groups > r.in.n;
  const int64_t units = by_lines ? r.in.n * r.grad.h : r.in.n;
  const int64_t unit_pixels = by_lines ? r.grad.w : r.grad.h * r.grad.w;
  std::optional<TapGather> gather;
  if (cut.gathers) gather.emplace(r.in, r.taps, r.num_taps);
  const GemmGeometry geometry = ActiveGemmGeometry();
  float* const partials = workspace.Take<float>(cut.partials() * cut.partial_stride);
  const size_t scratch_bytes = ScratchBytes(cut, size);
  std::byte* const scratch =
      workspace.Take<std::byte>(static_cast<int64_t>(scratch_bytes) * ctx.num_threads());

  const auto range_of = [&](int64_t piece) {
    const int64_t group = piece / cut.parts();
    int64_t part = piece % cut.parts();
    const Range segments(cut.segments, cut.tap_parts, part % cut.tap_parts, 1);
    part /= cut.tap_parts;
    const Range column_range(columns, cut.column_parts, part % cut.column_parts,
                             geometry.panel_width());
    const Range rows(cut.rows, cut.row_parts, part / cut.column_parts,
                     cut.narrow_grad ? geometry.lanes : 1);
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
    float* out = r.out;
    int64_t out_stride = r.out_stride;
    if (cut.narrow_grad) {
      out = partials + group * cut.partial_stride;
      out_stride = cut.rows;
    } else if (group > 0) {
      out = partials + (group - 1) * cut.partial_stride;
      out_stride = columns;
    }
    if (cut.kind == TapReductionKind::kSteps) {
      ReducePart(r, cut, gather ? &*gather : nullptr, range.segments, range.rows, range.columns,
                 range.begin, range.end, geometry.lanes, out, out_stride, BlockScratch(cut, &own));
      return;
    }
    // What this thread will likely do next.
    const PieceRange after = range_of(std::min(piece + 1, pieces - 1));
    OuterReduction outer = OwnPixelsPart(r, cut, range);
    const OuterReduction next = OwnPixelsPart(r, cut, after);
    outer.out_stride = out_stride;
    if (cut.kind == TapReductionKind::kNarrow) {
      outer.packed_a = own.Take<float>(NarrowFloats(cut, size));
      outer.out = out + (cut.narrow_grad ? range.rows.begin : range.columns.begin);
      const NarrowReduction following{next, cut.narrow_grad};
      ReduceNarrow({outer, cut.narrow_grad}, piece + 1 < pieces ? &following : nullptr);
      return;
    }
    const PackedScratch packed(cut, &own);
    outer.packed_a = packed.rows;
    outer.packed_b = packed.columns;
    outer.out = out + range.rows.begin * out_stride + range.columns.begin;
    ReduceOuter(outer, piece + 1 < pieces ? &next : nullptr);
  });
  if (cut.narrow_grad) {
    SumTransposed(zone, r, cut, partials, ctx);
  } else if (cut.groups > 1) {
    SumGroups(zone, r, cut, partials, ctx);
  }
}

}  // namespace classicnn
