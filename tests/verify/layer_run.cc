// One pass of one layer, reference or optimized: the same operands, laid out with guards around
// them, go to either.
#include <algorithm>
#include <cstring>
#include <list>

#include "absl/strings/str_cat.h"
#include "layers/add/add.h"
#include "layers/avg_pool2d/avg_pool2d.h"
#include "layers/batch_norm2d/batch_norm2d.h"
#include "layers/concat/concat.h"
#include "layers/cross_entropy/cross_entropy.h"
#include "layers/dropout/dropout.h"
#include "layers/global_avg_pool2d/global_avg_pool2d.h"
#include "layers/linear/linear.h"
#include "layers/max_pool2d/max_pool2d.h"
#include "layers/relu/relu.h"
#include "tests/testing/buffers.h"
#include "tests/verify/layer_problem.h"

namespace classicnn::verify {
namespace {

constexpr int64_t kStrideGap = 5;  // odd: no pixel but the first is aligned

// Runs a pass in T: optimized where `ctx` is given (T is then float), else the reference.
template <typename T>
class Runner {
 public:
  Runner(const LayerProblem& problem, const LayerRun& run, Context* ctx)
      : problem_(problem), run_(run), ctx_(ctx) {}

  Arrays Run() {
    const bool forward = run_.pass == LayerPass::kForward;
    switch (problem_.shape.kind) {
      case LayerKind::kConv2d:
        forward
            ? ConvForward()
            : (run_.pass == LayerPass::kBackwardData ? ConvBackwardData() : ConvBackwardWeights());
        break;
      case LayerKind::kLinear:
        forward ? LinearForwardPass()
                : (run_.pass == LayerPass::kBackwardData ? LinearBackwardDataPass()
                                                         : LinearBackwardWeightsPass());
        break;
      case LayerKind::kBatchNorm2d:
        BatchNormForward();
        if (!forward) {
          results_.clear();
          BatchNormBackward();
        }
        break;
      case LayerKind::kMaxPool2d:
        MaxPool(forward);
        break;
      case LayerKind::kCrossEntropy:
        Loss(forward);
        break;
      case LayerKind::kConcat:
        forward ? ConcatForwardPass() : ConcatBackwardPass();
        break;
      default:
        forward ? ElementwiseForward() : ElementwiseBackward();
    }
    return Finish();
  }

  const std::string& violation() const { return violation_; }

 private:
  using Guarded = GuardedTensor<T>;
  static constexpr bool kFloat = std::is_same_v<T, float>;  // optimized code knows no other type

  int64_t Stride(const Shape4& shape) const { return run_.strided ? shape.c + kStrideGap : 0; }
  bool accumulate() const { return run_.accumulate; }

  Guarded& New(const Shape4& shape, int64_t stride) {
    buffers_.emplace_back(shape, stride);
    return buffers_.back();
  }
  // An operand with a problem's values: a view.
  View<T> In(const std::string& name) {
    const Array& array = problem_.tensors.at(name);
    Guarded& buffer = New(array.shape, Stride(array.shape));
    buffer.CopyFrom(array.view());
    return buffer.view();
  }
  // The same as a dense array; null where the problem has no such tensor.
  T* Dense(const std::string& name) {
    const auto found = problem_.tensors.find(name);
    if (found == problem_.tensors.end()) return nullptr;
    Guarded& buffer = New(found->second.shape, 0);
    buffer.CopyFrom(found->second.view());
    return buffer.data();
  }
  struct Result {
    std::string name;
    View<T> view;
    bool accumulated;
  };
  // A result: full of NaNs, or where the pass accumulates into it of whole numbers.
  View<T> Out(const std::string& name, const Shape4& shape, bool accumulated = false) {
    Guarded& buffer = New(shape, Stride(shape));
    if (accumulated) buffer.ForEach([&](int64_t i) { return static_cast<T>(Before(i)); });
    return Keep(name, buffer.view(), accumulated);
  }
  T* DenseOut(const std::string& name, const Shape4& shape) {
    return Keep(name, New(shape, 0).view(), false).data;
  }
  View<T> Keep(const std::string& name, View<T> view, bool accumulated = false) {
    results_.push_back({name, view, accumulated});
    return view;
  }
  double Before(int64_t i) const {
    return run_.accumulate_scale * static_cast<double>(i * 7919 % 7 - 3);
  }
  Workspace Scratch(size_t bytes) {
    if (ctx_ == nullptr) return {};
    workspaces_.emplace_back(bytes);
    return workspaces_.back().get();
  }
  int threads() const { return ctx_->num_threads(); }

  Arrays Finish() {
    for (const Guarded& buffer : buffers_) Note(buffer.BrokenGuard());
    for (const GuardedWorkspace& workspace : workspaces_) {
      const std::string broken = workspace.BrokenGuard();
      if (!broken.empty()) Note(absl::StrCat("workspace ", broken));
    }
    Arrays arrays;
    for (const Result& result : results_) {
      Array array = ToArray(View<const T>(result.view));
      if (result.accumulated) {
        for (size_t i = 0; i < array.values.size(); ++i) {
          array.values[i] -= Before(static_cast<int64_t>(i));
        }
      }
      arrays[result.name] = std::move(array);
    }
    if (!argmax_.empty() && run_.pass == LayerPass::kForward) {
      const int64_t count = problem_.OutputShape().size();
      if (!std::all_of(argmax_.begin() + count, argmax_.end(),
                       [](uint8_t guard) { return guard == kArgmaxGuard; })) {
        Note("argmax written past its end");
      }
      arrays["argmax"] = ToArray(argmax_.data(), count);
      // A window whose first element wins is no reason for mistrust.
      for (double& v : arrays["argmax"].values) v += 1;
    }
    return arrays;
  }
  void Note(const std::string& violation) {
    if (violation_.empty()) violation_ = violation;
  }

  // Calls `optimized(args)` where there is a context (T is float), else `naive(args)`.
  template <typename Args, typename Optimized, typename Naive>
  void Call(Args& args, const Optimized& optimized, const Naive& naive) {
    if constexpr (kFloat) {
      if (ctx_ != nullptr) return optimized(args);
    }
    naive(args);
  }

  template <typename Args>
  void PrepareConv(Conv2dPass pass, Args* args) {
    args->shape = problem_.shape.conv2d;
    args->algorithm = run_.algorithm;
    if (ctx_ == nullptr) return;
    args->workspace = Scratch(Conv2dWorkspaceBytes(args->shape, pass, run_.algorithm, threads()));
  }
  void ConvForward() {
    Conv2dForwardArgs<T> args;
    PrepareConv(Conv2dPass::kForward, &args);
    args.x = In("input");
    args.weights = Dense("param.weight");
    args.bias = Dense("param.bias");
    args.y = Out("output", problem_.OutputShape());
    Call(
        args, [&](const auto& a) { Conv2dForward(a, *ctx_); },
        [](const auto& a) { Conv2dForwardNaive(a); });
  }
  void ConvBackwardData() {
    Conv2dBackwardDataArgs<T> args;
    PrepareConv(Conv2dPass::kBackwardData, &args);
    args.dy = In("grad_output");
    args.weights = Dense("param.weight");
    args.dx = Out("grad_input", problem_.InputShape(0), accumulate());
    args.accumulate = accumulate();
    Call(
        args, [&](const auto& a) { Conv2dBackwardData(a, *ctx_); },
        [](const auto& a) { Conv2dBackwardDataNaive(a); });
  }
  void ConvBackwardWeights() {
    Conv2dBackwardWeightsArgs<T> args;
    PrepareConv(Conv2dPass::kBackwardWeights, &args);
    args.x = In("input");
    args.dy = In("grad_output");
    args.dweights = DenseOut("grad.weight", problem_.tensors.at("param.weight").shape);
    if (problem_.Has("param.bias")) {
      args.dbias = DenseOut("grad.bias", problem_.tensors.at("param.bias").shape);
    }
    Call(
        args, [&](const auto& a) { Conv2dBackwardWeights(a, *ctx_); },
        [](const auto& a) { Conv2dBackwardWeightsNaive(a); });
  }

  template <typename Args>
  void PrepareLinear(LinearPass pass, Args* args) {
    args->shape = problem_.shape.linear;
    if (ctx_ != nullptr) {
      args->workspace = Scratch(LinearWorkspaceBytes(args->shape, pass, threads()));
    }
  }
  void LinearForwardPass() {
    LinearForwardArgs<T> args;
    PrepareLinear(LinearPass::kForward, &args);
    const View<T> x = In("input");
    args.x = x.data;
    args.x_stride = x.pixel_stride;
    args.weights = Dense("param.weight");
    args.bias = Dense("param.bias");
    const View<T> y = Out("output", problem_.OutputShape());
    args.y = y.data;
    args.y_stride = y.pixel_stride;
    Call(
        args, [&](const auto& a) { LinearForward(a, *ctx_); },
        [](const auto& a) { LinearForwardNaive(a); });
  }
  void LinearBackwardDataPass() {
    LinearBackwardDataArgs<T> args;
    PrepareLinear(LinearPass::kBackwardData, &args);
    const View<T> dy = In("grad_output");
    args.dy = dy.data;
    args.dy_stride = dy.pixel_stride;
    args.weights = Dense("param.weight");
    const View<T> dx = Out("grad_input", problem_.InputShape(0), accumulate());
    args.dx = dx.data;
    args.dx_stride = dx.pixel_stride;
    args.accumulate = accumulate();
    Call(
        args, [&](const auto& a) { LinearBackwardData(a, *ctx_); },
        [](const auto& a) { LinearBackwardDataNaive(a); });
  }
  void LinearBackwardWeightsPass() {
    LinearBackwardWeightsArgs<T> args;
    PrepareLinear(LinearPass::kBackwardWeights, &args);
    const View<T> x = In("input"), dy = In("grad_output");
    args.x = x.data;
    args.x_stride = x.pixel_stride;
    args.dy = dy.data;
    args.dy_stride = dy.pixel_stride;
    args.dweights = DenseOut("grad.weight", problem_.tensors.at("param.weight").shape);
    if (problem_.Has("param.bias")) {
      args.dbias = DenseOut("grad.bias", problem_.tensors.at("param.bias").shape);
    }
    Call(
        args, [&](const auto& a) { LinearBackwardWeights(a, *ctx_); },
        [](const auto& a) { LinearBackwardWeightsNaive(a); });
  }

  void BatchNormForward() {
    const Shape4 shape = problem_.shape.tensor, vector{1, 1, 1, shape.c};
    BatchNorm2dForwardArgs<T> args;
    const View<T> x = In("input");
    args.x = x;
    // In place only where no backward follows: that reads x.
    const bool in_place = run_.in_place && run_.pass == LayerPass::kForward;
    args.y = in_place ? Keep("output", x) : Out("output", shape);
    args.gamma = gamma_ = Dense("param.weight");
    args.beta = beta_ = Dense("param.bias");
    args.training = problem_.shape.training;
    args.relu = problem_.relu;
    args.eps = problem_.eps;
    args.momentum = problem_.momentum;
    args.running_mean = Dense("buffer.running_mean");
    args.running_var = Dense("buffer.running_var");
    Keep("buffer.running_mean", View<T>(args.running_mean, vector));
    Keep("buffer.running_var", View<T>(args.running_var, vector));
    args.mean = mean_ = DenseOut("saved_mean", vector);
    args.inv_std = inv_std_ = DenseOut("saved_inv_std", vector);
    x_ = x;
    if (ctx_ != nullptr) args.workspace = Scratch(BatchNorm2dWorkspaceBytes(shape, threads()));
    Call(
        args, [&](const auto& a) { BatchNorm2dForward(a, *ctx_); },
        [](const auto& a) { BatchNorm2dForwardNaive(a); });
  }
  void BatchNormBackward() {
    const Shape4 shape = problem_.shape.tensor, vector{1, 1, 1, shape.c};
    BatchNorm2dBackwardArgs<T> args;
    const View<T> dy = In("grad_output");
    args.x = x_;
    args.dy = dy;
    args.gamma = gamma_;
    args.beta = beta_;
    args.mean = mean_;
    args.inv_std = inv_std_;
    args.training = problem_.shape.training;
    args.relu = problem_.relu;
    args.accumulate = accumulate();
    const bool in_place = run_.in_place && !accumulate();
    args.dx = in_place ? Keep("grad_input", dy) : Out("grad_input", shape, accumulate());
    args.dgamma = DenseOut("grad.weight", vector);
    args.dbeta = DenseOut("grad.bias", vector);
    if (ctx_ != nullptr) args.workspace = Scratch(BatchNorm2dWorkspaceBytes(shape, threads()));
    Call(
        args, [&](const auto& a) { BatchNorm2dBackward(a, *ctx_); },
        [](const auto& a) { BatchNorm2dBackwardNaive(a); });
  }

  void MaxPool(bool forward) {
    const Pool2dParams& params = problem_.shape.pool.params;
    const Shape4 shape = problem_.OutputShape();
    argmax_.assign(static_cast<size_t>(shape.size()) + 64, kArgmaxGuard);
    const View<T> x = In("input");
    const View<T> y = Out("output", shape);
    Call(
        params, [&](const auto& p) { MaxPool2dForward(p, x, y, argmax_.data(), *ctx_); },
        [&](const auto& p) { MaxPool2dForwardNaive<T>(p, x, y, argmax_.data()); });
    if (forward) return;
    results_.clear();
    const View<T> dy = In("grad_output");
    const View<T> dx = Out("grad_input", problem_.InputShape(0), accumulate());
    Call(
        params,
        [&](const auto& p) { MaxPool2dBackward(p, dy, argmax_.data(), dx, accumulate(), *ctx_); },
        [&](const auto& p) { MaxPool2dBackwardNaive<T>(p, dy, argmax_.data(), dx, accumulate()); });
  }

  void Loss(bool forward) {
    CrossEntropyArgs<T> args;
    const View<T> logits = In("input");
    args.n = logits.n;
    args.classes = logits.c;
    args.logits = logits.data;
    args.logits_stride = logits.pixel_stride;
    args.labels = problem_.labels.data();
    args.label_smoothing = problem_.label_smoothing;
    args.loss = DenseOut("output", {1, 1, 1, 1});
    if (!forward) {
      results_.clear();
      const View<T> dlogits =
          run_.in_place ? Keep("grad_input", logits) : Out("grad_input", logits.shape());
      args.dlogits = dlogits.data;
      args.dlogits_stride = dlogits.pixel_stride;
    }
    if (ctx_ != nullptr) args.workspace = Scratch(CrossEntropyWorkspaceBytes(args.n, args.classes));
    Call(
        args, [&](const auto& a) { CrossEntropy(a, *ctx_); },
        [](const auto& a) { CrossEntropyNaive(a); });
  }

  void ConcatForwardPass() {
    std::vector<View<const T>> xs;
    for (int64_t i = 0; i < problem_.inputs(); ++i) xs.push_back(In(problem_.InputName(i)));
    const View<T> y = Out("output", problem_.OutputShape());
    Call(
        xs, [&](const auto& inputs) { ConcatForward(inputs, y, *ctx_); },
        [&](const auto& inputs) {
          ConcatForwardNaive<T>(absl::Span<const View<const T>>(inputs), y);
        });
  }
  void ConcatBackwardPass() {
    const View<T> dy = In("grad_output");
    std::vector<View<T>> dxs;
    for (int64_t i = 0; i < problem_.inputs(); ++i) {
      dxs.push_back(Out("grad_" + problem_.InputName(i), problem_.InputShape(i), accumulate()));
    }
    Call(
        dxs, [&](const auto& outputs) { ConcatBackward(dy, outputs, accumulate(), *ctx_); },
        [&](const auto& outputs) {
          ConcatBackwardNaive<T>(dy, absl::Span<const View<T>>(outputs), accumulate());
        });
  }

  // Layers that take views and little else.
  void ElementwiseForward() {
    std::vector<View<const T>> xs;
    for (int64_t i = 0; i < problem_.inputs(); ++i) xs.push_back(In(problem_.InputName(i)));
    const LayerKind kind = problem_.shape.kind;
    const bool may_alias = kind != LayerKind::kAvgPool2d && kind != LayerKind::kGlobalAvgPool2d;
    // Add may write to any of its inputs: the last one shows where it writes too early.
    const View<const T> last = xs.back();
    const View<T> y =
        run_.in_place && may_alias
            ? Keep("output", View<T>(const_cast<T*>(last.data), last.shape(), last.pixel_stride))
            : Out("output", problem_.OutputShape());
    const View<const T> x = xs[0];
    const Pool2dParams& pool = problem_.shape.pool.params;
    const auto optimized = [&](const auto& inputs) {
      if constexpr (kFloat) {
        switch (kind) {
          case LayerKind::kRelu:
            return ReluForward(x, y, *ctx_);
          case LayerKind::kAvgPool2d:
            return AvgPool2dForward(pool, x, y, *ctx_);
          case LayerKind::kGlobalAvgPool2d:
            return GlobalAvgPool2dForward(x, y, *ctx_);
          case LayerKind::kDropout:
            return DropoutForward(problem_.dropout, x, y, *ctx_);
          default:
            return AddForward(inputs, y, problem_.relu, *ctx_);
        }
      }
    };
    Call(xs, optimized, [&](const auto& inputs) {
      switch (kind) {
        case LayerKind::kRelu:
          return ReluForwardNaive<T>(x, y);
        case LayerKind::kAvgPool2d:
          return AvgPool2dForwardNaive<T>(pool, x, y);
        case LayerKind::kGlobalAvgPool2d:
          return GlobalAvgPool2dForwardNaive<T>(x, y);
        case LayerKind::kDropout:
          return DropoutForwardNaive<T>(problem_.dropout, x, y);
        default:
          return AddForwardNaive<T>(absl::Span<const View<const T>>(inputs), y, problem_.relu);
      }
    });
  }
  void ElementwiseBackward() {
    const LayerKind kind = problem_.shape.kind;
    const View<T> dy = In("grad_output");
    const bool may_alias = kind == LayerKind::kRelu || kind == LayerKind::kDropout;
    const bool in_place = run_.in_place && may_alias && !accumulate();
    // ReLU's backward takes its mask from the output, which here has the signs of the input.
    const View<T> y = kind == LayerKind::kRelu ? In("input") : View<T>();
    for (int64_t i = 0; i < problem_.inputs(); ++i) {
      const std::string name = "grad_" + problem_.InputName(i);
      const View<T> dx =
          in_place ? Keep(name, dy) : Out(name, problem_.InputShape(i), accumulate());
      BackwardInto(dy, y, dx);
    }
  }
  void BackwardInto(View<const T> dy, View<const T> y, View<T> dx) {
    const LayerKind kind = problem_.shape.kind;
    const Pool2dParams& pool = problem_.shape.pool.params;
    const auto optimized = [&](const auto& out) {
      if constexpr (kFloat) {
        switch (kind) {
          case LayerKind::kRelu:
            return ReluBackward(y, dy, out, accumulate(), *ctx_);
          case LayerKind::kAvgPool2d:
            return AvgPool2dBackward(pool, dy, out, accumulate(), *ctx_);
          case LayerKind::kGlobalAvgPool2d:
            return GlobalAvgPool2dBackward(dy, out, accumulate(), *ctx_);
          case LayerKind::kDropout:
            return DropoutBackward(problem_.dropout, dy, out, accumulate(), *ctx_);
          default:
            return AddBackward(dy, out, accumulate(), *ctx_);
        }
      }
    };
    Call(dx, optimized, [&](const View<T>& out) {
      switch (kind) {
        case LayerKind::kRelu:
          return ReluBackwardNaive<T>(y, dy, out, accumulate());
        case LayerKind::kAvgPool2d:
          return AvgPool2dBackwardNaive<T>(pool, dy, out, accumulate());
        case LayerKind::kGlobalAvgPool2d:
          return GlobalAvgPool2dBackwardNaive<T>(dy, out, accumulate());
        case LayerKind::kDropout:
          return DropoutBackwardNaive<T>(problem_.dropout, dy, out, accumulate());
        default:
          return AddBackwardNaive<T>(dy, out, accumulate());
      }
    });
  }

  static constexpr uint8_t kArgmaxGuard = 0xEE;

  const LayerProblem& problem_;
  const LayerRun& run_;
  Context* ctx_;
  std::list<Guarded> buffers_;
  std::list<GuardedWorkspace> workspaces_;
  std::vector<Result> results_;
  std::vector<uint8_t> argmax_;
  // Of batch norm, from forward to backward.
  View<T> x_;
  T *gamma_ = nullptr, *beta_ = nullptr, *mean_ = nullptr, *inv_std_ = nullptr;
  std::string violation_;
};

}  // namespace

template <typename T>
Arrays RunReference(const LayerProblem& problem, LayerPass pass) {
  LayerRun run;
  run.pass = pass;
  return Runner<T>(problem, run, nullptr).Run();
}
template Arrays RunReference<float>(const LayerProblem&, LayerPass);
template Arrays RunReference<double>(const LayerProblem&, LayerPass);

Arrays RunOptimized(const LayerProblem& problem, const LayerRun& run, Context& ctx,
                    std::string* violation) {
  Runner<float> runner(problem, run, &ctx);
  Arrays arrays = runner.Run();
  if (!runner.violation().empty()) *violation = runner.violation();
  return arrays;
}

}  // namespace classicnn::verify
