// Convolution: each algorithm against the naive reference, the naive reference against finite
// differences.
#include "layers/conv2d/conv2d.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/context.h"
#include "core/random.h"
#include "gtest/gtest.h"
#include "hwy/highway.h"
#include "hwy/tests/hwy_gtest.h"
#include "layers/gemm.h"
#include "layers/tap_product.h"
#include "tests/testing/assertions.h"
#include "tests/testing/buffers.h"

namespace classicnn {
namespace {

// One problem in float for the optimized algorithms and in double for the reference.
class Conv2dCase {
 public:
  // `gap`: how much the views' pixel strides exceed their channels.
  Conv2dCase(const Conv2dShape& shape, int64_t gap, bool integers, uint64_t seed)
      : shape_(shape),
        x_(shape.input(), shape.in_channels + gap),
        y_(shape.output(), shape.out_channels + gap),
        dx_(shape.input(), shape.in_channels + gap),
        dy_(shape.output(), shape.out_channels + gap),
        weights_(shape.weight_count()),
        dweights_(shape.weight_count()),
        bias_(shape.out_channels),
        dbias_(shape.out_channels),
        dx_before_(shape.input()),
        dx_expected_(shape.input()),
        y_expected_(shape.output()),
        dweights_expected_(shape.weight_count()),
        dbias_expected_(shape.out_channels) {
    const auto fill = [&](GuardedTensor<float>* t, const char* name) {
      const RandomStream random(seed, name);
      integers ? t->FillIntegers(random) : t->FillNormal(random);
    };
    fill(&x_, "x");
    fill(&dy_, "dy");
    fill(&weights_, "weights");
    fill(&bias_, "bias");
    fill(&dx_before_, "dx");
  }

  void RunReference(bool accumulate) {
    GuardedTensor<double> x(shape_.input()), dy(shape_.output());
    GuardedArray<double> weights(shape_.weight_count()), bias(shape_.out_channels);
    x.CopyFrom(x_.cview());
    dy.CopyFrom(dy_.cview());
    weights.CopyFrom(weights_.cview());
    bias.CopyFrom(bias_.cview());
    Conv2dForwardNaive<double>({shape_,
                                Conv2dAlgorithm::kDirect,
                                x.cview(),
                                weights.data(),
                                bias.data(),
                                y_expected_.view(),
                                {}});
    dx_expected_.CopyFrom(dx_before_.cview());
    Conv2dBackwardDataNaive<double>({shape_,
                                     Conv2dAlgorithm::kDirect,
                                     dy.cview(),
                                     weights.data(),
                                     dx_expected_.view(),
                                     accumulate,
                                     {}});
    Conv2dBackwardWeightsNaive<double>({shape_,
                                        Conv2dAlgorithm::kDirect,
                                        x.cview(),
                                        dy.cview(),
                                        dweights_expected_.data(),
                                        dbias_expected_.data(),
                                        {}});
  }

  void Run(Conv2dPass pass, Conv2dAlgorithm algorithm, bool accumulate, Context& ctx) {
    GuardedWorkspace workspace(Conv2dWorkspaceBytes(shape_, pass, algorithm, ctx.num_threads()));
    switch (pass) {
      case Conv2dPass::kForward:
        y_.FillNan();
        Conv2dForward({shape_, algorithm, x_.cview(), weights_.data(), bias_.data(), y_.view(),
                       workspace.get()},
                      ctx);
        break;
      case Conv2dPass::kBackwardData:
        accumulate ? dx_.CopyFrom(dx_before_.cview()) : dx_.FillNan();
        Conv2dBackwardData({shape_, algorithm, dy_.cview(), weights_.data(), dx_.view(), accumulate,
                            workspace.get()},
                           ctx);
        break;
      case Conv2dPass::kBackwardWeights:
        dweights_.FillNan();
        dbias_.FillNan();
        Conv2dBackwardWeights({shape_, algorithm, x_.cview(), dy_.cview(), dweights_.data(),
                               dbias_.data(), workspace.get()},
                              ctx);
        break;
    }
    EXPECT_TRUE(GuardsIntact(workspace));
    for (const auto* t : {&x_, &y_, &dx_, &dy_}) EXPECT_TRUE(GuardsIntact(*t));
    for (const auto* t : {&weights_, &dweights_, &bias_, &dbias_}) EXPECT_TRUE(GuardsIntact(*t));
  }

  // Of what the pass wrote.
  void ExpectMatchesReference(Conv2dPass pass, bool exact) const {
    const int64_t taps = shape_.kernel * shape_.kernel;
    const auto bound = [exact](int64_t terms) {
      return exact ? Tolerance::Exact() : Tolerance::ForSum(terms);
    };
    switch (pass) {
      case Conv2dPass::kForward:
        EXPECT_TRUE(Close(y_, y_expected_, bound(taps * shape_.in_channels / shape_.groups)));
        break;
      case Conv2dPass::kBackwardData:
        EXPECT_TRUE(Close(dx_, dx_expected_, bound(taps * shape_.out_channels / shape_.groups)));
        break;
      case Conv2dPass::kBackwardWeights:
        EXPECT_TRUE(Close(dweights_, dweights_expected_, bound(shape_.output().pixels())));
        EXPECT_TRUE(Close(dbias_, dbias_expected_, bound(shape_.output().pixels())));
        break;
    }
  }

  std::vector<float> Result(Conv2dPass pass) const {
    std::vector<float> values;
    const auto append = [&](const GuardedTensor<float>& t) {
      for (int64_t p = 0; p < t.view().pixels(); ++p) {
        values.insert(values.end(), t.view().Pixel(p), t.view().Pixel(p) + t.view().c);
      }
    };
    if (pass == Conv2dPass::kForward) append(y_);
    if (pass == Conv2dPass::kBackwardData) append(dx_);
    if (pass == Conv2dPass::kBackwardWeights) append(dweights_), append(dbias_);
    return values;
  }

 private:
  Conv2dShape shape_;
  GuardedTensor<float> x_, y_, dx_, dy_;
  GuardedArray<float> weights_, dweights_, bias_, dbias_;
  GuardedTensor<float> dx_before_;
  GuardedTensor<double> dx_expected_, y_expected_;
  GuardedArray<double> dweights_expected_, dbias_expected_;
};

Conv2dShape Shape(const char* text) {
  auto shape = Conv2dShape::Parse(text);
  CNN_CHECK(shape.ok(), text);
  return *shape;
}

// Odd sizes everywhere: channels around the vector lengths, images smaller than the kernel, strides
// that skip pixels, windows with more padding than image.
const char* const kShapes[] = {
    "n2c1h1w1k3r1s1p0",   "n3c1h1w1k5r3s1p1",     "n2c3h9w7k24r3s1p1",   "n2c16h6w5k33r3s1p1",
    "n1c33h5w5k16r3s1p1", "n5c20h2w2k40r3s1p1",   "n17c8h2w2k10r3s1p1",  "n2c24h8w8k10r1s1p0",
    "n2c33h7w5k64r1s1p0", "n3c48h4w4k32r1s1p0",   "n2c5h11w9k7r5s1p2",   "n2c9h9w10k17r3s2p1",
    "n2c12h8w8k32r1s2p0", "n1c6h13w12k6r7s2p3",   "n2c4h7w7k9r2s2p0",    "n2c3h12w12k8r3s3p0",
    "n1c2h9w9k3r2s3p1",   "n1c3h5w6k4r5s2p4",     "n2c8h6w6k12r3s1p1g2", "n2c12h7w6k6r3s2p1g3",
    "n2c6h5w5k6r3s1p1g6", "n1c40h10w10k70r3s1p1", "n2c3h8w8k20r3s2p1",   "n1c64h3w3k96r3s1p0",
    "n9c7h1w1k31r1s1p0",  "n20c3h8w8k16r3s1p1",   "n40c10h8w8k18r3s1p1", "n9c12h7w5k10r3s2p1",
    "n8c11h4w4k9r5s2p2",  "n2c12h3w3k48r3s1p1",   "n1c20h2w4k16r3s2p1",  "n5c8h3w2k80r5s1p2",
    "n3c36h4w5k32r1s1p0", "n1c4h1w1k16r3s1p1",    "n7c40h3w3k208r1s2p0", "n1c560h2w1k112r3s1p1",
    "n2c3h9w17k48r3s1p1", "n1c3h3w4k16r3s1p0",    "n3c3h1w1k32r3s1p2",   "n70c3h2w15k16r3s1p1",
    "n1c16h8w8k16r3s1p1", "n1c8h7w7k16r3s3p1",    "n64c4h1w1k32r1s1p0",
};

class Conv2dTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(Conv2dTest);

// Sums of small whole numbers are exact in any order, so that direct algorithms must be equal; the
// transforms of Winograd's are not.
bool IsExact(Conv2dAlgorithm algorithm) { return !IsWinograd(algorithm); }

TEST_P(Conv2dTest, IntegersAreExact) {
  Context ctx(1);
  uint64_t seed = 0;
  for (const char* text : kShapes) {
    for (const int64_t gap : {0, 3}) {
      const bool accumulate = gap != 0;
      Conv2dCase c(Shape(text), gap, /*integers=*/true, ++seed);
      c.RunReference(accumulate);
      for (const Conv2dPass pass : kAllConv2dPasses) {
        for (const Conv2dAlgorithm algorithm : Conv2dAlgorithms(Shape(text), pass)) {
          if (!IsExact(algorithm)) continue;
          SCOPED_TRACE(absl::StrCat(text, " ", Conv2dPassName(pass), " ",
                                    Conv2dAlgorithmName(algorithm), " gap ", gap));
          c.Run(pass, algorithm, accumulate, ctx);
          c.ExpectMatchesReference(pass, /*exact=*/true);
        }
      }
    }
  }
}

TEST_P(Conv2dTest, RealsAreCloseAndTheSameOnAnyNumberOfThreads) {
  Context one(1), two(2), three(3), eight(8);
  uint64_t seed = 100;
  for (const char* text :
       {"n2c16h12w12k33r3s1p1", "n4c70h8w8k64r1s1p0", "n3c24h9w9k40r3s2p1", "n16c3h16w16k20r3s1p1",
        "n20c64h2w2k64r3s1p1", "n64c16h8w8k16r3s1p1", "n32c8h10w10k40r5s1p2", "n2c12h6w6k8r3s1p1g4",
        "n1c20h3w5k300r3s1p1", "n9c20h2w2k40r3s1p1", "n1c132h3w5k208r3s1p1", "n9c3h32w31k64r3s1p1",
        "n4c1000h16w16k64r1s1p0", "n2c64h8w8k32r1s1p0g2", "n1c64h24w24k20r1s1p0",
        "n16c200h8w8k20r1s1p0", "n8c40h12w12k150r1s1p0", "n4c130h12w12k140r1s1p0"}) {
    for (const bool accumulate : {false, true}) {
      Conv2dCase c(Shape(text), /*gap=*/accumulate ? 16 : 0, /*integers=*/false, ++seed);
      c.RunReference(accumulate);
      for (const Conv2dPass pass : kAllConv2dPasses) {
        for (const Conv2dAlgorithm algorithm : Conv2dAlgorithms(Shape(text), pass)) {
          if (!IsExact(algorithm)) continue;
          SCOPED_TRACE(
              absl::StrCat(text, " ", Conv2dPassName(pass), " ", Conv2dAlgorithmName(algorithm)));
          c.Run(pass, algorithm, accumulate, one);
          c.ExpectMatchesReference(pass, /*exact=*/false);
          const std::vector<float> expected = c.Result(pass);
          for (Context* ctx : {&two, &three, &eight}) {
            c.Run(pass, algorithm, accumulate, *ctx);
            EXPECT_TRUE(c.Result(pass) == expected) << ctx->num_threads() << " threads";
          }
        }
      }
    }
  }
}

// Where few pixels meet the weights, a packed copy of all of them would cost more than the product.
TEST_P(Conv2dTest, FewPixelsNeedNoCopyOfTheWeights) {
  for (const char* text : {"n1c512h4w4k512r3s1p1", "n8c512h2w2k512r3s1p1", "n4c1024h2w2k1024r1s1p0",
                           "n8c1024h2w2k1024r1s1p0"}) {
    const Conv2dShape shape = Shape(text);
    const auto algorithm =
        shape.kernel == 1 ? Conv2dAlgorithm::kPointwise : Conv2dAlgorithm::kDirect;
    for (const Conv2dPass pass : {Conv2dPass::kForward, Conv2dPass::kBackwardData}) {
      EXPECT_LT(Conv2dWorkspaceBytes(shape, pass, algorithm, 2),
                static_cast<size_t>(shape.weight_count()) * sizeof(float) / 2)
          << text;
    }
  }
}

// Wide panels are few: smaller tiles make up for it.
TEST_P(Conv2dTest, FewPanelsAreManyTiles) {
  TapProductSize size;
  size.h = size.w = size.in_h = size.in_w = 16;
  size.num_taps = 1;
  size.in_channels = 528;
  size.out_channels = 256;
  const int64_t panels = WideGemmGeometry().num_panels(size.out_channels);
  EXPECT_GE(TapProductPieces(size) * panels, 40);
  size.in_channels = 256;  // a core keeps these weights
  EXPECT_GE(TapProductPieces(size) * panels, 64);
}

// Large enough to be written past the caches.
TEST_P(Conv2dTest, LargeDepthwiseOutputsAreExact) {
  Context ctx(2);
  for (const char* text : {"n1c64h225w230k64r3s1p1g64", "n1c64h225w230k64r3s2p1g64"}) {
    Conv2dCase c(Shape(text), /*gap=*/0, /*integers=*/true, 1);
    c.RunReference(/*accumulate=*/false);
    for (const Conv2dPass pass : kAllConv2dPasses) {
      SCOPED_TRACE(absl::StrCat(text, " ", Conv2dPassName(pass)));
      c.Run(pass, Conv2dAlgorithm::kDepthwise, /*accumulate=*/false, ctx);
      c.ExpectMatchesReference(pass, /*exact=*/true);
    }
  }
}

// Its 64 pixels are rows of one narrow product.
TEST_P(Conv2dTest, OneSmallImageIsSeveralPieces) {
  TapProductSize size;
  size.h = size.w = size.in_h = size.in_w = 8;
  size.num_taps = 9;
  size.in_channels = 128;
  size.out_channels = ActiveGemmGeometry().panel_width();
  EXPECT_GE(TapProductPieces(size), 64 / ActiveGemmGeometry().rows);
}

// Where backward weights applies the gradient, the weights are those of an update after it.
TEST_P(Conv2dTest, UpdatesOnTheWay) {
  const SgdParams sgd = {0.1, 0.9, 5e-4, true};
  AdamWParams adamw;
  adamw.step = 3;
  for (const char* text :
       {"n1c256h2w2k128r3s1p1", "n2c20h3w3k48r3s2p1", "n1c4h1w1k16r3s1p1", "n4c64h2w1k272r1s1p0"}) {
    const Conv2dShape shape = Shape(text);
    GuardedTensor<float> x(shape.input()), dy(shape.output());
    x.FillNormal(RandomStream(1, "x"));
    dy.FillNormal(RandomStream(1, "dy"));
    for (const Conv2dAlgorithm algorithm : Conv2dAlgorithms(shape, Conv2dPass::kBackwardWeights)) {
      if (!Conv2dUpdates(algorithm)) continue;
      for (const bool with_adamw : {false, true}) {
        SCOPED_TRACE(absl::StrCat(text, " ", Conv2dAlgorithmName(algorithm), with_adamw));
        std::vector<float> expected;
        for (const int threads : {0, 1, 3}) {  // 0: after
          Context ctx(std::max(1, threads));
          GuardedArray<float> w(shape.weight_count()), m(shape.weight_count());
          GuardedArray<float> v(shape.weight_count()), dw(shape.weight_count());
          w.FillNormal(RandomStream(1, "w"));
          m.FillNormal(RandomStream(1, "m"));
          v.ForEach([](int64_t i) { return 1.0f + static_cast<float>(i % 7); });
          ParameterUpdate update = {sgd, w.data(), m.data(), nullptr};
          if (with_adamw) update = {adamw, w.data(), m.data(), v.data()};
          GuardedWorkspace workspace(Conv2dWorkspaceBytes(shape, Conv2dPass::kBackwardWeights,
                                                          algorithm, ctx.num_threads()));
          Conv2dBackwardWeightsArgs<float> args;
          args.shape = shape;
          args.algorithm = algorithm;
          args.x = x.cview();
          args.dy = dy.cview();
          args.workspace = workspace.get();
          if (threads == 0) {
            args.dweights = dw.data();
          } else {
            args.update = &update;
          }
          Conv2dBackwardWeights(args, ctx);
          if (threads == 0) UpdateParameter(update, shape.weight_count(), dw.data(), ctx);
          EXPECT_TRUE(GuardsIntact(workspace));
          std::vector<float> result;
          for (const auto* array : {&w, &m, &v}) {
            EXPECT_TRUE(GuardsIntact(*array));
            result.insert(result.end(), array->data(), array->data() + shape.weight_count());
          }
          if (threads == 0) expected = result;
          EXPECT_TRUE(result == expected) << threads << " threads";
        }
      }
    }
    EXPECT_TRUE(Conv2dUpdates(Conv2dAlgorithm::kFewPixels));
  }
}

TEST_P(Conv2dTest, BiasAndBiasGradientAreOptional) {
  Context ctx(1);
  for (const char* text : {"n2c5h4w4k7r3s1p1", "n1c4h3w3k16r3s1p1", "n2c3h8w8k16r3s1p1"}) {
    SCOPED_TRACE(text);
    const Conv2dShape shape = Shape(text);
    GuardedTensor<float> x(shape.input()), y(shape.output());
    GuardedTensor<float> y_expected(shape.output());
    GuardedArray<float> w(shape.weight_count()), dw(shape.weight_count());
    GuardedArray<float> dw_expected(shape.weight_count());
    x.FillIntegers(RandomStream(1, "x"));
    w.FillIntegers(RandomStream(1, "w"));
    for (const Conv2dAlgorithm algorithm : Conv2dAlgorithms(shape, Conv2dPass::kForward)) {
      if (!IsExact(algorithm)) continue;
      GuardedWorkspace workspace(Conv2dWorkspaceBytes(shape, Conv2dPass::kForward, algorithm, 1));
      const Conv2dForwardArgs<float> args = {shape,   algorithm, x.cview(),      w.data(),
                                             nullptr, y.view(),  workspace.get()};
      Conv2dForward(args, ctx);
      Conv2dForwardArgs<float> naive = args;
      naive.y = y_expected.view();
      Conv2dForwardNaive(naive);
      EXPECT_TRUE(Equal(y, y_expected));
    }
    for (const Conv2dAlgorithm algorithm : Conv2dAlgorithms(shape, Conv2dPass::kBackwardWeights)) {
      if (!IsExact(algorithm)) continue;
      GuardedWorkspace workspace(
          Conv2dWorkspaceBytes(shape, Conv2dPass::kBackwardWeights, algorithm, 1));
      const Conv2dBackwardWeightsArgs<float> args = {
          shape, algorithm, x.cview(), y.cview(), dw.data(), nullptr, workspace.get()};
      Conv2dBackwardWeights(args, ctx);
      Conv2dBackwardWeightsArgs<float> naive = args;
      naive.dweights = dw_expected.data();
      Conv2dBackwardWeightsNaive(naive);
      EXPECT_TRUE(Equal(dw, dw_expected));
    }
  }
}

// Inputs that must not be read: the gradient of a sum of y * dy by central differences. The layer
// is linear in each of its inputs, so that the differences have no truncation error.
TEST(Conv2dNaiveTest, GradientsMatchFiniteDifferences) {
  for (const char* text : {"n2c3h4w5k4r3s1p1", "n1c4h5w4k6r3s2p1g2", "n2c2h3w3k2r2s1p0g2",
                           "n1c2h4w4k3r1s2p0", "n1c1h3w3k2r5s1p2"}) {
    SCOPED_TRACE(text);
    const Conv2dShape shape = Shape(text);
    GuardedTensor<double> x(shape.input()), y(shape.output());
    GuardedTensor<double> dx(shape.input()), dy(shape.output());
    GuardedArray<double> w(shape.weight_count()), dw(shape.weight_count());
    GuardedArray<double> bias(shape.out_channels), dbias(shape.out_channels);
    x.FillNormal(RandomStream(1, "x"));
    dy.FillNormal(RandomStream(1, "dy"));
    w.FillNormal(RandomStream(1, "w"));
    bias.FillNormal(RandomStream(1, "bias"));
    const auto kAny = Conv2dAlgorithm::kDirect;
    const auto loss = [&] {
      Conv2dForwardNaive<double>({shape, kAny, x.cview(), w.data(), bias.data(), y.view(), {}});
      double sum = 0;
      for (int64_t i = 0; i < y.view().size(); ++i) sum += y.data()[i] * dy.data()[i];
      return sum;
    };
    const auto differences = [&](GuardedTensor<double>& input) {
      GuardedTensor<double> gradient(input.view().shape());
      gradient.ForEach([&](int64_t i) {
        const double h = 0.5;
        const double value = input.data()[i];
        input.data()[i] = value + h;
        const double above = loss();
        input.data()[i] = value - h;
        const double below = loss();
        input.data()[i] = value;
        return (above - below) / (2 * h);
      });
      return gradient;
    };
    Conv2dBackwardDataNaive<double>(
        {shape, kAny, dy.cview(), w.data(), dx.view(), /*accumulate=*/false, {}});
    Conv2dBackwardWeightsNaive<double>(
        {shape, kAny, x.cview(), dy.cview(), dw.data(), dbias.data(), {}});
    EXPECT_TRUE(Close(dx, differences(x), {1e-11}));
    EXPECT_TRUE(Close(dw, differences(w), {1e-11}));
    EXPECT_TRUE(Close(dbias, differences(bias), {1e-11}));
  }
}

TEST(Conv2dDeathTest, WrongArgumentsStopTheProgram) {
  const Conv2dShape shape = Shape("n1c4h4w4k4r3s1p1");
  Context ctx(1);
  GuardedTensor<float> x(shape.input()), y(Shape4{1, 4, 4, 3});
  GuardedArray<float> w(shape.weight_count());
  Conv2dForwardArgs<float> args = {
      shape, Conv2dAlgorithm::kDirect, x.cview(), w.data(), nullptr, y.view(), {}};
  EXPECT_DEATH(Conv2dForward(args, ctx), "y is n1c3h4w4, not n1c4h4w4");
  GuardedTensor<float> y_right(shape.output());
  args.y = y_right.view();
  EXPECT_DEATH(Conv2dForward(args, ctx), "workspace");
  args.algorithm = Conv2dAlgorithm::kPointwise;
  EXPECT_DEATH(Conv2dForward(args, ctx), "pointwise does not do forward");

  const ParameterUpdate update = {SgdParams(), w.data(), w.data(), nullptr};
  Conv2dBackwardWeightsArgs<float> weights;
  weights.shape = shape;
  weights.x = x.cview();
  weights.dy = y_right.cview();
  weights.update = &update;
  EXPECT_DEATH(Conv2dBackwardWeights(weights, ctx), "direct applies no updates");
}

}  // namespace
}  // namespace classicnn
