#include "tests/verify/layer_checks.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace classicnn::verify {
namespace {

std::string PassName(const LayerShape& shape, LayerPass pass) {
  return absl::StrCat(LayerKindName(shape.kind), "_", LayerPassName(pass));
}

std::string LayerCommand(const LayerShape& shape, uint64_t seed) {
  return absl::StrCat("cnn-verify --layers=", LayerKindName(shape.kind),
                      " --shapes=", shape.ToString(), " --seed=", seed);
}

bool PowerOfTwo(int64_t x) { return (x & (x - 1)) == 0; }

// Whether a pass over small whole numbers has an exact answer in float, in any order of its sums.
bool ExactOnIntegers(const LayerShape& shape, LayerPass pass, const Implementation& impl) {
  constexpr int64_t kExactSum = (int64_t{1} << 24) / 9 - 1;  // of products of numbers up to 3
  switch (shape.kind) {
    case LayerKind::kConv2d: {
      const Conv2dShape& s = shape.conv2d;
      if (impl.bound != kLayerBound) return false;  // Winograd's transforms have fractions
      const int64_t terms = pass == LayerPass::kForward ? s.weight_count() / s.out_channels
                            : pass == LayerPass::kBackwardData
                                ? s.kernel * s.kernel * (s.out_channels / s.groups)
                                : s.output().pixels();
      return terms <= kExactSum;
    }
    case LayerKind::kLinear:
      return shape.linear.in_features + shape.linear.out_features + shape.linear.n <= kExactSum;
    case LayerKind::kRelu:
    case LayerKind::kMaxPool2d:
    case LayerKind::kAdd:
    case LayerKind::kConcat:
    case LayerKind::kDropout:  // at probability 1/2 it doubles
      return true;
    case LayerKind::kAvgPool2d:
      return PowerOfTwo(shape.pool.params.kernel);
    case LayerKind::kGlobalAvgPool2d:
      return PowerOfTwo(shape.tensor.h * shape.tensor.w);
    case LayerKind::kBatchNorm2d:
    case LayerKind::kCrossEntropy:
      return false;
  }
  return false;
}

// The ways in which a problem of this kind is posed.
std::vector<ProblemOptions> Posings(LayerKind kind) {
  ProblemOptions normal, integers;
  integers.data = Data::kIntegers;
  integers.bias = false;
  switch (kind) {
    case LayerKind::kBatchNorm2d: {
      ProblemOptions relu = normal, far = normal;
      relu.relu = true;
      far.data = Data::kFarMean;
      return {normal, relu, far};
    }
    case LayerKind::kAdd: {
      ProblemOptions relu = normal;
      relu.relu = true;
      integers.add_inputs = 3;
      return {normal, relu, integers};
    }
    case LayerKind::kCrossEntropy: {
      ProblemOptions smooth = normal;
      smooth.label_smoothing = 0.1;
      return {normal, smooth};
    }
    case LayerKind::kDropout: {
      ProblemOptions rare = normal;
      rare.dropout = 0.2;
      return {rare, integers};
    }
    default:
      return {normal, integers};
  }
}

// The largest power of two that is not above the root mean square of the values; 1 where that is 0.
double PowerOfTwoNear(const Array& array) {
  double squares = 0;
  for (const double v : array.values) squares += v * v;
  const double rms = std::sqrt(squares / static_cast<double>(array.values.size()));
  return rms > 0 && std::isfinite(rms) ? std::exp2(std::floor(std::log2(rms))) : 1;
}

void CompareAll(const Arrays& actual, const Arrays& expected, double bound, Row* row) {
  for (const auto& [name, array] : expected) {
    const auto found = actual.find(name);
    if (found == actual.end()) {
      Fail(name, "not computed", row);
    } else {
      // Winners of max pooling have no tolerance.
      Judge(name, found->second, array, name == "argmax" ? 0 : bound, row);
    }
  }
}

}  // namespace

double ConvBound(Conv2dAlgorithm algorithm) {
  return IsWinograd(algorithm) ? kWinogradBound : kLayerBound;
}

std::vector<Implementation> OptimizedImplementations(const LayerShape& shape, LayerPass pass) {
  if (shape.kind != LayerKind::kConv2d) return {{"optimized", {}, kLayerBound}};
  const Conv2dPass conv_pass = pass == LayerPass::kForward        ? Conv2dPass::kForward
                               : pass == LayerPass::kBackwardData ? Conv2dPass::kBackwardData
                                                                  : Conv2dPass::kBackwardWeights;
  std::vector<Implementation> result;
  for (const Conv2dAlgorithm algorithm : Conv2dAlgorithms(shape.conv2d, conv_pass)) {
    result.push_back({absl::StrCat("optimized ", Conv2dAlgorithmName(algorithm)), algorithm,
                      ConvBound(algorithm)});
  }
  return result;
}

std::vector<Row> CheckLayer(const LayerShape& shape, uint64_t seed, Bounds bounds,
                            OptimizedThreads& optimized) {
  std::vector<Row> rows;
  for (const LayerPass pass : LayerPasses(shape.kind)) {
    for (const Implementation& impl : OptimizedImplementations(shape, pass)) {
      Row row;
      row.what = absl::StrCat(PassName(shape, pass), " ", shape.ToString());
      row.impl = impl.name;
      row.bound = bounds(impl.bound);
      row.command = LayerCommand(shape, seed);
      rows.push_back(row);
    }
  }
  for (const ProblemOptions& posing : Posings(shape.kind)) {
    const LayerProblem problem = MakeProblem(shape, posing, seed);
    size_t index = 0;
    for (const LayerPass pass : LayerPasses(shape.kind)) {
      const std::vector<Implementation> impls = OptimizedImplementations(shape, pass);
      const bool integers = posing.data == Data::kIntegers;
      bool needed = false;
      for (const Implementation& impl : impls) {
        needed = needed || !integers || ExactOnIntegers(shape, pass, impl);
      }
      Arrays expected;
      if (needed) expected = RunReference<double>(problem, pass);
      for (const Implementation& impl : impls) {
        Row& row = rows[index++];
        if (integers && !ExactOnIntegers(shape, pass, impl)) continue;
        LayerRun plain, gaps;
        plain.pass = gaps.pass = pass;
        plain.algorithm = gaps.algorithm = impl.algorithm;
        gaps.strided = gaps.in_place = true;
        // Cross-entropy and the weights' gradients only overwrite; there it changes nothing.
        LayerRun added = gaps;
        added.in_place = false;
        added.accumulate = true;
        if (!integers && expected.count("grad_input") != 0) {
          added.accumulate_scale = PowerOfTwoNear(expected.at("grad_input"));
        }
        std::vector<LayerRun> runs = {plain, gaps};
        const bool has_input_gradient =
            pass == LayerPass::kBackward || pass == LayerPass::kBackwardData;
        if (has_input_gradient && shape.kind != LayerKind::kCrossEntropy) runs.push_back(added);
        for (const LayerRun& run : runs) {
          Arrays actual;
          std::string violation;
          optimized.Run(
              [&](Context& ctx) { actual = RunOptimized(problem, run, ctx, &violation); });
          if (!violation.empty()) Fail("memory", violation, &row);
          CompareAll(actual, expected, integers ? 0 : row.bound, &row);
        }
      }
    }
  }
  return rows;
}

int64_t DifferencesInputs(const LayerShape& shape) {
  const LayerProblem problem = MakeProblem(shape, {}, 1);
  int64_t count = 0;
  for (const auto& [name, array] : problem.tensors) {
    if (name.rfind("input", 0) == 0 || name.rfind("param.", 0) == 0) count += array.shape.size();
  }
  return count;
}

namespace {

// Inputs at which the function has no kinks nearby: ReLU's away from zero, the values in max
// pooling's windows apart.
void AvoidKinks(LayerProblem* problem) {
  if (problem->shape.kind == LayerKind::kRelu) {
    for (double& v : problem->tensors["input"].values) v += v < 0 ? -0.1 : 0.1;
  } else if (problem->shape.kind == LayerKind::kMaxPool2d) {
    std::vector<double>& x = problem->tensors["input"].values;
    // A permutation of 0.01 * 0, 1, 2, ...: sort positions by value.
    std::vector<size_t> order(x.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(),
              [&](size_t a, size_t b) { return x[a] < x[b] || (x[a] == x[b] && a < b); });
    for (size_t rank = 0; rank < order.size(); ++rank) {
      x[order[rank]] = 0.01 * (static_cast<double>(rank) - static_cast<double>(x.size()) / 2);
    }
  }
}

// sum over the outputs of output * grad_output; of cross-entropy the loss.
double Objective(const LayerProblem& problem) {
  const Arrays results = RunReference<double>(problem, LayerPass::kForward);
  const std::vector<double>& y = results.at("output").values;
  if (!problem.Has("grad_output")) return y[0];
  const std::vector<double>& dy = problem.tensors.at("grad_output").values;
  double sum = 0;
  for (size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
  return sum;
}

std::string GradientName(const std::string& tensor) {
  if (tensor.rfind("input", 0) == 0) return "grad_" + tensor;
  if (tensor.rfind("param.", 0) == 0) return "grad." + tensor.substr(6);
  return "";
}

}  // namespace

std::vector<Row> CheckFiniteDifferences(const LayerShape& shape, uint64_t seed, Bounds bounds) {
  constexpr double kStep = 1e-5;
  Row row;
  row.what = absl::StrCat(LayerKindName(shape.kind), "_backward ", shape.ToString(),
                          " by finite differences");
  row.impl = "reference f64";
  row.bound = bounds(kDifferencesBound);
  row.command = LayerCommand(shape, seed);
  for (const ProblemOptions& posing : Posings(shape.kind)) {
    // Whole numbers sit on kinks; a mean far from zero only loses digits to the difference.
    if (posing.data != Data::kNormal) continue;
    // Addition's ReLU has no backward of its own.
    if (posing.relu && shape.kind == LayerKind::kAdd) continue;
    LayerProblem problem = MakeProblem(shape, posing, seed);
    AvoidKinks(&problem);
    Arrays analytic;
    for (const LayerPass pass : LayerPasses(shape.kind)) {
      if (pass != LayerPass::kForward) analytic.merge(RunReference<double>(problem, pass));
    }
    Arrays numeric;
    for (auto& [name, array] : problem.tensors) {
      const std::string gradient = GradientName(name);
      if (gradient.empty()) continue;
      Array& differences = numeric[gradient] = Array(array.shape);
      for (size_t i = 0; i < array.values.size(); ++i) {
        const double value = array.values[i];
        array.values[i] = value + kStep;
        const double above = Objective(problem);
        array.values[i] = value - kStep;
        const double below = Objective(problem);
        array.values[i] = value;
        differences.values[i] = (above - below) / (2 * kStep);
      }
    }
    CompareAll(analytic, numeric, row.bound, &row);
  }
  return {row};
}

}  // namespace classicnn::verify
