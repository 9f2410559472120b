// cnn-bench-layers --compare: our layers and a peer's in turns, in one process, and a table; or
// convolutions with the prologues and epilogues of a fused plan, and without.
#ifndef CLASSICNN_BENCHES_COMPARE_MODE_H_
#define CLASSICNN_BENCHES_COMPARE_MODE_H_

#include <vector>

#include "benches/autotune.h"
#include "benches/layer_case.h"
#include "models/layer_shapes.h"

namespace classicnn {

// Whether the command line has --compare or --compare_json.
bool CompareAsked();
// It is --compare=plain: ours are fused cases.
bool CompareIsOfFused();

// Measures every pass of these shapes on each number of threads that --threads names, and prints
// benches/comparison.h's tables. Layers that the peer does not have are left out, and so are
// passes that an algorithm in `options` does not do. With `tuning`, convolutions without a forced
// algorithm take what it says (benches/autotune.h), fused ones what it says of plain ones. Returns
// the program's exit code: 1 where a result is wrong or a case cannot run (its row says so), 2 for
// bad flags or where nothing is left.
int RunCompareMode(const std::vector<ModelLayerShape>& shapes, const LayerCaseOptions& options,
                   TuningCache* tuning);

}  // namespace classicnn

#endif  // CLASSICNN_BENCHES_COMPARE_MODE_H_
