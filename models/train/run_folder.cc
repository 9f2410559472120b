#include "models/train/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/file.h"
#include "nlohmann/json.hpp"

namespace classicnn {
namespace fs = std::filesystem;

absl::StatusOr<RunConfig> ReadRunConfig(const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/", kConfigFile);
  const auto text = ReadFile(path);
  if (!text.ok()) return text.status();
  const auto bad = [&path](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", why));
  };
  const auto json = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return bad("not a JSON object");
  const auto flags = json.find("flags");
  const auto target = json.find("target");
  const auto data = json.find("data");
  if (flags == json.end() || target == json.end() || !target->is_string() || data == json.end() ||
      !data->is_object() || !data->contains("train_fingerprint") ||
      !(*data)["train_fingerprint"].is_number_unsigned()) {
    return bad("not the configuration of a training run");
  }
  auto options = TrainOptionsFromJson(*flags);
  if (!options.ok()) return bad(options.status().message());
  RunConfig config;
  config.options = *std::move(options);
  config.target = target->get<std::string>();
  config.train_fingerprint = (*data)["train_fingerprint"].get<uint32_t>();
  if (data->contains("test_images") && (*data)["test_images"].is_number_integer()) {
    config.test_images = (*data)["test_images"].get<int64_t>();
  }
  if (data->contains("test_fingerprint") && (*data)["test_fingerprint"].is_number_unsigned()) {
    config.test_fingerprint = (*data)["test_fingerprint"].get<uint32_t>();
  }
  return config;
}

absl::Status StartRunFolder(const std::string& folder, const nlohmann::json& config) {
  std::error_code error;
  for (const char* name : {kConfigFile, kStateFile, kMetricsFile}) {
    if (!fs::exists(fs::path(folder) / name, error)) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("--out=", folder, " holds a run already (", name,
                     "): go on with it by --resume, or give another folder"));
  }
  // The topmost folder that will be new, to be removed again if anything fails.
  fs::path made;
  for (fs::path p = fs::absolute(folder, error).lexically_normal(); !fs::exists(p, error);
       p = p.parent_path()) {
    made = p;
    if (!p.has_relative_path()) break;
  }
  absl::Status status = MakeWritableFolder(folder);
  if (status.ok()) {
    status = WriteFileAtomically(absl::StrCat(folder, "/", kConfigFile), config.dump(2) + "\n");
  }
  if (!status.ok() && !made.empty()) fs::remove_all(made, error);
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat("--out=", folder, ": ", status.message()));
}

absl::StatusOr<std::unique_ptr<RunLock>> RunLock::Take(const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/", kConfigFile);
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    const int error = errno;
    return absl::Status(absl::ErrnoToStatusCode(error),
                        absl::StrCat("cannot open ", path, ": ", std::strerror(error)));
  }
  auto lock = std::unique_ptr<RunLock>(new RunLock(fd));
  if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    return absl::FailedPreconditionError(
        absl::StrCat("--out=", folder, ": another process is training there"));
  }
  return lock;
}

RunLock::~RunLock() { close(fd_); }

void RemoveTemporaries(const std::string& folder) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!absl::EndsWith(name, ".tmp")) continue;
    for (const char* file : {kConfigFile, kMetricsFile, kStateFile, kLastFile, kBestFile}) {
      if (absl::StartsWith(name, absl::StrCat(file, "."))) fs::remove(entry.path(), error);
    }
  }
}

absl::Status KeepStates(const std::string& folder, int64_t step, int64_t keep) {
  constexpr char kPrefix[] = "state-";
  std::error_code error;
  if (keep > 1) {
    const fs::path state = fs::path(folder) / kStateFile;
    const fs::path copy = fs::path(folder) / absl::StrFormat("%s%09d.safetensors", kPrefix, step);
    fs::remove(copy, error);
    fs::create_hard_link(state, copy, error);
    if (error) {
      error.clear();
      fs::copy_file(state, copy, fs::copy_options::overwrite_existing, error);
    }
    if (error) {
      return absl::UnknownError(
          absl::StrCat("cannot write ", copy.string(), ": ", error.message()));
    }
  }
  std::vector<fs::path> copies;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (absl::StartsWith(name, kPrefix) && absl::EndsWith(name, ".safetensors")) {
      copies.push_back(entry.path());
    }
  }
  // Names have as many digits as each other: sorted by step. The newest is state.safetensors
  // itself.
  std::sort(copies.begin(), copies.end());
  const auto most = static_cast<size_t>(keep > 1 ? keep : 0);
  for (size_t i = 0; i + most < copies.size(); ++i) fs::remove(copies[i], error);
  return absl::OkStatus();
}

}  // namespace classicnn
