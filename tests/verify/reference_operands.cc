#include "tests/verify/reference_operands.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "layers/fusion_passes.h"

namespace classicnn::verify {
namespace {

Array Channels(int64_t count) { return Array(Shape4{1, 1, 1, count}); }

Array Flat(const std::vector<double>& values) {
  return ToArray(values.data(), static_cast<int64_t>(values.size()));
}

Array Tensor4(const View<double>& view) { return ToArray(View<const double>(view)); }

// Channels [first, first + count) of `from`.
Array ChannelRange(const View<const double>& from, int64_t first, int64_t count) {
  CNN_CHECK(first >= 0 && first + count <= from.c);
  return ToArray(from.Channels(first, count));
}

double Squared(double v) { return v * v; }

}  // namespace

std::vector<NodeId> ReferenceOperands::Norms(NodeId activated) const {
  const Node& node = graph_.node(activated);
  switch (node.op) {
    case Op::kBatchNorm2d:
      return {activated};
    case Op::kRelu:
      if (graph_.node(node.inputs[0]).op == Op::kBatchNorm2d) return {node.inputs[0]};
      return {};
    case Op::kConcat: {
      std::vector<NodeId> all;
      for (const NodeId input : node.inputs) {
        const std::vector<NodeId> norms = Norms(input);
        if (norms.empty()) return {};
        all.insert(all.end(), norms.begin(), norms.end());
      }
      return all;
    }
    default:
      return {};
  }
}

bool ReferenceOperands::HasRelu(NodeId activated) const {
  const Node& node = graph_.node(activated);
  return node.op == Op::kConcat ? HasRelu(node.inputs[0]) : node.op == Op::kRelu;
}

Array ReferenceOperands::SideBySide(NodeId activated,
                                    const std::function<Array(NodeId)>& of_norm) const {
  const std::vector<NodeId> norms = Norms(activated);
  CNN_CHECK(!norms.empty(), graph_.node(activated).name, " is not made of batch norms");
  std::vector<Array> parts;
  Shape4 shape;
  for (const NodeId norm : norms) {
    parts.push_back(of_norm(norm));
    const int64_t before = shape.c;
    shape = parts.back().shape;
    shape.c += before;
  }
  Array whole(shape);
  int64_t first = 0;
  for (const Array& part : parts) {
    const View<double> to = whole.view().Channels(first, part.shape.c);
    for (int64_t p = 0; p < to.pixels(); ++p) {
      std::copy_n(part.view().Pixel(p), to.c, to.Pixel(p));
    }
    first += part.shape.c;
  }
  return whole;
}

Array ReferenceOperands::Scale(NodeId activated) const {
  return SideBySide(activated, [this](NodeId norm) {
    Array scale = Flat(reference_.parameter(graph_.node(norm).parameters[0]));
    const std::vector<double>& inv_std = reference_.saved_inv_std(norm);
    for (size_t c = 0; c < scale.values.size(); ++c) scale.values[c] *= inv_std[c];
    return scale;
  });
}

Array ReferenceOperands::Shift(NodeId activated) const {
  return SideBySide(activated, [this](NodeId norm) {
    const Array scale = Scale(norm);
    const std::vector<double>& mean = reference_.saved_mean(norm);
    Array shift = Flat(reference_.parameter(graph_.node(norm).parameters[1]));
    for (size_t c = 0; c < shift.values.size(); ++c) {
      shift.values[c] -= mean[c] * scale.values[c];
    }
    return shift;
  });
}

Array ReferenceOperands::RawValue(NodeId activated) const {
  return SideBySide(activated, [this](NodeId norm) {
    return Tensor4(reference_.value(graph_.node(norm).inputs[0]));
  });
}

Array ReferenceOperands::RawMean(NodeId activated) const {
  return SideBySide(activated,
                    [this](NodeId norm) { return MomentsOf(graph_.node(norm).inputs[0]).mean; });
}

Array ReferenceOperands::RawValueOffTheKinks(NodeId activated) const {
  // Rounding of x, scale and shift (or mean, inv_std and the parameters) and of what is done with
  // them moves a value by at most some 4e-7 of this magnitude.
  constexpr double kNear = 2e-6;
  return SideBySide(activated, [this](NodeId norm) {
    Array raw = Tensor4(reference_.value(graph_.node(norm).inputs[0]));
    const View<const double> normalized(reference_.value(norm));
    const Array scale = Scale(norm), shift = Shift(norm);
    const std::vector<double>& mean = reference_.saved_mean(norm);
    const std::vector<double>& beta = reference_.parameter(graph_.node(norm).parameters[1]);
    const View<double> x = raw.view();
    for (int64_t p = 0; p < x.pixels(); ++p) {
      for (int64_t c = 0; c < x.c; ++c) {
        const auto i = static_cast<size_t>(c);
        const double a = scale.values[i], b = shift.values[i];
        double& value = x.Pixel(p)[c];
        const double near =
            kNear * (std::fabs(a) * (std::fabs(value) + std::fabs(mean[i])) + std::fabs(beta[i]));
        if (a == 0 || std::fabs(value * a + b) >= near) continue;
        value = ((normalized.Pixel(p)[c] > 0 ? 2 : -2) * near - b) / a;
      }
    }
    return raw;
  });
}

const ReferenceOperands::Fold& ReferenceOperands::FoldOf(NodeId norm) const {
  const auto [entry, is_new] = folds_.try_emplace(norm);
  Fold& f = entry->second;
  if (!is_new) return f;
  const NodeId input = graph_.node(norm).inputs[0];
  const View<const double> x(reference_.value(input)), g(reference_.value_gradient(norm));
  const Array& mean = MomentsOf(input).mean;
  const std::vector<double>& inv_std = reference_.saved_inv_std(norm);
  const auto m = static_cast<double>(x.pixels());
  f.gain = Scale(norm);
  f.slope = f.offset = f.sum_g = f.sum_gx = Channels(x.c);
  for (int64_t p = 0; p < x.pixels(); ++p) {
    for (int64_t c = 0; c < x.c; ++c) {
      const auto i = static_cast<size_t>(c);
      f.sum_g.values[i] += g.Pixel(p)[c];
      f.sum_gx.values[i] += g.Pixel(p)[c] * (x.Pixel(p)[c] - mean.values[i]);
    }
  }
  for (size_t c = 0; c < mean.values.size(); ++c) {
    const double gain = f.gain.values[c];
    f.slope.values[c] = -gain * Squared(inv_std[c]) * f.sum_gx.values[c] / m;
    f.offset.values[c] = -gain * f.sum_g.values[c] / m - f.slope.values[c] * mean.values[c];
  }
  return f;
}

void ReferenceOperands::ForEachNormReader(NodeId id, int64_t channel,
                                          const std::function<void(NodeId, int64_t)>& visit) const {
  const std::vector<NodeId>& readers = graph_.readers(id);
  for (size_t r = 0; r < readers.size(); ++r) {
    if (r > 0 && readers[r] == readers[r - 1]) continue;  // reads it twice
    const Node& reader = graph_.node(readers[r]);
    if (reader.op == Op::kBatchNorm2d) visit(readers[r], channel);
    if (reader.op != Op::kConcat) continue;
    int64_t first = channel;
    for (const NodeId input : reader.inputs) {
      if (input == id) ForEachNormReader(readers[r], first, visit);
      first += graph_.node(input).shape.c;
    }
  }
}

Array ReferenceOperands::FoldedGradient(NodeId id) const {
  Array sum(graph_.shape(id, batch_));
  const View<double> to = sum.view();
  ForEachNormReader(id, 0, [&](NodeId norm, int64_t first) {
    const Array scale = Scale(norm);
    const View<const double> g(reference_.value_gradient(norm));
    for (int64_t p = 0; p < to.pixels(); ++p) {
      for (int64_t c = 0; c < to.c; ++c) {
        to.Pixel(p)[c] += scale.values[static_cast<size_t>(first + c)] * g.Pixel(p)[first + c];
      }
    }
  });
  return sum;
}

Array ReferenceOperands::SumOfFolds(NodeId id, Array Fold::*what) const {
  Array sum = Channels(graph_.node(id).shape.c);
  ForEachNormReader(id, 0, [&](NodeId norm, int64_t first) {
    const Fold& fold = FoldOf(norm);
    for (size_t c = 0; c < sum.values.size(); ++c) {
      sum.values[c] += (fold.*what).values[static_cast<size_t>(first) + c];
    }
  });
  return sum;
}

const ReferenceOperands::Moments& ReferenceOperands::MomentsOf(NodeId id) const {
  const auto [entry, is_new] = moments_.try_emplace(id);
  Moments& moments = entry->second;
  if (!is_new) return moments;
  const View<const double> x(reference_.value(id));
  moments.mean = moments.var = Channels(x.c);
  StatisticsPassNaive<double>({moments.mean.values.data(), moments.var.values.data()}, x);
  return moments;
}

Array ReferenceOperands::ConstantTerm(const Step& step, const Operand& o) const {
  // A folding step writes the terms of its own batch norm; others read the sums over all.
  const bool own = step.kind == StepKind::kBatchNorm2dFoldBackward;
  const bool folded =
      own ? step.shared : !step.inputs.empty() && step.inputs[0].role == Role::kFoldedGradient;
  if (o.role == Role::kGain && folded) {
    Array ones = Channels(graph_.node(o.node).shape.c);
    std::fill(ones.values.begin(), ones.values.end(), 1.0);
    return ones;
  }
  Array Fold::*const what = o.role == Role::kGain    ? &Fold::gain
                            : o.role == Role::kSlope ? &Fold::slope
                                                     : &Fold::offset;
  return own ? FoldOf(step.node).*what : SumOfFolds(o.node, what);
}

Array ReferenceOperands::GradientSlice(const Step& step, const Operand& o) const {
  const View<const double> gradient(reference_.value_gradient(o.node));
  if (step.kind != StepKind::kConcatBackward || o.shape.c == gradient.c) return ToArray(gradient);
  int64_t first = 0;
  for (const NodeId input : graph_.node(step.node).inputs) {
    if (input == step.outputs[0].node) break;
    first += graph_.node(input).shape.c;
  }
  return ChannelRange(gradient, first, o.shape.c);
}

Array ReferenceOperands::Get(const Step& step, const Operand& o) const {
  switch (o.role) {
    case Role::kValue:
      return Tensor4(reference_.value(o.node));
    case Role::kGradient:
      return GradientSlice(step, o);
    case Role::kSavedMean:
      return Flat(reference_.saved_mean(o.node));
    case Role::kSavedInvStd:
      return Flat(reference_.saved_inv_std(o.node));
    case Role::kRawValue:
      return RawValue(o.node);
    case Role::kScale:
      return Scale(o.node);
    case Role::kShift:
      return Shift(o.node);
    case Role::kMaskedGradient:
      return SideBySide(o.node,
                        [this](NodeId norm) { return Tensor4(reference_.value_gradient(norm)); });
    case Role::kSumG:
      return SideBySide(o.node, [this](NodeId norm) { return FoldOf(norm).sum_g; });
    case Role::kSumGx:
      return SideBySide(o.node, [this](NodeId norm) { return FoldOf(norm).sum_gx; });
    case Role::kFoldedGradient:
      return FoldedGradient(o.node);
    case Role::kMean:
      // Of an activated concatenation it is the raw values that are stored.
      if (graph_.node(o.node).op == Op::kConcat && !Norms(o.node).empty()) return RawMean(o.node);
      return MomentsOf(o.node).mean;
    case Role::kVar:
      return MomentsOf(o.node).var;
    case Role::kGain:
    case Role::kSlope:
    case Role::kOffset:
      return ConstantTerm(step, o);
    case Role::kParameterGradient:
      return Flat(reference_.gradient(o.index));
    case Role::kLoss: {
      const double loss = reference_.loss();
      return ToArray(&loss, 1);
    }
    case Role::kNone:
    case Role::kArgmax:
    case Role::kWorkspace:
    case Role::kLabels:
      break;
  }
  CNN_CHECK(false, "step ", step.name, ": the reference has no operand of role ",
            static_cast<int>(o.role));
  return {};
}

Array ReferenceOperands::EdgeGradient(NodeId reader, NodeId input) const {
  const std::vector<NodeId>& inputs = graph_.node(reader).inputs;
  const auto found = std::find(inputs.begin(), inputs.end(), input);
  CNN_CHECK(found != inputs.end(), graph_.node(reader).name, " does not read ",
            graph_.node(input).name);
  return Tensor4(reference_.edge_gradient(reader, static_cast<int>(found - inputs.begin())));
}

}  // namespace classicnn::verify
