// How reports group layers: by operation, convolutions by kernel as well.
#ifndef CLASSICNN_REPORTS_LAYER_TYPES_H_
#define CLASSICNN_REPORTS_LAYER_TYPES_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "models/graph.h"
#include "models/layer_shapes.h"
#include "models/plan.h"

namespace classicnn {

// "conv2d 3x3", "conv2d 1x1", "conv2d depthwise", "batch_norm2d", ...
std::string LayerType(const Node& node);
std::string LayerType(const LayerShape& shape);
// Of a step: its node's, "cross_entropy" or "update".
std::string StepType(const Graph& graph, const Step& step);
// "forward", "backward", "backward_data", "backward_weights", "update"; "recompute" of a forward
// step that runs again in backward.
const char* StepPass(const Step& step);
// Orders types for tables and charts: convolutions first, memory-bound layers after them.
// (Alphabetical among those it does not know.)
bool TypeBefore(const std::string& a, const std::string& b);

// Side of the square of input pixels that one value of `node` depends on: the longest path's.
int64_t ReceptiveField(const Graph& graph, NodeId node);
// The last node before the global average pooling or the first linear layer.
NodeId LastImageNode(const Graph& graph);

}  // namespace classicnn

#endif  // CLASSICNN_REPORTS_LAYER_TYPES_H_
