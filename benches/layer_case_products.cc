// Convolution and linear: the layers that multiply.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "benches/layer_case.h"
#include "core/check.h"
#include "layers/conv2d/conv2d.h"
#include "layers/linear/linear.h"

namespace classicnn {
namespace {

Conv2dPass Conv2dPassOf(LayerPass pass) {
  if (pass == LayerPass::kForward) return Conv2dPass::kForward;
  return pass == LayerPass::kBackwardData ? Conv2dPass::kBackwardData
                                          : Conv2dPass::kBackwardWeights;
}

LinearPass LinearPassOf(LayerPass pass) {
  if (pass == LayerPass::kForward) return LinearPass::kForward;
  return pass == LayerPass::kBackwardData ? LinearPass::kBackwardData
                                          : LinearPass::kBackwardWeights;
}

// A convolution has three tensors, and each pass computes one of them from the other two: y in
// forward, the gradient in the place of x, or that in the place of the weights.
class Conv2dCase : public LayerCase {
 public:
  Conv2dCase(const LayerShape& shape, LayerPass pass, Conv2dAlgorithm algorithm, Context& ctx)
      : LayerCase(shape, pass, ctx), conv_(shape.conv2d), algorithm_(algorithm) {
    const bool weights_are_output = pass == LayerPass::kBackwardWeights;
    const int64_t x_count = conv_.input().size();
    const int64_t y_count = conv_.output().size();
    if (pass == LayerPass::kBackwardData) {
      RequestOutput("dx", &x_, x_count, MemoryCategory::kActivations);
    } else {
      Request("x", &x_, x_count, MemoryCategory::kActivations);
    }
    if (weights_are_output) {
      RequestOutput("dweights", &weights_, conv_.weight_count(), MemoryCategory::kGradients);
    } else {
      Request("weights", &weights_, conv_.weight_count(), MemoryCategory::kWeights);
    }
    if (pass == LayerPass::kForward) {
      RequestOutput("y", &y_, y_count, MemoryCategory::kActivations);
    } else {
      Request("dy", &y_, y_count, MemoryCategory::kActivations);
    }
    RequestWorkspace(Conv2dWorkspaceBytes(conv_, Conv2dPassOf(pass), algorithm, ctx.num_threads()));
  }

  std::string algorithm() const override { return Conv2dAlgorithmName(algorithm_); }
  int64_t executed_macs() const override {
    return Conv2dExecutedMacs(conv_, Conv2dPassOf(pass_), algorithm_);
  }
  double error_bound() const override { return IsWinograd(algorithm_) ? 5e-4 : 1e-4; }

  void RunOptimized() override {
    switch (pass_) {
      case LayerPass::kForward:
        return Conv2dForward(ForwardArgs(), ctx_);
      case LayerPass::kBackwardData:
        return Conv2dBackwardData(BackwardDataArgs(), ctx_);
      default:
        return Conv2dBackwardWeights(BackwardWeightsArgs(), ctx_);
    }
  }
  void RunNaive() override {
    switch (pass_) {
      case LayerPass::kForward:
        return Conv2dForwardNaive(ForwardArgs());
      case LayerPass::kBackwardData:
        return Conv2dBackwardDataNaive(BackwardDataArgs());
      default:
        return Conv2dBackwardWeightsNaive(BackwardWeightsArgs());
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
  }

 private:
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
  float* x_ = nullptr;
  float* weights_ = nullptr;
  float* y_ = nullptr;
};

class LinearCase : public LayerCase {
 public:
  LinearCase(const LayerShape& shape, LayerPass pass, Context& ctx)
      : LayerCase(shape, pass, ctx), linear_(shape.linear) {
    const int64_t x_count = linear_.n * linear_.in_features;
    const int64_t y_count = linear_.n * linear_.out_features;
    if (pass == LayerPass::kBackwardData) {
      RequestOutput("dx", &x_, x_count, MemoryCategory::kActivations);
    } else {
      Request("x", &x_, x_count, MemoryCategory::kActivations);
    }
    if (pass == LayerPass::kBackwardWeights) {
      RequestOutput("dweights", &weights_, linear_.weight_count(), MemoryCategory::kGradients);
      RequestOutput("dbias", &bias_, linear_.out_features, MemoryCategory::kGradients);
    } else {
      Request("weights", &weights_, linear_.weight_count(), MemoryCategory::kWeights);
      Request("bias", &bias_, linear_.out_features, MemoryCategory::kWeights);
    }
    if (pass == LayerPass::kForward) {
      RequestOutput("y", &y_, y_count, MemoryCategory::kActivations);
    } else {
      Request("dy", &y_, y_count, MemoryCategory::kActivations);
    }
    RequestWorkspace(LinearWorkspaceBytes(linear_, LinearPassOf(pass), ctx.num_threads()));
  }

  void RunOptimized() override {
    switch (pass_) {
      case LayerPass::kForward:
        return LinearForward(ForwardArgs(), ctx_);
      case LayerPass::kBackwardData:
        return LinearBackwardData(BackwardDataArgs(), ctx_);
      default:
        return LinearBackwardWeights(BackwardWeightsArgs(), ctx_);
    }
  }
  void RunNaive() override {
    switch (pass_) {
      case LayerPass::kForward:
        return LinearForwardNaive(ForwardArgs());
      case LayerPass::kBackwardData:
        return LinearBackwardDataNaive(BackwardDataArgs());
      default:
        return LinearBackwardWeightsNaive(BackwardWeightsArgs());
    }
  }

 protected:
  void Fill() override {
    if (pass_ != LayerPass::kBackwardData) {
      FillRandom("x", x_, linear_.n * linear_.in_features);
    }
    if (pass_ != LayerPass::kForward) FillRandom("dy", y_, linear_.n * linear_.out_features);
    if (pass_ != LayerPass::kBackwardWeights) {
      FillRandom("weights", weights_, linear_.weight_count());
      FillRandom("bias", bias_, linear_.out_features);
      const auto scale =
          static_cast<float>(1 / std::sqrt(static_cast<double>(linear_.in_features)));
      std::for_each(weights_, weights_ + linear_.weight_count(), [scale](float& w) { w *= scale; });
    }
  }

 private:
  LinearForwardArgs<float> ForwardArgs() const {
    LinearForwardArgs<float> args;
    args.shape = linear_;
    args.x = x_;
    args.x_stride = linear_.in_features;
    args.weights = weights_;
    args.bias = bias_;
    args.y = y_;
    args.y_stride = linear_.out_features;
    args.workspace = workspace();
    return args;
  }
  LinearBackwardDataArgs<float> BackwardDataArgs() const {
    LinearBackwardDataArgs<float> args;
    args.shape = linear_;
    args.dy = y_;
    args.dy_stride = linear_.out_features;
    args.weights = weights_;
    args.dx = x_;
    args.dx_stride = linear_.in_features;
    args.workspace = workspace();
    return args;
  }
  LinearBackwardWeightsArgs<float> BackwardWeightsArgs() const {
    LinearBackwardWeightsArgs<float> args;
    args.shape = linear_;
    args.x = x_;
    args.x_stride = linear_.in_features;
    args.dy = y_;
    args.dy_stride = linear_.out_features;
    args.dweights = weights_;
    args.dbias = bias_;
    args.workspace = workspace();
    return args;
  }

  LinearShape linear_;
  float* x_ = nullptr;
  float* weights_ = nullptr;
  float* bias_ = nullptr;
  float* y_ = nullptr;
};

}  // namespace

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

absl::StatusOr<std::unique_ptr<LayerCase>> CreateProductCase(const LayerShape& shape,
                                                             LayerPass pass,
                                                             const LayerCaseOptions& options,
                                                             Context& ctx) {
  if (shape.kind == LayerKind::kLinear) {
    return std::unique_ptr<LayerCase>(std::make_unique<LinearCase>(shape, pass, ctx));
  }
  const absl::StatusOr<Conv2dAlgorithm> algorithm =
      ChooseConv2dAlgorithm(shape.conv2d, pass, options);
  if (!algorithm.ok()) return algorithm.status();
  return std::unique_ptr<LayerCase>(std::make_unique<Conv2dCase>(shape, pass, *algorithm, ctx));
}

}  // namespace classicnn
