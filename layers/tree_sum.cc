#include "layers/tree_sum.h"

#include <cstdint>
#include <type_traits>

#include "core/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/tree_sum.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using TreeTag = hn::ScalableTag<float>;
using TreeVec = hn::Vec<TreeTag>;

// The sum of 2^kLevels vectors.
template <int kLevels>
HWY_INLINE TreeVec Tree(const float* HWY_RESTRICT partials, int64_t stride) {
  if constexpr (kLevels == 0) {
    return hn::LoadU(TreeTag(), partials);
  } else {
    constexpr int64_t kHalf = int64_t{1} << (kLevels - 1);
    const TreeVec first = Tree<kLevels - 1>(partials, stride);
    return hn::Add(first, Tree<kLevels - 1>(partials + kHalf * stride, stride));
  }
}

template <int kLevels>
HWY_NOINLINE void TreeOf(const float* HWY_RESTRICT partials, int64_t stride, int64_t size,
                         float* HWY_RESTRICT out) {
  const TreeTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  // Leaf 0 is `out`, the others are the partials: the left spine of the tree first.
  for (; i + lanes <= size; i += lanes) {
    TreeVec sum = hn::LoadU(d, out + i);
    int64_t at = 0;
    const auto add = [&](auto level) HWY_ATTR {
      constexpr int kLevel = decltype(level)::value;
      if constexpr (kLevel < kLevels) {
        sum = hn::Add(sum, Tree<kLevel>(partials + at * stride + i, stride));
        at += int64_t{1} << kLevel;
      }
    };
    add(std::integral_constant<int, 0>());
    add(std::integral_constant<int, 1>());
    add(std::integral_constant<int, 2>());
    add(std::integral_constant<int, 3>());
    add(std::integral_constant<int, 4>());
    add(std::integral_constant<int, 5>());
    hn::StoreU(sum, d, out + i);
  }
  for (; i < size; ++i) {
    float leaves[kMaxTreeLeaves];
    constexpr int64_t kLeaves = int64_t{1} << kLevels;
    leaves[0] = out[i];
    for (int64_t g = 1; g < kLeaves; ++g) leaves[g] = partials[(g - 1) * stride + i];
    for (int64_t distance = 1; distance < kLeaves; distance *= 2) {
      for (int64_t g = 0; g < kLeaves; g += 2 * distance) leaves[g] += leaves[g + distance];
    }
    out[i] = leaves[0];
  }
}

void AddTree(const float* partials, int64_t stride, int64_t count, int64_t size, float* out) {
  switch (count) {
    case 1:
      return TreeOf<1>(partials, stride, size, out);
    case 3:
      return TreeOf<2>(partials, stride, size, out);
    case 7:
      return TreeOf<3>(partials, stride, size, out);
    case 15:
      return TreeOf<4>(partials, stride, size, out);
    case 31:
      return TreeOf<5>(partials, stride, size, out);
    case 63:
      return TreeOf<6>(partials, stride, size, out);
    default:
      return;
  }
}

void AddTreeInPlace(float* partials, int64_t stride, int64_t count, int64_t size) {
  const TreeTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t step = 1; step < count; step *= 2) {
    for (int64_t g = 0; g + step < count; g += 2 * step) {
      float* HWY_RESTRICT sum = partials + g * stride;
      const float* HWY_RESTRICT other = sum + step * stride;
      int64_t i = 0;
      for (; i + lanes <= size; i += lanes) {
        hn::StoreU(hn::Add(hn::LoadU(d, sum + i), hn::LoadU(d, other + i)), d, sum + i);
      }
      for (; i < size; ++i) sum[i] += other[i];
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
namespace {
HWY_EXPORT(AddTree);
HWY_EXPORT(AddTreeInPlace);
}  // namespace

void SumTree(const float* partials, int64_t stride, int64_t count, int64_t size, float* out) {
  CNN_CHECK(count < kMaxTreeLeaves && (count & (count + 1)) == 0, count, " partial sums");
  HWY_DYNAMIC_DISPATCH(AddTree)(partials, stride, count, size, out);
}

void SumTreeInPlace(float* partials, int64_t stride, int64_t count, int64_t size) {
  HWY_DYNAMIC_DISPATCH(AddTreeInPlace)(partials, stride, count, size);
}

}  // namespace classicnn
#endif  // HWY_ONCE
