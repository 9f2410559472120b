// Convolutions, plain and with the prologues and epilogues of a fused plan.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "benches/layer_case.h"
#include "core/check.h"
#include "core/random.h"
#include "layers/conv2d/conv2d.h"
#include "layers/fusion_passes.h"

namespace classicnn {
namespace {

// Arrays of channels.
struct ActivationArrays {
  float* scale = nullptr;
  float* shift = nullptr;
};
struct GradientArrays {
  float* gain = nullptr;
  float* slope = nullptr;
  float* offset = nullptr;
};

// A convolution has three tensors, and each pass computes one of them from the other two: y in
// forward, the gradient in the place of x, or that in the place of the weights.
class Conv2dCase : public LayerCase {
 public:
  Conv2dCase(const LayerShape& shape, LayerPass pass, Conv2dAlgorithm algorithm, bool fused,
             Context& ctx)
      : LayerCase(shape, pass, ctx), conv_(shape.conv2d), algorithm_(algorithm), fused_(fused) {
    if (fused) ChooseFusion();
    const int64_t x_count = conv_.input().size();
    const int64_t y_count = conv_.output().size();
    if (pass == LayerPass::kBackwardData) {
      RequestOutput("dx", &x_, x_count, MemoryCategory::kActivations);
    } else {
      Request("x", &x_, x_count, MemoryCategory::kActivations);
    }
    if (pass == LayerPass::kBackwardWeights) {
      RequestOutput("dweights", &weights_, conv_.weight_count(), MemoryCategory::kGradients);
    } else {
      Request("weights", &weights_, conv_.weight_count(), MemoryCategory::kWeights);
    }
    if (pass == LayerPass::kForward) {
      RequestOutput("y", &y_, y_count, MemoryCategory::kActivations);
    } else {
      Request("dy", &y_, y_count, MemoryCategory::kActivations);
    }
    RequestFusion();
    RequestWorkspace(
        Conv2dWorkspaceBytes(conv_, Conv2dPassOf(pass), algorithm, ctx.num_threads(), fusion_));
  }

  std::string algorithm() const override { return Conv2dAlgorithmName(algorithm_); }
  int64_t executed_macs() const override {
    return Conv2dExecutedMacs(conv_, Conv2dPassOf(pass_), algorithm_);
  }
  double error_bound() const override { return IsWinograd(algorithm_) ? 5e-4 : 1e-4; }

  bool fused() const override { return fused_; }
  int64_t fused_traffic() const override {
    return (fusion_.gradient ? conv_.output().size() : 0) +
           (fusion_.gradient_epilogue ? conv_.input().size() : 0);
  }
  std::vector<std::string> unfused() const override {
    const Conv2dFusion done = Conv2dFuses(conv_, Conv2dPassOf(pass_), algorithm_, fusion_);
    std::vector<std::string> names;
    if (fusion_.activation && !done.activation) names.push_back("activation");
    if (fusion_.gradient && !done.gradient) names.push_back("gradient");
    if (fusion_.statistics && !done.statistics) names.push_back("statistics");
    if (fusion_.gradient_epilogue && !done.gradient_epilogue) names.push_back("gradient_epilogue");
    return names;
  }

  void RunOptimized() override {
    switch (pass_) {
      case LayerPass::kForward: {
        Conv2dForwardArgs<float> args = ForwardArgs();
        args.activation = Activation();
        args.statistics = Statistics();
        return Conv2dForward(args, ctx_);
      }
      case LayerPass::kBackwardData: {
        Conv2dBackwardDataArgs<float> args = BackwardDataArgs();
        args.gradient = Gradient();
        args.epilogue = Epilogue();
        return Conv2dBackwardData(args, ctx_);
      }
      default: {
        Conv2dBackwardWeightsArgs<float> args = BackwardWeightsArgs();
        args.activation = Activation();
        args.gradient = Gradient();
        return Conv2dBackwardWeights(args, ctx_);
      }
    }
  }

  // The references one after the other.
  void RunNaive() override {
    std::vector<float> activated, gradient;
    switch (pass_) {
      case LayerPass::kForward: {
        Conv2dForwardArgs<float> args = ForwardArgs();
        args.x = Activate(args.x, &activated);
        Conv2dForwardNaive(args);
        if (Statistics().active()) StatisticsPassNaive<float>(Statistics(), args.y);
        return;
      }
      case LayerPass::kBackwardData: {
        Conv2dBackwardDataArgs<float> args = BackwardDataArgs();
        args.dy = MakeGradient(args.dy, &gradient);
        Conv2dBackwardDataNaive(args);
        if (Epilogue().active()) GradientEpiloguePassNaive<float>(Epilogue(), args.dx, args.dx);
        return;
      }
      default: {
        Conv2dBackwardWeightsArgs<float> args = BackwardWeightsArgs();
        args.x = Activate(args.x, &activated);
        args.dy = MakeGradient(args.dy, &gradient);
        return Conv2dBackwardWeightsNaive(args);
      }
    }
  }

 protected:
  void Fill() override {
    if (pass_ != LayerPass::kBackwardData) FillRandom("x", x_, conv_.input().size());
    if (pass_ != LayerPass::kForward) FillRandom("dy", y_, conv_.output().size());
    if (pass_ != LayerPass::kBackwardWeights) {
      FillRandom("weights", weights_, conv_.weight_count());
      // The variance of an output is then about one.
      const auto terms = static_cast<double>(conv_.weight_count() / conv_.out_channels);
      const auto scale = static_cast<float>(1 / std::sqrt(terms));
      std::for_each(weights_, weights_ + conv_.weight_count(), [scale](float& w) { w *= scale; });
    }
    FillFusion();
  }

 private:
  void ChooseFusion() {
    const bool forward = pass_ == LayerPass::kForward;
    fusion_.activation = pass_ != LayerPass::kBackwardData;
    fusion_.gradient = !forward;
    // A single number has a variance of zero, which no relative error can be held against.
    fusion_.statistics = forward && conv_.output().pixels() > 1;
    fusion_.gradient_epilogue = pass_ == LayerPass::kBackwardData;
  }

  void RequestFusion() {
    const int64_t c = conv_.in_channels;
    const int64_t k = conv_.out_channels;
    constexpr auto kArrays = MemoryCategory::kActivations;
    if (fusion_.activation || fusion_.gradient_epilogue) {
      Request("scale", &input_.scale, c, kArrays);
      Request("shift", &input_.shift, c, kArrays);
    }
    if (fusion_.gradient) {
      Request("dy_x", &dy_x_, conv_.output().size(), kArrays);
      Request("gain", &output_.gain, k, kArrays);
      Request("slope", &output_.slope, k, kArrays);
      Request("offset", &output_.offset, k, kArrays);
    }
    if (fusion_.statistics) {
      RequestOutput("mean", &mean_, k, kArrays);
      RequestOutput("var", &var_, k, kArrays);
    }
    if (fusion_.gradient_epilogue) {
      Request("dx_x", &dx_x_, conv_.input().size(), kArrays);
      Request("dx_mean", &dx_mean_, c, kArrays);
      RequestOutput("sum_g", &sum_g_, c, kArrays);
      RequestOutput("sum_gx", &sum_gx_, c, kArrays);
    }
  }

  void FillFusion() {
    const int64_t c = conv_.in_channels;
    const int64_t k = conv_.out_channels;
    if (input_.scale != nullptr) {
      // Powers of two, so that x * scale + shift is rounded once and has one sign, whether or not
      // it is a fused multiply-add: a mask is all or nothing.
      constexpr float kScales[] = {0.5f, 1.0f, -1.0f, 2.0f};
      const RandomStream stream(kLayerCaseSeed, "scale");
      for (int64_t i = 0; i < c; ++i) {
        input_.scale[i] = kScales[stream.Below(static_cast<uint64_t>(i), 4)];
      }
      FillRandom("shift", input_.shift, c);
    }
    if (fusion_.gradient) {
      FillRandom("dy_x", dy_x_, conv_.output().size());
      FillRandom("gain", output_.gain, k);
      FillRandom("slope", output_.slope, k);
      FillRandom("offset", output_.offset, k);
    }
    if (fusion_.gradient_epilogue) {
      FillRandom("dx_x", dx_x_, conv_.input().size());
      FillRandom("dx_mean", dx_mean_, c);
    }
  }

  ActivationPrologue<float> Activation() const {
    if (!fusion_.activation) return {};
    return {input_.scale, input_.shift, /*relu=*/true};
  }
  GradientPrologue<float> Gradient() const {
    if (!fusion_.gradient) return {};
    return {ConstTensor(dy_x_, conv_.output()), output_.gain, output_.slope, output_.offset};
  }
  StatisticsEpilogue<float> Statistics() const { return {mean_, var_}; }
  GradientEpilogue<float> Epilogue() const {
    GradientEpilogue<float> epilogue;
    if (!fusion_.gradient_epilogue) return epilogue;
    epilogue.x = ConstTensor(dx_x_, conv_.input());
    epilogue.scale = input_.scale;
    epilogue.shift = input_.shift;
    epilogue.relu = true;
    epilogue.mean = dx_mean_;
    epilogue.sum_g = sum_g_;
    epilogue.sum_gx = sum_gx_;
    return epilogue;
  }

  ConstTensor Activate(const ConstTensor& x, std::vector<float>* copy) const {
    if (!fusion_.activation) return x;
    copy->resize(static_cast<size_t>(x.size()));
    const Tensor to(copy->data(), x.shape());
    ActivationPassNaive<float>(Activation(), x, to);
    return to;
  }
  ConstTensor MakeGradient(const ConstTensor& dy, std::vector<float>* copy) const {
    if (!fusion_.gradient) return dy;
    copy->resize(static_cast<size_t>(dy.size()));
    const Tensor to(copy->data(), dy.shape());
    GradientPassNaive<float>(Gradient(), dy, to);
    return to;
  }

  // The three tensors alone.
  Conv2dForwardArgs<float> ForwardArgs() const {
    Conv2dForwardArgs<float> args;
    args.shape = conv_;
    args.algorithm = algorithm_;
    args.x = ConstTensor(x_, conv_.input());
    args.weights = weights_;
    args.y = Tensor(y_, conv_.output());
    args.workspace = workspace();
    return args;
  }
  Conv2dBackwardDataArgs<float> BackwardDataArgs() const {
    Conv2dBackwardDataArgs<float> args;
    args.shape = conv_;
    args.algorithm = algorithm_;
    args.dy = ConstTensor(y_, conv_.output());
    args.weights = weights_;
    args.dx = Tensor(x_, conv_.input());
    args.workspace = workspace();
    return args;
  }
  Conv2dBackwardWeightsArgs<float> BackwardWeightsArgs() const {
    Conv2dBackwardWeightsArgs<float> args;
    args.shape = conv_;
    args.algorithm = algorithm_;
    args.x = ConstTensor(x_, conv_.input());
    args.dy = ConstTensor(y_, conv_.output());
    args.dweights = weights_;
    args.workspace = workspace();
    return args;
  }

  Conv2dShape conv_;
  Conv2dAlgorithm algorithm_;
  bool fused_;
  Conv2dFusion fusion_;  // what a fused call of this pass has; nothing in a plain one
  float* x_ = nullptr;
  float* weights_ = nullptr;
  float* y_ = nullptr;
  ActivationArrays input_;  // of the batch norm before x
  GradientArrays output_;   // of the one behind y
  float* dy_x_ = nullptr;   // its input
  float* mean_ = nullptr;   // statistics of y
  float* var_ = nullptr;
  float* dx_x_ = nullptr;  // input of the batch norm before x, when x's gradient is computed
  float* dx_mean_ = nullptr;
  float* sum_g_ = nullptr;
  float* sum_gx_ = nullptr;
};

}  // namespace

Conv2dPass Conv2dPassOf(LayerPass pass) {
  if (pass == LayerPass::kForward) return Conv2dPass::kForward;
  return pass == LayerPass::kBackwardData ? Conv2dPass::kBackwardData
                                          : Conv2dPass::kBackwardWeights;
}

absl::StatusOr<Conv2dAlgorithm> ChooseConv2dAlgorithm(const Conv2dShape& shape, LayerPass pass,
                                                      const LayerCaseOptions& options) {
  const std::vector<Conv2dAlgorithm> usable = Conv2dAlgorithms(shape, Conv2dPassOf(pass));
  CNN_CHECK(!usable.empty(), "no algorithm does ", LayerPassName(pass), " of ", shape.ToString());
  if (!options.algorithm.has_value()) return usable.front();
  if (std::find(usable.begin(), usable.end(), *options.algorithm) == usable.end()) {
    std::vector<std::string> names;
    for (const Conv2dAlgorithm algorithm : usable) names.push_back(Conv2dAlgorithmName(algorithm));
    return absl::InvalidArgumentError(absl::StrCat(
        "algorithm ", Conv2dAlgorithmName(*options.algorithm), " does not do ", LayerPassName(pass),
        " of ", shape.ToString(), "; there are ", absl::StrJoin(names, ", ")));
  }
  return *options.algorithm;
}

absl::StatusOr<std::unique_ptr<LayerCase>> CreateConv2dCase(const LayerShape& shape, LayerPass pass,
                                                            const LayerCaseOptions& options,
                                                            Context& ctx) {
  const absl::StatusOr<Conv2dAlgorithm> algorithm =
      ChooseConv2dAlgorithm(shape.conv2d, pass, options);
  if (!algorithm.ok()) return algorithm.status();
  return std::unique_ptr<LayerCase>(
      std::make_unique<Conv2dCase>(shape, pass, *algorithm, options.fused, ctx));
}

}  // namespace classicnn
