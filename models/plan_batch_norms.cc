// Batch norms that cost no tensor pass: spread over the steps around them (layers/fusion.h).
//
// A batch norm is fused where all readers of its input are batch norms. Its input is stored as it
// is computed; the statistics come from the step that computes it. Where every reader of the
// normalized (and rectified) value can activate what it loads, that value is never stored. On the
// way back the last of those readers masks the gradient and leaves the sums, and the producer of
// the input applies the rest as it loads its dy.
//
// Where several batch norms read one tensor (the features of a dense block), each reader adds its
// share, scale times masked gradient, to one folded gradient; the terms that are constant over a
// channel are summed over all of them and applied once.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "layers/add/add.h"
#include "layers/fusion_passes.h"
#include "models/plan_builder.h"

namespace classicnn {
namespace {

// Arrays by channel that belong to what a batch norm reads; the others to what it writes.
bool OfInput(Role role) {
  return role == Role::kMean || role == Role::kVar || role == Role::kGain || role == Role::kSlope ||
         role == Role::kOffset;
}

const char* ArrayName(Role role) {
  switch (role) {
    case Role::kMean:
      return " mean";
    case Role::kVar:
      return " var";
    case Role::kScale:
      return " scale";
    case Role::kShift:
      return " shift";
    case Role::kSumG:
      return " sum_g";
    case Role::kSumGx:
      return " sum_gx";
    case Role::kGain:
      return " gain";
    case Role::kSlope:
      return " slope";
    default:
      return " offset";
  }
}

}  // namespace

void PlanBuilder::FuseNorms() {
  if (!plan_.options.fusion || !plan_.options.training) return;
  const size_t nodes = graph_.nodes().size();
  // Tensors that share memory as slices of one concatenation stand or fall together.
  const auto root = [&](NodeId id) {
    while (slices_[static_cast<size_t>(id)].concat != kNoNode) {
      id = slices_[static_cast<size_t>(id)].concat;
    }
    return id;
  };
  std::vector<bool> only_norms(nodes, true);  // by root
  std::vector<int> norms(nodes, 0);
  for (size_t i = 0; i < nodes; ++i) {
    const auto id = static_cast<NodeId>(i);
    const auto r = static_cast<size_t>(root(id));
    if (id == graph_.input() || id == graph_.logits() || !graph_.node(id).needs_gradient) {
      only_norms[r] = false;
    }
    // A ReLU that runs inside `id` is its only reader: what counts is who reads that.
    if (Out(id) != id) continue;
    for (const NodeId reader : graph_.readers(id)) {
      const bool whole = slices_[i].concat == reader && free_concat_[static_cast<size_t>(reader)];
      if (graph_.node(reader).op == Op::kBatchNorm2d) {
        ++norms[r];
      } else if (!whole) {
        only_norms[r] = false;
      }
    }
  }
  for (size_t i = 0; i < nodes; ++i) {
    const auto id = static_cast<NodeId>(i);
    if (graph_.node(id).op != Op::kBatchNorm2d) continue;
    const NodeId x = graph_.node(id).inputs[0];
    const auto r = static_cast<size_t>(root(x));
    if (!only_norms[r]) continue;
    fused_norm_[i] = true;
    shared_norm_[i] = norms[r] > 1 || static_cast<size_t>(x) != r || free_concat_[r];
    norm_[static_cast<size_t>(x)] = id;
  }
  ChooseActivated();
  // Statistics are wanted of whole tensors; a concatenation's are those of its inputs.
  for (size_t i = nodes; i-- > 0;) {
    if (norm_[i] != kNoNode) needs_statistics_[i] = true;
    if (!needs_statistics_[i]) continue;
    folded_[i] = true;
    if (!free_concat_[i]) continue;
    for (const NodeId input : graph_.nodes()[i].inputs) {
      needs_statistics_[static_cast<size_t>(input)] = true;
    }
  }
}

// Readers that activate what they load, and can mask the gradient that they write.
bool PlanBuilder::CanReadActivated(NodeId reader, NodeId activated) const {
  const auto r = static_cast<size_t>(reader);
  const Node& node = graph_.node(reader);
  switch (node.op) {
    case Op::kConv2d:
    case Op::kMaxPool2d:
    case Op::kGlobalAvgPool2d:
      return true;
    case Op::kAdd:
      // The sum's backward is a pass in any case, which masks for all its inputs at once. It writes
      // masked gradients: those of a batch norm that shares its input are folded.
      return fused_relu_[r] != kNoNode && node.inputs.size() == 2 &&
             node.inputs[0] != node.inputs[1] && graph_.readers(activated).size() == 1 &&
             graph_.node(activated).op == Op::kBatchNorm2d &&
             !shared_norm_[static_cast<size_t>(activated)] &&
             graph_.node(graph_.node(activated).inputs[0]).op == Op::kConv2d;
    case Op::kConcat:
      return activated_[r] && graph_.readers(activated).size() == 1;
    default:
      return false;
  }
}

void PlanBuilder::ChooseActivated() {
  const size_t nodes = graph_.nodes().size();
  // Every batch norm and concatenation of such is supposed to be until a reader says otherwise.
  for (size_t i = 0; i < nodes; ++i) {
    const auto id = static_cast<NodeId>(i);
    if (fused_norm_[i]) activated_[static_cast<size_t>(Out(id))] = true;
    if (free_concat_[i] && slices_[i].concat == kNoNode) activated_[i] = true;
  }
  const auto check = [&](NodeId id) {
    const std::vector<NodeId>& readers = graph_.readers(id);
    if (readers.empty()) return false;
    for (const NodeId reader : readers) {
      if (!CanReadActivated(reader, id)) return false;
    }
    const Node& node = graph_.node(id);
    if (node.op != Op::kConcat) return true;
    bool relu = false;
    for (size_t k = 0; k < node.inputs.size(); ++k) {
      // An input whose batch norm alone reads a tensor of its own, which can be the slice instead.
      const NodeId input = node.inputs[k];
      if (!activated_[static_cast<size_t>(input)] || graph_.node(input).op == Op::kConcat) {
        return false;
      }
      const NodeId norm = NormOf(input);
      if (shared_norm_[static_cast<size_t>(norm)]) return false;
      if (k > 0 && relu != (norm != input)) return false;
      relu = norm != input;
    }
    return true;
  };
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = 0; i < nodes; ++i) {
      const auto id = static_cast<NodeId>(i);
      if (!activated_[i] || check(id)) continue;
      activated_[i] = false;
      changed = true;
    }
  }
  for (size_t i = 0; i < nodes; ++i) {
    if (activated_[i])
      writers_left_[i] = static_cast<int>(graph_.readers(static_cast<NodeId>(i)).size());
  }
}

NodeId PlanBuilder::NormOf(NodeId activated) const {
  const Node& node = graph_.node(activated);
  return node.op == Op::kRelu ? node.inputs[0] : activated;
}

Operand PlanBuilder::RawValue(NodeId activated) const {
  const Node& node = graph_.node(activated);
  const NodeId owner =
      node.op == Op::kConcat ? activated : graph_.node(NormOf(activated)).inputs[0];
  Operand o = Value(owner);
  o.role = Role::kRawValue;
  o.node = activated;
  return o;
}

Operand PlanBuilder::ChannelArray(Role role, NodeId node) {
  // Arrays of slices lie side by side, as their tensors do. What a batch norm inside an activated
  // concatenation reads lies where its value would.
  const auto floats = [](int64_t count) { return count * static_cast<int64_t>(sizeof(float)); };
  NodeId root = node;
  int64_t offset = 0;
  if (OfInput(role) && norm_[static_cast<size_t>(node)] != kNoNode) {
    const NodeId norm = norm_[static_cast<size_t>(node)];
    const NodeId out = Out(norm);
    if (activated_[static_cast<size_t>(out)] &&
        slices_[static_cast<size_t>(out)].concat != kNoNode) {
      root = out;
    }
  }
  while (slices_[static_cast<size_t>(root)].concat != kNoNode) {
    offset += slices_[static_cast<size_t>(root)].channel_offset;
    root = slices_[static_cast<size_t>(root)].concat;
  }
  const auto [entry, is_new] = arrays_.try_emplace({role, root}, -1);
  if (is_new) {
    entry->second = NewBuffer(absl::StrCat(graph_.node(root).name, ArrayName(role)),
                              MemoryCategory::kActivations, floats(graph_.node(root).shape.c));
  }
  Operand o = FlatOperand(role, node, entry->second);
  o.offset = floats(offset);
  o.bytes = floats(graph_.node(node).shape.c);
  return o;
}

ActivationOperands PlanBuilder::Activation(NodeId activated) {
  const Node& node = graph_.node(activated);
  const NodeId one = node.op == Op::kConcat ? node.inputs[0] : activated;
  return {ChannelArray(Role::kScale, activated), ChannelArray(Role::kShift, activated),
          graph_.node(one).op == Op::kRelu};
}

Operand PlanBuilder::ReadValue(NodeId input, Step* step) {
  const bool activated = activated_[static_cast<size_t>(input)];
  step->activations.resize(step->inputs.size() + 1);
  if (activated) step->activations.back() = Activation(input);
  return activated ? RawValue(input) : Value(input);
}

void PlanBuilder::EmitStatistics(NodeId id, Step* producer) {
  if (!needs_statistics_[static_cast<size_t>(id)]) return;
  const Operand mean = ChannelArray(Role::kMean, id);
  const Operand var = ChannelArray(Role::kVar, id);
  if (producer != nullptr) {
    producer->mean = mean;
    producer->var = var;
    return;
  }
  if (free_concat_[static_cast<size_t>(id)]) return;  // its inputs have them
  Step step = NewStep(StepKind::kStatistics, Phase::kForward, id, "statistics");
  step.inputs = {Value(id)};
  step.mean = mean;
  step.var = var;
  step.workspace = NewWorkspace(step.name, StatisticsPassWorkspaceBytes(graph_.shape(id, batch())));
  Emit(std::move(step));
}

void PlanBuilder::EmitNormForward(NodeId id) {
  const NodeId x = graph_.node(id).inputs[0];
  const NodeId out = Out(id);
  Step fold = NewStep(StepKind::kBatchNorm2dFoldForward, Phase::kForward, id, "fold");
  fold.fused_relu = fused_relu_[static_cast<size_t>(id)];
  fold.mean = ChannelArray(Role::kMean, x);
  fold.var = ChannelArray(Role::kVar, x);
  fold.activations = {Activation(out)};
  Emit(std::move(fold));
  if (activated_[static_cast<size_t>(out)]) return;
  Step step = NewStep(StepKind::kActivation, Phase::kForward, id, "activation");
  step.fused_relu = fused_relu_[static_cast<size_t>(id)];
  step.inputs = {RawValue(out)};
  step.activations = {Activation(out)};
  step.outputs = {Value(out)};
  Emit(std::move(step));
}

GradientEpilogueOperands PlanBuilder::Epilogue(NodeId activated) {
  const Node& node = graph_.node(activated);
  const ActivationOperands activation = Activation(activated);
  GradientEpilogueOperands e;
  e.x = RawValue(activated);
  e.scale = activation.scale;
  e.shift = activation.shift;
  e.relu = activation.relu;
  e.mean = ChannelArray(
      Role::kMean, node.op == Op::kConcat ? activated : graph_.node(NormOf(activated)).inputs[0]);
  e.sum_g = ChannelArray(Role::kSumG, activated);
  e.sum_gx = ChannelArray(Role::kSumGx, activated);
  return e;
}

void PlanBuilder::AddGradientOutput(NodeId input, Step* step) {
  const auto i = static_cast<size_t>(input);
  if (!activated_[i]) {
    step->outputs.push_back(WriteGradient(input, Operand(), &step->accumulate));
    return;
  }
  --writers_left_[i];
  const bool is_norm = graph_.node(input).op != Op::kConcat;
  const bool shared = is_norm && shared_norm_[static_cast<size_t>(NormOf(input))];
  if (shared && graph_.readers(input).size() == 1) {
    step->epilogues = {FoldedEpilogue(input, step)};
    return;
  }
  step->outputs.push_back(WriteGradient(input, Operand(), &step->accumulate));
  if (shared || writers_left_[i] > 0) return;
  step->outputs.back().role = Role::kMaskedGradient;
  step->epilogues = {Epilogue(input)};
}

GradientEpilogueOperands PlanBuilder::FoldedEpilogue(NodeId activated, Step* step) {
  const NodeId x = graph_.node(NormOf(activated)).inputs[0];
  GradientEpilogueOperands e = Epilogue(activated);
  e.gain = e.scale;
  step->outputs.push_back(WriteGradient(x, Operand(), &e.add));
  step->outputs.back().role = Role::kFoldedGradient;
  return e;
}

void PlanBuilder::EmitNormBackward(NodeId id) {
  const auto i = static_cast<size_t>(id);
  const Node& node = graph_.node(id);
  const NodeId x = node.inputs[0];
  const NodeId out = Out(id);
  const bool shared = shared_norm_[i];
  // The folded gradient may have been written by this batch norm's reader already.
  bool first = first_fold_[static_cast<size_t>(x)];
  const bool masked =
      activated_[static_cast<size_t>(out)] && (!shared || graph_.readers(out).size() == 1);
  if (!masked) {
    Step step = NewStep(StepKind::kGradientEpilogue, Phase::kBackward, id, "gradient epilogue");
    step.fused_relu = fused_relu_[i];
    step.inputs = {ReadGradient(out, nullptr)};
    if (shared) {
      step.epilogues = {FoldedEpilogue(out, &step)};
    } else {
      step.outputs = {Gradient(out)};
      step.outputs[0].role = Role::kMaskedGradient;
      step.epilogues = {Epilogue(out)};
    }
    step.workspace =
        NewWorkspace(step.name, GradientEpiloguePassWorkspaceBytes(graph_.shape(x, batch())));
    Emit(std::move(step));
  }
  if (!shared) {  // the masked gradient is what the producer of x reads
    gradient_places_[static_cast<size_t>(x)] = gradient_places_[static_cast<size_t>(out)];
    gradient_written_[static_cast<size_t>(x)] = true;
  }
  Step fold = NewStep(StepKind::kBatchNorm2dFoldBackward, Phase::kBackward, id, "fold backward");
  fold.fused_relu = fused_relu_[i];
  fold.epilogues.resize(1);
  GradientEpilogueOperands& e = fold.epilogues[0];
  e.mean = ChannelArray(Role::kMean, x);
  e.sum_g = ChannelArray(Role::kSumG, out);
  e.sum_gx = ChannelArray(Role::kSumGx, out);
  fold.var = ChannelArray(Role::kVar, x);
  fold.gradient.gain = ChannelArray(Role::kGain, x);
  fold.gradient.slope = ChannelArray(Role::kSlope, x);
  fold.gradient.offset = ChannelArray(Role::kOffset, x);
  fold.shared = shared;
  fold.accumulate = shared && !first;
  fold.parameter_gradients = {ParameterGradient(node.parameters[0]),
                              ParameterGradient(node.parameters[1])};
  MarkFolded(x);
  Emit(std::move(fold));
}

// Slices of a tensor whose constant terms have been written: later ones are added.
void PlanBuilder::MarkFolded(NodeId id) {
  first_fold_[static_cast<size_t>(id)] = false;
  if (!free_concat_[static_cast<size_t>(id)]) return;
  for (const NodeId input : graph_.node(id).inputs) MarkFolded(input);
}

Operand PlanBuilder::ReadGradient(NodeId id, Step* step) {
  const auto i = static_cast<size_t>(id);
  Operand dy = Gradient(id);
  if (!folded_[i]) return dy;
  // A batch norm that reads this alone, or several that read it or what it is a slice of.
  const NodeId norm = norm_[i];
  if (norm != kNoNode && !shared_norm_[static_cast<size_t>(norm)]) {
    dy.role = Role::kMaskedGradient;
    dy.node = Out(norm);
  } else {
    dy.role = Role::kFoldedGradient;
  }
  Step pass;
  if (step == nullptr) {
    pass = NewStep(StepKind::kGradientPrologue, Phase::kBackward, id, "gradient prologue");
    pass.inputs = {dy};
    pass.outputs = {Gradient(id)};
  }
  GradientPrologueOperands& gradient = step == nullptr ? pass.gradient : step->gradient;
  gradient.x = Value(id);
  gradient.gain = ChannelArray(Role::kGain, id);
  gradient.slope = ChannelArray(Role::kSlope, id);
  gradient.offset = ChannelArray(Role::kOffset, id);
  if (step != nullptr) return dy;
  Emit(std::move(pass));
  folded_[i] = false;
  return Gradient(id);
}

void PlanBuilder::EmitAddNormsBackward(NodeId id, const Operand& dy) {
  const Node& node = graph_.node(id);
  const NodeId relu = fused_relu_[static_cast<size_t>(id)];
  Step step = NewStep(StepKind::kAddBackward, Phase::kBackward, id, "backward");
  step.fused_relu = relu;
  step.inputs = {dy, Value(relu)};
  step.outputs = {WriteGradient(id, dy, &step.accumulate)};
  const Operand g = step.outputs[0];
  NodeId earliest = id;  // of the nodes whose backward still reads g
  for (const NodeId input : node.inputs) {
    const auto i = static_cast<size_t>(input);
    if (!activated_[i]) continue;
    GradientEpilogueOperands e = Epilogue(input);
    e.scale = e.shift = Operand();
    step.epilogues.push_back(e);
    bool accumulate = false;
    WriteGradient(input, g, &accumulate);
    CNN_CHECK(!accumulate, graph_.node(input).name, " has another gradient");
    --writers_left_[i];
    earliest = std::min(earliest, graph_.node(input).inputs[0]);
  }
  step.workspace =
      NewWorkspace(step.name, AddReluBackwardWorkspaceBytes(graph_.shape(id, batch())));
  Emit(std::move(step));
  for (const NodeId input : node.inputs) {
    const auto i = static_cast<size_t>(input);
    if (activated_[i] || !graph_.node(input).needs_gradient) continue;
    // Takes over the memory where whoever else writes this gradient comes after the last that
    // reads g.
    bool last = !gradient_written_[i];
    for (const NodeId reader : graph_.readers(input)) last &= reader == id || reader < earliest;
    if (last) {
      bool accumulate = false;
      WriteGradient(input, g, &accumulate);
      continue;
    }
    Step copy = NewStep(StepKind::kAddBackward, Phase::kBackward, id, "backward copy");
    copy.inputs = {g};
    copy.outputs = {WriteGradient(input, Operand(), &copy.accumulate)};
    Emit(std::move(copy));
  }
}

}  // namespace classicnn
