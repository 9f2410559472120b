// Files, written so that a reader never sees half of one.
#ifndef CLASSICNN_CORE_FILE_H_
#define CLASSICNN_CORE_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace classicnn {

// Writes beside `path`, syncs, renames over it, syncs the folder. On any error `path` is as it was
// and nothing is left beside it. Errors name the path and the system's reason.
class AtomicFile {
 public:
  static absl::StatusOr<std::unique_ptr<AtomicFile>> Create(const std::string& path);
  ~AtomicFile();  // without Commit(): discards what was written
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  absl::Status Append(const void* data, size_t size);
  absl::Status Commit();

 private:
  AtomicFile() = default;
  std::string path_;
  std::string temporary_;
  int fd_ = -1;
};

absl::Status WriteFileAtomically(const std::string& path, absl::string_view contents);
absl::StatusOr<std::string> ReadFile(const std::string& path);
// Creates the folder and those above it, and checks that a file can be made in it.
absl::Status MakeWritableFolder(const std::string& path);

// A read-only mapping of a whole file.
class MappedFile {
 public:
  static absl::StatusOr<std::shared_ptr<const MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  absl::Span<const uint8_t> bytes() const { return {data_, size_}; }

 private:
  MappedFile() = default;
  std::string path_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace classicnn

#endif  // CLASSICNN_CORE_FILE_H_
