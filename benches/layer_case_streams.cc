// The layers that move data more than they compute: normalization, pooling, elementwise, loss.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "benches/layer_case.h"
#include "core/check.h"
#include "core/random.h"
#include "layers/add/add.h"
#include "layers/avg_pool2d/avg_pool2d.h"
#include "layers/batch_norm2d/batch_norm2d.h"
#include "layers/concat/concat.h"
#include "layers/cross_entropy/cross_entropy.h"
#include "layers/dropout/dropout.h"
#include "layers/global_avg_pool2d/global_avg_pool2d.h"
#include "layers/max_pool2d/max_pool2d.h"
#include "layers/relu/relu.h"

namespace classicnn {
namespace {

constexpr MemoryCategory kActivations = MemoryCategory::kActivations;

class BatchNorm2dCase : public LayerCase {
 public:
  BatchNorm2dCase(const LayerShape& shape, LayerPass pass, Context& ctx)
      : LayerCase(shape, pass, ctx), forward_(pass == LayerPass::kForward) {
    const int64_t count = shape.tensor.size();
    const int64_t channels = shape.tensor.c;
    Request("x", &x_, count, kActivations);
    Request("gamma", &gamma_, channels, MemoryCategory::kWeights);
    Request("beta", &beta_, channels, MemoryCategory::kWeights);
    if (forward_) {
      RequestOutput("y", &y_, count, kActivations);
      RequestOutput("mean", &mean_, channels, kActivations);
      RequestOutput("inv_std", &inv_std_, channels, kActivations);
      // Read in inference, updated in training: an output that Rewind() gives its first values.
      RequestOutput("running_mean", &running_mean_, channels, MemoryCategory::kWeights);
      RequestOutput("running_var", &running_var_, channels, MemoryCategory::kWeights);
    } else {
      Request("dy", &dy_, count, kActivations);
      Request("mean", &mean_, channels, kActivations);
      Request("inv_std", &inv_std_, channels, kActivations);
      RequestOutput("dx", &y_, count, kActivations);
      RequestOutput("dgamma", &dgamma_, channels, MemoryCategory::kGradients);
      RequestOutput("dbeta", &dbeta_, channels, MemoryCategory::kGradients);
    }
    RequestWorkspace(BatchNorm2dWorkspaceBytes(shape.tensor, ctx.num_threads()));
  }

  void RunOptimized() override {
    if (forward_) {
      BatchNorm2dForward(ForwardArgs(), ctx_);
    } else {
      BatchNorm2dBackward(BackwardArgs(), ctx_);
    }
  }
  void RunNaive() override {
    if (forward_) {
      BatchNorm2dForwardNaive(ForwardArgs());
    } else {
      BatchNorm2dBackwardNaive(BackwardArgs());
    }
  }

 protected:
  void Fill() override {
    const Shape4& s = shape_.tensor;
    FillRandom("x", x_, s.size());
    FillRandom("gamma", gamma_, s.c);
    FillRandom("beta", beta_, s.c);
    for (int64_t c = 0; c < s.c; ++c) gamma_[c] = 1 + 0.25f * gamma_[c];
    if (forward_) return Rewind();
    FillRandom("dy", dy_, s.size());
    // What a forward pass would have left: the statistics that x was drawn with. (Any others would
    // do for the arithmetic of backward.)
    FillRandom("mean", mean_, s.c);
    FillRandom("inv_std", inv_std_, s.c);
    for (int64_t c = 0; c < s.c; ++c) {
      mean_[c] *= 0.01f;
      inv_std_[c] = 1 + 0.01f * inv_std_[c];
    }
  }
  void Rewind() override {
    if (!forward_) return;
    FillRandom("running_mean", running_mean_, shape_.tensor.c);
    FillRandom("running_var", running_var_, shape_.tensor.c);
    for (int64_t c = 0; c < shape_.tensor.c; ++c) running_var_[c] = 1 + 0.25f * running_var_[c];
  }

 private:
  BatchNorm2dForwardArgs<float> ForwardArgs() const {
    BatchNorm2dForwardArgs<float> args;
    args.x = ConstTensor(x_, shape_.tensor);
    args.gamma = gamma_;
    args.beta = beta_;
    args.y = Tensor(y_, shape_.tensor);
    args.training = shape_.training;
    args.running_mean = running_mean_;
    args.running_var = running_var_;
    args.mean = mean_;
    args.inv_std = inv_std_;
    args.workspace = workspace();
    return args;
  }
  BatchNorm2dBackwardArgs<float> BackwardArgs() const {
    BatchNorm2dBackwardArgs<float> args;
    args.x = ConstTensor(x_, shape_.tensor);
    args.dy = ConstTensor(dy_, shape_.tensor);
    args.gamma = gamma_;
    args.beta = beta_;
    args.mean = mean_;
    args.inv_std = inv_std_;
    args.training = shape_.training;
    args.dx = Tensor(y_, shape_.tensor);
    args.dgamma = dgamma_;
    args.dbeta = dbeta_;
    args.workspace = workspace();
    return args;
  }

  bool forward_;
  float *x_ = nullptr, *gamma_ = nullptr, *beta_ = nullptr, *y_ = nullptr, *dy_ = nullptr;
  float *mean_ = nullptr, *inv_std_ = nullptr, *running_mean_ = nullptr, *running_var_ = nullptr;
  float *dgamma_ = nullptr, *dbeta_ = nullptr;
};

// Layers with one input and one output of any two shapes: x -> y in forward, dy -> dx in backward.
class UnaryCase : public LayerCase {
 public:
  UnaryCase(const LayerShape& shape, LayerPass pass, const Shape4& x_shape, const Shape4& y_shape,
            Context& ctx)
      : LayerCase(shape, pass, ctx),
        forward_(pass == LayerPass::kForward),
        x_shape_(x_shape),
        y_shape_(y_shape) {
    if (forward_) {
      Request("x", &x_, x_shape_.size(), kActivations);
      RequestOutput("y", &y_, y_shape_.size(), kActivations);
    } else {
      Request("dy", &y_, y_shape_.size(), kActivations);
      RequestOutput("dx", &x_, x_shape_.size(), kActivations);
    }
  }

 protected:
  void Fill() override {
    if (forward_) {
      FillRandom("x", x_, x_shape_.size());
    } else {
      FillRandom("dy", y_, y_shape_.size());
    }
  }
  // x or dx, y or dy, by pass.
  Tensor x() const { return Tensor(x_, x_shape_); }
  Tensor y() const { return Tensor(y_, y_shape_); }
  ConstTensor cx() const { return x(); }
  ConstTensor cy() const { return y(); }

  bool forward_;
  Shape4 x_shape_, y_shape_;
  float *x_ = nullptr, *y_ = nullptr;
};

class ReluCase : public UnaryCase {
 public:
  ReluCase(const LayerShape& shape, LayerPass pass, Context& ctx)
      : UnaryCase(shape, pass, shape.tensor, shape.tensor, ctx) {
    if (!forward_) Request("y", &output_, shape.tensor.size(), kActivations);
  }
  void RunOptimized() override {
    if (forward_) return ReluForward(cx(), y(), ctx_);
    ReluBackward(output(), cy(), x(), /*accumulate=*/false, ctx_);
  }
  void RunNaive() override {
    if (forward_) return ReluForwardNaive<float>(cx(), y());
    ReluBackwardNaive<float>(output(), cy(), x(), /*accumulate=*/false);
  }

 protected:
  void Fill() override {
    UnaryCase::Fill();
    if (forward_) return;
    const int64_t count = shape_.tensor.size();
    FillRandom("y", output_, count);
    std::for_each(output_, output_ + count, [](float& v) { v = std::max(v, 0.0f); });
  }

 private:
  ConstTensor output() const { return ConstTensor(output_, shape_.tensor); }
  float* output_ = nullptr;  // what forward left
};

class MaxPool2dCase : public UnaryCase {
 public:
  MaxPool2dCase(const LayerShape& shape, LayerPass pass, Context& ctx)
      : UnaryCase(shape, pass, shape.pool.input, shape.pool.output(), ctx) {
    Request("argmax", &argmax_, (y_shape_.size() + 3) / 4, kActivations);
    if (!forward_) Request("x", &source_, x_shape_.size(), kActivations);
  }
  void RunOptimized() override {
    if (forward_) return MaxPool2dForward(shape_.pool.params, cx(), y(), argmax(), ctx_);
    MaxPool2dBackward(shape_.pool.params, cy(), argmax(), x(), /*accumulate=*/false, ctx_);
  }
  void RunNaive() override {
    if (forward_) {
      MaxPool2dForwardNaive<float>(shape_.pool.params, cx(), y(), argmax());
      return;
    }
    MaxPool2dBackwardNaive<float>(shape_.pool.params, cy(), argmax(), x(), /*accumulate=*/false);
  }

 protected:
  void Fill() override {
    UnaryCase::Fill();
    if (forward_) return;
    // Winners of a forward pass over random numbers.
    FillRandom("x", source_, x_shape_.size());
    std::vector<float> values(static_cast<size_t>(y_shape_.size()));
    MaxPool2dForward(shape_.pool.params, ConstTensor(source_, x_shape_),
                     Tensor(values.data(), y_shape_), argmax(), ctx_);
  }
  void SpoilMore() override {
    if (forward_) std::memset(argmax(), 0xff, static_cast<size_t>(y_shape_.size()));
  }
  absl::Status CheckMore() override {
    if (!forward_) return absl::OkStatus();
    std::vector<uint8_t> expected(static_cast<size_t>(y_shape_.size()));
    MaxPool2dForwardNaive<float>(shape_.pool.params, cx(), y(), expected.data());
    if (std::memcmp(argmax(), expected.data(), expected.size()) != 0) {
      return absl::FailedPreconditionError("argmax differs from the reference");
    }
    return absl::OkStatus();
  }

 private:
  uint8_t* argmax() const { return reinterpret_cast<uint8_t*>(argmax_); }
  float* argmax_ = nullptr;  // bytes
  float* source_ = nullptr;  // backward: what the winners were chosen from
};

class AvgPool2dCase : public UnaryCase {
 public:
  AvgPool2dCase(const LayerShape& shape, LayerPass pass, Context& ctx)
      : UnaryCase(shape, pass, shape.pool.input, shape.pool.output(), ctx) {}
  void RunOptimized() override {
    if (forward_) return AvgPool2dForward(shape_.pool.params, cx(), y(), ctx_);
    AvgPool2dBackward(shape_.pool.params, cy(), x(), /*accumulate=*/false, ctx_);
  }
  void RunNaive() override {
    if (forward_) return AvgPool2dForwardNaive<float>(shape_.pool.params, cx(), y());
    AvgPool2dBackwardNaive<float>(shape_.pool.params, cy(), x(), /*accumulate=*/false);
  }
};

class GlobalAvgPool2dCase : public UnaryCase {
 public:
  GlobalAvgPool2dCase(const LayerShape& shape, LayerPass pass, Context& ctx)
      : UnaryCase(shape, pass, shape.tensor, {shape.tensor.n, 1, 1, shape.tensor.c}, ctx) {}
  void RunOptimized() override {
    if (forward_) return GlobalAvgPool2dForward(cx(), y(), ctx_);
    GlobalAvgPool2dBackward(cy(), x(), /*accumulate=*/false, ctx_);
  }
  void RunNaive() override {
    if (forward_) return GlobalAvgPool2dForwardNaive<float>(cx(), y());
    GlobalAvgPool2dBackwardNaive<float>(cy(), x(), /*accumulate=*/false);
  }
};

class DropoutCase : public UnaryCase {
 public:
  DropoutCase(const LayerShape& shape, LayerPass pass, Context& ctx)
      : UnaryCase(shape, pass, shape.tensor, shape.tensor, ctx) {
    params_.p = 0.2f;  // GoogLeNet's; the cost does not depend on it
    params_.seed = kLayerCaseSeed;
    params_.stream = StreamId("dropout");
  }
  void RunOptimized() override {
    if (forward_) return DropoutForward(params_, cx(), y(), ctx_);
    DropoutBackward(params_, cy(), x(), /*accumulate=*/false, ctx_);
  }
  void RunNaive() override {
    if (forward_) return DropoutForwardNaive<float>(params_, cx(), y());
    DropoutBackwardNaive<float>(params_, cy(), x(), /*accumulate=*/false);
  }

 private:
  DropoutParams params_;
};

// Two inputs of one shape. Backward gives both their gradients.
class AddCase : public LayerCase {
 public:
  AddCase(const LayerShape& shape, LayerPass pass, Context& ctx)
      : LayerCase(shape, pass, ctx), forward_(pass == LayerPass::kForward) {
    const int64_t count = shape.tensor.size();
    if (forward_) {
      Request("x0", &x_[0], count, kActivations);
      Request("x1", &x_[1], count, kActivations);
      RequestOutput("y", &y_, count, kActivations);
    } else {
      Request("dy", &y_, count, kActivations);
      RequestOutput("dx0", &x_[0], count, kActivations);
      RequestOutput("dx1", &x_[1], count, kActivations);
    }
  }
  void RunOptimized() override {
    const Tensor y(y_, shape_.tensor);
    if (forward_) {
      const std::array<ConstTensor, 2> inputs = {x(0), x(1)};
      return AddForward(inputs, y, /*relu=*/false, ctx_);
    }
    for (size_t i = 0; i < 2; ++i) AddBackward(y, x(i), /*accumulate=*/false, ctx_);
  }
  void RunNaive() override {
    const Tensor y(y_, shape_.tensor);
    if (forward_) {
      const std::array<ConstTensor, 2> inputs = {x(0), x(1)};
      return AddForwardNaive<float>(inputs, y, /*relu=*/false);
    }
    for (size_t i = 0; i < 2; ++i) AddBackwardNaive<float>(y, x(i), /*accumulate=*/false);
  }

 protected:
  void Fill() override {
    if (!forward_) return FillRandom("dy", y_, shape_.tensor.size());
    FillRandom("x0", x_[0], shape_.tensor.size());
    FillRandom("x1", x_[1], shape_.tensor.size());
  }

 private:
  Tensor x(size_t i) const { return Tensor(x_[i], shape_.tensor); }

  bool forward_;
  std::array<float*, 2> x_{};
  float* y_ = nullptr;
};

class ConcatCase : public LayerCase {
 public:
  ConcatCase(const LayerShape& shape, LayerPass pass, Context& ctx)
      : LayerCase(shape, pass, ctx),
        forward_(pass == LayerPass::kForward),
        x_(shape.concat.channels.size()) {
    for (size_t i = 0; i < x_.size(); ++i) {
      names_.push_back(absl::StrCat(forward_ ? "x" : "dx", i));
    }
    for (size_t i = 0; i < x_.size(); ++i) {
      const int64_t count = shape.concat.input(i).size();
      if (forward_) {
        Request(names_[i].c_str(), &x_[i], count, kActivations);
      } else {
        RequestOutput(names_[i].c_str(), &x_[i], count, kActivations);
      }
    }
    const int64_t count = shape.concat.output().size();
    if (forward_) {
      RequestOutput("y", &y_, count, kActivations);
    } else {
      Request("dy", &y_, count, kActivations);
    }
  }
  void RunOptimized() override {
    const Tensor y(y_, shape_.concat.output());
    if (forward_) return ConcatForward(inputs_, y, ctx_);
    ConcatBackward(y, gradients_, /*accumulate=*/false, ctx_);
  }
  void RunNaive() override {
    const Tensor y(y_, shape_.concat.output());
    if (forward_) return ConcatForwardNaive<float>(inputs_, y);
    ConcatBackwardNaive<float>(y, gradients_, /*accumulate=*/false);
  }

 protected:
  void Fill() override {
    for (size_t i = 0; i < x_.size(); ++i) {
      const Shape4 shape = shape_.concat.input(i);
      inputs_.emplace_back(x_[i], shape);
      gradients_.emplace_back(x_[i], shape);
      if (forward_) FillRandom(absl::StrCat("x", i), x_[i], shape.size());
    }
    if (!forward_) FillRandom("dy", y_, shape_.concat.output().size());
  }

 private:
  bool forward_;
  std::vector<float*> x_;
  std::vector<std::string> names_;
  std::vector<ConstTensor> inputs_;
  std::vector<Tensor> gradients_;
  float* y_ = nullptr;
};

// Loss and gradient come out of one call, so that forward and backward are the same measurement.
class CrossEntropyCase : public LayerCase {
 public:
  CrossEntropyCase(const LayerShape& shape, LayerPass pass, Context& ctx)
      : LayerCase(shape, pass, ctx), n_(shape.linear.n), classes_(shape.linear.in_features) {
    Request("logits", &logits_, n_ * classes_, kActivations);
    Request("labels", &labels_, n_, kActivations);
    RequestOutput("loss", &loss_, 1, kActivations);
    RequestOutput("dlogits", &dlogits_, n_ * classes_, kActivations);
    RequestWorkspace(CrossEntropyWorkspaceBytes(n_, classes_));
  }
  void RunOptimized() override { CrossEntropy(Args(), ctx_); }
  void RunNaive() override { CrossEntropyNaive(Args()); }

 protected:
  void Fill() override {
    FillRandom("logits", logits_, n_ * classes_);
    const RandomStream random(kLayerCaseSeed, "labels");
    for (int64_t i = 0; i < n_; ++i) {
      labels()[i] = static_cast<int32_t>(
          random.Below(static_cast<uint64_t>(i), static_cast<uint64_t>(classes_)));
    }
  }

 private:
  int32_t* labels() const { return reinterpret_cast<int32_t*>(labels_); }
  CrossEntropyArgs<float> Args() const {
    CrossEntropyArgs<float> args;
    args.n = n_;
    args.classes = classes_;
    args.logits = logits_;
    args.logits_stride = classes_;
    args.labels = labels();
    args.loss = loss_;
    args.dlogits = dlogits_;
    args.dlogits_stride = classes_;
    args.workspace = workspace();
    return args;
  }

  int64_t n_, classes_;
  float *logits_ = nullptr, *labels_ = nullptr, *loss_ = nullptr, *dlogits_ = nullptr;
};

}  // namespace

std::unique_ptr<LayerCase> CreateStreamCase(const LayerShape& shape, LayerPass pass, Context& ctx) {
  switch (shape.kind) {
    case LayerKind::kBatchNorm2d:
      return std::make_unique<BatchNorm2dCase>(shape, pass, ctx);
    case LayerKind::kRelu:
      return std::make_unique<ReluCase>(shape, pass, ctx);
    case LayerKind::kMaxPool2d:
      return std::make_unique<MaxPool2dCase>(shape, pass, ctx);
    case LayerKind::kAvgPool2d:
      return std::make_unique<AvgPool2dCase>(shape, pass, ctx);
    case LayerKind::kGlobalAvgPool2d:
      return std::make_unique<GlobalAvgPool2dCase>(shape, pass, ctx);
    case LayerKind::kDropout:
      return std::make_unique<DropoutCase>(shape, pass, ctx);
    case LayerKind::kCrossEntropy:
      return std::make_unique<CrossEntropyCase>(shape, pass, ctx);
    case LayerKind::kAdd:
      return std::make_unique<AddCase>(shape, pass, ctx);
    case LayerKind::kConcat:
      return std::make_unique<ConcatCase>(shape, pass, ctx);
    case LayerKind::kConv2d:
    case LayerKind::kLinear:
      break;
  }
  CheckFailed(__FILE__, __LINE__, "the layer streams", LayerKindName(shape.kind));
}

}  // namespace classicnn
