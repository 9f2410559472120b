// Golden files: what another framework computed, from its inputs on.
//
// A safetensors file with metadata format = classicnn-golden, version = 1, and
//   model, mode (train, eval), optional num_classes (10):
//     input [N,3,H,W], labels [N] (I64), param.NAME, buffer.NAME, expected.logits, expected.loss,
//     expected.grad.NAME, expected.buffer.NAME, in PyTorch's names and layouts; dropout is off; or
//   layer, and its attributes under PyTorch's names:
//     input or input.0, input.1, ..., labels, param.weight, param.bias, buffer.running_mean,
//     buffer.running_var, grad_output, expected.output, expected.grad_input...,
//     expected.grad.weight, expected.grad.bias, expected.buffer....
// Nothing else may be in it, except PyTorch's num_batches_tracked, which is not looked at.
#ifndef CLASSICNN_TESTS_VERIFY_GOLDEN_H_
#define CLASSICNN_TESTS_VERIFY_GOLDEN_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/safetensors.h"
#include "tests/verify/results.h"
#include "tests/verify/runner.h"

namespace classicnn::verify {

enum class Precision {
  kF32,  // the optimized code (and for layers the reference in float)
  kF64,  // the reference in double, every tensor to 1e-5
};
inline constexpr double kF64Bound = 1e-5;

// A row for every expected tensor and implementation. Errors name the path, and the tensor where
// there is one: a file that cannot be read, another format, an unknown model, layer, mode or
// attribute value, tensors that are missing, misshapen, of another type or not of this problem,
// labels out of range.
absl::StatusOr<std::vector<Row>> CheckGolden(const std::string& path, Precision precision,
                                             Bounds bounds, OptimizedThreads& optimized);

// The parts, one for each kind of file.
absl::StatusOr<std::vector<Row>> CheckGoldenLayer(const SafetensorsFile& file, Precision precision,
                                                  Bounds bounds, const std::string& command,
                                                  OptimizedThreads& optimized);
absl::StatusOr<std::vector<Row>> CheckGoldenModel(const SafetensorsFile& file, Precision precision,
                                                  Bounds bounds, const std::string& command,
                                                  OptimizedThreads& optimized);

}  // namespace classicnn::verify

#endif  // CLASSICNN_TESTS_VERIFY_GOLDEN_H_
