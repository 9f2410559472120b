// "Teacher forcing": each step of a plan runs by itself on what the reference computed up to there,
// so that an error shows in the step that makes it and in no other.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "tests/verify/layer_checks.h"
#include "tests/verify/model_checks.h"
#include "tests/verify/reference_operands.h"
#include "tests/verify/step_data.h"

namespace classicnn::verify {
namespace {

// All memory is full of these bytes, not numbers as float and double, but for what the step at hand
// may read.
constexpr int kPoison = 0xFF;

class NodeByNode {
 public:
  NodeByNode(const ModelCase& c, ReferenceModel<double>& reference, Plan plan,
             OptimizedThreads& optimized)
      : case_(c),
        graph_(c.graph),
        reference_(reference),
        operands_(c.graph, c.batch, reference),
        state_(CloneState(c.graph, *c.state)),
        optimized_(optimized) {
    auto executor = Executor::Create(graph_, std::move(plan), state_.get(), optimized.context());
    CNN_CHECK(executor.ok(), executor.status().ToString());
    executor_ = *std::move(executor);
    executor_->SetDropoutPosition(c.dropout_seed, 5);
    UpdateParams update;
    update.sgd = kSgd;
    executor_->SetUpdate(update);
    std::memset(executor_->arena_data(), kPoison, static_cast<size_t>(arena_bytes()));
  }

  size_t steps() const { return executor_->plan().steps.size(); }
  const Step& step(size_t i) const { return executor_->plan().steps[i]; }

  // `row` comes with its bound; outcomes are merged into it.
  void Check(size_t index, Row* row) {
    const Step& s = step(index);
    const StepData data = MakeStepData(operands_, s);
    for (const StepData::Input& input : data.inputs) Write(*input.operand, input.value);
    WriteOthers(s);
    const std::vector<float> around = Surroundings(s);
    optimized_.Run([&](Context&) { executor_->RunStep(static_cast<int>(index)); });
    const std::vector<float> around_after = Surroundings(s);
    if (!around.empty() &&
        std::memcmp(around.data(), around_after.data(), around.size() * sizeof(float)) != 0) {
      Fail("memory", "written between the pixels of an output or beside it", row);
    }
    for (const StepData::Output& output : data.outputs) Compare(output, row);
    CompareOthers(s, row);
    s.ForEachOperand([this](const Operand& o) {
      const Range range = RangeOf(o);
      std::memset(executor_->arena_data() + range.begin, kPoison,
                  static_cast<size_t>(range.end - range.begin));
    });
  }

 private:
  static constexpr SgdParams kSgd{0.1, 0.9, 5e-4, false};

  struct Range {
    int64_t begin, end;  // bytes in the arena
    bool Overlaps(const Range& o) const { return begin < o.end && o.begin < end; }
  };
  static bool IsTensor(const Operand& o) { return o.shape.size() > 0; }
  static Range RangeOf(const Operand& o) {
    const int64_t bytes =
        IsTensor(o) ? ((o.shape.pixels() - 1) * o.pixel_stride + o.shape.c) * 4 : o.bytes;
    return {o.offset, o.offset + bytes};
  }
  int64_t arena_bytes() const { return executor_->plan().arena_bytes; }
  float* Floats(const Operand& o) const { return reinterpret_cast<float*>(executor_->data(o)); }

  void Write(const Operand& o, const Array& from) const {
    if (IsTensor(o)) {
      const Tensor to = executor_->view(o);
      CNN_CHECK(to.shape() == from.shape);
      for (int64_t p = 0; p < to.pixels(); ++p) {
        std::transform(from.view().Pixel(p), from.view().Pixel(p) + to.c, to.Pixel(p),
                       [](double v) { return static_cast<float>(v); });
      }
    } else {
      CNN_CHECK(o.bytes == from.shape.size() * 4);
      std::transform(from.values.begin(), from.values.end(), Floats(o),
                     [](double v) { return static_cast<float>(v); });
    }
  }
  Array Read(const Operand& o) const {
    return IsTensor(o) ? ToArray(ConstTensor(executor_->view(o))) : ToArray(Floats(o), o.bytes / 4);
  }

  // What is no floating-point operand: labels, argmax, and what lies in the model's state.
  void WriteOthers(const Step& s) {
    if (s.kind == StepKind::kCrossEntropy) {
      std::copy(case_.labels.begin(), case_.labels.end(), executor_->labels());
    }
    if (s.kind == StepKind::kMaxPool2dBackward) {
      const std::vector<uint8_t>& argmax = reference_.argmax(s.node);
      std::memcpy(executor_->data(s.argmax), argmax.data(), argmax.size());
    }
    if (MovesStatistics(s)) {
      for (const int b : graph_.node(s.node).buffers) {
        std::copy_n(case_.state->buffer(b), graph_.buffers()[static_cast<size_t>(b)].count,
                    state_->buffer(b));
      }
    }
    if (const int p = UpdatedParameter(graph_, s); p >= 0) {
      const int64_t count = graph_.parameters()[static_cast<size_t>(p)].count();
      std::copy_n(case_.state->parameter(p), count, state_->parameter(p));
      std::fill_n(state_->momentum(p), count, 0.0f);
    }
  }
  static bool MovesStatistics(const Step& s) {
    return s.kind == StepKind::kBatchNorm2dForward || s.kind == StepKind::kBatchNorm2dFoldForward;
  }

  void Compare(const StepData::Output& output, Row* row) const {
    if (!output.error.empty()) {
      Fail(output.name, output.error, row);
      return;
    }
    Array actual = Read(*output.operand);
    Array expected = output.value;
    if (!output.base.values.empty() && actual.shape == expected.shape) {
      for (size_t i = 0; i < actual.values.size(); ++i) {
        actual.values[i] -= output.base.values[i];
        expected.values[i] -= output.base.values[i];
      }
    }
    Judge(output.name, actual, expected, row->bound, row);
  }

  void CompareOthers(const Step& s, Row* row) {
    if (MovesStatistics(s)) {
      for (const int b : graph_.node(s.node).buffers) {
        const Buffer& buffer = graph_.buffers()[static_cast<size_t>(b)];
        Judge("buffer." + buffer.name, ToArray(state_->buffer(b), buffer.count),
              ToArray(reference_.buffer(b).data(), buffer.count), row->bound, row);
      }
    }
    if (const int p = UpdatedParameter(graph_, s); p >= 0) CompareUpdate(p, row);
    if (s.kind == StepKind::kMaxPool2dForward && s.argmax.valid()) CompareArgmax(s, row);
  }

  void CompareUpdate(int parameter, Row* row) {
    const std::vector<double>& gradient = reference_.gradient(parameter);
    const auto count = static_cast<int64_t>(gradient.size());
    const float* const before = case_.state->parameter(parameter);
    Array velocity(Shape4{1, 1, 1, count}), after(Shape4{1, 1, 1, count});
    for (size_t i = 0; i < gradient.size(); ++i) {
      velocity.values[i] = gradient[i] + kSgd.weight_decay * static_cast<double>(before[i]);
      after.values[i] = static_cast<double>(before[i]) - kSgd.lr * velocity.values[i];
    }
    Judge("momentum", ToArray(state_->momentum(parameter), count), velocity, row->bound, row);
    Judge("parameter", ToArray(state_->parameter(parameter), count), after, row->bound, row);
  }

  // Which of several equal values wins may hinge on rounding: what the winner's value is does not.
  void CompareArgmax(const Step& s, Row* row) {
    const Node& node = graph_.node(s.node);
    const View<const double> x(reference_.value(node.inputs[0]));
    const View<const double> y(reference_.value(s.node));
    Array winners(y.shape());
    const auto* argmax = reinterpret_cast<const uint8_t*>(executor_->data(s.argmax));
    for (int64_t p = 0; p < y.pixels(); ++p) {
      const int64_t n = p / (y.h * y.w), oh = p / y.w % y.h, ow = p % y.w;
      for (int64_t c = 0; c < y.c; ++c, ++argmax) {
        const int64_t h = oh * node.stride - node.padding + *argmax / node.kernel;
        const int64_t w = ow * node.stride - node.padding + *argmax % node.kernel;
        if (*argmax >= node.kernel * node.kernel || h < 0 || h >= x.h || w < 0 || w >= x.w) {
          Fail("argmax", absl::StrCat("no place in its window: ", *argmax), row);
          return;
        }
        winners.view().Pixel(p)[c] = x.At(n, h, w, c);
      }
    }
    Judge("argmax", winners, ToArray(y), row->bound, row);
  }

  // Floats that are neighbours of what a step writes, not to be touched: between the pixels of
  // tensors, and a few before and behind each operand.
  std::vector<float> Surroundings(const Step& s) const {
    constexpr int64_t kBeside = 16 * sizeof(float);
    std::vector<float> around;
    std::vector<Range> mine;
    const auto add = [&](const float* begin, const float* end) {
      around.insert(around.end(), begin, end);
    };
    const std::vector<const Operand*> written = WrittenOperands(s);
    for (const Operand* o : written) mine.push_back(RangeOf(*o));
    if (s.workspace.valid()) mine.push_back(RangeOf(s.workspace));
    for (const Operand* o : written) {
      if (IsTensor(*o)) {
        const Tensor view = executor_->view(*o);
        for (int64_t p = 0; p + 1 < view.pixels(); ++p) {
          add(view.Pixel(p) + view.c, view.Pixel(p) + view.pixel_stride);
        }
      }
      const Range range = RangeOf(*o);
      for (const Range& beside :
           {Range{std::max<int64_t>(range.begin - kBeside, 0), range.begin},
            Range{(range.end + 3) / 4 * 4, std::min(range.end + kBeside, arena_bytes() / 4 * 4)}}) {
        if (beside.begin >= beside.end ||
            std::any_of(mine.begin(), mine.end(),
                        [&](const Range& r) { return r.Overlaps(beside); })) {
          continue;
        }
        const auto* const base = reinterpret_cast<const float*>(executor_->arena_data());
        add(base + beside.begin / 4, base + beside.end / 4);
      }
    }
    return around;
  }

  const ModelCase& case_;
  const Graph& graph_;
  ReferenceModel<double>& reference_;
  const ReferenceOperands operands_;
  std::unique_ptr<ModelState> state_;
  OptimizedThreads& optimized_;
  std::unique_ptr<Executor> executor_;
};

}  // namespace

Row CheckPlan(const std::string& what, const ModelCase& c, ReferenceModel<double>& reference,
              Plan plan, Bounds bounds, const std::string& command, OptimizedThreads& optimized) {
  NodeByNode checker(c, reference, std::move(plan), optimized);
  Row group;
  group.what = what;
  group.impl = "optimized";
  group.command = command;
  for (size_t i = 0; i < checker.steps(); ++i) {
    const Step& step = checker.step(i);
    Row row;
    row.what = absl::StrCat(what, ": ", step.name);
    row.impl = IsConv2d(step.kind) ? absl::StrCat("optimized ", Conv2dAlgorithmName(step.algorithm))
                                   : "optimized";
    row.bound = bounds(IsConv2d(step.kind) ? ConvBound(step.algorithm) : kLayerBound);
    row.command = command;
    checker.Check(i, &row);
    group.parts.push_back(std::move(row));
  }
  Summarize(&group);
  return group;
}

Row CheckNodeByNode(const std::string& what, const ModelCase& c, ReferenceModel<double>& reference,
                    const PlanOptions& options, Bounds bounds, const std::string& command,
                    OptimizedThreads& optimized) {
  absl::StatusOr<Plan> plan = MakePlan(c.graph, options);
  CNN_CHECK(plan.ok(), plan.status().ToString());
  return CheckPlan(what, c, reference, *std::move(plan), bounds, command, optimized);
}

}  // namespace classicnn::verify
