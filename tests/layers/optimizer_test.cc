#include "layers/optimizer/optimizer.h"

#include <algorithm>
#include <cmath>
#include <variant>
#include <vector>

#include "tests/layers/layer_cases.h"

namespace classicnn {
namespace {

class OptimizerTest : public EveryTarget {};
INSTANTIATE_ON_EVERY_TARGET(OptimizerTest);

TEST_P(OptimizerTest, SgdByHand) {
  Context ctx(1);
  // Powers of two: everything is exact.
  const SgdParams plain = {0.5, 0.5, 0.25, false};
  GuardedArray<float> w(19), g(19), v(19);
  w.ForEach([](int64_t) { return 4.0f; });
  g.ForEach([](int64_t) { return 1.0f; });
  v.ForEach([](int64_t) { return 0.0f; });
  SgdUpdate(plain, 19, w.data(), g.data(), v.data(), ctx);
  for (int64_t i = 0; i < 19; ++i) {
    ASSERT_EQ(v.data()[i], 2.0f);  // 1 + 0.25 * 4
    ASSERT_EQ(w.data()[i], 3.0f);
  }
  SgdUpdate(plain, 19, w.data(), g.data(), v.data(), ctx);
  for (int64_t i = 0; i < 19; ++i) {
    ASSERT_EQ(v.data()[i], 2.75f);  // 0.5 * 2 + 1.75
    ASSERT_EQ(w.data()[i], 1.625f);
  }
  SgdParams nesterov = plain;
  nesterov.nesterov = true;
  SgdUpdate(nesterov, 19, w.data(), g.data(), v.data(), ctx);
  for (int64_t i = 0; i < 19; ++i) {
    ASSERT_EQ(v.data()[i], 2.78125f);    // 0.5 * 2.75 + 1.40625
    ASSERT_EQ(w.data()[i], 0.2265625f);  // 1.625 - 0.5 * (1.40625 + 0.5 * 2.78125)
  }
  EXPECT_TRUE(GuardsIntact(w));
  EXPECT_TRUE(GuardsIntact(v));
}

TEST_P(OptimizerTest, AdamWByHand) {
  Context ctx(1);
  AdamWParams params;
  params.lr = 0.1;
  params.weight_decay = 0.5;
  GuardedArray<float> w(3), g(3), m(3), v(3);
  w.ForEach([](int64_t) { return 2.0f; });
  g.ForEach([](int64_t) { return -3.0f; });
  m.ForEach([](int64_t) { return 0.0f; });
  v.ForEach([](int64_t) { return 0.0f; });
  // The first step moves every weight by lr against the gradient's sign, after the decay.
  AdamWUpdate(params, 3, w.data(), g.data(), m.data(), v.data(), ctx);
  for (int64_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(m.data()[i], -0.3, 1e-6);
    EXPECT_NEAR(v.data()[i], 0.009, 1e-8);
    EXPECT_NEAR(w.data()[i], 2 - 0.1 * 0.5 * 2 + 0.1, 1e-6);
  }
  // A second with gradient 1: m = 0.9 * -0.3 + 0.1, v = 0.999 * 0.009 + 0.001.
  g.ForEach([](int64_t) { return 1.0f; });
  params.step = 2;
  AdamWUpdate(params, 3, w.data(), g.data(), m.data(), v.data(), ctx);
  const double expected = 2.0 * 0.95 - 0.1 * (-0.17 / 0.19) / std::sqrt(0.009991 / 0.001999);
  for (int64_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(m.data()[i], -0.17, 1e-6);
    EXPECT_NEAR(v.data()[i], 0.009991, 1e-8);
    EXPECT_NEAR(w.data()[i], expected, 1e-6);
  }
}

TEST_P(OptimizerTest, MatchesNaiveOverSteps) {
  Context ctx(2);
  for (const int64_t count : {1, 7, 16, 33, 1000, 30000}) {
    for (const bool nesterov : {false, true}) {
      SCOPED_TRACE(count);
      GuardedArray<float> w(count), g(count), v(count), m(count), v2(count);
      GuardedArray<double> dw(count), dg(count), dv(count), dm(count), dv2(count);
      w.FillNormal(RandomStream(1, "w"));
      for (auto* zero : {&v, &m, &v2}) zero->ForEach([](int64_t) { return 0.0f; });
      for (auto* zero : {&dv, &dm, &dv2}) zero->ForEach([](int64_t) { return 0.0; });
      dw.CopyFrom(w.cview());
      SgdParams sgd;
      sgd.nesterov = nesterov;
      AdamWParams adamw;
      for (adamw.step = 1; adamw.step <= 5; ++adamw.step) {
        g.FillNormal(RandomStream(1, "g", static_cast<uint64_t>(adamw.step)));
        dg.CopyFrom(g.cview());
        SgdUpdate(sgd, count, w.data(), g.data(), v.data(), ctx);
        SgdUpdateNaive<double>(sgd, count, dw.data(), dg.data(), dv.data());
        AdamWUpdate(adamw, count, w.data(), g.data(), m.data(), v2.data(), ctx);
        AdamWUpdateNaive<double>(adamw, count, dw.data(), dg.data(), dm.data(), dv2.data());
        EXPECT_TRUE(Close(w, dw, Tolerance{5e-6}));
        EXPECT_TRUE(Close(v, dv, Tolerance{2e-6}));
        EXPECT_TRUE(Close(m, dm, Tolerance{2e-6}));
        EXPECT_TRUE(Close(v2, dv2, Tolerance{2e-6}));
      }
      for (const auto* array : {&w, &g, &v, &m, &v2}) EXPECT_TRUE(GuardsIntact(*array));
    }
  }
}

TEST_P(OptimizerTest, PartsHaveTheBitsOfTheWhole) {
  constexpr int64_t kCount = 1003;
  Context ctx(2);
  AdamWParams adamw;
  adamw.step = 5;
  for (const std::variant<SgdParams, AdamWParams>& rule :
       {std::variant<SgdParams, AdamWParams>(SgdParams{0.1, 0.9, 5e-4, true}),
        std::variant<SgdParams, AdamWParams>(adamw)}) {
    std::vector<float> expected;
    for (const int64_t part : {kCount, int64_t{1}, int64_t{48}, int64_t{77}}) {
      GuardedArray<float> w(kCount), g(kCount), m(kCount), v(kCount);
      w.FillNormal(RandomStream(1, "w"));
      g.FillNormal(RandomStream(1, "g"));
      m.FillNormal(RandomStream(1, "m"));
      v.ForEach([](int64_t i) { return static_cast<float>(i % 5); });
      const ParameterUpdate update = {rule, w.data(), m.data(), v.data()};
      if (part == kCount) UpdateParameter(update, kCount, g.data(), ctx);
      for (int64_t i = 0; part != kCount && i < kCount; i += part) {
        ApplyUpdate(update, i, std::min(part, kCount - i), g.data() + i);
      }
      std::vector<float> result;
      for (const auto* array : {&w, &m, &v}) {
        EXPECT_TRUE(GuardsIntact(*array));
        result.insert(result.end(), array->data(), array->data() + kCount);
      }
      if (expected.empty()) expected = result;
      EXPECT_TRUE(result == expected) << "parts of " << part;
    }
  }
}

TEST_P(OptimizerTest, NothingToUpdate) {
  Context ctx(2);
  SgdUpdate({}, 0, nullptr, nullptr, nullptr, ctx);
  AdamWUpdate({}, 0, nullptr, nullptr, nullptr, nullptr, ctx);
}

TEST_P(OptimizerTest, SameBitsOnAnyThreads) {
  constexpr int64_t kCount = 100001;
  GuardedArray<float> g(kCount);
  g.FillNormal(RandomStream(1, "g"));
  ExpectSameOnAnyThreads([&](Context& ctx) {
    GuardedArray<float> w(kCount), m(kCount), v(kCount);
    for (auto* array : {&w, &m, &v})
      array->ForEach([](int64_t i) { return 1.0f / static_cast<float>(i + 1); });
    SgdUpdate({}, kCount, w.data(), g.data(), v.data(), ctx);
    v.ForEach([](int64_t i) { return 1.0f / static_cast<float>(i + 1); });
    AdamWUpdate({}, kCount, w.data(), g.data(), m.data(), v.data(), ctx);
    return Bits(w) + Bits(m) + Bits(v);
  });
}

}  // namespace
}  // namespace classicnn
