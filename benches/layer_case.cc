#include "benches/layer_case.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/check.h"
#include "core/divide.h"
#include "core/isa.h"
#include "core/random.h"

namespace classicnn {

LayerCase::LayerCase(const LayerShape& shape, LayerPass pass, Context& ctx)
    : shape_(shape), pass_(pass), ctx_(ctx) {}

LayerCase::~LayerCase() = default;

absl::StatusOr<std::unique_ptr<LayerCase>> LayerCase::Construct(const LayerShape& shape,
                                                                LayerPass pass,
                                                                const LayerCaseOptions& options,
                                                                Context& ctx) {
  const std::vector<LayerPass>& passes = LayerPasses(shape.kind);
  CNN_CHECK(std::find(passes.begin(), passes.end(), pass) != passes.end(),
            LayerKindName(shape.kind), " has no ", LayerPassName(pass));
  if (shape.kind == LayerKind::kConv2d) return CreateConv2dCase(shape, pass, options, ctx);
  if (shape.kind == LayerKind::kLinear) return CreateLinearCase(shape, pass, ctx);
  return CreateStreamCase(shape, pass, ctx);
}

absl::StatusOr<std::unique_ptr<LayerCase>> LayerCase::Create(const LayerShape& shape,
                                                             LayerPass pass,
                                                             const LayerCaseOptions& options,
                                                             Context& ctx) {
  absl::StatusOr<std::unique_ptr<LayerCase>> result = Construct(shape, pass, options, ctx);
  if (!result.ok()) return result;
  if (absl::Status status = (*result)->Allocate(); !status.ok()) return status;
  (*result)->Fill();
  return result;
}

int64_t LayerCase::BytesNeeded(const LayerShape& shape, LayerPass pass,
                               const LayerCaseOptions& options) {
  Context ctx(1);
  const absl::StatusOr<std::unique_ptr<LayerCase>> layer = Construct(shape, pass, options, ctx);
  if (!layer.ok()) return 0;
  int64_t bytes = 0;
  for (const Buffer& buffer : (*layer)->buffers_) bytes += 4 * buffer.count;
  return bytes;
}

void LayerCase::Request(const char* name, float** target, int64_t count, MemoryCategory category) {
  buffers_.push_back({name, target, count, category, /*output=*/false});
}

void LayerCase::RequestOutput(const char* name, float** target, int64_t count,
                              MemoryCategory category) {
  buffers_.push_back({name, target, count, category, /*output=*/true});
}

void LayerCase::RequestWorkspace(size_t bytes) {
  workspace_bytes_ = bytes;
  Request("workspace", &scratch_, static_cast<int64_t>((bytes + 3) / 4),
          MemoryCategory::kWorkspace);
}

absl::Status LayerCase::Allocate() {
  // Most tensors are a power of two long. Laid end to end they would all start at the same offset
  // in a page, and reading one while writing another at equal offsets stalls (4K aliasing): a gap
  // that differs from tensor to tensor keeps them apart, as different tensors of a plan are.
  constexpr int64_t kGap = 9 * 64;
  BytesByCategory bytes{};
  std::vector<int64_t> offsets;
  int64_t offset = 0;
  for (const Buffer& buffer : buffers_) {
    offsets.push_back(offset);
    const int64_t size = (buffer.count * 4 + 63) / 64 * 64 + kGap;
    At(bytes, buffer.category) += size;
    offset += size;
  }
  absl::StatusOr<std::unique_ptr<Arena>> arena = Arena::Create(bytes, &ctx_.memory());
  if (!arena.ok()) return arena.status();
  arena_ = *std::move(arena);
  for (size_t i = 0; i < buffers_.size(); ++i) {
    *buffers_[i].target = reinterpret_cast<float*>(arena_->data() + offsets[i]);
  }
  return absl::OkStatus();
}

void LayerCase::FillRandom(absl::string_view purpose, float* data, int64_t count) {
  const RandomStream stream(kLayerCaseSeed, purpose);
  constexpr int64_t kPiece = 1 << 16;                   // a multiple of the four words of one index
  constexpr float kScale = 3.4641016f / 4294967296.0f;  // sqrt(12) / 2^32
  ctx_.ParallelFor("bench.fill", DivideUp(count, kPiece), [&](int64_t piece, int) {
    const int64_t end = std::min(count, (piece + 1) * kPiece);
    for (int64_t i = piece * kPiece; i < end; i += 4) {
      const std::array<uint32_t, 4> words = stream.Words(static_cast<uint64_t>(i / 4));
      for (int64_t j = i; j < std::min(end, i + 4); ++j) {
        const auto word = static_cast<float>(words[static_cast<size_t>(j - i)]);
        data[j] = (word - 2147483648.0f) * kScale;
      }
    }
  });
}

std::vector<LayerCase::TensorRef> LayerCase::tensors() const {
  std::vector<TensorRef> result;
  for (const Buffer& b : buffers_) result.push_back({b.name, *b.target, b.count, b.output});
  return result;
}

float* LayerCase::tensor(absl::string_view name) const {
  for (const Buffer& b : buffers_) {
    if (name == b.name) return *b.target;
  }
  CheckFailed(__FILE__, __LINE__, "the tensor exists", absl::StrCat(name));
}

absl::Status LayerCase::Check(double* worst_error) {
  const auto clear = [this] {
    for (const Buffer& b : buffers_) {
      if (!b.output) continue;
      std::fill(*b.target, *b.target + b.count, std::numeric_limits<float>::quiet_NaN());
    }
    Rewind();
  };
  if (worst_error != nullptr) *worst_error = 0;

  clear();
  RunNaive();
  std::vector<std::vector<float>> expected;
  for (const Buffer& b : buffers_) {
    if (b.output) expected.emplace_back(*b.target, *b.target + b.count);
  }
  clear();
  if (workspace_bytes_ > 0) {
    std::fill(scratch_, scratch_ + (workspace_bytes_ + 3) / 4,
              std::numeric_limits<float>::quiet_NaN());
  }
  SpoilMore();
  RunOptimized();

  const std::string what =
      absl::StrCat(LayerKindName(shape_.kind), "_", LayerPassName(pass_), " ", shape_.ToString(),
                   algorithm().empty() ? "" : " ", algorithm(), fused() ? " fused" : "");
  size_t next = 0;
  for (const Buffer& b : buffers_) {
    if (!b.output) continue;
    const absl::StatusOr<double> error = RelativeError(*b.target, expected[next++].data(), b.count);
    if (!error.ok()) {
      return absl::FailedPreconditionError(
          absl::StrCat("wrong result: ", what, ": ", b.name, ": ", error.status().message()));
    }
    if (worst_error != nullptr) *worst_error = std::max(*worst_error, *error);
    if (*error > error_bound()) {
      return absl::FailedPreconditionError(absl::StrCat("wrong result: ", what, ": ", b.name,
                                                        " differs from the reference by ", *error,
                                                        ", allowed ", error_bound()));
    }
  }
  if (absl::Status more = CheckMore(); !more.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("wrong result: ", what, ": ", more.message()));
  }
  next = 0;
  for (const Buffer& b : buffers_) {
    if (!b.output) continue;
    std::copy(expected[next].begin(), expected[next].end(), *b.target);
    ++next;
  }
  Rewind();
  return absl::OkStatus();
}

std::string LayerCaseLabel(const LayerCase& layer) {
  const std::string algorithm = layer.algorithm();
  const std::vector<std::string> unfused = layer.unfused();
  return absl::StrCat(algorithm, algorithm.empty() ? "" : " ", ActiveTarget(),
                      unfused.empty() ? "" : " apart:", absl::StrJoin(unfused, ","));
}

absl::StatusOr<double> RelativeError(const float* actual, const float* expected, int64_t count) {
  double difference = 0;
  double norm = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double e = expected[i];
    const double d = actual[i] - e;
    difference += d * d;
    norm += e * e;
  }
  if (!std::isfinite(norm)) return absl::FailedPreconditionError("the reference is not finite");
  if (norm == 0) return absl::FailedPreconditionError("the reference is zero: nothing is checked");
  if (!std::isfinite(difference)) return absl::FailedPreconditionError("it is not finite");
  return std::sqrt(difference / norm);
}

}  // namespace classicnn
