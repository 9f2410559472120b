// A layer at one shape with data in it, and what its reference and optimized forms make of it.
#ifndef CLASSICNN_TESTS_VERIFY_LAYER_PROBLEM_H_
#define CLASSICNN_TESTS_VERIFY_LAYER_PROBLEM_H_

#include <cstdint>
#include <string>
#include <vector>

#include "core/context.h"
#include "layers/conv2d/conv2d.h"
#include "layers/dropout/dropout.h"
#include "models/layer_shapes.h"
#include "tests/verify/array.h"

namespace classicnn::verify {

// Tensors by name: "input" ("input.0", "input.1", ... of add and concat), "param.weight" and
// "param.bias" in the layers' layout, "buffer.running_mean", "buffer.running_var", "grad_output".
// All values are exact in float.
struct LayerProblem {
  LayerShape shape;
  bool relu = false;  // batch norm and add: with ReLU in the same pass
  double eps = 1e-5, momentum = 0.1;
  double label_smoothing = 0;
  DropoutParams dropout;
  Arrays tensors;
  std::vector<int32_t> labels;

  // Number of input tensors, and the name of one of them.
  int64_t inputs() const;
  std::string InputName(int64_t i) const;
  Shape4 InputShape(int64_t i) const;
  Shape4 OutputShape() const;  // of cross_entropy one value, the loss
  bool Has(const std::string& name) const { return tensors.count(name) != 0; }
};

enum class Data {
  kNormal,
  kIntegers,  // whole numbers in [-3, 3]: sums of their products are exact in float
  kFarMean,   // input of mean 1000 and deviation 30
};

// How a problem of this shape is posed.
struct ProblemOptions {
  Data data = Data::kNormal;
  bool bias = true;
  bool relu = false;
  double label_smoothing = 0;
  double dropout = 0.5;
  int64_t add_inputs = 2;
};

// Every value depends on the seed, the shape and the tensor's name alone. Where the gradient of the
// fused ReLU hinges on rounding (an activation within 1e-4 of zero) the upstream gradient is zero.
LayerProblem MakeProblem(const LayerShape& shape, const ProblemOptions& options, uint64_t seed);

// How a pass is run.
struct LayerRun {
  LayerPass pass = LayerPass::kForward;
  Conv2dAlgorithm algorithm = Conv2dAlgorithm::kDirect;  // optimized convolutions
  bool strided = false;                                  // views with gaps between their pixels
  bool in_place = false;                                 // where the layer's contract allows it
  bool accumulate = false;  // input gradients are added to what is there
  // Size of what is there: a power of two near the gradient's, so that the sum loses nothing.
  double accumulate_scale = 1;
};

// Runs one pass on the naive reference in T. Results by name: forward "output", with training batch
// norm "buffer.*", besides "saved_mean", "saved_inv_std", "argmax"; backward "grad_input..."
// and "grad.weight", "grad.bias".
template <typename T>
Arrays RunReference(const LayerProblem& problem, LayerPass pass);

// The same on the optimized layer. Outputs and scratch are full of NaNs before. `*violation` says
// where memory outside the outputs was written, and is left as it is where none was.
Arrays RunOptimized(const LayerProblem& problem, const LayerRun& run, Context& ctx,
                    std::string* violation);

}  // namespace classicnn::verify

#endif  // CLASSICNN_TESTS_VERIFY_LAYER_PROBLEM_H_
