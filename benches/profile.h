// A profile of a plan as a table.
#ifndef CLASSICNN_BENCHES_PROFILE_H_
#define CLASSICNN_BENCHES_PROFILE_H_

#include <string>

#include "models/executor.h"
#include "models/graph.h"
#include "models/plan.h"

namespace classicnn {

// One row for each node whose steps were timed, the slowest first: milliseconds of its forward,
// backward and update, share of the whole, multiply-adds, effective and executed rate, least
// traffic and its rate, algorithms of its steps in their order, fusions it took part in. Last a row
// with the sums. `times` holds at least one run.
std::string FormatProfile(const Graph& graph, const Plan& plan, const StepTimes& times);

}  // namespace classicnn

#endif  // CLASSICNN_BENCHES_PROFILE_H_
