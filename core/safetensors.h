// The safetensors file format: an 8-byte little-endian header size, a JSON header, tensor data.
//
// Reading assumes no alignment and trusts nothing: sizes, offsets (in range, without overlap or
// holes), dtypes, shapes whose product may overflow, duplicate names, and a header of any claimed
// size are checked before use. Every error names the path, and the tensor where there is one.
// Writing pads the header with spaces so that the data starts at a multiple of 64 bytes, and orders
// tensors as they were added (the metadata by key), so that equal contents make equal files.
#ifndef CLASSICNN_CORE_SAFETENSORS_H_
#define CLASSICNN_CORE_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/file.h"

namespace classicnn {

enum class DType { kBool, kU8, kI8, kI16, kU16, kF16, kBF16, kI32, kU32, kF32, kI64, kU64, kF64 };
const char* DTypeName(DType dtype);  // "F32", ...
int64_t DTypeBytes(DType dtype);

class SafetensorsFile {
 public:
  struct Entry {
    std::string name;
    DType dtype = DType::kF32;
    std::vector<int64_t> shape;       // empty: one element
    absl::Span<const uint8_t> bytes;  // of any alignment
    int64_t count() const;
  };

  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  const std::string& path() const { return file_->path(); }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::vector<Entry>& entries() const { return entries_; }  // in the order of their data
  const Entry* Find(absl::string_view name) const;                // null where there is none

  // The values of a tensor that must exist with this dtype and shape. F64 tensors are accepted
  // where floats are asked for, and F32 ones where doubles are.
  absl::StatusOr<std::vector<float>> ReadFloats(absl::string_view name,
                                                absl::Span<const int64_t> shape) const;
  absl::StatusOr<std::vector<double>> ReadDoubles(absl::string_view name,
                                                  absl::Span<const int64_t> shape) const;
  absl::StatusOr<std::vector<int64_t>> ReadInt64s(absl::string_view name,
                                                  absl::Span<const int64_t> shape) const;
  // The value of a metadata key that must be there.
  absl::StatusOr<std::string> Metadata(const std::string& key) const;

  // CRC-32 of the metadata (the value of `without` apart), and of the tensors' names and data in
  // order: tells damage that leaves a file well-formed. Reads all of the file.
  uint32_t Checksum(absl::string_view without) const;

 private:
  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, std::string> metadata_;
  std::vector<Entry> entries_;
  std::map<std::string, size_t> by_name_;
};

class SafetensorsWriter {
 public:
  void SetMetadata(const std::string& key, const std::string& value);
  // The data is not copied: it must stay until Write.
  void Add(const std::string& name, DType dtype, std::vector<int64_t> shape, const void* data);
  void AddFloats(const std::string& name, std::vector<int64_t> shape,
                 absl::Span<const float> values);
  // What SafetensorsFile::Checksum of the written file gives.
  uint32_t Checksum(absl::string_view without) const;
  // Atomic and synced (core/file.h).
  absl::Status Write(const std::string& path) const;
  // Whether there is a sound file with the same metadata, tensors and data.
  bool Matches(const std::string& path) const;

 private:
  struct Item {
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;
    const void* data;
  };
  std::map<std::string, std::string> metadata_;
  std::vector<Item> items_;
};

}  // namespace classicnn

#endif  // CLASSICNN_CORE_SAFETENSORS_H_
