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
#include "layers/partial-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

// Rows whose vectors of one column are taken together: the sums stay in registers for that long.
constexpr int64_t kRowsTogether = 16;

// kTerms tensors x; `sums` holds sum_g and then each term's sum_gx, args.g.c floats each.
template <bool kRelu, int kTerms, bool kTail>
HWY_INLINE void GradientColumn(const AddReluBackwardArgs& args, int64_t pixel, int64_t rows,
                               int64_t c, int64_t count, float* sums) {
  const DF d;
  const VF zero = hn::Zero(d);
  const int64_t channels = args.g.c;
  const AddReluBackwardArgs::Term& first = args.terms[0];
  const AddReluBackwardArgs::Term& second = args.terms[kTerms == 2 ? 1 : 0];
  const VF mean0 = kTerms >= 1 ? LoadLanes<kTail>(first.mean + c, count) : zero;
  const VF mean1 = kTerms == 2 ? LoadLanes<kTail>(second.mean + c, count) : zero;
  const float* dy = args.dy.Pixel(pixel) + c;
  const float* y = kRelu ? args.y.Pixel(pixel) + c : dy;
  const float* x0 = kTerms >= 1 ? first.x.Pixel(pixel) + c : dy;
  const float* x1 = kTerms == 2 ? second.x.Pixel(pixel) + c : dy;
  float* g = args.g.Pixel(pixel) + c;
  const int64_t dy_stride = args.dy.pixel_stride;
  const int64_t y_stride = args.y.pixel_stride;
  const int64_t x0_stride = first.x.pixel_stride;
  const int64_t x1_stride = second.x.pixel_stride;
  const int64_t g_stride = args.g.pixel_stride;
  VF sum_g = zero;
  VF sum_gx0 = zero;
  VF sum_gx1 = zero;
  for (int64_t r = 0; r < rows; ++r) {
    VF v = LoadLanes<kTail>(dy + r * dy_stride, count);
    if (kRelu) v = KeepWhere(hn::Gt(LoadLanes<kTail>(y + r * y_stride, count), zero), v);
    StoreLanes<kTail>(v, g + r * g_stride, count);
    sum_g = hn::Add(sum_g, v);
    if (kTerms >= 1) {
      sum_gx0 = hn::MulAdd(v, hn::Sub(LoadLanes<kTail>(x0 + r * x0_stride, count), mean0), sum_gx0);
    }
    if (kTerms == 2) {
      sum_gx1 = hn::MulAdd(v, hn::Sub(LoadLanes<kTail>(x1 + r * x1_stride, count), mean1), sum_gx1);
    }
  }
  const auto add = [&](int which, VF sum) HWY_ATTR {
    float* const to = sums + which * channels + c;
    StoreLanes<kTail>(hn::Add(LoadLanes<kTail>(to, count), sum), to, count);
  };
  if (kTerms >= 1) {
    add(0, sum_g);
    add(1, sum_gx0);
  }
  if (kTerms == 2) add(2, sum_gx1);
}

template <bool kRelu, int kTerms>
void GradientRowsT(const AddReluBackwardArgs& args, int64_t pixel, int64_t rows, float* sums) {
  const AddReluBackwardArgs local = args;  // a copy that stores cannot change
  const int64_t lanes = Lanes();
  const int64_t channels = local.g.c;
  for (int64_t r = 0; r < rows; r += kRowsTogether) {
    const int64_t group = std::min(kRowsTogether, rows - r);
    int64_t c = 0;
    for (; c + lanes <= channels; c += lanes) {
      GradientColumn<kRelu, kTerms, false>(local, pixel + r, group, c, lanes, sums);
    }
    if (c < channels) {
      GradientColumn<kRelu, kTerms, true>(local, pixel + r, group, c, channels - c, sums);
    }
  }
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
