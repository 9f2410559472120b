// Which algorithms can do a convolution, and the order in which a plan prefers them.
//
// Few pixels and many weights come first, then what does one kind of convolution: depthwise,
// pointwise, stem.
// Between the direct algorithm and Winograd's it is the least cost of a small model, in
// multiply-adds for each pair of channels: products, with the padding that the register blocks
// need, and the transforms of the weights, which many images share and few do not. Its constants
// were fitted to 3 x 3 convolutions of 64 to 512 channels, 4 x 4 to 32 x 32 images and 1 to 64 of
// them, on two AVX-512 cores at 225 G multiply-adds per second; it depends on the shape alone, so
// that a model's bits do not depend on the machine's caches or threads.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/divide.h"
#include "layers/conv2d/algorithms.h"
#include "layers/conv2d/conv2d.h"
#include "layers/conv2d/conv2d_few_pixels.h"

namespace classicnn {
namespace {

// Pairs of an output row and a tap's row that is inside the input, in one dimension.
int64_t TapsInside(int64_t in, int64_t out, const Conv2dShape& s) {
  int64_t inside = 0;
  for (int64_t o = 0; o < out; ++o) {
    const int64_t first = o * s.stride - s.padding;
    inside += std::max<int64_t>(0, std::min(in, first + s.kernel) - std::max<int64_t>(0, first));
  }
  return inside;
}

double DirectCost(const Conv2dShape& s, Conv2dPass pass) {
  const double taps =
      static_cast<double>(s.n * TapsInside(s.h, s.out_h(), s) * TapsInside(s.w, s.out_w(), s));
  return pass == Conv2dPass::kBackwardWeights ? 1.15 * taps + 60 : 1.15 * taps + 300;
}

double WinogradCost(const Conv2dShape& s, Conv2dPass pass, int64_t tile) {
  const bool of_input = pass == Conv2dPass::kBackwardData;
  const int64_t h = of_input ? s.h : s.out_h();
  const int64_t w = of_input ? s.w : s.out_w();
  const int64_t tiles = s.n * DivideUp(h, tile) * DivideUp(w, tile);
  const int64_t side = tile + s.kernel - 1;
  const double points = static_cast<double>(side * side);
  if (pass == Conv2dPass::kBackwardWeights) {
    return 1.5 * points * static_cast<double>(tiles) + 12.5 * points;
  }
  // With few tiles and many columns weights are transformed in the cache where they are used
  // (conv2d_winograd_correlation.cc). `transforms` are those of inputs and outputs.
  const int64_t columns = of_input ? s.in_channels : s.out_channels;
  const bool in_cache = tiles < 512 && columns >= 256;
  const double weights = in_cache ? 11.5 : 30;
  const double transforms = tile == 2 ? (in_cache ? 1.3 : 1.25) : (in_cache ? 1.1 : 1.35);
  constexpr int64_t kBlockRows = 14;
  const int64_t rows = DivideUp(tiles, kBlockRows) * kBlockRows;
  return transforms * points * static_cast<double>(rows) + weights * points;
}

// With few channels the transforms cost more than the products they save.
bool WinogradCanPay(const Conv2dShape& s) { return s.in_channels >= 16 && s.out_channels >= 16; }

// Where reading the weights is what takes the time. At 8 x 8 pixels and 256 channels the products
// take as long as Winograd's, but backward weights updates on the way (0.25 for 0.23 + 0.25 ms).
bool FewPixelsPay(const Conv2dShape& s) {
  return s.output().pixels() <= 16 ||
         (s.output().pixels() <= kMaxFewPixels && s.weight_count() >= 512 << 10);
}

double Cost(const Conv2dShape& s, Conv2dPass pass, Conv2dAlgorithm algorithm) {
  switch (algorithm) {
    case Conv2dAlgorithm::kDepthwise:
    case Conv2dAlgorithm::kPointwise:
    case Conv2dAlgorithm::kStem:
      return 0;
    case Conv2dAlgorithm::kDirect:
      return DirectCost(s, pass);
    case Conv2dAlgorithm::kFewPixels:
      return FewPixelsPay(s) ? -1 : 1e30;
    default: {
      const bool large =
          algorithm == Conv2dAlgorithm::kWinograd4 || algorithm == Conv2dAlgorithm::kWinograd4x5;
      const double cost = WinogradCost(s, pass, large ? 4 : 2);
      // Where the two are within a few percent the direct algorithm rounds less.
      return 1.1 * cost;
    }
  }
}

}  // namespace

std::vector<Conv2dAlgorithm> Conv2dAlgorithms(const Conv2dShape& shape, Conv2dPass pass,
                                              bool allow_winograd) {
  constexpr Conv2dAlgorithm kAll[] = {
      Conv2dAlgorithm::kDepthwise,   Conv2dAlgorithm::kPointwise, Conv2dAlgorithm::kDirect,
      Conv2dAlgorithm::kWinograd4,   Conv2dAlgorithm::kWinograd2, Conv2dAlgorithm::kWinograd2x5,
      Conv2dAlgorithm::kWinograd4x5, Conv2dAlgorithm::kStem,      Conv2dAlgorithm::kFewPixels};
  std::vector<Conv2dAlgorithm> result;
  for (const Conv2dAlgorithm algorithm : kAll) {
    const Conv2dAlgorithmOps* ops = GetConv2dAlgorithmOps(algorithm);
    if (ops == nullptr || !ops->supports(shape, pass)) continue;
    if (IsWinograd(algorithm) && !allow_winograd) continue;
    result.push_back(algorithm);
  }
  std::stable_sort(result.begin(), result.end(), [&](Conv2dAlgorithm a, Conv2dAlgorithm b) {
    if (IsWinograd(a) != IsWinograd(b) && !WinogradCanPay(shape)) return IsWinograd(b);
    return Cost(shape, pass, a) < Cost(shape, pass, b);
  });
  return result;
}

}  // namespace classicnn
