// Prologues and epilogues for the tests of the layers that take them.
#ifndef CLASSICNN_TESTS_LAYERS_FUSION_CASES_H_
#define CLASSICNN_TESTS_LAYERS_FUSION_CASES_H_

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "layers/fusion.h"
#include "tests/layers/layer_cases.h"

namespace classicnn {

// How a gradient is stored: GradientEpilogue's gain and add, and a layer's accumulate.
enum class Store { kPlain, kGained, kAdded, kAccumulated };
inline constexpr Store kAllStores[] = {Store::kPlain, Store::kGained, Store::kAdded,
                                       Store::kAccumulated};

// The arrays of a batch norm: small whole numbers, so that with integer tensors everything is exact
// and the naive references one after the other give the same values.
class IntegerChannels {
 public:
  IntegerChannels(int64_t channels, const char* name) {
    const RandomStream random(11, name);
    for (size_t i = 0; i < kArrays; ++i) {
      arrays_.emplace_back(channels);
      arrays_[i].ForEach([&](int64_t c) {
        const auto index = static_cast<uint64_t>(c) * kArrays + i;
        const auto value = static_cast<float>(random.Below(index, 5)) - 2;
        return i == 0 && value == 0 ? 3.0f : value;  // a scale of zero would leave nothing to see
      });
    }
  }
  ActivationPrologue<float> activation(bool relu) const { return {Get(0), Get(1), relu}; }
  GradientPrologue<float> gradient(ConstTensor x) const { return {x, Get(2), Get(3), Get(4)}; }
  GradientEpilogue<float> epilogue(ConstTensor x, bool relu, Store store, float* sum_g,
                                   float* sum_gx) const {
    GradientEpilogue<float> e;
    e.x = x;
    if (relu) {  // else they are not read
      e.scale = Get(0);
      e.shift = Get(1);
    }
    e.relu = relu;
    e.mean = Get(3);
    if (store == Store::kGained || store == Store::kAdded) e.gain = Get(2);
    e.add = store == Store::kAdded;
    e.sum_g = sum_g;
    e.sum_gx = sum_gx;
    return e;
  }
  const float* mean() const { return Get(3); }

 private:
  const float* Get(size_t i) const { return arrays_[i].data(); }

  static constexpr size_t kArrays = 5;
  std::vector<GuardedArray<float>> arrays_;
};

inline std::vector<float> Values(const GuardedTensor<float>& t) {
  std::vector<float> values;
  for (int64_t p = 0; p < t.view().pixels(); ++p) {
    values.insert(values.end(), t.view().Pixel(p), t.view().Pixel(p) + t.view().c);
  }
  return values;
}

// As Equal of tests/testing/assertions.h, but a tensor of a few channels may well be masked to zero
// everywhere.
inline void ExpectSameValues(const GuardedTensor<float>& actual,
                             const GuardedTensor<float>& expected) {
  EXPECT_TRUE(GuardsIntact(actual));
  EXPECT_EQ(Values(actual), Values(expected));  // no NaN equals anything
}

// The two sums of a gradient epilogue.
struct GradientSums {
  explicit GradientSums(int64_t channels) : g(channels), gx(channels) {}
  GuardedArray<float> g, gx;
};
inline void ExpectSameValues(const GradientSums& actual, const GradientSums& expected) {
  ExpectSameValues(actual.g, expected.g);
  ExpectSameValues(actual.gx, expected.gx);
}

}  // namespace classicnn

#endif  // CLASSICNN_TESTS_LAYERS_FUSION_CASES_H_
