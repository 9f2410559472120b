#include "models/state_tensors.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/layout.h"

namespace classicnn {

int64_t StateTensor::count() const {
  int64_t result = 1;
  for (const int64_t size : shape) result *= size;
  return result;
}

std::vector<StateTensor> WeightTensors(const Graph& graph, const ModelState& state,
                                       const std::string& prefix) {
  std::vector<StateTensor> tensors;
  for (const Node& node : graph.nodes()) {
    for (const int i : node.parameters) {
      const Parameter& p = graph.parameters()[static_cast<size_t>(i)];
      tensors.push_back({prefix + p.name, &p, p.shape, state.parameter(i)});
    }
    for (const int i : node.buffers) {
      const Buffer& b = graph.buffers()[static_cast<size_t>(i)];
      tensors.push_back({prefix + b.name, nullptr, {b.count}, state.buffer(i)});
    }
  }
  return tensors;
}

std::vector<StateTensor> OptimizerTensors(const Graph& graph, const ModelState& state) {
  std::vector<StateTensor> tensors;
  for (size_t i = 0; i < graph.parameters().size(); ++i) {
    const Parameter& p = graph.parameters()[i];
    const int index = static_cast<int>(i);
    if (state.momentum(index) != nullptr) {
      tensors.push_back({"momentum." + p.name, &p, p.shape, state.momentum(index)});
    }
    if (state.second_moment(index) != nullptr) {
      tensors.push_back({"second_moment." + p.name, &p, p.shape, state.second_moment(index)});
    }
  }
  return tensors;
}

std::vector<std::string> BatchNormNames(const Graph& graph) {
  std::vector<std::string> names;
  for (const Node& node : graph.nodes()) {
    if (node.op == Op::kBatchNorm2d) names.push_back(node.name);
  }
  return names;
}

void TensorStore::AddTo(SafetensorsWriter& writer, const std::vector<StateTensor>& tensors) {
  for (const StateTensor& tensor : tensors) {
    const float* data = tensor.data;
    if (tensor.parameter != nullptr) {
      floats_.emplace_back(static_cast<size_t>(tensor.count()));
      ToPytorchLayout(*tensor.parameter, tensor.data, floats_.back().data());
      data = floats_.back().data();
    }
    writer.Add(tensor.name, DType::kF32, tensor.shape, data);
  }
}

void TensorStore::AddInt64(SafetensorsWriter& writer, const std::string& name, int64_t value) {
  integers_.push_back(value);
  writer.Add(name, DType::kI64, {}, &integers_.back());
}

absl::Status ReadTensors(const SafetensorsFile& file, const std::vector<StateTensor>& tensors,
                         const std::vector<std::string>& others) {
  absl::Status first;
  int64_t bad = 0;
  const auto fail = [&](const absl::Status& status) {
    if (bad++ == 0) first = status;
  };
  std::vector<std::vector<float>> values(tensors.size());
  std::set<std::string> known(others.begin(), others.end());
  for (size_t i = 0; i < tensors.size(); ++i) {
    known.insert(tensors[i].name);
    auto read = file.ReadFloats(tensors[i].name, tensors[i].shape);
    if (!read.ok()) {
      fail(read.status());
      continue;
    }
    values[i] = *std::move(read);
    if (!std::all_of(values[i].begin(), values[i].end(),
                     [](float v) { return std::isfinite(v); })) {
      fail(absl::InvalidArgumentError(absl::StrCat(file.path(), ": tensor \"", tensors[i].name,
                                                   "\" holds a value that is not finite")));
    }
  }
  for (const auto& entry : file.entries()) {
    if (known.count(entry.name) > 0) continue;
    fail(absl::InvalidArgumentError(
        absl::StrCat(file.path(), ": tensor ", entry.name, " is not one of this network")));
  }
  if (bad > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(first.message(),
                     bad > 1 ? absl::StrCat("\n(and ", bad - 1, " more tensors do not fit)") : ""));
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    const StateTensor& tensor = tensors[i];
    if (tensor.parameter != nullptr) {
      FromPytorchLayout(*tensor.parameter, values[i].data(), tensor.data);
    } else {
      std::copy(values[i].begin(), values[i].end(), tensor.data);
    }
  }
  return absl::OkStatus();
}

}  // namespace classicnn
