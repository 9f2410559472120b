#include "layers/add/add.h"

#include <algorithm>

#include "core/check.h"
#include "layers/copy_rows.h"
#include "layers/pieces.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/add/add.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/activation-inl.h"
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

// Rows whose vectors of one column are taken together, so that the coefficients stay in registers.
constexpr int64_t kRowsTogether = 16;

template <Activation kFirst, Activation kSecond, bool kTail>
HWY_INLINE void AddActivatedColumn(const ConstTensor* inputs,
                                   const ActivationPrologue<float>* activations, Tensor y,
                                   int64_t pixel, int64_t rows, int64_t c, int64_t count,
                                   bool relu) {
  const auto scale_of = [&](size_t k) {
    return activations[k].active() ? activations[k].scale + c : inputs[k].data;
  };
  const auto shift_of = [&](size_t k) {
    return activations[k].active() ? activations[k].shift + c : inputs[k].data;
  };
  const VF scale0 = LoadCoefficients<kFirst, kTail>(scale_of(0), count);
  const VF shift0 = LoadCoefficients<kFirst, kTail>(shift_of(0), count);
  const VF scale1 = LoadCoefficients<kSecond, kTail>(scale_of(1), count);
  const VF shift1 = LoadCoefficients<kSecond, kTail>(shift_of(1), count);
  const float* a = inputs[0].Pixel(pixel) + c;
  const float* b = inputs[1].Pixel(pixel) + c;
  float* out = y.Pixel(pixel) + c;
  const int64_t a_stride = inputs[0].pixel_stride;
  const int64_t b_stride = inputs[1].pixel_stride;
  const int64_t out_stride = y.pixel_stride;
  for (int64_t r = 0; r < rows; ++r, a += a_stride, b += b_stride, out += out_stride) {
    VF sum = hn::Add(Activated<kFirst>(LoadLanes<kTail>(a, count), scale0, shift0),
                     Activated<kSecond>(LoadLanes<kTail>(b, count), scale1, shift1));
    if (relu) sum = ReluOf(sum);
    StoreLanes<kTail>(sum, out, count);
  }
}

template <Activation kFirst, Activation kSecond>
void AddTwoActivated(const ConstTensor* inputs, const ActivationPrologue<float>* activations,
                     Tensor y, int64_t pixel, int64_t rows, bool relu) {
  const int64_t lanes = Lanes();
  for (int64_t r = 0; r < rows; r += kRowsTogether) {
    const int64_t group = std::min(kRowsTogether, rows - r);
    int64_t c = 0;
    for (; c + lanes <= y.c; c += lanes) {
      AddActivatedColumn<kFirst, kSecond, false>(inputs, activations, y, pixel + r, group, c, lanes,
                                                 relu);
    }
    if (c < y.c) {
      AddActivatedColumn<kFirst, kSecond, true>(inputs, activations, y, pixel + r, group, c,
                                                y.c - c, relu);
    }
  }
}

// Any number of terms.
template <bool kTail>
HWY_INLINE void AddManyVector(const ConstTensor* inputs,
                              const ActivationPrologue<float>* activations, size_t num_inputs,
                              Tensor y, int64_t pixel, int64_t c, int64_t count, bool relu) {
  VF sum = hn::Zero(DF());
  for (size_t k = 0; k < num_inputs; ++k) {
    VF v = LoadLanes<kTail>(inputs[k].Pixel(pixel) + c, count);
    if (activations[k].active()) {
      v = hn::MulAdd(v, LoadLanes<kTail>(activations[k].scale + c, count),
                     LoadLanes<kTail>(activations[k].shift + c, count));
      if (activations[k].relu) v = ReluOf(v);
    }
    sum = k == 0 ? v : hn::Add(sum, v);
  }
  if (relu) sum = ReluOf(sum);
  StoreLanes<kTail>(sum, y.Pixel(pixel) + c, count);
}

void AddManyActivated(const ConstTensor* inputs, const ActivationPrologue<float>* activations,
                      size_t num_inputs, Tensor y, int64_t pixel, int64_t rows, bool relu) {
  const int64_t lanes = Lanes();
  for (int64_t p = pixel; p < pixel + rows; ++p) {
    int64_t c = 0;
    for (; c + lanes <= y.c; c += lanes) {
      AddManyVector<false>(inputs, activations, num_inputs, y, p, c, lanes, relu);
    }
    if (c < y.c) AddManyVector<true>(inputs, activations, num_inputs, y, p, c, y.c - c, relu);
  }
}

// Pixels from `pixel` on.
void AddActivatedRows(const ConstTensor* inputs, const ActivationPrologue<float>* activations,
                      size_t num_inputs, Tensor y, int64_t pixel, int64_t rows, bool relu) {
  if (num_inputs != 2) {
    AddManyActivated(inputs, activations, num_inputs, y, pixel, rows, relu);
    return;
  }
  constexpr auto kNone = Activation::kNone;
  constexpr auto kAffine = Activation::kAffine;
  constexpr auto kRelu = Activation::kAffineRelu;
  using Kernel = void (*)(const ConstTensor*, const ActivationPrologue<float>*, Tensor, int64_t,
                          int64_t, bool);
  static constexpr Kernel kKernels[3][3] = {
      {AddTwoActivated<kNone, kNone>, AddTwoActivated<kNone, kAffine>,
       AddTwoActivated<kNone, kRelu>},
      {AddTwoActivated<kAffine, kNone>, AddTwoActivated<kAffine, kAffine>,
       AddTwoActivated<kAffine, kRelu>},
      {AddTwoActivated<kRelu, kNone>, AddTwoActivated<kRelu, kAffine>,
       AddTwoActivated<kRelu, kRelu>}};
  kKernels[static_cast<int>(KindOf(activations[0]))][static_cast<int>(KindOf(activations[1]))](
      inputs, activations, y, pixel, rows, relu);
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
HWY_EXPORT(AddRows);
HWY_EXPORT(AddActivatedRows);

void AddForward(absl::Span<const ConstTensor> inputs, Tensor y, bool relu, Context& ctx,
                absl::Span<const ActivationPrologue<float>> activations) {
  CNN_CHECK(inputs.size() >= 2, inputs.size(), " inputs");
  CNN_CHECK(activations.empty() || activations.size() == inputs.size(), activations.size(),
            " activations of ", inputs.size(), " inputs");
  bool dense = y.dense();
  for (const ConstTensor& x : inputs) {
    CNN_CHECK(x.shape() == y.shape(), x.shape().ToString(), " and ", y.shape().ToString());
    dense = dense && x.dense();
  }
  const Pieces pieces(y.pixels(), 4 * y.c * static_cast<int64_t>(inputs.size() + 1));
  ctx.ParallelFor("add.forward", pieces.count(), [&](int64_t piece, int) {
    const int64_t pixels = pieces.Size(piece);
    if (!activations.empty()) {
      HWY_DYNAMIC_DISPATCH(AddActivatedRows)
      (inputs.data(), activations.data(), inputs.size(), y, pieces.Begin(piece), pixels, relu);
      return;
    }
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
