// Small measurements and countings behind single claims of the report.
#ifndef CLASSICNN_REPORTS_EXTRA_H_
#define CLASSICNN_REPORTS_EXTRA_H_

#include "absl/status/status.h"
#include "core/program.h"
#include "reports/measure.h"
#include "reports/results.h"

namespace classicnn {

// Fills results->extra:
//   separable.standard_macs, separable.macs           3x3 64→128 at 32x32 against 3x3 depthwise and
//                                                     1x1, forward: one image's MACs
//   separable.standard_seconds, separable.seconds     a batch's time of the two
//   densenet121.dense_connections                     L(L+1)/2 summed over the blocks of the graph
//   densenet121.block_convolutions                    convolutions inside the dense blocks
//   densenet121.layer_bytes_first, .layer_bytes_last  activation memory that the first and the last
//                                                     layer of the longest block add in forward
//   MODEL.parameters_1000                             with 1000 classes
//   MODEL.macs_224                                    with 224 x 224 images
absl::Status MeasureExtra(const MeasureOptions& options, Results* results, Progress* progress);

}  // namespace classicnn

#endif  // CLASSICNN_REPORTS_EXTRA_H_
