#include "models/train/metrics.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/file.h"
#include "nlohmann/json.hpp"

namespace classicnn {
namespace {

absl::Status CannotWrite(const std::string& path) {
  const int error = errno;
  return absl::Status(absl::ErrnoToStatusCode(error),
                      absl::StrCat("cannot write ", path, ": ", std::strerror(error)));
}

int64_t Number(const nlohmann::json& line, const char* key) {
  const auto found = line.find(key);
  return found != line.end() && found->is_number_integer() ? found->get<int64_t>() : -1;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsLog>> MetricsLog::Open(const std::string& path) {
  auto log = std::unique_ptr<MetricsLog>(new MetricsLog);
  log->path_ = path;
  log->fd_ = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (log->fd_ < 0) return CannotWrite(path);
  return log;
}

MetricsLog::~MetricsLog() {
  if (fd_ >= 0) close(fd_);
}

absl::Status MetricsLog::Append(const nlohmann::json& line) {
  const std::string text = line.dump() + "\n";
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t written = write(fd_, text.data() + done, text.size() - done);
    if (written < 0) {
      if (errno == EINTR) continue;
      return CannotWrite(path_);
    }
    done += static_cast<size_t>(written);
  }
  return absl::OkStatus();
}

absl::Status MetricsLog::Sync() {
  // Pipes and some file systems cannot be synced; what was written is written.
  if (fsync(fd_) != 0 && errno != EINVAL && errno != EROFS) return CannotWrite(path_);
  return absl::OkStatus();
}

absl::Status CutMetrics(const std::string& path, int64_t step, int64_t epochs) {
  const auto contents = ReadFile(path);
  if (absl::IsNotFound(contents.status())) return absl::OkStatus();
  if (!contents.ok()) return contents.status();
  std::string kept;
  for (const absl::string_view text : absl::StrSplit(*contents, '\n', absl::SkipEmpty())) {
    const auto line =
        nlohmann::json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
    if (!line.is_object() || Number(line, "step") > step) continue;
    const auto kind = line.find("kind");
    if (kind != line.end() && *kind == "epoch" && Number(line, "epoch") > epochs) continue;
    absl::StrAppend(&kept, text, "\n");
  }
  if (kept == *contents) return absl::OkStatus();
  return WriteFileAtomically(path, kept);
}

}  // namespace classicnn
