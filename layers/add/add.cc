#include "layers/add/add.h"

#include "core/check.h"
#include "layers/copy_rows.h"
#include "layers/pieces.h"
#include "layers/stream.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/add/add.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/activation-inl.h"
#include "layers/columns-inl.h"
#include "layers/partial-inl.h"
#include "layers/stream-inl.h"

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
template <bool kStream>
void AddRowsT(const ConstTensor* inputs, size_t num_inputs, Tensor y, int64_t pixel, int64_t rows,
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
      StoreWhole<kStream>(sum, out + i);
    }
    if (i < columns) {
      VF sum = SumOf<true>(inputs, num_inputs, r, pixel, i, columns - i);
      if (relu) sum = ReluOf(sum);
      StoreFirst(sum, out + i, columns - i);
    }
  }
  if (kStream) hwy::FlushStream();
}

void AddRows(const ConstTensor* inputs, size_t num_inputs, Tensor y, int64_t pixel, int64_t rows,
             int64_t columns, bool relu, bool stream) {
  const bool streams = stream && CanStream(y.Pixel(pixel), rows, columns, y.pixel_stride);
  (streams ? AddRowsT<true> : AddRowsT<false>)(inputs, num_inputs, y, pixel, rows, columns, relu);
}

template <Activation kFirst, Activation kSecond>
struct AddStep {
  static constexpr int kVectors = 4;
  ActivationPrologue<float> activations[2];
  const float* a;
  int64_t a_stride;
  const float* b;
  int64_t b_stride;
  float* y;
  int64_t y_stride;
  bool relu;

  template <int kV, bool kTail>
  HWY_INLINE void Columns(int64_t first, int64_t rows, int64_t c, int64_t count) const {
    VF scales[2][kV];
    VF shifts[2][kV];
    if (kFirst != Activation::kNone) {
      LoadVectors<kV, kTail>(activations[0].scale + c, count, scales[0]);
      LoadVectors<kV, kTail>(activations[0].shift + c, count, shifts[0]);
    }
    if (kSecond != Activation::kNone) {
      LoadVectors<kV, kTail>(activations[1].scale + c, count, scales[1]);
      LoadVectors<kV, kTail>(activations[1].shift + c, count, shifts[1]);
    }
    for (int64_t r = first; r < first + rows; ++r) {
      for (int i = 0; i < kV; ++i) {
        const int64_t at = c + i * Lanes();
        VF v = LoadLanes<kTail>(a + r * a_stride + at, count);
        VF w = LoadLanes<kTail>(b + r * b_stride + at, count);
        if (kFirst != Activation::kNone) v = Activated<kFirst>(v, scales[0][i], shifts[0][i]);
        if (kSecond != Activation::kNone) w = Activated<kSecond>(w, scales[1][i], shifts[1][i]);
        VF sum = hn::Add(v, w);
        if (relu) sum = ReluOf(sum);
        StoreLanes<kTail>(sum, y + r * y_stride + at, count);
      }
    }
  }
};

template <Activation kFirst, Activation kSecond>
void AddTwoActivated(const ConstTensor* inputs, const ActivationPrologue<float>* activations,
                     Tensor y, int64_t pixel, int64_t rows, bool relu) {
  ForEachColumn(rows, y.c,
                AddStep<kFirst, kSecond>{{activations[0], activations[1]},
                                         inputs[0].Pixel(pixel),
                                         inputs[0].pixel_stride,
                                         inputs[1].Pixel(pixel),
                                         inputs[1].pixel_stride,
                                         y.Pixel(pixel),
                                         y.pixel_stride,
                                         relu});
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
  const int64_t pixel_bytes = 4 * y.c * static_cast<int64_t>(inputs.size() + 1);
  const bool stream = BeyondCaches(y.pixels() * pixel_bytes);
  const Pieces pieces(y.pixels(), pixel_bytes);
  ctx.ParallelFor("add.forward", pieces.count(), [&](int64_t piece, int) {
    const int64_t pixels = pieces.Size(piece);
    if (!activations.empty()) {
      HWY_DYNAMIC_DISPATCH(AddActivatedRows)
      (inputs.data(), activations.data(), inputs.size(), y, pieces.Begin(piece), pixels, relu);
      return;
    }
    HWY_DYNAMIC_DISPATCH(AddRows)
    (inputs.data(), inputs.size(), y, pieces.Begin(piece), dense ? 1 : pixels,
     dense ? pixels * y.c : y.c, relu, stream);
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
