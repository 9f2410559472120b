#include "models/plan_recompute.h"

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "core/check.h"

namespace classicnn {
namespace {

bool IsForward(const Step& step) { return step.phase <= Phase::kLoss; }

// Batch norms with passes of their own would move the running statistics twice.
bool CanRunAgain(const Step& step) {
  switch (step.kind) {
    case StepKind::kConv2dForward:
    case StepKind::kReluForward:
    case StepKind::kMaxPool2dForward:
    case StepKind::kAvgPool2dForward:
    case StepKind::kAddForward:
    case StepKind::kConcatForward:
    case StepKind::kActivation:
      return true;
    default:
      return false;
  }
}

// Whether two operands share elements: channels of the same pixels, or flat memory.
bool Overlap(const Operand& a, const Operand& b) {
  if (!a.valid() || !b.valid() || a.buffer != b.buffer) return false;
  if (a.shape.c == 0 || b.shape.c == 0) return true;
  const auto begin = [](const Operand& o) {
    return o.offset / static_cast<int64_t>(sizeof(float));
  };
  return begin(a) < begin(b) + b.shape.c && begin(b) < begin(a) + a.shape.c;
}

// Work in bytes: a core moves a byte in the time of about ten FLOPs.
double Cost(const Step& step) {
  constexpr double kFlopsPerByte = 10;
  return std::max(2 * static_cast<double>(step.executed_macs) / kFlopsPerByte,
                  static_cast<double>(step.bytes));
}

// Whether all that `step` (at `index` in forward) reads is in backward as it was then.
bool InputsStay(const Plan& plan, const Step& step, size_t index) {
  for (size_t later = index + 1; later < plan.steps.size(); ++later) {
    const Step& other = plan.steps[later];
    if (!IsForward(other)) break;
    for (const Operand& out : other.outputs) {
      for (const Operand& in : step.inputs) {
        if (Overlap(in, out)) return false;
      }
    }
  }
  return true;
}

class Dropper {
 public:
  Dropper(const std::vector<int>& buffers, Plan* plan)
      : plan_(*plan), dropped_(buffers.begin(), buffers.end()) {
    for (size_t i = 0; i < plan_.steps.size(); ++i) {
      const Step& step = plan_.steps[i];
      if (!IsForward(step)) continue;
      for (const Operand& o : step.outputs) {
        if (o.valid() && dropped_.count(o.buffer) > 0) producers_[o.buffer].push_back(i);
      }
    }
    for (const auto& [buffer, steps] : producers_) {
      for (const size_t i : steps) {
        const Operand& argmax = plan_.steps[i].argmax;
        if (argmax.valid()) owner_[argmax.buffer] = buffer;
      }
      owner_[buffer] = buffer;
    }
  }

  void Run() {
    for (size_t i = 0; i < plan_.steps.size(); ++i) {
      Step step = plan_.steps[i];
      if (IsForward(step)) {
        if (step.argmax.valid() && owner_.count(step.argmax.buffer) > 0) step.argmax = Operand();
      } else {
        Renew(&step);
      }
      steps_.push_back(std::move(step));
    }
    plan_.steps = std::move(steps_);
  }

 private:
  // Makes everything that `step` touches available, and has it use the new buffers.
  void Renew(Step* step) {
    step->ForEachOperand([&](Operand& o) {
      const auto owner = owner_.find(o.buffer);
      if (owner == owner_.end()) return;
      Again(owner->second);
      o.buffer = new_buffer_.at(o.buffer);
    });
  }

  int Copy(int buffer) {
    BufferLifetime copy = plan_.buffers[static_cast<size_t>(buffer)];
    absl::StrAppend(&copy.name, " again");
    plan_.buffers.push_back(std::move(copy));
    return static_cast<int>(plan_.buffers.size()) - 1;
  }

  void Again(int buffer) {
    if (new_buffer_.count(buffer) > 0) return;
    for (const auto& [part, owner] : owner_) {
      if (owner == buffer) new_buffer_[part] = Copy(part);
    }
    for (const size_t i : producers_.at(buffer)) {
      Step step = plan_.steps[i];
      step.phase = Phase::kBackward;
      absl::StrAppend(&step.name, " again");
      step.macs = 0;  // useful work is counted once
      step.recomputed = true;
      step.mean = step.var = Operand();
      Renew(&step);
      if (step.workspace.valid()) step.workspace.buffer = Copy(step.workspace.buffer);
      steps_.push_back(std::move(step));
    }
  }

  Plan& plan_;
  std::set<int> dropped_;
  std::map<int, std::vector<size_t>> producers_;  // by dropped buffer, in order
  std::map<int, int> owner_;  // dropped buffers, and argmax buffers, to the dropped one
  std::map<int, int> new_buffer_;
  std::vector<Step> steps_;
};

}  // namespace

std::vector<DropCandidate> FindDropCandidates(const Plan& plan) {
  const size_t count = plan.buffers.size();
  std::vector<double> cost(count, 0);
  std::vector<bool> possible(count, false), used_in_backward(count, false);
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    const Step& step = plan.steps[i];
    if (!IsForward(step)) {
      step.ForEachOperand(
          [&](const Operand& o) { used_in_backward[static_cast<size_t>(o.buffer)] = true; });
      continue;
    }
    for (const Operand& o : step.outputs) {
      if (!o.valid()) continue;
      const auto b = static_cast<size_t>(o.buffer);
      // Further channels of a concatenation add to its cost; one that cannot run again spoils it.
      const bool first = cost[b] == 0;
      cost[b] += Cost(step);
      possible[b] = (first || possible[b]) && o.role == Role::kValue && CanRunAgain(step) &&
                    InputsStay(plan, step, i);
    }
  }
  std::vector<DropCandidate> candidates;
  for (size_t b = 0; b < count; ++b) {
    const BufferLifetime& buffer = plan.buffers[b];
    if (!possible[b] || !used_in_backward[b] || buffer.bytes < plan.options.least_dropped_bytes ||
        static_cast<int>(b) == plan.logits.buffer || static_cast<int>(b) == plan.input.buffer) {
      continue;
    }
    candidates.push_back({static_cast<int>(b), buffer.bytes, cost[b]});
  }
  std::stable_sort(
      candidates.begin(), candidates.end(), [](const DropCandidate& a, const DropCandidate& b) {
        return a.cost * static_cast<double>(b.bytes) < b.cost * static_cast<double>(a.bytes);
      });
  return candidates;
}

void DropBuffers(const std::vector<int>& buffers, Plan* plan) {
  if (!buffers.empty()) Dropper(buffers, plan).Run();
}

}  // namespace classicnn
