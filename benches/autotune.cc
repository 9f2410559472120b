#include "benches/autotune.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/check.h"
#include "core/file.h"
#include "core/isa.h"
#include "core/machine.h"
#include "core/trace.h"
#include "core/user_cache.h"

namespace classicnn {
namespace {

constexpr char kFormat[] = "classicnn_autotune";
constexpr int kFormatVersion = 1;
constexpr size_t kMostBytes = size_t{16} << 20;  // of a file: some 100,000 choices

constexpr int kTurns = 5;
constexpr int64_t kTurnNanos = 5'000'000;
constexpr int kLeastCalls = 2;   // in a turn: the first finds another's tensors in the caches
constexpr double kHopeless = 2;  // times the best of a turn: not measured again
constexpr double kWorthAChange = 1.02;

void Say(const std::string& text) { std::fprintf(stderr, "autotune: %s\n", text.c_str()); }

// Times depend on the processor and on the kernels: what an earlier commit chose is measured again.
std::string EntryName(const TuningKey& key) {
  static const std::string* const machine = new std::string(absl::StrCat(
      GetMachineInfo().cpu_model, "/", GetBuildInfo().version, "/", GetBuildInfo().commit));
  return absl::StrCat(key.ToString(), "/", *machine);
}

struct Candidate {
  std::unique_ptr<LayerCase> layer;
  TuningTime time;
  bool hopeless = false;
};

void TakeTurn(Candidate& candidate) {
  const int64_t end = NowNanos() + kTurnNanos;
  int64_t least = std::numeric_limits<int64_t>::max();
  int64_t now = NowNanos();
  for (int calls = 0; calls < kLeastCalls || now < end; ++calls) {
    const int64_t started = now;
    candidate.layer->RunOptimized();
    now = NowNanos();
    least = std::min(least, std::max<int64_t>(now - started, 1));
  }
  candidate.time.seconds = std::min(candidate.time.seconds, static_cast<double>(least) * 1e-9);
}

// The candidates come with the plan's choice first.
Conv2dAlgorithm Winner(const std::vector<TuningTime>& times) {
  const auto best = std::min_element(
      times.begin(), times.end(),
      [](const TuningTime& a, const TuningTime& b) { return a.seconds < b.seconds; });
  return best->seconds * kWorthAChange > times.front().seconds ? times.front().algorithm
                                                               : best->algorithm;
}

}  // namespace

std::string TuningKey::ToString() const {
  return absl::StrCat("conv2d_", LayerPassName(pass), fused ? "/fused/" : "/", shape.ToString(),
                      "/", target, "/threads:", num_threads);
}

std::string TuningCache::DefaultPath() {
  return UserCachePath("CLASSICNN_AUTOTUNE_CACHE", "autotune.json");
}

TuningCache::TuningCache(std::string path)
    : path_(std::move(path)), choices_(ReadChoices(/*quietly=*/false)) {}

nlohmann::json TuningCache::ReadChoices(bool quietly) const {
  nlohmann::json nothing = nlohmann::json::object();
  if (path_.empty()) return nothing;
  const auto text = ReadFile(path_);
  if (!text.ok()) {
    if (!quietly && !absl::IsNotFound(text.status())) Say(std::string(text.status().message()));
    return nothing;
  }
  const auto ignored = [&](const char* why) {
    if (!quietly) Say(absl::StrCat("ignoring ", path_, ": ", why));
    return nlohmann::json::object();
  };
  if (text->size() > kMostBytes) return ignored("it is too large for a file of choices");
  auto file = ParseCache(*text);
  if (file.is_discarded()) return ignored("it is not JSON");
  const auto version = file.is_object() ? file.find(kFormat) : file.end();
  if (!file.is_object() || version == file.end()) return ignored("it is not a file of choices");
  if (*version != kFormatVersion) return ignored("its format is of another version");
  const auto choices = file.find("choices");
  if (choices == file.end() || !choices->is_object()) return ignored("it has no choices");
  return std::move(*choices);
}

std::optional<Conv2dAlgorithm> TuningCache::Find(const TuningKey& key) const {
  const std::string name = EntryName(key);
  const auto entry = choices_.find(name);
  if (entry == choices_.end()) return std::nullopt;
  const auto ignored = [&](const std::string& why) {
    Say(absl::StrCat("ignoring \"", key.ToString(), "\" in ", path_, ": ", why));
    return std::nullopt;
  };
  if (!entry->is_object() || !entry->contains("algorithm") || !(*entry)["algorithm"].is_string()) {
    return ignored("it names no algorithm");
  }
  const auto algorithm = ParseConv2dAlgorithm((*entry)["algorithm"].get<std::string>());
  if (!algorithm.ok()) return ignored("there is no such algorithm");
  const auto usable = Conv2dAlgorithms(key.shape, Conv2dPassOf(key.pass));
  if (std::find(usable.begin(), usable.end(), *algorithm) == usable.end()) {
    return ignored(absl::StrCat(Conv2dAlgorithmName(*algorithm), " does not do that"));
  }
  return *algorithm;
}

void TuningCache::Put(const TuningKey& key, Conv2dAlgorithm choice,
                      const std::vector<TuningTime>& times) {
  nlohmann::json microseconds = nlohmann::json::object();
  for (const TuningTime& t : times) {
    microseconds[Conv2dAlgorithmName(t.algorithm)] = std::round(t.seconds * 1e8) / 100;
  }
  const nlohmann::json entry = {{"algorithm", Conv2dAlgorithmName(choice)},
                                {"microseconds", microseconds}};
  const std::string name = EntryName(key);
  choices_[name] = entry;
  if (path_.empty()) return;
  nlohmann::json choices = ReadChoices(/*quietly=*/true);  // others may have written meanwhile
  for (const auto& [other, value] : choices_.items()) {
    if (!choices.contains(other)) choices[other] = value;
  }
  choices[name] = entry;
  const nlohmann::json file = {{kFormat, kFormatVersion}, {"choices", choices}};
  MakeCacheFolder(path_);
  const auto text =
      file.dump(1, ' ', /*ensure_ascii=*/false, nlohmann::json::error_handler_t::replace) + "\n";
  if (absl::Status status = WriteFileAtomically(path_, text); !status.ok()) {
    Say(std::string(status.message()));
  }
}

absl::StatusOr<TunedAlgorithm> Autotune(const LayerShape& shape, LayerPass pass, bool fused,
                                        Context& ctx, TuningCache& cache) {
  CNN_CHECK(shape.kind == LayerKind::kConv2d, LayerKindName(shape.kind), " has one algorithm");
  TunedAlgorithm result;
  const TuningKey key = {shape.conv2d, pass, fused, ActiveTarget(), ctx.num_threads()};
  const auto usable = Conv2dAlgorithms(shape.conv2d, Conv2dPassOf(pass));
  result.algorithm = usable.front();
  if (usable.size() == 1) return result;
  if (const auto known = cache.Find(key); known.has_value()) {
    result.algorithm = *known;
    return result;
  }

  std::vector<Candidate> candidates;
  for (const Conv2dAlgorithm algorithm : usable) {
    auto layer = LayerCase::Create(shape, pass, {algorithm, fused}, ctx);
    if (!layer.ok()) return layer.status();
    (*layer)->RunOptimized();  // pages
    candidates.push_back({*std::move(layer), {algorithm, std::numeric_limits<double>::infinity()}});
  }
  for (int turn = 0; turn < kTurns; ++turn) {
    double best = std::numeric_limits<double>::infinity();
    for (Candidate& candidate : candidates) {
      if (!candidate.hopeless) TakeTurn(candidate);
      best = std::min(best, candidate.time.seconds);
    }
    for (Candidate& candidate : candidates) {
      candidate.hopeless = candidate.time.seconds > kHopeless * best;
    }
  }
  for (const Candidate& candidate : candidates) result.times.push_back(candidate.time);
  result.algorithm = Winner(result.times);
  const auto format = [](std::string* out, const TuningTime& t) {
    absl::StrAppendFormat(out, "%s %.1f us", Conv2dAlgorithmName(t.algorithm), t.seconds * 1e6);
  };
  Say(absl::StrCat(key.ToString(), ": ", Conv2dAlgorithmName(result.algorithm), " (",
                   absl::StrJoin(result.times, ", ", format), ")"));
  cache.Put(key, result.algorithm, result.times);
  return result;
}

}  // namespace classicnn
