// "Teacher forcing": each step of a plan runs by itself on what the reference computed up to there,
// so that an error shows in the step that makes it and in no other.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "layers/batch_norm2d/batch_norm2d.h"
#include "tests/verify/layer_checks.h"
#include "tests/verify/model_checks.h"

namespace classicnn::verify {
namespace {

class NodeByNode {
 public:
  NodeByNode(const ModelCase& c, ReferenceModel<double>& reference, const PlanOptions& options,
             OptimizedThreads& optimized)
      : case_(c),
        graph_(c.graph),
        reference_(reference),
        state_(CloneState(c.graph, *c.state)),
        optimized_(optimized) {
    absl::StatusOr<Plan> plan = MakePlan(graph_, options);
    CNN_CHECK(plan.ok(), plan.status().ToString());
    auto executor = Executor::Create(graph_, *std::move(plan), state_.get(), optimized.context());
    CNN_CHECK(executor.ok(), executor.status().ToString());
    executor_ = *std::move(executor);
    executor_->SetDropoutPosition(c.dropout_seed, 5);
    UpdateParams update;
    update.sgd = kSgd;
    executor_->SetUpdate(update);
  }

  size_t steps() const { return executor_->plan().steps.size(); }
  const Step& step(size_t i) const { return executor_->plan().steps[i]; }

  // `row` comes with its bound; outcomes are merged into it.
  void Check(size_t index, Row* row) {
    const Step& s = step(index);
    // Outputs first: one may lie where an input does, whose values then count.
    Prefill(s);
    CopyInputs(s);
    const std::vector<float> gaps = Gaps(s);
    optimized_.Run([&](Context&) { executor_->RunStep(static_cast<int>(index)); });
    const std::vector<float> gaps_after = Gaps(s);
    if (!gaps.empty() &&
        std::memcmp(gaps.data(), gaps_after.data(), gaps.size() * sizeof(float)) != 0) {
      Fail("memory", "written between the pixels of an output", row);
    }
    Compare(s, row);
  }

 private:
  static constexpr SgdParams kSgd{0.1, 0.9, 5e-4, false};

  float* Floats(const Operand& o) const { return reinterpret_cast<float*>(executor_->data(o)); }
  static bool Forward(const Step& s) { return s.phase == Phase::kForward; }

  static void FillNan(float* to, int64_t count) {
    std::fill_n(to, count, std::numeric_limits<float>::quiet_NaN());
  }
  // What an accumulating step finds: whole numbers times a power of two near its own contribution.
  static double Before(double scale, int64_t i) {
    return scale * static_cast<double>(i * 7919 % 7 - 3);
  }
  static double Scale(const Array& a) {
    double squares = 0;
    for (const double v : a.values) squares += v * v;
    const double rms = std::sqrt(squares / static_cast<double>(a.values.size()));
    return rms > 0 && std::isfinite(rms) ? std::exp2(std::floor(std::log2(rms))) : 1;
  }

  void Prefill(const Step& s) {
    expected_gradient_ = Array();
    masked_dy_ = Array();
    if (s.kind == StepKind::kBatchNorm2dBackward && s.fused_relu != kNoNode) MaskKinks(s);
    for (const Operand& o : s.outputs) {
      if (!o.valid()) continue;
      const Tensor view = executor_->view(o);
      const double scale = s.accumulate ? Scale(ExpectedOutput(s, o)) : 0;
      for (int64_t p = 0, i = 0; p < view.pixels(); ++p) {
        for (int64_t c = 0; c < view.c; ++c, ++i) {
          view.Pixel(p)[c] = s.accumulate ? static_cast<float>(Before(scale, i))
                                          : std::numeric_limits<float>::quiet_NaN();
        }
      }
    }
    if (s.kind != StepKind::kUpdateParameter) {
      for (const Operand& o : s.parameter_gradients) FillNan(Floats(o), o.bytes / 4);
    }
    if (s.workspace.valid()) FillNan(Floats(s.workspace), s.workspace.bytes / 4);
    if (s.loss.valid()) FillNan(Floats(s.loss), 1);
    if (Forward(s) && s.saved_mean.valid()) {
      FillNan(Floats(s.saved_mean), s.saved_mean.bytes / 4);
      FillNan(Floats(s.saved_inv_std), s.saved_inv_std.bytes / 4);
    }
    if (Forward(s) && s.argmax.valid()) {
      std::memset(executor_->data(s.argmax), 0xEE, static_cast<size_t>(s.argmax.bytes));
    }
  }

  void CopyInputs(const Step& s) {
    for (const Operand& o : s.inputs) {
      if (o.role == Role::kValue) {
        CopyView(reference_.value(o.node), ChannelOffset(s, o), executor_->view(o));
      } else if (o.role == Role::kGradient) {
        CopyView(masked_dy_.values.empty() ? reference_.value_gradient(o.node) : masked_dy_.view(),
                 ChannelOffset(s, o), executor_->view(o));
      } else if (o.role == Role::kLabels) {
        std::copy(case_.labels.begin(), case_.labels.end(), executor_->labels());
      } else {
        CNN_CHECK(false, "step ", s.name, " reads an operand of role ", static_cast<int>(o.role));
      }
    }
    const Node& node = graph_.node(s.node);
    if (!Forward(s) && s.saved_mean.valid()) {
      CopyFlat(reference_.saved_mean(s.node), s.saved_mean);
      CopyFlat(reference_.saved_inv_std(s.node), s.saved_inv_std);
    }
    if (!Forward(s) && s.argmax.valid()) {
      const std::vector<uint8_t>& argmax = reference_.argmax(s.node);
      std::memcpy(executor_->data(s.argmax), argmax.data(), argmax.size());
    }
    if (s.kind == StepKind::kBatchNorm2dForward) {
      for (const int b : node.buffers) {
        std::copy_n(case_.state->buffer(b), graph_.buffers()[static_cast<size_t>(b)].count,
                    state_->buffer(b));
      }
    }
    if (s.kind == StepKind::kUpdateParameter) {
      const Operand& o = s.parameter_gradients[0];
      const int64_t count = graph_.parameters()[static_cast<size_t>(o.index)].count();
      CopyFlat(reference_.gradient(o.index), o);
      std::copy_n(case_.state->parameter(o.index), count, state_->parameter(o.index));
      std::fill_n(state_->momentum(o.index), count, 0.0f);
    }
  }

  void Compare(const Step& s, Row* row) {
    for (const Operand& o : s.outputs) {
      if (!o.valid()) continue;
      Array actual = ToArray(ConstTensor(executor_->view(o)));
      const Array expected = ExpectedOutput(s, o);
      if (s.accumulate) {
        const double scale = Scale(expected);
        for (size_t i = 0; i < actual.values.size(); ++i) {
          actual.values[i] -= Before(scale, static_cast<int64_t>(i));
        }
      }
      Judge("output", actual, expected, row->bound, row);
    }
    if (s.loss.valid()) {
      const double loss = reference_.loss();
      Judge("loss", ToArray(Floats(s.loss), 1), ToArray(&loss, 1), row->bound, row);
    }
    const Node& node = graph_.node(s.node);
    if (s.kind == StepKind::kBatchNorm2dForward) {
      JudgeFlat("saved_mean", s.saved_mean, reference_.saved_mean(s.node), row);
      JudgeFlat("saved_inv_std", s.saved_inv_std, reference_.saved_inv_std(s.node), row);
      for (const int b : node.buffers) {
        const Buffer& buffer = graph_.buffers()[static_cast<size_t>(b)];
        Judge("buffer." + buffer.name, ToArray(state_->buffer(b), buffer.count),
              ToArray(reference_.buffer(b).data(), buffer.count), row->bound, row);
      }
    }
    for (size_t k = 0; k < s.parameter_gradients.size(); ++k) {
      const Operand& o = s.parameter_gradients[k];
      const Parameter& p = graph_.parameters()[static_cast<size_t>(o.index)];
      if (s.kind == StepKind::kUpdateParameter) {
        CompareUpdate(o.index, p.count(), row);
      } else if (!masked_parameters_.empty() && !masked_dy_.values.empty()) {
        JudgeFlat("grad." + p.name, o, masked_parameters_[k], row);
      } else {
        JudgeFlat("grad." + p.name, o, reference_.gradient(o.index), row);
      }
    }
  }

  void CompareUpdate(int parameter, int64_t count, Row* row) {
    const std::vector<double>& gradient = reference_.gradient(parameter);
    const float* const before = case_.state->parameter(parameter);
    Array velocity(Shape4{1, 1, 1, count}), after(Shape4{1, 1, 1, count});
    for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
      velocity.values[i] = gradient[i] + kSgd.weight_decay * static_cast<double>(before[i]);
      after.values[i] = static_cast<double>(before[i]) - kSgd.lr * velocity.values[i];
    }
    Judge("momentum", ToArray(state_->momentum(parameter), count), velocity, row->bound, row);
    Judge("parameter", ToArray(state_->parameter(parameter), count), after, row->bound, row);
  }

  // Where a batch norm's ReLU hinges on rounding (a value within 1e-5 of zero), one element more or
  // less would drown the check in noise: there the upstream gradient is zero, and the reference is
  // asked again.
  void MaskKinks(const Step& s) {
    const View<double> y = reference_.value(s.node);
    const View<double> dy = reference_.value_gradient(s.fused_relu);
    int64_t masked = 0;
    Array changed = ToArray(View<const double>(dy));
    for (int64_t i = 0; i < y.size(); ++i) {
      if (std::fabs(y.data[i]) >= 1e-5) continue;
      changed.values[static_cast<size_t>(i)] = 0;
      ++masked;
    }
    if (masked == 0) return;
    masked_dy_ = std::move(changed);
    const Node& node = graph_.node(s.node);
    expected_gradient_ = Array(y.shape());
    masked_parameters_.assign(2, std::vector<double>(static_cast<size_t>(y.c)));
    BatchNorm2dBackwardArgs<double> args;
    args.x = reference_.value(node.inputs[0]);
    args.dy = masked_dy_.view();
    args.gamma = reference_.parameter(node.parameters[0]).data();
    args.beta = reference_.parameter(node.parameters[1]).data();
    args.mean = reference_.saved_mean(s.node).data();
    args.inv_std = reference_.saved_inv_std(s.node).data();
    args.training = case_.training;
    args.relu = true;
    args.dx = expected_gradient_.view();
    args.dgamma = masked_parameters_[0].data();
    args.dbeta = masked_parameters_[1].data();
    BatchNorm2dBackwardNaive(args);
  }

  // What a step should write to this output (what it should add, where it accumulates).
  Array ExpectedOutput(const Step& s, const Operand& o) {
    if (!expected_gradient_.values.empty()) return expected_gradient_;
    if (o.role == Role::kValue) return ToArray(View<const double>(reference_.value(o.node)));
    if (s.kind == StepKind::kCrossEntropy) {
      return ToArray(View<const double>(reference_.value_gradient(o.node)));
    }
    return ToArray(
        View<const double>(reference_.edge_gradient(s.node, InputIndex(s.node, o.node))));
  }
  int InputIndex(NodeId node, NodeId input) const {
    const std::vector<NodeId>& inputs = graph_.node(node).inputs;
    const auto found = std::find(inputs.begin(), inputs.end(), input);
    CNN_CHECK(found != inputs.end(), graph_.node(node).name, " does not read ",
              graph_.node(input).name);
    return static_cast<int>(found - inputs.begin());
  }

  // Concatenation's backward reads the channels of one input out of the whole gradient.
  int64_t ChannelOffset(const Step& s, const Operand& o) const {
    if (s.kind != StepKind::kConcatBackward || s.outputs.size() != 1) return 0;
    if (o.shape.c == graph_.node(o.node).shape.c) return 0;
    const Node& node = graph_.node(s.node);
    const int index = InputIndex(s.node, s.outputs[0].node);
    int64_t offset = 0;
    for (int k = 0; k < index; ++k) {
      offset += graph_.node(node.inputs[static_cast<size_t>(k)]).shape.c;
    }
    return offset;
  }

  static void CopyView(View<const double> from, int64_t channel_offset, Tensor to) {
    CNN_CHECK(from.pixels() == to.pixels() && channel_offset + to.c <= from.c);
    for (int64_t p = 0; p < to.pixels(); ++p) {
      for (int64_t c = 0; c < to.c; ++c) {
        to.Pixel(p)[c] = static_cast<float>(from.Pixel(p)[channel_offset + c]);
      }
    }
  }
  void CopyFlat(const std::vector<double>& from, const Operand& to) {
    std::transform(from.begin(), from.end(), Floats(to),
                   [](double v) { return static_cast<float>(v); });
  }
  void JudgeFlat(const std::string& tensor, const Operand& o, const std::vector<double>& expected,
                 Row* row) {
    const auto count = static_cast<int64_t>(expected.size());
    Judge(tensor, ToArray(Floats(o), count), ToArray(expected.data(), count), row->bound, row);
  }

  // The floats between the pixels of the outputs: neighbours' channels, not to be touched.
  std::vector<float> Gaps(const Step& s) const {
    std::vector<float> gaps;
    for (const Operand& o : s.outputs) {
      if (!o.valid()) continue;
      const Tensor view = executor_->view(o);
      for (int64_t p = 0; p + 1 < view.pixels(); ++p) {
        gaps.insert(gaps.end(), view.Pixel(p) + view.c, view.Pixel(p) + view.pixel_stride);
      }
    }
    return gaps;
  }

  const ModelCase& case_;
  const Graph& graph_;
  ReferenceModel<double>& reference_;
  std::unique_ptr<ModelState> state_;
  OptimizedThreads& optimized_;
  std::unique_ptr<Executor> executor_;
  // Of the step at hand, where MaskKinks changed its upstream gradient; else empty.
  Array masked_dy_, expected_gradient_;
  std::vector<std::vector<double>> masked_parameters_;
};

bool IsConv(StepKind kind) {
  return kind == StepKind::kConv2dForward || kind == StepKind::kConv2dBackwardData ||
         kind == StepKind::kConv2dBackwardWeights;
}

}  // namespace

Row CheckNodeByNode(const std::string& what, const ModelCase& c, ReferenceModel<double>& reference,
                    const PlanOptions& options, Bounds bounds, const std::string& command,
                    OptimizedThreads& optimized) {
  NodeByNode checker(c, reference, options, optimized);
  Row group;
  group.what = what;
  group.impl = "optimized";
  group.command = command;
  for (size_t i = 0; i < checker.steps(); ++i) {
    const Step& step = checker.step(i);
    Row row;
    row.what = absl::StrCat(what, ": ", step.name);
    row.impl = IsConv(step.kind) ? absl::StrCat("optimized ", Conv2dAlgorithmName(step.algorithm))
                                 : "optimized";
    row.bound = bounds(IsConv(step.kind) ? ConvBound(step.algorithm) : kLayerBound);
    row.command = command;
    checker.Check(i, &row);
    group.parts.push_back(std::move(row));
  }
  Summarize(&group);
  return group;
}

}  // namespace classicnn::verify
