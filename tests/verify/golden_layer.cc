#include <algorithm>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "models/layout.h"
#include "tests/verify/golden.h"
#include "tests/verify/golden_reader.h"
#include "tests/verify/layer_checks.h"
#include "tests/verify/layer_problem.h"

namespace classicnn::verify {
namespace {

using Dims = std::vector<int64_t>;

// Values in PyTorch's layout as an array: [N,C,H,W] becomes n, h, w, c; anything else lies flat
// along the channels of `shape`.
Array FromNchw(const Dims& dims, const std::vector<double>& values, const Shape4& shape) {
  Array array(shape);
  if (values.empty()) return array;  // after an error
  if (dims.size() == 4) {
    NchwToNhwc(values.data(), array.view());
  } else {
    array.values = values;
  }
  return array;
}

class LayerReader {
 public:
  explicit LayerReader(const SafetensorsFile& file) : reader_(file) {}

  absl::StatusOr<LayerProblem> Read() {
    const std::string name = reader_.Text("layer", nullptr);
    const absl::StatusOr<LayerKind> kind = ParseLayerKind(name);
    if (!kind.ok() || *kind == LayerKind::kDropout) {
      reader_.Fail(absl::StrCat("unknown layer in the metadata; known are conv2d, batch_norm2d, ",
                                "relu, max_pool2d, avg_pool2d, global_avg_pool2d, linear, add, ",
                                "concat, cross_entropy"));
      return reader_.status();
    }
    p_.shape.kind = *kind;
    ReadInputs();
    if (reader_.ok()) ReadAttributes();
    if (reader_.ok()) ReadOutput();
    if (reader_.ok()) ReadParameters();
    reader_.ExpectAllUsed();
    if (!reader_.ok()) return reader_.status();
    return std::move(p_);
  }
  Arrays TakeExpected() { return std::move(expected_); }

 private:
  LayerKind kind() const { return p_.shape.kind; }
  bool Flat() const { return kind() == LayerKind::kLinear || kind() == LayerKind::kCrossEntropy; }
  bool Elementwise() const { return kind() == LayerKind::kRelu || kind() == LayerKind::kAdd; }

  void ReadInputs() {
    std::vector<std::string> names = {"input"};
    if (kind() == LayerKind::kAdd || kind() == LayerKind::kConcat) {
      names = {"input.0", "input.1"};
      while (reader_.Has(absl::StrCat("input.", names.size()))) {
        names.push_back(absl::StrCat("input.", names.size()));
      }
    }
    for (const std::string& name : names) {
      const Dims dims = reader_.Shape(name);
      if (!reader_.ok()) return;
      const bool right_rank = Flat() ? dims.size() == 2 : dims.size() == 4;
      if (!right_rank && !(Elementwise() && !dims.empty())) {
        reader_.FailTensor(name, absl::StrCat("shape ", ShapeText(dims), ", should be ",
                                              Flat() ? "[N, C]" : "[N, C, H, W]"));
        return;
      }
      input_dims_.push_back(dims);
      input_names_.push_back(name);
    }
    const Dims& first = input_dims_[0];
    for (size_t i = 1; i < input_dims_.size(); ++i) {
      Dims dims = input_dims_[i];
      if (kind() == LayerKind::kConcat) dims[1] = first[1];
      if (dims != first) {
        reader_.FailTensor(input_names_[i],
                           absl::StrCat("shape ", ShapeText(input_dims_[i]),
                                        " does not fit input.0's ", ShapeText(first)));
        return;
      }
    }
    p_.shape.tensor = {1, 1, 1, 1};
    if (first.size() == 4) {
      p_.shape.tensor = {first[0], first[2], first[3], first[1]};
    } else {
      for (const int64_t size : first) p_.shape.tensor.c *= size;
    }
  }

  void Check(const absl::Status& status) {
    if (!status.ok()) reader_.Fail(status.message());
  }

  void ReadAttributes() {
    constexpr int64_t kMost = 1 << 20;
    const Dims& x = input_dims_[0];
    const Shape4& image = p_.shape.tensor;
    switch (kind()) {
      case LayerKind::kConv2d: {
        const Dims weight = reader_.Shape("param.weight");
        if (reader_.ok() && (weight.size() != 4 || weight[2] != weight[3])) {
          reader_.FailTensor("param.weight", absl::StrCat("shape ", ShapeText(weight),
                                                          ", should be [K, C/groups, R, R]"));
        }
        if (!reader_.ok()) return;
        Conv2dShape& s = p_.shape.conv2d;
        s = {image.n, image.c, image.h, image.w, weight[0], weight[2], 1, 0, 1};
        s.stride = reader_.Integer("stride", "1", 1, kMost);
        s.padding = reader_.Integer("padding", "0", 0, kMost);
        s.groups = reader_.Integer("groups", "1", 1, kMost);
        reader_.Only("dilation", {"1", "(1, 1)"});
        reader_.Only("padding_mode", {"zeros"});
        if (reader_.ok()) Check(s.Validate());
        break;
      }
      case LayerKind::kLinear: {
        const Dims weight = reader_.Shape("param.weight");
        if (reader_.ok() && weight.size() != 2) {
          reader_.FailTensor("param.weight",
                             absl::StrCat("shape ", ShapeText(weight), ", should be [K, C]"));
        }
        if (!reader_.ok()) return;
        p_.shape.linear = {x[0], x[1], weight[0]};
        Check(p_.shape.linear.Validate());
        break;
      }
      case LayerKind::kMaxPool2d:
      case LayerKind::kAvgPool2d: {
        Pool2dShape& s = p_.shape.pool;
        s.input = image;
        s.params.kernel = reader_.Integer("kernel_size", nullptr, 1, kMost);
        const std::string same = absl::StrCat(s.params.kernel);
        s.params.stride = reader_.Integer("stride", same.c_str(), 1, kMost);
        s.params.padding = reader_.Integer("padding", "0", 0, kMost);
        reader_.Only("dilation", {"1", "(1, 1)"});
        reader_.Only("ceil_mode", {"0", "False", "false"});
        reader_.Only("count_include_pad", {"1", "True", "true"});
        reader_.Only("divisor_override", {"None"});
        if (reader_.ok()) Check(s.Validate());
        break;
      }
      case LayerKind::kBatchNorm2d:
        p_.shape.training = reader_.Flag("training", nullptr);
        p_.eps = reader_.Number("eps", "1e-05", 0, 1);
        p_.momentum = reader_.Number("momentum", "0.1", 0, 1);
        if (p_.shape.training && image.pixels() == 1) {
          reader_.FailTensor("input", "batch statistics need more than one value per channel");
        }
        break;
      case LayerKind::kCrossEntropy:
        p_.shape.linear = {x[0], x[1], 1};
        p_.label_smoothing = reader_.Number("label_smoothing", "0", 0, 1);
        p_.labels = reader_.Labels("labels", x[0], x[1]);
        reader_.Only("reduction", {"mean"});
        break;
      case LayerKind::kConcat:
        p_.shape.concat = {image.n, image.h, image.w, {}};
        for (const Dims& dims : input_dims_) p_.shape.concat.channels.push_back(dims[1]);
        reader_.Only("dim", {"1"});
        Check(p_.shape.concat.Validate());
        break;
      default:
        break;
    }
  }

  void ReadOutput() {
    for (size_t i = 0; i < input_names_.size(); ++i) {
      const std::string& name = input_names_[i];
      const Dims& dims = input_dims_[i];
      const Shape4 shape = p_.InputShape(static_cast<int64_t>(i));
      p_.tensors[name] = FromNchw(dims, reader_.Values(name, dims), shape);
      expected_["grad_" + name] =
          FromNchw(dims, reader_.Values("expected.grad_" + name, dims), shape);
    }
    const Shape4 y = p_.OutputShape();
    Dims dims = {y.n, y.c, y.h, y.w};
    if (Flat()) dims = {y.n, y.c};
    if (Elementwise()) dims = input_dims_[0];
    const Dims given = reader_.Shape("expected.output");
    if (kind() == LayerKind::kGlobalAvgPool2d && given.size() == 2) dims = {y.n, y.c};
    if (kind() == LayerKind::kCrossEntropy) dims = given.size() == 1 ? Dims{1} : Dims{};
    expected_["output"] = FromNchw(dims, reader_.Values("expected.output", dims), y);
    if (kind() != LayerKind::kCrossEntropy) {
      p_.tensors["grad_output"] = FromNchw(dims, reader_.Values("grad_output", dims), y);
    }
  }

  // One parameter and its gradient.
  void ReadParameter(const char* name, const Parameter& parameter, const Shape4& shape) {
    const std::string param = absl::StrCat("param.", name), grad = absl::StrCat("grad.", name);
    const std::vector<double> values = reader_.Values(param, parameter.shape);
    const std::vector<double> gradient = reader_.Values("expected." + grad, parameter.shape);
    if (!reader_.ok()) return;
    p_.tensors[param] = expected_[grad] = Array(shape);
    FromPytorchLayout(parameter, values.data(), p_.tensors[param].values.data());
    FromPytorchLayout(parameter, gradient.data(), expected_[grad].values.data());
  }

  void ReadParameters() {
    Parameter weight;
    Shape4 shape;
    int64_t outputs = p_.shape.tensor.c;
    if (kind() == LayerKind::kConv2d) {
      const Conv2dShape& s = p_.shape.conv2d;
      const int64_t c = s.in_channels / s.groups;
      outputs = s.out_channels;
      weight.kind = ParameterKind::kConvWeight;
      weight.shape = {outputs, c, s.kernel, s.kernel};
      shape = {s.kernel, s.kernel, c, outputs};
    } else if (kind() == LayerKind::kLinear) {
      const LinearShape& s = p_.shape.linear;
      outputs = s.out_features;
      weight.kind = ParameterKind::kLinearWeight;
      weight.shape = {outputs, s.in_features};
      weight.flattened = {1, 1, 1, s.in_features};
      shape = {1, 1, s.in_features, outputs};
    } else if (kind() == LayerKind::kBatchNorm2d) {
      weight.kind = ParameterKind::kNormWeight;
      weight.shape = {outputs};
      shape = {1, 1, 1, outputs};
    } else {
      return;
    }
    ReadParameter("weight", weight, shape);
    Parameter bias;
    bias.kind = ParameterKind::kNormBias;
    bias.shape = {outputs};
    const Shape4 vector{1, 1, 1, outputs};
    if (reader_.Has("param.bias")) {
      ReadParameter("bias", bias, vector);
    } else if (kind() == LayerKind::kBatchNorm2d) {
      p_.tensors["param.bias"] = Array(vector);  // zeros
    }
    if (kind() != LayerKind::kBatchNorm2d) return;
    for (const char* name : {"buffer.running_mean", "buffer.running_var"}) {
      p_.tensors[name] = Array(vector);
      p_.tensors[name].values = reader_.Values(name, {outputs});
      expected_[name] = Array(vector);
      // Inference leaves them as they are, and a file may leave that unsaid.
      const std::string after = absl::StrCat("expected.", name);
      const bool said = p_.shape.training || reader_.Has(after);
      expected_[name].values = reader_.Values(said ? after : name, {outputs});
    }
    reader_.Ignore("buffer.num_batches_tracked");
    reader_.Ignore("expected.buffer.num_batches_tracked");
  }

  GoldenReader reader_;
  LayerProblem p_;
  Arrays expected_;
  std::vector<std::string> input_names_;
  std::vector<Dims> input_dims_;
};

}  // namespace

absl::StatusOr<std::vector<Row>> CheckGoldenLayer(const SafetensorsFile& file, Precision precision,
                                                  Bounds bounds, const std::string& command,
                                                  OptimizedThreads& optimized) {
  LayerReader reader(file);
  const absl::StatusOr<LayerProblem> read = reader.Read();
  if (!read.ok()) return read.status();
  const LayerProblem& problem = *read;
  const Arrays expected = reader.TakeExpected();
  std::vector<Row> rows;
  std::map<std::string, int64_t> judged;

  // Rows for what `actual` has of what is expected.
  const auto judge = [&](const Arrays& actual, const std::string& impl, double bound) {
    for (const auto& [name, array] : actual) {
      const auto found = expected.find(name);
      if (found == expected.end()) continue;
      ++judged[name];
      Row row;
      row.what = absl::StrCat(LayerKindName(problem.shape.kind), " ", problem.shape.ToString(),
                              " golden ", name);
      row.impl = impl;
      row.bound = bounds(bound);
      row.command = command;
      const std::string tensor = "expected." + name;
      if (absl::StartsWith(name, "buffer.") && !problem.shape.training) {
        JudgeUnchanged(tensor, array, found->second, &row);
      } else {
        Judge(tensor, array, found->second, row.bound, &row);
      }
      rows.push_back(row);
    }
  };
  for (const LayerPass pass : LayerPasses(problem.shape.kind)) {
    if (precision == Precision::kF64) {
      judge(RunReference<double>(problem, pass), "reference f64", kF64Bound);
      continue;
    }
    for (const Implementation& impl : OptimizedImplementations(problem.shape, pass)) {
      LayerRun run;
      run.pass = pass;
      run.algorithm = impl.algorithm;
      Arrays actual;
      std::string violation;
      optimized.Run([&](Context& ctx) { actual = RunOptimized(problem, run, ctx, &violation); });
      if (!violation.empty()) {
        Row row;
        row.what = absl::StrCat(LayerKindName(problem.shape.kind), " golden");
        row.impl = impl.name;
        row.command = command;
        Fail("memory", violation, &row);
        rows.push_back(row);
      }
      judge(actual, impl.name, impl.bound);
    }
    judge(RunReference<float>(problem, pass), "reference f32", kLayerBound);
  }
  for (const auto& [name, array] : expected) {
    CNN_CHECK(judged[name] > 0, name, " was never compared");
  }
  return rows;
}

}  // namespace classicnn::verify
