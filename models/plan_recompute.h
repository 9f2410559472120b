// Recomputation: values that are dropped after forward and computed again in backward, to save
// memory (T. Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016). Internal to
// plan*.cc: works on a plan whose buffers have no places yet.
//
// The same step with the same inputs gives the same bits, so that nothing but time changes; running
// statistics are left alone by what is computed again.
#ifndef CLASSICNN_MODELS_PLAN_RECOMPUTE_H_
#define CLASSICNN_MODELS_PLAN_RECOMPUTE_H_

#include <cstdint>
#include <vector>

#include "models/plan.h"

namespace classicnn {

struct DropCandidate {
  int buffer = -1;
  int64_t bytes = 0;
  double cost = 0;  // of computing it again, in bytes that could be moved in that time
};

// Buffers whose steps could run again from what is still there in backward, cheapest for each byte
// first.
std::vector<DropCandidate> FindDropCandidates(const Plan& plan);

// Rewrites the steps: what wrote these buffers in forward runs again before the first backward step
// that needs them, into new buffers. Pooling's argmax is dropped along with its value.
void DropBuffers(const std::vector<int>& buffers, Plan* plan);

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_PLAN_RECOMPUTE_H_
