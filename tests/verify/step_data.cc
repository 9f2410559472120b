#include "tests/verify/step_data.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "layers/fusion_passes.h"

namespace classicnn::verify {
namespace {

const char* RoleName(Role role) {
  switch (role) {
    case Role::kSavedMean:
      return "saved_mean";
    case Role::kSavedInvStd:
      return "saved_inv_std";
    case Role::kScale:
      return "scale";
    case Role::kShift:
      return "shift";
    case Role::kSumG:
      return "sum_g";
    case Role::kSumGx:
      return "sum_gx";
    case Role::kMean:
      return "mean";
    case Role::kVar:
      return "var";
    case Role::kGain:
      return "gain";
    case Role::kSlope:
      return "slope";
    case Role::kOffset:
      return "offset";
    case Role::kLoss:
      return "loss";
    default:
      return "output";
  }
}

// What an adding step finds: whole numbers times a power of two near its own contribution.
Array Before(const Array& contribution) {
  double squares = 0;
  for (const double v : contribution.values) squares += v * v;
  const double rms = std::sqrt(squares / static_cast<double>(contribution.values.size()));
  const double scale = rms > 0 && std::isfinite(rms) ? std::exp2(std::floor(std::log2(rms))) : 1;
  Array before(contribution.shape);
  for (size_t i = 0; i < before.values.size(); ++i) {
    before.values[i] = scale * static_cast<double>(static_cast<int64_t>(i) * 7919 % 7 - 3);
  }
  return before;
}

Array Sum(const Array& a, const Array& b) {
  CNN_CHECK(a.shape == b.shape);
  Array sum = a;
  for (size_t i = 0; i < sum.values.size(); ++i) sum.values[i] += b.values[i];
  return sum;
}

class Maker {
 public:
  Maker(const ReferenceOperands& reference, const Step& step)
      : reference_(reference), step_(step), node_(reference.graph().node(step.node)) {}

  StepData Make() {
    const std::vector<const Operand*> written = WrittenOperands(step_);
    if (Masks()) {
      ExpectMasked();
    } else {
      for (const Operand& o : step_.outputs) {
        if (o.valid()) ExpectOutput(o);
      }
    }
    for (const Operand* o : written) {
      const bool done = std::any_of(data_.outputs.begin(), data_.outputs.end(),
                                    [&](const StepData::Output& e) { return e.operand == o; });
      if (!done && o->role != Role::kArgmax) ExpectArray(*o);
    }
    step_.ForEachOperand([&](const Operand& o) {
      if (std::count(written.begin(), written.end(), &o) > 0) return;
      if (o.role == Role::kWorkspace || o.role == Role::kLabels || o.role == Role::kArgmax) return;
      data_.inputs.push_back({&o, Input(o)});
    });
    return std::move(data_);
  }

 private:
  // An addition's backward takes its mask from the sum that is stored.
  bool Masks() const { return step_.has_epilogue() && step_.kind != StepKind::kAddBackward; }
  NodeId Out() const { return step_.fused_relu == kNoNode ? step_.node : step_.fused_relu; }

  Array Input(const Operand& o) const {
    if (Masks() && &o == &step_.epilogues[0].x) return reference_.RawValueOffTheKinks(Masked());
    if (step_.kind == StepKind::kBatchNorm2dBackward && step_.fused_relu != kNoNode &&
        &o == &step_.inputs[1]) {
      return reference_.RawValueOffTheKinks(step_.node);
    }
    return reference_.Get(step_, o);
  }

  // The activated node whose gradient the step's epilogue masks.
  NodeId Masked() const {
    return step_.kind == StepKind::kGradientEpilogue ? Out() : node_.inputs[0];
  }

  // The value that a forward step computes, or what a backward step contributes to a gradient.
  Array Contribution(const Operand& o) const {
    switch (step_.kind) {
      case StepKind::kGradientEpilogue:
        return reference_.Get(step_, step_.inputs[0]);
      case StepKind::kConv2dBackwardData:
      case StepKind::kConv2dBackward:
      case StepKind::kBatchNorm2dBackward:
      case StepKind::kReluBackward:
      case StepKind::kMaxPool2dBackward:
      case StepKind::kAvgPool2dBackward:
      case StepKind::kGlobalAvgPool2dBackward:
      case StepKind::kLinearBackwardData:
      case StepKind::kDropoutBackward:
        return reference_.EdgeGradient(step_.node, node_.inputs[0]);
      case StepKind::kConcatBackward:
        return reference_.EdgeGradient(step_.node, o.node);
      case StepKind::kAddBackward:
        // Either the masked gradient of the sum itself, or a copy for an input.
        if (o.node != step_.node) return reference_.EdgeGradient(step_.node, o.node);
        break;
      default:
        break;
    }
    return reference_.Get(step_, o);
  }

  void Expect(const Operand& o, Array value, Array base = Array()) {
    data_.outputs.push_back({&o, RoleName(o.role), std::move(value), std::move(base), ""});
  }
  void ExpectError(const Operand& o, const std::string& error) {
    data_.outputs.push_back({&o, RoleName(o.role), Array(), Array(), error});
  }

  void ExpectOutput(const Operand& o) {
    Array value = Contribution(o);
    if (!step_.accumulate) {
      Expect(o, std::move(value));
      return;
    }
    const Array before = Before(value);
    data_.inputs.push_back({&o, before});
    Expect(o, Sum(value, before), before);
  }

  void ExpectArray(const Operand& o) {
    Array value = reference_.Get(step_, o);
    const bool adds = step_.kind == StepKind::kBatchNorm2dFoldBackward && step_.accumulate &&
                      (o.role == Role::kSlope || o.role == Role::kOffset);
    if (adds) {
      const Array before = Before(value);
      data_.inputs.push_back({&o, before});
      Expect(o, Sum(value, before), before);
    } else {
      Expect(o, std::move(value));
      if (o.role == Role::kParameterGradient) {
        data_.outputs.back().name = absl::StrCat(
            "grad.", reference_.graph().parameters()[static_cast<size_t>(o.index)].name);
      }
    }
  }

  // A gradient that goes through an epilogue, and its sums, by the naive pass.
  void ExpectMasked() {
    const Operand& out = step_.outputs[0];
    const GradientEpilogueOperands& e = step_.epilogues[0];
    const NodeId activated = Masked();
    const std::vector<NodeId> norms = reference_.Norms(activated);
    const bool folded = out.role == Role::kFoldedGradient;
    // A folded gradient is that of what one batch norm reads.
    const NodeId expected_node = !folded             ? activated
                                 : norms.size() == 1 ? reference_.graph().node(norms[0]).inputs[0]
                                                     : kNoNode;
    if (norms.empty() || (!folded && out.role != Role::kMaskedGradient) ||
        out.node != expected_node) {
      ExpectError(out, absl::StrCat(step_.name, " masks the gradient of another value than ",
                                    reference_.graph().node(activated).name));
      return;
    }
    const Array contribution = Contribution(out);
    const Array x = reference_.RawValueOffTheKinks(activated);
    const Array scale = reference_.Scale(activated), shift = reference_.Shift(activated);
    const Array mean = reference_.RawMean(activated);
    Array sum_g(mean.shape), sum_gx(mean.shape);
    GradientEpilogue<double> epilogue;
    epilogue.x = x.view();
    epilogue.scale = scale.values.data();
    epilogue.shift = shift.values.data();
    epilogue.relu = reference_.HasRelu(activated);
    epilogue.mean = mean.values.data();
    epilogue.gain = folded ? scale.values.data() : nullptr;
    epilogue.add = folded && e.add;
    epilogue.sum_g = sum_g.values.data();
    epilogue.sum_gx = sum_gx.values.data();

    Array before, base;
    Array da = contribution, dx(contribution.shape);
    if (step_.accumulate) {  // what was there is masked as well
      before = Before(contribution);
      base = Array(before.shape);
      GradientEpiloguePassNaive<double>(epilogue, before.view(), base.view());
      da = Sum(contribution, before);
    }
    GradientEpiloguePassNaive<double>(epilogue, da.view(), dx.view());
    if (e.add) {
      before = base = Before(dx);
      dx = Sum(dx, before);
    }
    if (!before.values.empty()) data_.inputs.push_back({&out, before});
    Expect(out, std::move(dx), std::move(base));
    for (const Operand* o : {&e.sum_g, &e.sum_gx}) {
      if (o->node != activated || (o->role != Role::kSumG && o->role != Role::kSumGx)) {
        ExpectError(*o, absl::StrCat(step_.name, " leaves its sums in another's place"));
      } else {
        Expect(*o, o->role == Role::kSumG ? sum_g : sum_gx);
      }
    }
  }

  const ReferenceOperands& reference_;
  const Step& step_;
  const Node& node_;
  StepData data_;
};

}  // namespace

std::vector<const Operand*> WrittenOperands(const Step& s) {
  std::vector<const Operand*> written;
  const auto add = [&](const Operand& o) {
    if (o.valid()) written.push_back(&o);
  };
  const bool fold_forward = s.kind == StepKind::kBatchNorm2dFoldForward;
  const bool fold_backward = s.kind == StepKind::kBatchNorm2dFoldBackward;
  for (const Operand& o : s.outputs) add(o);
  if (s.kind != StepKind::kUpdateParameter) {
    for (const Operand& o : s.parameter_gradients) add(o);
  }
  add(s.loss);
  if (s.kind == StepKind::kBatchNorm2dForward) {
    add(s.saved_mean);
    add(s.saved_inv_std);
  }
  if (s.kind == StepKind::kMaxPool2dForward) add(s.argmax);
  if (!fold_forward && !fold_backward) {
    add(s.mean);
    add(s.var);
  }
  if (fold_forward) {
    for (const ActivationOperands& a : s.activations) {
      add(a.scale);
      add(a.shift);
    }
  }
  if (fold_backward) {
    add(s.gradient.gain);
    add(s.gradient.slope);
    add(s.gradient.offset);
  } else {
    for (const GradientEpilogueOperands& e : s.epilogues) {
      add(e.sum_g);
      add(e.sum_gx);
    }
  }
  return written;
}

StepData MakeStepData(const ReferenceOperands& reference, const Step& step) {
  return Maker(reference, step).Make();
}

}  // namespace classicnn::verify
