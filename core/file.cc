#include "core/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/check.h"

namespace classicnn {
namespace {

// "cannot WHAT PATH: reason", with the code that errno maps to.
absl::Status SystemError(absl::string_view what, const std::string& path) {
  const int error = errno;
  return absl::Status(absl::ErrnoToStatusCode(error),
                      absl::StrCat("cannot ", what, " ", path, ": ", std::strerror(error)));
}

// Where a new file of this name is made: the target, when `path` is a link, so that the link stays.
std::string ResolveLink(const std::string& path) {
  std::error_code error;
  const auto resolved = std::filesystem::canonical(path, error);
  return error ? path : resolved.string();
}

std::string FolderOf(const std::string& path) {
  const auto folder = std::filesystem::path(path).parent_path();
  return folder.empty() ? "." : folder.string();
}

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

// What was made or renamed in a folder lasts only once the folder is on disk. Some file systems
// cannot sync one and say so with other errors than that a device failed.
absl::Status SyncFolder(const std::string& path) {
  const FileDescriptor folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() >= 0 && fsync(folder.get()) != 0 && (errno == EIO || errno == ENOSPC)) {
    return SystemError("sync folder", path);
  }
  return absl::OkStatus();
}

// An open regular file and its size. Folders, pipes and devices are refused: their size means
// nothing and reading them could block.
absl::StatusOr<std::pair<int, size_t>> OpenRegular(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return SystemError("open", path);
  struct stat info;
  if (fstat(fd, &info) != 0) {
    absl::Status status = SystemError("examine", path);
    close(fd);
    return status;
  }
  if (!S_ISREG(info.st_mode)) {
    close(fd);
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  }
  return std::make_pair(fd, static_cast<size_t>(info.st_size));
}

}  // namespace

absl::StatusOr<std::unique_ptr<AtomicFile>> AtomicFile::Create(const std::string& path) {
  static std::atomic<unsigned> serial{0};
  auto file = std::unique_ptr<AtomicFile>(new AtomicFile);
  file->path_ = ResolveLink(path);
  struct stat info;
  if (path.empty()) return absl::InvalidArgumentError("cannot write a file without a name");
  if (stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot write ", path, ": it exists and is not a regular file"));
  }
  // Unique among processes and threads, so that two writers of one path cannot mix.
  const std::string temporary =
      absl::StrCat(file->path_, ".", getpid(), ".", serial.fetch_add(1), ".tmp");
  file->fd_ = open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (file->fd_ < 0) return SystemError("write", path);
  file->temporary_ = temporary;
  return file;
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) close(fd_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

absl::Status AtomicFile::Append(const void* data, size_t size) {
  CNN_CHECK(fd_ >= 0, "file ", path_, " is already closed");
  const char* next = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = write(fd_, next, size);
    if (written < 0) {
      if (errno == EINTR) continue;
      return SystemError("write", path_);
    }
    next += written;
    size -= static_cast<size_t>(written);
  }
  return absl::OkStatus();
}

absl::Status AtomicFile::Commit() {
  CNN_CHECK(fd_ >= 0, "file ", path_, " is already closed");
  if (fsync(fd_) != 0) return SystemError("write", path_);
  const int closed = close(fd_);
  fd_ = -1;
  if (closed != 0) return SystemError("write", path_);
  if (rename(temporary_.c_str(), path_.c_str()) != 0) return SystemError("write", path_);
  temporary_.clear();
  return SyncFolder(FolderOf(path_));
}

absl::Status WriteFileAtomically(const std::string& path, absl::string_view contents) {
  auto file = AtomicFile::Create(path);
  if (!file.ok()) return file.status();
  if (absl::Status s = (*file)->Append(contents.data(), contents.size()); !s.ok()) return s;
  return (*file)->Commit();
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  const auto opened = OpenRegular(path);
  if (!opened.ok()) return opened.status();
  const FileDescriptor fd(opened->first);
  std::string contents;
  contents.reserve(opened->second);
  // To the end of the file rather than to its size: files of /proc and /sys claim to be empty.
  char buffer[1 << 16];
  for (;;) {
    const ssize_t got = read(fd.get(), buffer, sizeof(buffer));
    if (got < 0) {
      if (errno == EINTR) continue;
      return SystemError("read", path);
    }
    if (got == 0) return contents;
    contents.append(buffer, static_cast<size_t>(got));
  }
}

absl::Status MakeWritableFolder(const std::string& path) {
  if (path.empty()) return absl::InvalidArgumentError("cannot make a folder without a name");
  std::error_code error;
  // Those that are new, from the innermost on.
  std::vector<std::filesystem::path> made;
  auto folder = std::filesystem::absolute(path, error).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  for (; !std::filesystem::exists(folder, error) && folder.has_relative_path();
       folder = folder.parent_path()) {
    made.push_back(folder);
  }
  std::filesystem::create_directories(path, error);
  if (error) {
    return absl::Status(absl::ErrnoToStatusCode(error.value()),
                        absl::StrCat("cannot make folder ", path, ": ", error.message()));
  }
  if (!std::filesystem::is_directory(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a folder"));
  }
  // Permission bits do not tell (read-only mounts, quotas, root): try it.
  const auto probe = AtomicFile::Create((std::filesystem::path(path) / "writable").string());
  if (!probe.ok()) {
    return absl::Status(probe.status().code(), absl::StrCat("cannot write in folder ", path, ": ",
                                                            probe.status().message()));
  }
  for (const auto& one : made) {
    if (absl::Status s = SyncFolder(FolderOf(one.string())); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const MappedFile>> MappedFile::Open(const std::string& path) {
  const auto opened = OpenRegular(path);
  if (!opened.ok()) return opened.status();
  const FileDescriptor fd(opened->first);
  auto file = std::shared_ptr<MappedFile>(new MappedFile);
  file->path_ = path;
  if (opened->second > 0) {  // mmap refuses a length of 0
    void* p = mmap(nullptr, opened->second, PROT_READ, MAP_PRIVATE, fd.get(), 0);
    if (p == MAP_FAILED) return SystemError("map", path);
    file->data_ = static_cast<const uint8_t*>(p);
    file->size_ = opened->second;
  }
  return std::shared_ptr<const MappedFile>(std::move(file));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), size_);
}

}  // namespace classicnn
