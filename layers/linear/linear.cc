#include "layers/linear/linear.h"

#include <algorithm>

#include "core/check.h"
#include "layers/column_sums.h"
#include "layers/tap_product.h"
#include "layers/tap_reduction.h"

// Each pass is that of a convolution with a 1 x 1 window over n images of one pixel.
namespace classicnn {
namespace {

constexpr Tap kTap;

// Rows as a view of one pixel each.
template <typename T>
View<T> Rows(T* data, int64_t rows, int64_t columns, int64_t stride) {
  CNN_CHECK(data != nullptr && stride >= columns, columns, " columns, row stride ", stride);
  return View<T>(data, rows, 1, 1, columns, stride);
}

}  // namespace

size_t LinearWorkspaceBytes(const LinearShape& shape, LinearPass pass, int num_threads) {
  const int64_t c = shape.in_features;
  const int64_t k = shape.out_features;
  switch (pass) {
    case LinearPass::kForward:
      return TapProductWorkspaceBytes({shape.n, 1, 1, 1, 1, 1, c, k}, num_threads);
    case LinearPass::kBackwardData:
      return TapProductWorkspaceBytes({shape.n, 1, 1, 1, 1, 1, k, c}, num_threads);
    case LinearPass::kBackwardWeights:
      // The bias gradient is summed first and shares the scratch.
      return std::max(TapReductionWorkspaceBytes({shape.n, 1, 1, 1, 1, 1, 1, 1, c, k}, num_threads),
                      ColumnSumsWorkspaceBytes(shape.n, k));
  }
  return 0;
}

void LinearForward(const LinearForwardArgs<float>& args, Context& ctx) {
  const LinearShape& shape = args.shape;
  TapProduct product;
  product.in = Rows(args.x, shape.n, shape.in_features, args.x_stride);
  product.out = Rows(args.y, shape.n, shape.out_features, args.y_stride);
  product.taps = &kTap;
  product.num_taps = 1;
  product.weights = args.weights;
  product.weight_row_stride = shape.out_features;
  product.weight_column_stride = 1;
  product.epilogue.bias = args.bias;
  RunTapProduct("linear.forward", product, args.workspace, ctx);
}

void LinearBackwardData(const LinearBackwardDataArgs<float>& args, Context& ctx) {
  const LinearShape& shape = args.shape;
  TapProduct product;
  product.in = Rows(args.dy, shape.n, shape.out_features, args.dy_stride);
  product.out = Rows(args.dx, shape.n, shape.in_features, args.dx_stride);
  product.taps = &kTap;
  product.num_taps = 1;
  product.weights = args.weights;
  product.weight_row_stride = 1;
  product.weight_column_stride = shape.out_features;
  product.epilogue.accumulate = args.accumulate;
  RunTapProduct("linear.backward_data", product, args.workspace, ctx);
}

void LinearBackwardWeights(const LinearBackwardWeightsArgs<float>& args, Context& ctx) {
  const LinearShape& shape = args.shape;
  TapReduction reduction;
  reduction.in = Rows(args.x, shape.n, shape.in_features, args.x_stride);
  reduction.grad = Rows(args.dy, shape.n, shape.out_features, args.dy_stride);
  reduction.taps = &kTap;
  reduction.num_taps = 1;
  reduction.out = args.dweights;
  reduction.out_stride = shape.out_features;
  if (args.dbias != nullptr) {
    ColumnSums("linear.backward_weights.bias", args.dy, shape.n, shape.out_features, args.dy_stride,
               args.dbias, args.workspace, ctx);
  }
  RunTapReduction("linear.backward_weights", reduction, args.workspace, ctx);
}

}  // namespace classicnn
