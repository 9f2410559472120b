// What a step of a plan finds in memory and what it must leave there, by the reference.
#ifndef CLASSICNN_TESTS_VERIFY_STEP_DATA_H_
#define CLASSICNN_TESTS_VERIFY_STEP_DATA_H_

#include <string>
#include <vector>

#include "models/plan.h"
#include "tests/verify/array.h"
#include "tests/verify/reference_operands.h"

namespace classicnn::verify {

struct StepData {
  struct Input {
    const Operand* operand = nullptr;
    Array value;
  };
  // Before the step, in this order: a later one may share memory with an earlier one that nobody
  // reads then. Without labels and argmax.
  std::vector<Input> inputs;

  struct Output {
    const Operand* operand = nullptr;
    std::string name;  // "output", "sum_g", ...
    Array value;
    Array base;         // what of it the step has found there; empty: it overwrites
    std::string error;  // the plan is wrong: there is no such value
  };
  std::vector<Output> outputs;  // without argmax
};

// Pointers are into `step`. Inputs of which a discontinuous result depends (a ReLU's mask) are off
// its kink. What a step adds to is filled with values near its own contribution.
StepData MakeStepData(const ReferenceOperands& reference, const Step& step);

// Every operand a step writes, argmax included, workspace not.
std::vector<const Operand*> WrittenOperands(const Step& step);

}  // namespace classicnn::verify

#endif  // CLASSICNN_TESTS_VERIFY_STEP_DATA_H_
