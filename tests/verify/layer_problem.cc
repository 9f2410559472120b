#include "tests/verify/layer_problem.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/random.h"

namespace classicnn::verify {
namespace {

// Fills tensors from streams named after the shape and the tensor.
class Filler {
 public:
  Filler(uint64_t seed, const LayerShape& shape, Data data)
      : seed_(seed),
        prefix_(absl::StrCat(LayerKindName(shape.kind), " ", shape.ToString(), " ")),
        data_(data) {}

  RandomStream Stream(const std::string& name) const { return {seed_, prefix_ + name}; }

  // Normal values about `mean`, or whole numbers.
  Array Values(const std::string& name, const Shape4& shape, double scale = 1,
               double mean = 0) const {
    Array array(shape);
    const RandomStream stream = Stream(name);
    for (size_t i = 0; i < array.values.size(); ++i) {
      array.values[i] =
          data_ == Data::kIntegers
              ? static_cast<double>(stream.Below(i, 7)) - 3
              : static_cast<double>(static_cast<float>(mean + stream.Normal(i) * scale));
    }
    // A single zero would be all there is to check.
    if (data_ == Data::kIntegers && array.values[0] == 0) array.values[0] = 2;
    return array;
  }
  Array Uniform(const std::string& name, int64_t count, double low, double high) const {
    Array array(Shape4{1, 1, 1, count});
    const RandomStream stream = Stream(name);
    for (size_t i = 0; i < array.values.size(); ++i) {
      array.values[i] = static_cast<float>(low + (high - low) * stream.Uniform(i));
    }
    return array;
  }

 private:
  uint64_t seed_;
  std::string prefix_;
  Data data_;
};

// Input of batch norm: every channel has a mean and a deviation of its own.
void ShiftChannels(const Filler& filler, Data data, Array* x) {
  const RandomStream means = filler.Stream("mean"), deviations = filler.Stream("deviation");
  const bool far = data == Data::kFarMean;
  for (size_t i = 0; i < x->values.size(); ++i) {
    const auto c = static_cast<uint64_t>(static_cast<int64_t>(i) % x->shape.c);
    const double mean = far ? 1000 : means.Normal(c);
    const double deviation = far ? 30 : 0.5 + 2.0 * deviations.Uniform(c);
    x->values[i] = static_cast<float>(mean + deviation * x->values[i]);
  }
}

void ZeroGradientNearKink(LayerProblem* problem) {
  LayerProblem plain = *problem;
  plain.relu = false;
  const Arrays results = RunReference<double>(plain, LayerPass::kForward);
  const std::vector<double>& y = results.at("output").values;
  std::vector<double>& dy = problem->tensors["grad_output"].values;
  for (size_t i = 0; i < y.size(); ++i) {
    if (std::fabs(y[i]) < 1e-4) dy[i] = 0;
  }
}

}  // namespace

int64_t LayerProblem::inputs() const {
  if (shape.kind == LayerKind::kConcat) return static_cast<int64_t>(shape.concat.channels.size());
  if (shape.kind != LayerKind::kAdd) return 1;
  int64_t count = 0;
  while (Has(absl::StrCat("input.", count))) ++count;
  return count;
}

std::string LayerProblem::InputName(int64_t i) const {
  const bool several = shape.kind == LayerKind::kAdd || shape.kind == LayerKind::kConcat;
  return several ? absl::StrCat("input.", i) : "input";
}

Shape4 LayerProblem::InputShape(int64_t i) const {
  switch (shape.kind) {
    case LayerKind::kConv2d:
      return shape.conv2d.input();
    case LayerKind::kLinear:
    case LayerKind::kCrossEntropy:
      return {shape.linear.n, 1, 1, shape.linear.in_features};
    case LayerKind::kMaxPool2d:
    case LayerKind::kAvgPool2d:
      return shape.pool.input;
    case LayerKind::kConcat:
      return shape.concat.input(static_cast<size_t>(i));
    default:
      return shape.tensor;
  }
}

Shape4 LayerProblem::OutputShape() const {
  switch (shape.kind) {
    case LayerKind::kConv2d:
      return shape.conv2d.output();
    case LayerKind::kLinear:
      return {shape.linear.n, 1, 1, shape.linear.out_features};
    case LayerKind::kCrossEntropy:
      return {1, 1, 1, 1};
    case LayerKind::kMaxPool2d:
    case LayerKind::kAvgPool2d:
      return shape.pool.output();
    case LayerKind::kConcat:
      return shape.concat.output();
    case LayerKind::kGlobalAvgPool2d:
      return {shape.tensor.n, 1, 1, shape.tensor.c};
    default:
      return shape.tensor;
  }
}

LayerProblem MakeProblem(const LayerShape& shape, const ProblemOptions& options, uint64_t seed) {
  LayerProblem problem;
  problem.shape = shape;
  problem.relu = options.relu;
  problem.label_smoothing = options.label_smoothing;
  problem.dropout = {static_cast<float>(options.dropout), seed, StreamId("verify dropout"), 3};
  Arrays& tensors = problem.tensors;
  const Filler filler(seed, shape, options.data);

  if (shape.kind == LayerKind::kAdd) {
    for (int64_t i = 0; i < options.add_inputs; ++i) tensors[problem.InputName(i)] = {};
  }
  // About a mean that is not zero: sums over a few channels then do not cancel to nothing, where a
  // relative error would mean nothing.
  const double mean = shape.kind == LayerKind::kBatchNorm2d ? 0 : 0.5;
  for (int64_t i = 0; i < problem.inputs(); ++i) {
    const std::string name = problem.InputName(i);
    tensors[name] = filler.Values(name, problem.InputShape(i), 1, mean);
  }
  const auto add_affine = [&](const Shape4& weight_shape, int64_t terms, int64_t outputs) {
    tensors["param.weight"] =
        filler.Values("weight", weight_shape, 1 / std::sqrt(static_cast<double>(terms)));
    if (options.bias) tensors["param.bias"] = filler.Values("bias", {1, 1, 1, outputs});
  };
  if (shape.kind == LayerKind::kConv2d) {
    const Conv2dShape& s = shape.conv2d;
    const int64_t c = s.in_channels / s.groups;
    add_affine({s.kernel, s.kernel, c, s.out_channels}, s.kernel * s.kernel * c, s.out_channels);
  } else if (shape.kind == LayerKind::kLinear) {
    const LinearShape& s = shape.linear;
    add_affine({1, 1, s.in_features, s.out_features}, s.in_features, s.out_features);
  } else if (shape.kind == LayerKind::kBatchNorm2d) {
    const int64_t c = shape.tensor.c;
    ShiftChannels(filler, options.data, &tensors["input"]);
    tensors["param.weight"] = filler.Uniform("weight", c, 0.5, 1.5);
    tensors["param.bias"] = filler.Values("bias", {1, 1, 1, c}, 0.5);
    const double size = options.data == Data::kFarMean ? 30 : 1;
    tensors["buffer.running_mean"] = filler.Values("running_mean", {1, 1, 1, c}, size);
    tensors["buffer.running_var"] =
        filler.Uniform("running_var", c, 0.5 * size * size, 1.5 * size * size);
    if (options.data == Data::kFarMean) {
      for (double& v : tensors["buffer.running_mean"].values) {
        v = static_cast<float>(1000 + v);
      }
    }
  } else if (shape.kind == LayerKind::kCrossEntropy) {
    const RandomStream labels = filler.Stream("labels");
    for (int64_t i = 0; i < shape.linear.n; ++i) {
      problem.labels.push_back(static_cast<int32_t>(
          labels.Below(static_cast<uint64_t>(i), static_cast<uint64_t>(shape.linear.in_features))));
    }
  }
  if (shape.kind != LayerKind::kCrossEntropy) {
    tensors["grad_output"] = filler.Values("grad_output", problem.OutputShape(), 1, 0.5);
  }
  if (problem.relu && shape.kind == LayerKind::kBatchNorm2d) ZeroGradientNearKink(&problem);
  return problem;
}

}  // namespace classicnn::verify
