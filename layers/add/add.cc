#include "layers/add/add.h"

#include "core/check.h"
#include "layers/copy_rows.h"
#include "layers/pieces.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/add/add.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/partial-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

template <bool kTail>
HWY_INLINE VF SumOf(const ConstTensor* inputs, size_t num_inputs, int64_t row, int64_t pixel,
                    int64_t i, int64_t count) {
  VF sum = LoadLanes<kTail>(inputs[0].Pixel(pixel + row) + i, count);
  for (size_t k = 1; k < num_inputs; ++k) {
    sum = hn::Add(sum, LoadLanes<kTail>(inputs[k].Pixel(pixel + row) + i, count));
  }
  return sum;
}

// Pixels from `pixel` on as `rows` rows of `columns` elements.
void AddRows(const ConstTensor* inputs, size_t num_inputs, Tensor y, int64_t pixel, int64_t rows,
             int64_t columns, bool relu) {
  const int64_t lanes = Lanes();
  // Most sums have two terms: their pointers stay in registers.
  const bool two = num_inputs == 2;
  for (int64_t r = 0; r < rows; ++r) {
    const float* a = inputs[0].Pixel(pixel + r);
    const float* b = inputs[1].Pixel(pixel + r);
    float* out = y.Pixel(pixel + r);
    int64_t i = 0;
    for (; i + lanes <= columns; i += lanes) {
      VF sum = two ? hn::Add(hn::LoadU(DF(), a + i), hn::LoadU(DF(), b + i))
                   : SumOf<false>(inputs, num_inputs, r, pixel, i, lanes);
      if (relu) sum = ReluOf(sum);
      hn::StoreU(sum, DF(), out + i);
    }
    if (i < columns) {
      VF sum = SumOf<true>(inputs, num_inputs, r, pixel, i, columns - i);
      if (relu) sum = ReluOf(sum);
      StoreFirst(sum, out + i, columns - i);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
HWY_EXPORT(AddRows);

void AddForward(absl::Span<const ConstTensor> inputs, Tensor y, bool relu, Context& ctx) {
  CNN_CHECK(inputs.size() >= 2, inputs.size(), " inputs");
  bool dense = y.dense();
  for (const ConstTensor& x : inputs) {
    CNN_CHECK(x.shape() == y.shape(), x.shape().ToString(), " and ", y.shape().ToString());
    dense = dense && x.dense();
  }
  const Pieces pieces(y.pixels(), 4 * y.c * static_cast<int64_t>(inputs.size() + 1));
  ctx.ParallelFor("add.forward", pieces.count(), [&](int64_t piece, int) {
    const int64_t pixels = pieces.Size(piece);
    HWY_DYNAMIC_DISPATCH(AddRows)
    (inputs.data(), inputs.size(), y, pieces.Begin(piece), dense ? 1 : pixels,
     dense ? pixels * y.c : y.c, relu);
  });
}

void AddBackward(ConstTensor dy, Tensor dx, bool accumulate, Context& ctx) {
  CNN_CHECK(dy.shape() == dx.shape(), dy.shape().ToString(), " and ", dx.shape().ToString());
  const Pieces pieces(dy.pixels(), 8 * dy.c);
  ctx.ParallelFor("add.backward", pieces.count(), [&](int64_t piece, int) {
    CopyPixels(dy, dx, pieces.Begin(piece), pieces.Size(piece), accumulate);
  });
}

}  // namespace classicnn
#endif  // HWY_ONCE
