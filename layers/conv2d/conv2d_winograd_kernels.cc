#include "layers/conv2d/conv2d_winograd_kernels.h"

#include <algorithm>
#include <cstdint>

#include "core/check.h"
#include "core/divide.h"
#include "hwy/cache_control.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/conv2d/conv2d_winograd_kernels.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h.
#include "layers/conv2d/conv2d_winograd_input-inl.h"
#include "layers/conv2d/conv2d_winograd_output-inl.h"
#include "layers/conv2d/conv2d_winograd_products-inl.h"
#include "layers/conv2d/conv2d_winograd_transforms-inl.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace winograd {

// One vector of columns of the weights at one depth.
template <class F>
HWY_INLINE void PackStep(const float* const* HWY_RESTRICT taps, MF mask, float* HWY_RESTRICT to,
                         int64_t point) {
  Transform2d<WeightsTransform<F>>(
      [&](int i) HWY_ATTR { return hn::MaskedLoad(mask, DF(), taps[i]); },
      [&](int i, VF value) HWY_ATTR { hn::StoreU(value, DF(), to + i * point); });
}

// to[i * to_row + j] = from[j * from_row + i] for i in [0, depth), j in [0, columns), and asks for
// the cache lines after those read.
HWY_INLINE void Transpose(const float* HWY_RESTRICT from, int64_t from_row, int64_t depth,
                          int64_t columns, float* HWY_RESTRICT to, int64_t to_row) {
  int64_t j = 0;
#if HWY_TARGET != HWY_SCALAR
  const DF d;
  const hn::Repartition<double, DF> d64;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  if (depth % lanes == 0) {
    for (; j + 4 <= columns; j += 4) {
      for (int64_t i = 0; i < depth; i += lanes) {
        const float* const row = from + j * from_row + i;
        const VF r0 = hn::LoadU(d, row);
        const VF r1 = hn::LoadU(d, row + from_row);
        const VF r2 = hn::LoadU(d, row + 2 * from_row);
        const VF r3 = hn::LoadU(d, row + 3 * from_row);
        for (int k = 0; k < 4; ++k) hwy::Prefetch(row + k * from_row + 16);
        // 4 x 4 transposes within blocks of four lanes, which are then stored block by block.
        const auto a = hn::BitCast(d64, hn::InterleaveLower(d, r0, r1));
        const auto b = hn::BitCast(d64, hn::InterleaveUpper(d, r0, r1));
        const auto e = hn::BitCast(d64, hn::InterleaveLower(d, r2, r3));
        const auto f = hn::BitCast(d64, hn::InterleaveUpper(d, r2, r3));
        HWY_ALIGN float quads[4 * hn::MaxLanes(d)];
        hn::Store(hn::BitCast(d, hn::InterleaveLower(d64, a, e)), d, quads);
        hn::Store(hn::BitCast(d, hn::InterleaveUpper(d64, a, e)), d, quads + lanes);
        hn::Store(hn::BitCast(d, hn::InterleaveLower(d64, b, f)), d, quads + 2 * lanes);
        hn::Store(hn::BitCast(d, hn::InterleaveUpper(d64, b, f)), d, quads + 3 * lanes);
        for (int64_t block = 0; block < lanes; block += 4) {
          for (int64_t k = 0; k < 4; ++k) {
            hwy::CopyBytes<4 * sizeof(float)>(quads + k * lanes + block,
                                              to + (i + block + k) * to_row + j);
          }
        }
      }
    }
  }
#endif
  for (; j < columns; ++j) {
    for (int64_t i = 0; i < depth; ++i) to[i * to_row + j] = from[j * from_row + i];
  }
}

template <class F>
void PackWeights(const WinogradCorrelation& c, int64_t panel, int64_t d0, int64_t d1, float* u,
                 int64_t point) {
  const DF d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t first = panel * 2 * lanes;
  const int64_t columns = std::min(2 * lanes, c.columns() - first);
  const int64_t width = DivideUp(columns, lanes) * lanes;
  const int64_t tap_size = c.depth() * c.columns();
  constexpr int64_t kTaps = F::kKernel * F::kKernel;
  const float* taps[kTaps];
  if (!c.transposed) {
    constexpr int64_t kRowsAhead = 4;
    for (int64_t i = d0; i < d1; ++i) {
      for (int64_t j = 0; j < columns; j += lanes) {
        for (int64_t tap = 0; tap < kTaps; ++tap) {
          taps[tap] = c.weights + tap * tap_size + i * c.columns() + first + j;
          hwy::Prefetch(taps[tap] + kRowsAhead * c.columns());
        }
        PackStep<F>(taps, hn::FirstN(d, static_cast<size_t>(std::min(lanes, columns - j))),
                    u + (i - d0) * width + j, point);
      }
    }
    return;
  }
  // A cache line of depth at a time is transposed first: w[kTaps - 1 - tap][first + j][i] to
  // [tap][i][j].
  constexpr int64_t kLine = 16;
  HWY_ALIGN float transposed[kTaps * kLine * 2 * hn::MaxLanes(d)];
  for (int64_t begin = d0; begin < d1; begin += kLine) {
    const int64_t end = std::min(d1, begin + kLine);
    for (int64_t tap = 0; tap < kTaps; ++tap) {
      Transpose(c.weights + (kTaps - 1 - tap) * tap_size + first * c.depth() + begin, c.depth(),
                end - begin, columns, transposed + tap * kLine * width, width);
    }
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < columns; j += lanes) {
        for (int64_t tap = 0; tap < kTaps; ++tap) {
          taps[tap] = transposed + (tap * kLine + i - begin) * width + j;
        }
        PackStep<F>(taps, hn::FirstN(d, static_cast<size_t>(std::min(lanes, columns - j))),
                    u + (i - d0) * width + j, point);
      }
    }
  }
}

template <class F>
struct WeightGradientStep {
  const float* HWY_RESTRICT du;
  int64_t du_row;
  int64_t du_point;
  bool accumulate;
  float* HWY_RESTRICT dw;
  int64_t dw_tap;

  template <bool kTail>
  HWY_INLINE void Step(int64_t c, MF mask) const {
    Transform2d<WeightGradientTransform<F>>(
        [&](int i) HWY_ATTR {
          hwy::Prefetch(du + i * du_point + du_row + c);
          return hn::LoadU(DF(), du + i * du_point + c);
        },
        [&](int i, VF value) HWY_ATTR {
          float* const to = dw + i * dw_tap + c;
          if (accumulate) value = hn::Add(value, LoadVec<kTail>(mask, to));
          StoreVec<kTail>(value, mask, to);
        });
  }
};

template <class F>
void TransformWeightGradient(const float* du, int64_t du_row, int64_t du_point, int64_t depth,
                             int64_t columns, bool accumulate, float* dw, int64_t dw_row,
                             int64_t dw_tap) {
  for (int64_t i = 0; i < depth; ++i) {
    ForEachVec(columns, WeightGradientStep<F>{du + i * du_row, du_row, du_point, accumulate,
                                              dw + i * dw_row, dw_tap});
  }
}

template <class F>
WinogradKernels MakeKernels() {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(DF()));
  return {F::kOut,
          F::kKernel,
          F::kPoints,
          kBlockRows,
          lanes,
          2 * lanes,
          PackWeights<F>,
          TransformInput<F>,
          MultiplyPoints<F::kPoints>,
          TransformOutput<F>,
          TransformGradient<F>,
          OuterPoints<F::kPoints>,
          TransformWeightGradient<F>};
}

const WinogradKernels* Kernels(int64_t tile, int64_t kernel) {
  static const WinogradKernels kernels4 = MakeKernels<F4>();
  static const WinogradKernels kernels2 = MakeKernels<F2>();
  static const WinogradKernels kernels2x5 = MakeKernels<F2x5>();
  static const WinogradKernels kernels4x5 = MakeKernels<F4x5>();
  if (kernel == 5) return tile == 4 ? &kernels4x5 : &kernels2x5;
  return tile == 4 ? &kernels4 : &kernels2;
}

}  // namespace winograd

using winograd::Kernels;  // where HWY_EXPORT looks

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
namespace {
HWY_EXPORT(Kernels);
}  // namespace

const WinogradKernels& GetWinogradKernels(int64_t tile, int64_t kernel) {
  CNN_CHECK((tile == 2 || tile == 4) && (kernel == 3 || kernel == 5), tile, " ", kernel);
  return *HWY_DYNAMIC_DISPATCH(Kernels)(tile, kernel);
}

}  // namespace classicnn
#endif  // HWY_ONCE
