// Checks of single layers: optimized against the reference in double, and the reference against
// finite differences.
#ifndef CLASSICNN_TESTS_VERIFY_LAYER_CHECKS_H_
#define CLASSICNN_TESTS_VERIFY_LAYER_CHECKS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "core/context.h"
#include "models/layer_shapes.h"
#include "tests/verify/layer_problem.h"
#include "tests/verify/results.h"
#include "tests/verify/runner.h"

namespace classicnn::verify {

inline constexpr double kLayerBound = 1e-4;
inline constexpr double kWinogradBound = 5e-4;
// Central differences in double with steps of 1e-5: truncation and rounding stay near 1e-9.
inline constexpr double kDifferencesBound = 1e-6;

double ConvBound(Conv2dAlgorithm algorithm);
// Optimized implementations of a pass: convolutions have one for each algorithm that supports the
// shape, other layers one.
struct Implementation {
  std::string name;  // "optimized winograd4"
  Conv2dAlgorithm algorithm = Conv2dAlgorithm::kDirect;
  double bound = kLayerBound;
};
std::vector<Implementation> OptimizedImplementations(const LayerShape& shape, LayerPass pass);

// Every pass and implementation of a layer at this shape against the reference in double: normal
// data, and where the answer is exact in float small whole numbers compared with ==; dense views,
// and views with gaps, in place and accumulating where the contract allows; batch norm and addition
// with and without ReLU, convolution and linear with and without bias, cross-entropy with and
// without label smoothing. A row for each pass and implementation.
std::vector<Row> CheckLayer(const LayerShape& shape, uint64_t seed, Bounds bounds,
                            OptimizedThreads& optimized);

// The reference's gradients against central differences of its own forward pass, all in double.
// Costs two forward passes for each input and parameter: for shapes of at most
// kMaxDifferencesInputs of them.
std::vector<Row> CheckFiniteDifferences(const LayerShape& shape, uint64_t seed, Bounds bounds);
inline constexpr int64_t kMaxDifferencesInputs = 2000;
int64_t DifferencesInputs(const LayerShape& shape);

// What --layers calls the updates; their shapes are "c1000".
inline constexpr char kOptimizerLayer[] = "optimizer";
// SGD (plain, Nesterov) and AdamW, optimized against the reference in double; five updates each.
std::vector<Row> CheckOptimizers(int64_t count, uint64_t seed, Bounds bounds,
                                 OptimizedThreads& optimized);

// Shapes where mistakes hide: odd channels, sizes around vector lengths, every kernel from 1 to 7
// with stride and padding, images that are not square; some fixed and some drawn from the seed.
std::vector<LayerShape> OddShapes(LayerKind kind, uint64_t seed);
// Shapes small enough for finite differences.
std::vector<LayerShape> TinyShapes(LayerKind kind);

}  // namespace classicnn::verify

#endif  // CLASSICNN_TESTS_VERIFY_LAYER_CHECKS_H_
