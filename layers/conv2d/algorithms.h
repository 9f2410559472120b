// Internal: what every convolution algorithm provides to the dispatch in conv2d.cc.
//
// An algorithm is one header conv2d_NAME.h that declares `extern const Conv2dAlgorithmOps
// kConv2dNAMEOps;`, its sources, and one line in the table of conv2d.cc.
#ifndef CLASSICNN_LAYERS_CONV2D_ALGORITHMS_H_
#define CLASSICNN_LAYERS_CONV2D_ALGORITHMS_H_

#include <cstddef>
#include <cstdint>

#include "core/context.h"
#include "layers/conv2d/conv2d.h"

namespace classicnn {

// The shape is valid wherever these are called, and beyond `supports` they are only called for
// shapes and passes that it accepts. Arguments were checked by CheckArgs below.
struct Conv2dAlgorithmOps {
  bool (*supports)(const Conv2dShape& shape, Conv2dPass pass);
  // Multiply-adds that are executed; null where that is shape.macs().
  int64_t (*executed_macs)(const Conv2dShape& shape, Conv2dPass pass);
  // Scratch of a call with `fusion`, which asks for nothing that `fuses` does not grant.
  size_t (*workspace_bytes)(const Conv2dShape& shape, Conv2dPass pass, int num_threads,
                            const Conv2dFusion& fusion);
  void (*forward)(const Conv2dForwardArgs<float>& args, Context& ctx);
  void (*backward_data)(const Conv2dBackwardDataArgs<float>& args, Context& ctx);
  // Writes dweights (or updates: only those that say so below are asked to) and nothing else: the
  // bias gradient does not depend on the algorithm, the dispatch does it.
  // All of the workspace may be used.
  void (*backward_weights)(const Conv2dBackwardWeightsArgs<float>& args, Context& ctx);
  // What of `fusion` the functions above do themselves; the dispatch takes the rest out of the
  // arguments and does it in passes of its own (layers/fusion_passes.h). Null: nothing.
  Conv2dFusion (*fuses)(const Conv2dShape& shape, Conv2dPass pass, const Conv2dFusion& fusion);
  // Both backwards at once (Conv2dBackward), with what of `fusion` backward data fuses. Null:
  // never.
  bool (*has_backward)(const Conv2dShape& shape);
  size_t (*backward_workspace_bytes)(const Conv2dShape& shape, int num_threads,
                                     const Conv2dFusion& fusion);
  void (*backward)(const Conv2dBackwardDataArgs<float>& data,
                   const Conv2dBackwardWeightsArgs<float>& weights, Context& ctx);
  bool updates = false;  // Conv2dUpdates, in backward_weights and in backward
  // Of shapes that have one: whether `backward` takes less time than two passes. Null: always.
  bool (*prefers_backward)(const Conv2dShape& shape) = nullptr;
};

// Null for an algorithm that is not built in.
const Conv2dAlgorithmOps* GetConv2dAlgorithmOps(Conv2dAlgorithm algorithm);

// CNN_CHECKs that views have the shape's sizes, pointers are set, and pixel strides suffice. Shared
// by the dispatch and the naive references.
template <typename T>
void CheckConv2dArgs(const Conv2dForwardArgs<T>& args);
template <typename T>
void CheckConv2dArgs(const Conv2dBackwardDataArgs<T>& args);
template <typename T>
void CheckConv2dArgs(const Conv2dBackwardWeightsArgs<T>& args);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_CONV2D_ALGORITHMS_H_
