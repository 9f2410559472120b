#include "layers/cross_entropy/cross_entropy.h"

#include <cmath>

#include "tests/layers/layer_cases.h"

namespace classicnn {
namespace {

class CrossEntropyTest : public EveryTarget {};
INSTANTIATE_ON_EVERY_TARGET(CrossEntropyTest);

std::vector<int32_t> Labels(int64_t n, int64_t classes) {
  const RandomStream random(2, "labels");
  std::vector<int32_t> labels;
  for (int64_t i = 0; i < n; ++i) {
    labels.push_back(static_cast<int32_t>(
        random.Below(static_cast<uint64_t>(i), static_cast<uint64_t>(classes))));
  }
  return labels;
}

template <typename T>
CrossEntropyArgs<T> Args(const GuardedTensor<T>& z, const std::vector<int32_t>& labels,
                         double smoothing, T* loss, const GuardedTensor<T>* dz) {
  CrossEntropyArgs<T> args;
  args.n = z.view().n;
  args.classes = z.view().c;
  args.logits = z.data();
  args.logits_stride = z.view().pixel_stride;
  args.labels = labels.data();
  args.label_smoothing = smoothing;
  args.loss = loss;
  if (dz != nullptr) {
    args.dlogits = dz->data();
    args.dlogits_stride = dz->view().pixel_stride;
  }
  return args;
}

TEST_P(CrossEntropyTest, MatchesNaive) {
  Context ctx(2);
  for (const int64_t n : {1, 3, 64, 200}) {
    for (const int64_t classes : {2, 7, 10, 16, 33, 100, 256, 1000}) {
      for (const double smoothing : {0.0, 0.1}) {
        for (const float scale : {1.0f, 30.0f, 1e4f}) {
          if (n > 64 && classes > 100) continue;
          SCOPED_TRACE(::testing::Message() << n << " x " << classes << " smoothing " << smoothing
                                            << " scale " << scale);
          GuardedTensor<float> z({n, 1, 1, classes}, classes + 3),
              dz({n, 1, 1, classes}, classes + 5);
          GuardedTensor<float> expected({n, 1, 1, classes});
          const RandomStream random(1, "z");
          z.ForEach([&](int64_t i) { return scale * random.Normal(static_cast<uint64_t>(i)); });
          const auto labels = Labels(n, classes);
          GuardedWorkspace workspace(CrossEntropyWorkspaceBytes(n, classes));
          float loss = NAN;
          float loss_alone = NAN;
          float expected_loss = NAN;
          CrossEntropyNaive<float>(Args(z, labels, smoothing, &expected_loss, &expected));
          auto args = Args(z, labels, smoothing, &loss, &dz);
          args.workspace = workspace.get();
          CrossEntropy(args, ctx);
          EXPECT_TRUE(std::isfinite(loss));
          EXPECT_NEAR(loss, expected_loss, 2e-6 * (1 + std::abs(expected_loss)));
          // Large logits can leave a batch of ones and zeros: all gradients exactly 0.
          double norm = 0;
          for (int64_t i = 0; i < n * classes; ++i) norm += std::abs(expected.data()[i]);
          if (norm > 1e-6) {
            EXPECT_TRUE(Close(dz, expected, Tolerance{3e-6}));
          }
          EXPECT_TRUE(GuardsIntact(dz));
          EXPECT_TRUE(GuardsIntact(workspace));

          auto without = Args<float>(z, labels, smoothing, &loss_alone, nullptr);
          without.workspace = workspace.get();
          CrossEntropy(without, ctx);
          EXPECT_EQ(loss_alone, loss);
          auto in_place = Args(z, labels, smoothing, &loss_alone, &z);
          in_place.workspace = workspace.get();
          CrossEntropy(in_place, ctx);
          EXPECT_EQ(Bits(z), Bits(dz));
          EXPECT_TRUE(GuardsIntact(z));
        }
      }
    }
  }
}

TEST_P(CrossEntropyTest, ByHand) {
  Context ctx(1);
  GuardedTensor<float> z({2, 1, 1, 3}), dz({2, 1, 1, 3});
  z.ForEach([](int64_t i) {
    return std::vector<float>({0, std::log(2.0f), 0, 1e4f, -1e4f, 0})[static_cast<size_t>(i)];
  });
  const std::vector<int32_t> labels = {1, 1};
  GuardedWorkspace workspace(CrossEntropyWorkspaceBytes(2, 3));
  float loss = NAN;
  auto args = Args(z, labels, 0.3, &loss, &dz);
  args.workspace = workspace.get();
  CrossEntropy(args, ctx);
  // Row 0: p = 1/4, 1/2, 1/4 and t = 0.1, 0.8, 0.1. Row 1: log p = 0, -2e4, -1e4.
  const double row0 = 0.2 * std::log(4.0) + 0.8 * std::log(2.0);
  const double row1 = 0.8 * 2e4 + 0.1 * 1e4;
  EXPECT_NEAR(loss, (row0 + row1) / 2, 1e-3);
  const double expected[] = {0.15 / 2, -0.3 / 2, 0.15 / 2, 0.9 / 2, -0.8 / 2, -0.1 / 2};
  for (size_t i = 0; i < 6; ++i) EXPECT_NEAR(dz.data()[i], expected[i], 1e-7) << i;
}

TEST_P(CrossEntropyTest, SameBitsOnAnyThreads) {
  GuardedTensor<float> z({300, 1, 1, 100});
  z.FillNormal(RandomStream(1, "z"));
  const auto labels = Labels(300, 100);
  ExpectSameOnAnyThreads([&](Context& ctx) {
    GuardedTensor<float> dz({300, 1, 1, 100});
    GuardedArray<float> loss(1);
    GuardedWorkspace workspace(CrossEntropyWorkspaceBytes(300, 100));
    auto args = Args(z, labels, 0.1, loss.data(), &dz);
    args.workspace = workspace.get();
    CrossEntropy(args, ctx);
    return Bits(dz) + Bits(loss);
  });
}

TEST(CrossEntropyNaiveTest, GradientIsThatOfLoss) {
  GuardedTensor<double> z({3, 1, 1, 4}), dz({3, 1, 1, 4});
  z.FillNormal(RandomStream(1, "z"));
  const auto labels = Labels(3, 4);
  for (const double smoothing : {0.0, 0.2}) {
    double loss = NAN;
    CrossEntropyNaive<double>(Args(z, labels, smoothing, &loss, &dz));
    ExpectGradient(z, dz, [&] {
      CrossEntropyNaive<double>(Args<double>(z, labels, smoothing, &loss, nullptr));
      return loss;
    });
  }
}

}  // namespace
}  // namespace classicnn
