#include "models/train/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/check.h"
#include "core/context.h"
#include "core/safetensors.h"
#include "models/state_tensors.h"

namespace classicnn {
namespace {

constexpr char kFormat[] = "classicnn-train-state";
constexpr char kVersion[] = "2";
constexpr char kChecksum[] = "crc32";

const char* OptimizerName(Optimizer optimizer) {
  return optimizer == Optimizer::kAdamW ? "adamw" : "sgd";
}

std::string ToText(int64_t v) { return absl::StrCat(v); }
std::string ToText(uint64_t v) { return absl::StrCat(v); }
std::string ToText(double v) { return absl::StrFormat("%a", v); }
bool FromText(const std::string& text, int64_t* v) { return absl::SimpleAtoi(text, v); }
bool FromText(const std::string& text, uint64_t* v) { return absl::SimpleAtoi(text, v); }
bool FromText(const std::string& text, double* v) {
  char* end = nullptr;
  *v = std::strtod(text.c_str(), &end);
  return !text.empty() && *end == '\0' && std::isfinite(*v);
}

template <typename Position, typename F>
void ForEachKey(Position& p, F&& f) {
  f("step", p.step);
  f("epochs", p.epochs);
  f("evaluated_step", p.evaluated_step);
  f("seed", p.seed);
  f("epoch_loss_sum", p.loss_sum);
  f("epoch_correct", p.correct);
  f("epoch_images", p.images);
  f("best_step", p.best_step);
  f("best_epoch", p.best_epoch);
  f("best_accuracy", p.best_accuracy);
  f("best_loss", p.best_loss);
  if (p.stop_epoch >= 0) {
    f("stop_accuracy", p.stop_accuracy);
    f("stop_loss", p.stop_loss);
  }
}

bool BestIsApart(const TrainPosition& position) {
  return position.best_step >= 0 && position.best_step != position.step;
}

const ModelState& Exported(const TrainStates& states) {
  return states.ema != nullptr ? *states.ema : *states.current;
}

std::vector<StateTensor> AllTensors(const Graph& graph, const TrainStates& states,
                                    const TrainPosition& position) {
  std::vector<StateTensor> all = WeightTensors(graph, *states.current, "weights.");
  const auto append = [&all](const std::vector<StateTensor>& more) {
    all.insert(all.end(), more.begin(), more.end());
  };
  append(OptimizerTensors(graph, *states.current));
  if (states.ema != nullptr) append(WeightTensors(graph, *states.ema, "ema."));
  if (BestIsApart(position)) append(WeightTensors(graph, *states.best, "best."));
  return all;
}

}  // namespace

absl::Status SaveTrainState(const std::string& path, const Graph& graph, const TrainStates& states,
                            const TrainPosition& position) {
  SafetensorsWriter writer;
  writer.SetMetadata("format", kFormat);
  writer.SetMetadata("version", kVersion);
  writer.SetMetadata("model", graph.model());
  writer.SetMetadata("num_classes", absl::StrCat(graph.num_classes()));
  writer.SetMetadata("image_size", absl::StrCat(graph.node(graph.input()).shape.h));
  writer.SetMetadata("optimizer", OptimizerName(states.current->optimizer()));
  writer.SetMetadata("updates", absl::StrCat(states.current->updates));
  writer.SetMetadata("batches_tracked", absl::StrCat(states.current->batches_tracked));
  writer.SetMetadata("best_batches_tracked",
                     absl::StrCat(BestIsApart(position) ? states.best->batches_tracked : 0));
  if (position.stop_epoch >= 0) writer.SetMetadata("stop_epoch", ToText(position.stop_epoch));
  ForEachKey(position,
             [&](const char* key, const auto& value) { writer.SetMetadata(key, ToText(value)); });
  TensorStore store;
  store.AddTo(writer, AllTensors(graph, states, position));
  writer.SetMetadata(kChecksum, absl::StrCat(writer.Checksum(kChecksum)));
  return writer.Write(path);
}

absl::StatusOr<TrainPosition> LoadTrainState(const std::string& path, const Graph& graph,
                                             const TrainStates& states) {
  auto file = SafetensorsFile::Open(path);
  if (!file.ok()) return file.status();
  const auto expect = [&](const std::string& key, const std::string& value) {
    const auto found = file->metadata().find(key);
    if (found != file->metadata().end() && found->second == value) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": metadata ", key, " is ",
        found == file->metadata().end() ? "missing" : absl::StrCat("\"", found->second, "\""),
        ", expected \"", value, "\""));
  };
  absl::Status status;
  status.Update(expect("format", kFormat));
  status.Update(expect("version", kVersion));
  if (status.ok() &&
      file->Metadata(kChecksum).value_or("") != absl::StrCat(file->Checksum(kChecksum))) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": is damaged: its contents do not have the checksum it was written with"));
  }
  status.Update(expect("model", graph.model()));
  status.Update(expect("num_classes", absl::StrCat(graph.num_classes())));
  status.Update(expect("image_size", absl::StrCat(graph.node(graph.input()).shape.h)));
  status.Update(expect("optimizer", OptimizerName(states.current->optimizer())));

  TrainPosition position;
  int64_t updates = 0, batches_tracked = 0, best_batches_tracked = 0;
  const auto read = [&](const char* key, auto& value) {
    const auto text = file->Metadata(key);
    if (!text.ok()) {
      status.Update(text.status());
    } else if (!FromText(*text, &value)) {
      status.Update(
          absl::InvalidArgumentError(absl::StrCat(path, ": metadata ", key, " is not a number")));
    }
  };
  if (file->metadata().count("stop_epoch") > 0) read("stop_epoch", position.stop_epoch);
  ForEachKey(position, read);
  read("updates", updates);
  read("batches_tracked", batches_tracked);
  read("best_batches_tracked", best_batches_tracked);
  if (status.ok() && (position.step < 0 || position.epochs < 0 || position.images < 0)) {
    status = absl::InvalidArgumentError(absl::StrCat(path, ": negative position"));
  }
  if (!status.ok()) return status;

  status = ReadTensors(*file, AllTensors(graph, states, position), {});
  if (!status.ok()) return status;
  states.current->updates = updates;
  states.current->batches_tracked = batches_tracked;
  if (states.ema != nullptr) states.ema->batches_tracked = batches_tracked;
  if (BestIsApart(position)) {
    states.best->batches_tracked = best_batches_tracked;
  } else if (position.best_step >= 0) {
    CopyWeights(graph, Exported(states), states.best);
  }
  return position;
}

void CopyWeights(const Graph& graph, const ModelState& from, ModelState* to) {
  const auto source = WeightTensors(graph, from), target = WeightTensors(graph, *to);
  for (size_t i = 0; i < source.size(); ++i) {
    std::copy_n(source[i].data, source[i].count(), target[i].data);
  }
  to->batches_tracked = from.batches_tracked;
}

void UpdateAverage(const Graph& graph, const ModelState& current, double decay, ModelState* average,
                   Context& ctx) {
  const auto source = WeightTensors(graph, current), target = WeightTensors(graph, *average);
  // Pieces of a fixed size; small tensors share none, there are only some hundreds of them.
  constexpr int64_t kPiece = 1 << 16;
  struct Piece {
    const float* from;
    float* to;
    int64_t count;
  };
  std::vector<Piece> pieces;
  for (size_t i = 0; i < source.size(); ++i) {
    for (int64_t at = 0; at < source[i].count(); at += kPiece) {
      pieces.push_back(
          {source[i].data + at, target[i].data + at, std::min(kPiece, source[i].count() - at)});
    }
  }
  const auto keep = static_cast<float>(decay), take = static_cast<float>(1 - decay);
  ctx.ParallelFor("train.average", static_cast<int64_t>(pieces.size()), [&](int64_t i, int) {
    const Piece& piece = pieces[static_cast<size_t>(i)];
    for (int64_t e = 0; e < piece.count; ++e) {
      piece.to[e] = keep * piece.to[e] + take * piece.from[e];
    }
  });
  average->batches_tracked = current.batches_tracked;
}

std::string FirstNonFinite(const Graph& graph, const ModelState& state, FiniteCheck what) {
  const auto finite = [](const float* data, int64_t count) {
    return std::all_of(data, data + count, [](float v) { return std::isfinite(v); });
  };
  for (size_t i = 0; i < graph.buffers().size(); ++i) {
    const Buffer& buffer = graph.buffers()[i];
    if (!finite(state.buffer(static_cast<int>(i)), buffer.count)) return buffer.name;
  }
  for (size_t i = graph.parameters().size(); i-- > 0;) {
    const Parameter& parameter = graph.parameters()[i];
    if (what == FiniteCheck::kVectors && parameter.shape.size() > 1) continue;
    if (!finite(state.parameter(static_cast<int>(i)), parameter.count())) return parameter.name;
  }
  if (what == FiniteCheck::kVectors) return "";
  for (const StateTensor& tensor : OptimizerTensors(graph, state)) {
    if (!finite(tensor.data, tensor.count())) return tensor.name;
  }
  return "";
}

}  // namespace classicnn
