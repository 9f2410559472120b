// Fusion, and which values share memory.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "models/plan_builder.h"

namespace classicnn {

void PlanBuilder::Fuse() {
  if (!plan_.options.fusion) return;
  for (size_t i = 0; i < graph_.nodes().size(); ++i) {
    const auto id = static_cast<NodeId>(i);
    const Node& node = graph_.node(id);
    const std::vector<NodeId>& readers = graph_.readers(id);
    if ((node.op == Op::kBatchNorm2d || node.op == Op::kAdd) && readers.size() == 1 &&
        graph_.node(readers[0]).op == Op::kRelu) {
      fused_relu_[i] = readers[0];
      absorbed_[static_cast<size_t>(readers[0])] = true;
    }
  }
}

// The last node that reads a value, or reads it through a batch norm that is spread over its
// neighbours: in backward these write the value's gradient.
NodeId PlanBuilder::LastReader(NodeId id, NodeId except) const {
  NodeId last = kNoNode;
  std::vector<bool> seen(graph_.nodes().size());
  std::vector<NodeId> passed_on = {id};
  while (!passed_on.empty()) {
    const NodeId value = passed_on.back();
    passed_on.pop_back();
    for (const NodeId reader : graph_.readers(value)) {
      if (reader == except || seen[static_cast<size_t>(reader)]) continue;
      seen[static_cast<size_t>(reader)] = true;
      last = std::max(last, reader);
      const Op op = graph_.node(reader).op;
      if (op == Op::kBatchNorm2d || op == Op::kRelu || op == Op::kConcat) {
        passed_on.push_back(reader);
      }
    }
  }
  return last;
}

void PlanBuilder::ChooseSlices() {
  for (size_t i = 0; i < graph_.nodes().size(); ++i) {
    const auto id = static_cast<NodeId>(i);
    const Node& node = graph_.node(id);
    if (node.op != Op::kConcat) continue;
    // An input can be a slice of this output alone, once, and where its other readers come before
    // the concatenation: backward then sees the whole gradient first and adds the others to a
    // slice.
    bool possible = true;
    for (const NodeId input : node.inputs) {
      const bool twice = std::count(node.inputs.begin(), node.inputs.end(), input) > 1;
      const bool read_later = LastReader(input, id) > id;
      const bool taken = slices_[static_cast<size_t>(input)].concat != kNoNode;
      if (input == graph_.input() || twice || read_later || taken) possible = false;
    }
    if (!possible) continue;
    free_concat_[i] = true;
    int64_t offset = 0;
    for (const NodeId input : node.inputs) {
      slices_[static_cast<size_t>(input)] = {id, offset};
      offset += graph_.node(input).shape.c;
    }
  }
}

bool PlanBuilder::NeedsOwnOutputInBackward(NodeId id) const {
  // ReLU's mask is taken from its output; inside a batch norm it is recomputed from the input. A
  // concatenation without a copy is its inputs, which their other readers may need.
  const Node& node = graph_.node(id);
  if (!plan_.options.backward) return false;
  if (free_concat_[static_cast<size_t>(id)]) return true;
  if (node.op != Op::kRelu) return false;
  const NodeId producer = node.inputs[0];
  return !(absorbed_[static_cast<size_t>(id)] && graph_.node(producer).op == Op::kBatchNorm2d);
}

NodeId PlanBuilder::InPlaceReader(NodeId id) const {
  if (id == graph_.input() || graph_.readers(id).size() != 1 || NeedsOwnOutputInBackward(id)) {
    return kNoNode;
  }
  const NodeId reader = graph_.readers(id)[0];
  const Node& node = graph_.node(reader);
  switch (node.op) {
    case Op::kRelu:
    case Op::kDropout:
      return reader;
    case Op::kBatchNorm2d:  // backward reads the input
      if (fused_norm_[static_cast<size_t>(reader)]) return kNoNode;
      return plan_.options.backward ? kNoNode : Out(reader);
    case Op::kAdd:
      // One input may be overwritten: the first that nobody else needs.
      for (const NodeId input : node.inputs) {
        if (activated_[static_cast<size_t>(input)]) continue;  // is not in memory
        if (input == id) return Out(reader);
        if (input != graph_.input() && graph_.readers(input).size() == 1 &&
            !NeedsOwnOutputInBackward(input)) {
          return kNoNode;
        }
      }
      return kNoNode;
    default:
      return kNoNode;
  }
}

void PlanBuilder::PlaceValues() {
  // Readers come after what they read, so their places are known first.
  for (size_t i = graph_.nodes().size(); i-- > 0;) {
    const auto id = static_cast<NodeId>(i);
    Place& place = value_places_[i];
    if (activated_[i] && slices_[i].concat == kNoNode && graph_.node(id).op != Op::kConcat) {
      continue;  // never in memory
    }
    const NodeId norm = norm_[i];
    const NodeId normalized = norm == kNoNode ? kNoNode : Out(norm);
    if (normalized != kNoNode && activated_[static_cast<size_t>(normalized)] &&
        slices_[static_cast<size_t>(normalized)].concat != kNoNode) {
      place = value_places_[static_cast<size_t>(normalized)];  // where the concatenation has it
    } else if (fused_relu_[i] != kNoNode) {  // only the ReLU's value is ever there
      place = value_places_[static_cast<size_t>(fused_relu_[i])];
    } else if (const Slice& slice = slices_[i]; slice.concat != kNoNode) {
      place = value_places_[static_cast<size_t>(slice.concat)];
      place.channel_offset += slice.channel_offset;
    } else if (const NodeId reader = InPlaceReader(id); reader != kNoNode) {
      place = value_places_[static_cast<size_t>(reader)];
    } else {
      const bool is_input = id == graph_.input();
      place = NewPlace(graph_.node(id).name,
                       is_input ? MemoryCategory::kData : MemoryCategory::kActivations, id);
    }
  }
}

}  // namespace classicnn
