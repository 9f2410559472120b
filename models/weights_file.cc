#include "models/weights_file.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/state_tensors.h"

namespace classicnn {

namespace {

// Calls write(writer) for the file's contents.
template <class Write>
absl::Status WithWriter(const Graph& graph, const ModelState& state,
                        const std::map<std::string, std::string>& metadata, const Write& write) {
  SafetensorsWriter writer;
  for (const auto& [key, value] : metadata) writer.SetMetadata(key, value);
  writer.SetMetadata("model", graph.model());
  writer.SetMetadata("num_classes", absl::StrCat(graph.num_classes()));
  writer.SetMetadata("image_size", absl::StrCat(graph.node(graph.input()).shape.h));
  TensorStore store;
  store.AddTo(writer, WeightTensors(graph, state));
  for (const std::string& name : BatchNormNames(graph)) {
    store.AddInt64(writer, name + ".num_batches_tracked", state.batches_tracked);
  }
  return write(writer);
}

}  // namespace

absl::Status SaveWeights(const std::string& path, const Graph& graph, const ModelState& state,
                         const std::map<std::string, std::string>& metadata) {
  return WithWriter(graph, state, metadata,
                    [&](const SafetensorsWriter& writer) { return writer.Write(path); });
}

absl::Status UpdateWeights(const std::string& path, const Graph& graph, const ModelState& state,
                           const std::map<std::string, std::string>& metadata) {
  return WithWriter(graph, state, metadata, [&](const SafetensorsWriter& writer) {
    return writer.Matches(path) ? absl::OkStatus() : writer.Write(path);
  });
}

absl::Status LoadWeights(const std::string& path, const Graph& graph, ModelState* state) {
  auto file = SafetensorsFile::Open(path);
  if (!file.ok()) return file.status();
  const auto model = file->metadata().find("model");
  if (model != file->metadata().end() && model->second != graph.model()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": holds weights of ", model->second, ", not of ", graph.model()));
  }
  std::vector<std::string> counters;
  int64_t batches_tracked = 0;
  for (const std::string& norm : BatchNormNames(graph)) {
    const std::string name = norm + ".num_batches_tracked";
    const auto* entry = file->Find(name);
    if (entry == nullptr) continue;
    auto value = file->ReadInt64s(
        name, entry->shape.empty() ? std::vector<int64_t>{} : std::vector<int64_t>{1});
    if (!value.ok()) return value.status();
    if (value->front() < 0) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": tensor ", name, " is negative"));
    }
    batches_tracked = value->front();
    counters.push_back(name);
  }
  const absl::Status status = ReadTensors(*file, WeightTensors(graph, *state), counters);
  if (status.ok()) state->batches_tracked = batches_tracked;
  return status;
}

}  // namespace classicnn
