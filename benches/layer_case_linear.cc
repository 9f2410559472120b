// Linear layers.
#include <algorithm>
#include <cmath>
#include <memory>

#include "benches/layer_case.h"
#include "layers/linear/linear.h"

namespace classicnn {
namespace {

LinearPass LinearPassOf(LayerPass pass) {
  if (pass == LayerPass::kForward) return LinearPass::kForward;
  return pass == LayerPass::kBackwardData ? LinearPass::kBackwardData
                                          : LinearPass::kBackwardWeights;
}

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

std::unique_ptr<LayerCase> CreateLinearCase(const LayerShape& shape, LayerPass pass, Context& ctx) {
  return std::make_unique<LinearCase>(shape, pass, ctx);
}

}  // namespace classicnn
