// Prologues and epilogues of convolutions: every algorithm against the naive references one after
// the other.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/context.h"
#include "core/random.h"
#include "gtest/gtest.h"
#include "hwy/highway.h"
#include "hwy/tests/hwy_gtest.h"
#include "layers/conv2d/conv2d.h"
#include "layers/fusion_passes.h"
#include "tests/testing/assertions.h"
#include "tests/testing/buffers.h"

namespace classicnn {
namespace {

// How a gradient is stored.
enum class Store { kPlain, kGained, kAdded, kAccumulated };

// Which prologues and epilogues a call has; relu is theirs.
struct Hooks {
  bool activation = true;
  bool gradient = true;
  bool epilogue = true;
  bool relu = true;
};

// The arrays of one tensor's batch norm, in float and the same values in double.
class ChannelArrays {
 public:
  ChannelArrays(int64_t channels, const char* name) {
    const RandomStream random(7, name);
    for (size_t i = 0; i < kArrays; ++i) {
      floats_.emplace_back(channels);
      doubles_.emplace_back(channels);
      floats_[i].ForEach([&](int64_t c) {
        const auto index = static_cast<uint64_t>(c) * kArrays + i;
        return static_cast<float>(0.5 * random.Normal(index) + (i % 2 == 0 ? 1 : 0));
      });
      doubles_[i].CopyFrom(floats_[i].cview());
    }
  }
  template <typename T>
  const T* Get(size_t i) const {
    if constexpr (std::is_same_v<T, float>) {
      return floats_[i].data();
    } else {
      return doubles_[i].data();
    }
  }
  template <typename T>
  ActivationPrologue<T> activation(const Hooks& hooks) const {
    if (!hooks.activation) return {};
    return {Get<T>(0), Get<T>(1), hooks.relu};
  }
  template <typename T>
  GradientPrologue<T> gradient(const Hooks& hooks, View<const T> x) const {
    if (!hooks.gradient) return {};
    return {x, Get<T>(2), Get<T>(3), Get<T>(1)};
  }
  template <typename T>
  GradientEpilogue<T> epilogue(const Hooks& hooks, View<const T> x, Store store, T* sum_g,
                               T* sum_gx) const {
    GradientEpilogue<T> e;
    if (!hooks.epilogue) return e;
    e.x = x;
    if (hooks.relu) {
      e.scale = Get<T>(0);
      e.shift = Get<T>(1);
    }
    e.relu = hooks.relu;
    e.mean = Get<T>(3);
    if (store == Store::kGained || store == Store::kAdded) e.gain = Get<T>(2);
    e.add = store == Store::kAdded;
    e.sum_g = sum_g;
    e.sum_gx = sum_gx;
    return e;
  }

 private:
  static constexpr size_t kArrays = 4;
  std::vector<GuardedArray<float>> floats_;
  std::vector<GuardedArray<double>> doubles_;
};

std::vector<float> Values(const GuardedTensor<float>& t) {
  std::vector<float> values;
  for (int64_t p = 0; p < t.view().pixels(); ++p) {
    values.insert(values.end(), t.view().Pixel(p), t.view().Pixel(p) + t.view().c);
  }
  return values;
}

// Winograd's transforms cost about a bit more than a sum does.
Tolerance SumOf(int64_t terms) { return Tolerance::ForSum(4 * terms); }

class FusionCase {
 public:
  FusionCase(const Conv2dShape& shape, int64_t gap, double y_offset = 0)
      : shape_(shape),
        x_(shape.input(), shape.in_channels + gap),
        dx_(shape.input(), shape.in_channels + gap),
        before_(shape.input()),
        y_(shape.output(), shape.out_channels + gap),
        y_pre_(shape.output(), shape.out_channels + 2 * gap),
        dy_(shape.output(), shape.out_channels + gap),
        weights_(shape.weight_count()),
        dweights_(shape.weight_count()),
        bias_(shape.out_channels),
        c_sums_{GuardedArray<float>(shape.in_channels), GuardedArray<float>(shape.in_channels)},
        k_sums_{GuardedArray<float>(shape.out_channels), GuardedArray<float>(shape.out_channels)},
        in_arrays_(shape.in_channels, "in"),
        out_arrays_(shape.out_channels, "out") {
    x_.FillNormal(RandomStream(1, "x"));
    before_.FillNormal(RandomStream(1, "before"));
    dy_.FillNormal(RandomStream(1, "dy"));
    y_pre_.FillNormal(RandomStream(1, "y"));
    weights_.FillNormal(RandomStream(1, "weights"));
    bias_.ForEach([&](int64_t) { return static_cast<float>(y_offset); });
  }

  // Everything the pass writes, bit for bit.
  std::vector<float> Run(Conv2dPass pass, Conv2dAlgorithm algorithm, Store store, Context& ctx,
                         const Hooks& hooks = {}) {
    Conv2dFusion fusion;
    fusion.activation = hooks.activation && pass != Conv2dPass::kBackwardData;
    fusion.statistics = hooks.epilogue && pass == Conv2dPass::kForward;
    fusion.gradient = hooks.gradient && pass != Conv2dPass::kForward;
    fusion.gradient_epilogue = hooks.epilogue && pass == Conv2dPass::kBackwardData;
    GuardedWorkspace workspace(
        Conv2dWorkspaceBytes(shape_, pass, algorithm, ctx.num_threads(), fusion));
    std::vector<const GuardedTensor<float>*> written;
    if (pass == Conv2dPass::kForward) {
      y_.FillNan();
      Conv2dForwardArgs<float> args;
      args.shape = shape_;
      args.algorithm = algorithm;
      args.x = x_.cview();
      args.weights = weights_.data();
      args.bias = bias_.data();
      args.y = y_.view();
      args.activation = in_arrays_.activation<float>(hooks);
      if (hooks.epilogue) args.statistics = {k_sums_[0].data(), k_sums_[1].data()};
      args.workspace = workspace.get();
      Conv2dForward(args, ctx);
      written = {&y_};
      if (hooks.epilogue) written.insert(written.end(), {&k_sums_[0], &k_sums_[1]});
    } else if (pass == Conv2dPass::kBackwardData) {
      dx_.CopyFrom(before_.cview());
      Conv2dBackwardDataArgs<float> args;
      args.shape = shape_;
      args.algorithm = algorithm;
      args.dy = dy_.cview();
      args.weights = weights_.data();
      args.dx = dx_.view();
      args.accumulate = store == Store::kAccumulated;
      args.gradient = out_arrays_.gradient(hooks, y_pre_.cview());
      args.epilogue =
          in_arrays_.epilogue(hooks, x_.cview(), store, c_sums_[0].data(), c_sums_[1].data());
      args.workspace = workspace.get();
      Conv2dBackwardData(args, ctx);
      written = {&dx_};
      if (hooks.epilogue) written.insert(written.end(), {&c_sums_[0], &c_sums_[1]});
    } else {
      dweights_.FillNan();
      Conv2dBackwardWeightsArgs<float> args;
      args.shape = shape_;
      args.algorithm = algorithm;
      args.x = x_.cview();
      args.dy = dy_.cview();
      args.dweights = dweights_.data();
      args.activation = in_arrays_.activation<float>(hooks);
      args.gradient = out_arrays_.gradient(hooks, y_pre_.cview());
      args.workspace = workspace.get();
      Conv2dBackwardWeights(args, ctx);
      written = {&dweights_};
    }
    EXPECT_TRUE(GuardsIntact(workspace));
    std::vector<float> result;
    for (const auto* t : written) {
      EXPECT_TRUE(GuardsIntact(*t));
      const std::vector<float> values = Values(*t);
      result.insert(result.end(), values.begin(), values.end());
    }
    return result;
  }

  // Both backwards by one call.
  std::vector<float> RunBackward(Conv2dAlgorithm algorithm, Store store, Context& ctx,
                                 const Hooks& hooks = {}) {
    GuardedWorkspace workspace(
        Conv2dBackwardWorkspaceBytes(shape_, algorithm, ctx.num_threads(),
                                     {hooks.activation, hooks.gradient, false, hooks.epilogue}));
    dx_.CopyFrom(before_.cview());
    dweights_.FillNan();
    Conv2dBackwardDataArgs<float> data;
    Conv2dBackwardWeightsArgs<float> weights;
    data.shape = weights.shape = shape_;
    data.algorithm = weights.algorithm = algorithm;
    data.dy = weights.dy = dy_.cview();
    data.gradient = weights.gradient = out_arrays_.gradient(hooks, y_pre_.cview());
    data.weights = weights_.data();
    data.dx = dx_.view();
    data.accumulate = store == Store::kAccumulated;
    data.epilogue =
        in_arrays_.epilogue(hooks, x_.cview(), store, c_sums_[0].data(), c_sums_[1].data());
    data.workspace = workspace.get();
    weights.x = x_.cview();
    weights.dweights = dweights_.data();
    weights.activation = in_arrays_.activation<float>(hooks);
    Conv2dBackward(data, weights, ctx);
    EXPECT_TRUE(GuardsIntact(workspace));
    std::vector<const GuardedTensor<float>*> written = {&dx_, &dweights_};
    if (hooks.epilogue) written.insert(written.end(), {&c_sums_[0], &c_sums_[1]});
    std::vector<float> result;
    for (const auto* t : written) {
      EXPECT_TRUE(GuardsIntact(*t));
      const std::vector<float> values = Values(*t);
      result.insert(result.end(), values.begin(), values.end());
    }
    return result;
  }

  // Of what the last Run of this pass wrote, against the references in double.
  void ExpectMatchesReference(Conv2dPass pass, Store store, const Hooks& hooks = {}) const {
    const auto in_double = [](const GuardedTensor<float>& t) {
      GuardedTensor<double> d(t.view().shape());
      d.CopyFrom(t.cview());
      return d;
    };
    const GuardedTensor<double> x = in_double(x_), dy = in_double(dy_), y_pre = in_double(y_pre_);
    const GuardedTensor<double> weights = in_double(weights_), bias = in_double(bias_);
    GuardedTensor<double> activated(shape_.input()), gradient(shape_.output());
    activated.CopyFrom(x.cview());
    gradient.CopyFrom(dy.cview());
    if (hooks.activation) {
      ActivationPassNaive(in_arrays_.activation<double>(hooks), x.cview(), activated.view());
    }
    if (hooks.gradient) {
      GradientPassNaive(out_arrays_.gradient(hooks, y_pre.cview()), dy.cview(), gradient.view());
    }
    const int64_t taps = shape_.kernel * shape_.kernel;
    const auto kAlgorithm = Conv2dAlgorithm::kDirect;
    if (pass == Conv2dPass::kForward) {
      GuardedTensor<double> y(shape_.output());
      GuardedArray<double> mean(shape_.out_channels), var(shape_.out_channels);
      Conv2dForwardNaive<double>(
          {shape_, kAlgorithm, activated.cview(), weights.data(), bias.data(), y.view(), {}});
      EXPECT_TRUE(Close(y_, y, SumOf(taps * shape_.in_channels / shape_.groups)));
      if (!hooks.epilogue) return;
      StatisticsPassNaive<double>({mean.data(), var.data()}, y.cview());
      const Tolerance statistics{1e-4};
      EXPECT_TRUE(Close(k_sums_[0], mean, statistics));
      EXPECT_TRUE(Close(k_sums_[1], var, statistics));
    } else if (pass == Conv2dPass::kBackwardData) {
      GuardedTensor<double> da(shape_.input()), dx(shape_.input());
      GuardedArray<double> sum_g(shape_.in_channels), sum_gx(shape_.in_channels);
      da.CopyFrom(before_.cview());
      dx.CopyFrom(before_.cview());
      Conv2dBackwardDataNaive<double>({shape_,
                                       kAlgorithm,
                                       gradient.cview(),
                                       weights.data(),
                                       da.view(),
                                       store == Store::kAccumulated,
                                       {}});
      const int64_t terms = taps * shape_.out_channels / shape_.groups;
      if (!hooks.epilogue) {
        EXPECT_TRUE(Close(dx_, da, SumOf(terms)));
        return;
      }
      GradientEpiloguePassNaive(
          in_arrays_.epilogue(hooks, x.cview(), store, sum_g.data(), sum_gx.data()), da.cview(),
          dx.view());
      EXPECT_TRUE(Close(dx_, dx, SumOf(terms)));
      EXPECT_TRUE(Close(c_sums_[0], sum_g, Tolerance::ForSum(terms * shape_.input().pixels())));
      EXPECT_TRUE(Close(c_sums_[1], sum_gx, Tolerance::ForSum(terms * shape_.input().pixels())));
    } else {
      GuardedArray<double> dweights(shape_.weight_count());
      Conv2dBackwardWeightsNaive<double>(
          {shape_, kAlgorithm, activated.cview(), gradient.cview(), dweights.data(), nullptr, {}});
      EXPECT_TRUE(Close(dweights_, dweights, SumOf(shape_.output().pixels())));
    }
  }

  double LargestVarianceError() const {
    GuardedTensor<double> y(shape_.output());
    y.CopyFrom(y_.cview());
    GuardedArray<double> mean(shape_.out_channels), var(shape_.out_channels);
    StatisticsPassNaive<double>({mean.data(), var.data()}, y.cview());
    double largest = 0;
    for (int64_t k = 0; k < shape_.out_channels; ++k) {
      const double error = std::abs(static_cast<double>(k_sums_[1].data()[k]) - var.data()[k]);
      largest = std::max(largest, error / var.data()[k]);
    }
    return largest;
  }

 private:
  Conv2dShape shape_;
  GuardedTensor<float> x_, dx_, before_, y_, y_pre_, dy_;
  GuardedArray<float> weights_, dweights_, bias_;
  GuardedArray<float> c_sums_[2], k_sums_[2];
  ChannelArrays in_arrays_, out_arrays_;
};

Conv2dShape Shape(const char* text) {
  auto shape = Conv2dShape::Parse(text);
  CNN_CHECK(shape.ok(), text);
  return *shape;
}

const char* const kShapes[] = {
    // pointwise: few and many pixels, channels around the vector lengths
    "n2c24h8w8k10r1s1p0",
    "n2c33h7w5k64r1s1p0",
    "n3c48h4w4k32r1s1p0",
    "n9c7h1w1k31r1s1p0",
    "n3c64h17w16k48r1s1p0",
    "n2c70h17w17k100r1s1p0",  // wide panels, whole, of three vectors and narrow
    "n1c200h23w23k77r1s1p0",
    "n2c150h17w17k20r1s1p0",  // shallow: all panels for each row, in backward data and in forward
    "n9c12h16w16k100r1s1p0",
    "n2c40h17w17k150r1s1p0",  // backward weights in parts of dy's channels, x packed
    "n1c130h9w9k70r1s1p0",
    "n33c40h2w2k24r1s1p0",
    "n29c5h32w32k6r1s1p0",  // several tiles a piece
    // direct: stride, 5 x 5, few channels, small images
    "n1c33h5w5k16r3s1p1",
    "n17c8h2w2k10r3s1p1",
    "n2c5h11w9k7r5s1p2",
    "n2c9h9w10k17r3s2p1",
    "n2c12h8w8k32r1s2p0",
    "n9c20h15w9k40r1s2p0",
    "n20c3h8w8k16r3s1p1",
    "n2c36h18w17k83r3s1p1",
    "n9c40h8w8k83r3s1p1",  // wide, by position
    "n2c8h6w6k12r3s1p1g2",
    "n4c16h16w16k32r5s1p2",
    "n1c20h7w7k48r3s2p1",
    "n2c3h8w8k20r3s2p1",
    "n2c3h11w19k48r3s1p1",
    "n40c24h2w2k32r3s1p1",
    // Winograd's tiles, whole and ragged
    "n2c32h8w8k16r3s1p1",
    "n1c40h10w10k70r3s1p1",
    "n3c17h7w6k33r3s1p1",
    "n2c16h16w16k32r3s1p1",
    "n40c32h4w4k48r3s1p1",
    "n3c128h4w4k160r3s1p1",
    "n129c5h4w4k264r3s1p1",  // more than one span of tiles, each with all panels
    "n1c3h176w176k5r3s1p1",  // several blocks of tiles that share sums
    "n3c16h6w6k16r3s1p0",
    // depthwise
    "n2c6h5w5k6r3s1p1g6",
    "n3c33h8w7k33r3s1p1g33",
    "n2c64h9w9k64r3s2p1g64",
    "n2c20h8w8k20r3s2p1g20",
    "n2c17h6w6k17r5s1p2g17",
    "n9c16h2w2k16r3s2p1g16",
    // bands of rows, several chunks of channels, every width of strip, groups of images
    "n1c40h70w23k40r3s1p1g40",
    "n2c24h45w30k24r3s2p1g24",
    "n2c300h5w7k300r3s1p1g300",
    "n2c300h6w11k300r3s2p0g300",
    "n3c20h7w6k20r3s1p2g20",
    "n3c19h7w8k19r3s2p2g19",
    "n40c32h2w2k32r3s1p1g32",
};

class Conv2dFusionTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(Conv2dFusionTest);

TEST_P(Conv2dFusionTest, MatchesTheReferences) {
  Context ctx(2);
  for (const char* text : kShapes) {
    for (const int64_t gap : {0, 5}) {
      FusionCase c(Shape(text), gap);
      for (const Conv2dPass pass : kAllConv2dPasses) {
        for (const Conv2dAlgorithm algorithm : Conv2dAlgorithms(Shape(text), pass)) {
          const bool data = pass == Conv2dPass::kBackwardData;
          for (const Store store : data ? std::vector<Store>{Store::kPlain, Store::kGained,
                                                             Store::kAdded, Store::kAccumulated}
                                        : std::vector<Store>{Store::kPlain}) {
            SCOPED_TRACE(absl::StrCat(text, " ", Conv2dPassName(pass), " ",
                                      Conv2dAlgorithmName(algorithm), " gap ", gap, " store ",
                                      static_cast<int>(store)));
            c.Run(pass, algorithm, store, ctx);
            c.ExpectMatchesReference(pass, store);
          }
        }
      }
    }
  }
}

// Each alone, none, and all of them without ReLU.
TEST_P(Conv2dFusionTest, HooksDoNotDependOnEachOther) {
  const Hooks combinations[] = {{true, false, false, true}, {false, true, false, true},
                                {false, false, true, true}, {false, false, true, false},
                                {true, true, true, false},  {false, false, false, true}};
  Context ctx(2);
  for (const char* text : {"n3c33h7w5k64r1s1p0", "n2c5h11w9k7r5s1p2", "n3c17h7w6k33r3s1p1",
                           "n3c64h4w4k256r3s1p1", "n20c3h8w8k16r3s1p1", "n3c33h8w7k33r3s1p1g33",
                           "n2c20h8w8k20r3s2p1g20", "n2c17h6w6k17r5s1p2g17"}) {
    FusionCase c(Shape(text), 3);
    for (const Conv2dPass pass : kAllConv2dPasses) {
      for (const Conv2dAlgorithm algorithm : Conv2dAlgorithms(Shape(text), pass)) {
        for (const Hooks& hooks : combinations) {
          for (const Store store : {Store::kPlain, Store::kAccumulated}) {
            SCOPED_TRACE(absl::StrCat(text, " ", Conv2dPassName(pass), " ",
                                      Conv2dAlgorithmName(algorithm), " ", hooks.activation,
                                      hooks.gradient, hooks.epilogue, hooks.relu, " store ",
                                      static_cast<int>(store)));
            c.Run(pass, algorithm, store, ctx, hooks);
            c.ExpectMatchesReference(pass, store, hooks);
          }
        }
      }
    }
  }
}

TEST_P(Conv2dFusionTest, SameBitsOnAnyNumberOfThreads) {
  for (const char* text : kShapes) {
    FusionCase c(Shape(text), 0);
    for (const Conv2dPass pass : kAllConv2dPasses) {
      for (const Conv2dAlgorithm algorithm : Conv2dAlgorithms(Shape(text), pass)) {
        SCOPED_TRACE(
            absl::StrCat(text, " ", Conv2dPassName(pass), " ", Conv2dAlgorithmName(algorithm)));
        Context one(1);
        const std::vector<float> expected = c.Run(pass, algorithm, Store::kAdded, one);
        for (const int threads : {2, 8, 40}) {
          Context ctx(threads);
          const std::vector<float> actual = c.Run(pass, algorithm, Store::kAdded, ctx);
          EXPECT_EQ(std::memcmp(actual.data(), expected.data(), expected.size() * sizeof(float)), 0)
              << threads << " threads";
        }
      }
    }
  }
}

TEST_P(Conv2dFusionTest, BothBackwardsAtOnceMatchTheReferences) {
  const Hooks combinations[] = {{}, {false, true, false, true}, {true, false, true, false}};
  Context ctx(2);
  std::vector<const char*> texts(std::begin(kShapes), std::end(kShapes));
  // Pointwise, runs and tiles of uneven size: narrow panels, partial vectors of both channels, and
  // wide panels of three vectors.
  texts.insert(texts.end(),
               {"n17c20h16w16k40r1s1p0", "n67c7h8w8k19r1s1p0", "n9c40h32w32k50r1s1p0"});
  const std::pair<Conv2dAlgorithm, int> algorithms[] = {{Conv2dAlgorithm::kDepthwise, 9},
                                                        {Conv2dAlgorithm::kFewPixels, 3},
                                                        {Conv2dAlgorithm::kPointwise, 16}};
  for (const auto& [algorithm, least_shapes] : algorithms) {
    int shapes = 0;
    for (const char* text : texts) {
      const Conv2dShape shape = Shape(text);
      if (!Conv2dHasBackward(shape, algorithm)) continue;
      ++shapes;
      for (const int64_t gap : {0, 5}) {
        FusionCase c(shape, gap);
        for (const Hooks& hooks : combinations) {
          for (const Store store : {Store::kPlain, Store::kAdded, Store::kAccumulated}) {
            SCOPED_TRACE(absl::StrCat(Conv2dAlgorithmName(algorithm), " ", text, " gap ", gap, " ",
                                      hooks.activation, hooks.gradient, hooks.epilogue, " store ",
                                      static_cast<int>(store)));
            const std::vector<float> expected = c.RunBackward(algorithm, store, ctx, hooks);
            c.ExpectMatchesReference(Conv2dPass::kBackwardData, store, hooks);
            c.ExpectMatchesReference(Conv2dPass::kBackwardWeights, store, hooks);
            for (const int threads : {1, 3, 40}) {
              Context other(threads);
              const std::vector<float> actual = c.RunBackward(algorithm, store, other, hooks);
              EXPECT_EQ(
                  std::memcmp(actual.data(), expected.data(), expected.size() * sizeof(float)), 0)
                  << threads << " threads";
            }
          }
        }
      }
    }
    EXPECT_GE(shapes, least_shapes);
  }
}

// Large enough to be written past the caches.
TEST_P(Conv2dFusionTest, LargeDepthwiseOutputsMatchTheReferences) {
  constexpr auto kAlgorithm = Conv2dAlgorithm::kDepthwise;
  Context ctx(2);
  for (const char* text : {"n1c64h192w192k64r3s1p1g64", "n1c64h192w192k64r3s2p1g64"}) {
    SCOPED_TRACE(text);
    FusionCase c(Shape(text), 0);
    for (const Store store : {Store::kPlain, Store::kAdded}) {
      if (store == Store::kPlain) {
        c.Run(Conv2dPass::kForward, kAlgorithm, store, ctx);
        c.ExpectMatchesReference(Conv2dPass::kForward, store);
      }
      c.Run(Conv2dPass::kBackwardData, kAlgorithm, store, ctx);
      c.ExpectMatchesReference(Conv2dPass::kBackwardData, store);
      c.RunBackward(kAlgorithm, store, ctx);
      c.ExpectMatchesReference(Conv2dPass::kBackwardData, store);
      c.ExpectMatchesReference(Conv2dPass::kBackwardWeights, store);
    }
  }
}

TEST_P(Conv2dFusionTest, VarianceSurvivesAMeanFarFromZero) {
  Context ctx(2);
  for (const char* text : {"n8c16h16w16k32r1s1p0", "n8c16h16w16k32r3s1p1", "n8c16h16w16k24r5s1p2",
                           "n8c16h16w16k16r3s1p1g16"}) {
    for (const Conv2dAlgorithm algorithm : Conv2dAlgorithms(Shape(text), Conv2dPass::kForward)) {
      FusionCase c(Shape(text), 0, /*y_offset=*/1000);
      c.Run(Conv2dPass::kForward, algorithm, Store::kPlain, ctx);
      EXPECT_LT(c.LargestVarianceError(), 1e-4) << text << " " << Conv2dAlgorithmName(algorithm);
    }
  }
}

}  // namespace
}  // namespace classicnn
