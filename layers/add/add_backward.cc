// The gradient of a sum that batch norms come before.
#include <algorithm>

#include "core/check.h"
#include "layers/add/add.h"
#include "layers/channel_sums.h"
#include "layers/pieces.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/add/add_backward.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/columns-inl.h"
#include "layers/partial-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

// kTerms tensors x; `sums` holds sum_g and then each term's sum_gx, `channels` floats each.
template <bool kRelu, int kTerms>
struct GradientStep {
  static constexpr int kVectors = 4;
  AddReluBackwardArgs args;
  int64_t pixel;
  int64_t channels;
  float* sums;

  template <int kV, bool kTail>
  HWY_INLINE void Columns(int64_t first, int64_t rows, int64_t c, int64_t count) const {
    constexpr int kX = kTerms == 0 ? 1 : kTerms;  // there are no arrays of none
    const float* const dy = args.dy.Pixel(pixel + first) + c;
    const float* const y = kRelu ? args.y.Pixel(pixel + first) + c : dy;
    float* const g = args.g.Pixel(pixel + first) + c;
    const float* x[kX];
    VF mean[kX][kV];
    VF sum_g[kV];
    VF sum_gx[kX][kV];
    for (int k = 0; k < kTerms; ++k) {
      x[k] = args.terms[k].x.Pixel(pixel + first) + c;
      LoadVectors<kV, kTail>(args.terms[k].mean + c, count, mean[k]);
      LoadVectors<kV, kTail>(sums + (1 + k) * channels + c, count, sum_gx[k]);
    }
    if (kTerms > 0) LoadVectors<kV, kTail>(sums + c, count, sum_g);
    for (int64_t r = 0; r < rows; ++r) {
      for (int i = 0; i < kV; ++i) {
        const int64_t at = i * Lanes();
        VF v = LoadLanes<kTail>(dy + r * args.dy.pixel_stride + at, count);
        if (kRelu) {
          const VF sum = LoadLanes<kTail>(y + r * args.y.pixel_stride + at, count);
          v = KeepWhere(hn::Gt(sum, hn::Zero(DF())), v);
        }
        StoreLanes<kTail>(v, g + r * args.g.pixel_stride + at, count);
        if (kTerms > 0) sum_g[i] = hn::Add(sum_g[i], v);
        for (int k = 0; k < kTerms; ++k) {
          const VF from = LoadLanes<kTail>(x[k] + r * args.terms[k].x.pixel_stride + at, count);
          sum_gx[k][i] = hn::MulAdd(v, hn::Sub(from, mean[k][i]), sum_gx[k][i]);
        }
      }
    }
    if (kTerms > 0) StoreVectors<kV, kTail>(sum_g, count, sums + c);
    for (int k = 0; k < kTerms; ++k) {
      StoreVectors<kV, kTail>(sum_gx[k], count, sums + (1 + k) * channels + c);
    }
  }
};

template <bool kRelu, int kTerms>
void GradientRowsT(const AddReluBackwardArgs& args, int64_t pixel, int64_t rows, float* sums) {
  // The step's copy of the arguments is one that stores cannot change.
  ForEachColumn(rows, args.g.c, GradientStep<kRelu, kTerms>{args, pixel, args.g.c, sums});
}

// Pixels [pixel, pixel + rows); the terms come first in args.terms.
void AddReluBackwardRows(const AddReluBackwardArgs& args, int64_t num_terms, int64_t pixel,
                         int64_t rows, float* sums) {
  using Kernel = void (*)(const AddReluBackwardArgs&, int64_t, int64_t, float*);
  static constexpr Kernel kKernels[2][3] = {
      {GradientRowsT<false, 0>, GradientRowsT<false, 1>, GradientRowsT<false, 2>},
      {GradientRowsT<true, 0>, GradientRowsT<true, 1>, GradientRowsT<true, 2>}};
  kKernels[args.y.data != nullptr][num_terms](args, pixel, rows, sums);
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
HWY_EXPORT(AddReluBackwardRows);
namespace {

// Fewer pieces than without sums, because those are merged.
Pieces SumPieces(const Shape4& shape) {
  return Pieces(shape.pixels(), 16 * shape.c, /*max_pieces=*/256);
}

}  // namespace

size_t AddReluBackwardWorkspaceBytes(const Shape4& shape) {
  constexpr auto kSums = static_cast<int64_t>(1 + AddReluBackwardArgs::kMaxTerms);
  return Workspace::BytesFor<float>(SumPieces(shape).count() * kSums * shape.c);
}

void AddReluBackward(const AddReluBackwardArgs& given, Context& ctx) {
  AddReluBackwardArgs args = given;
  const Shape4 shape = args.g.shape();
  CNN_CHECK(args.dy.shape() == shape, args.dy.shape().ToString(), " to ", shape.ToString());
  CNN_CHECK(args.y.data == nullptr || args.y.shape() == shape, args.y.shape().ToString(), " and ",
            shape.ToString());
  size_t num_terms = 0;
  for (const AddReluBackwardArgs::Term& term : given.terms) {
    if (term.x.data == nullptr) continue;
    CNN_CHECK(term.x.shape() == shape, term.x.shape().ToString(), " and ", shape.ToString());
    CNN_CHECK(term.mean != nullptr && term.sum_gx != nullptr && args.sum_g != nullptr);
    args.terms[num_terms++] = term;
  }
  const auto terms = static_cast<int64_t>(num_terms);
  const Pieces pieces = SumPieces(shape);
  const int64_t sums_of_piece = terms == 0 ? 0 : (1 + terms) * shape.c;
  float* const sums = args.workspace.Take<float>(pieces.count() * sums_of_piece);
  ctx.ParallelFor("add.relu_backward", pieces.count(), [&](int64_t piece, int) {
    float* const of_piece = sums + piece * sums_of_piece;
    std::fill(of_piece, of_piece + sums_of_piece, 0.0f);
    HWY_DYNAMIC_DISPATCH(AddReluBackwardRows)
    (args, terms, pieces.Begin(piece), pieces.Size(piece), of_piece);
  });
  float* const to[] = {args.sum_g, args.terms[0].sum_gx, args.terms[1].sum_gx};
  if (terms > 0) {
    MergePieceSums(sums, pieces.count(), shape.c, absl::MakeConstSpan(to, num_terms + 1), ctx);
  }
}

}  // namespace classicnn
#endif  // HWY_ONCE
