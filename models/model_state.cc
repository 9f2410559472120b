#include "models/model_state.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/random.h"
#include "models/layout.h"

namespace classicnn {
namespace {

int64_t AlignedBytes(int64_t floats) { return (floats * 4 + 63) / 64 * 64; }

}  // namespace

BytesByCategory ModelState::Bytes(const Graph& graph, Optimizer optimizer) {
  int64_t parameters = 0;
  for (const Parameter& p : graph.parameters()) parameters += AlignedBytes(p.count());
  int64_t buffers = 0;
  for (const Buffer& b : graph.buffers()) buffers += AlignedBytes(b.count);
  BytesByCategory bytes{};
  At(bytes, MemoryCategory::kWeights) = parameters + buffers;
  const int copies = optimizer == Optimizer::kNone ? 0 : optimizer == Optimizer::kSgd ? 1 : 2;
  At(bytes, MemoryCategory::kOptimizer) = copies * parameters;
  return bytes;
}

absl::StatusOr<std::unique_ptr<ModelState>> ModelState::Create(const Graph& graph,
                                                               Optimizer optimizer,
                                                               MemoryTracker* tracker) {
  auto state = std::unique_ptr<ModelState>(new ModelState);
  state->optimizer_ = optimizer;
  auto arena = Arena::Create(Bytes(graph, optimizer), tracker);
  if (!arena.ok()) return arena.status();
  state->arena_ = *std::move(arena);

  std::byte* next = state->arena_->data();
  const auto take = [&next](int64_t floats) {
    auto* const result = reinterpret_cast<float*>(next);
    next += AlignedBytes(floats);
    return result;
  };
  for (const Parameter& p : graph.parameters()) state->parameters_.push_back(take(p.count()));
  for (const Buffer& b : graph.buffers()) state->buffers_.push_back(take(b.count));
  for (const Parameter& p : graph.parameters()) {
    state->momentum_.push_back(optimizer == Optimizer::kNone ? nullptr : take(p.count()));
  }
  for (const Parameter& p : graph.parameters()) {
    state->second_moment_.push_back(optimizer == Optimizer::kAdamW ? take(p.count()) : nullptr);
  }
  CNN_CHECK(next == state->arena_->data() + state->arena_->size());
  return state;
}

std::vector<float> InitialValues(const Parameter& parameter, int64_t groups, uint64_t seed) {
  std::vector<float> values(static_cast<size_t>(parameter.count()));
  const RandomStream random(seed, parameter.name);
  const int64_t taps =
      parameter.kind == ParameterKind::kConvWeight ? parameter.shape[2] * parameter.shape[3] : 1;
  switch (parameter.init) {
    case Init::kHeNormalFanOut: {
      const double fan_out =
          static_cast<double>(taps * parameter.shape[0]) / static_cast<double>(groups);
      const double deviation = std::sqrt(2.0 / fan_out);
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] = static_cast<float>(deviation * static_cast<double>(random.Normal(i)));
      }
      break;
    }
    case Init::kXavierUniform: {
      const double fan_sum = static_cast<double>(taps * (parameter.shape[1] + parameter.shape[0]));
      const double limit = std::sqrt(6.0 / fan_sum);
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] = static_cast<float>(limit * (2.0 * static_cast<double>(random.Uniform(i)) - 1));
      }
      break;
    }
    case Init::kOnes:
      std::fill(values.begin(), values.end(), 1.0f);
      break;
    case Init::kZeros:
      break;
  }
  return values;
}

void ModelState::Initialize(const Graph& graph, uint64_t seed) {
  const auto& parameters = graph.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& p = parameters[i];
    const std::vector<float> values = InitialValues(p, graph.node(p.node).groups, seed);
    FromPytorchLayout(p, values.data(), parameters_[i]);
    if (momentum_[i] != nullptr) std::fill_n(momentum_[i], p.count(), 0.0f);
    if (second_moment_[i] != nullptr) std::fill_n(second_moment_[i], p.count(), 0.0f);
  }
  for (size_t i = 0; i < graph.buffers().size(); ++i) {
    std::fill_n(buffers_[i], graph.buffers()[i].count, graph.buffers()[i].initial);
  }
  batches_tracked = 0;
  updates = 0;
}

}  // namespace classicnn
