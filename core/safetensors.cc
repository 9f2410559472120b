#include "core/safetensors.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/check.h"
#include "core/safetensors_header.h"
#include "nlohmann/json.hpp"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "tensor data are copied as they are in the file, which is little-endian");

namespace classicnn {
namespace {

constexpr const char* kDTypeNames[] = {"BOOL", "U8",  "I8",  "I16", "U16", "F16", "BF16",
                                       "I32",  "U32", "F32", "I64", "U64", "F64"};
constexpr int64_t kDTypeBytes[] = {1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 8, 8, 8};

// The format's own limit; far above what a million tensors need.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr int64_t kDataAlignment = 64;

std::string Quoted(absl::string_view name) {
  constexpr size_t kMost = 100;
  return absl::StrCat("\"", absl::Utf8SafeCEscape(name.substr(0, kMost)),
                      name.size() > kMost ? "...\"" : "\"");
}

std::string ShapeText(absl::Span<const int64_t> shape) {
  constexpr size_t kMost = 16;
  return absl::StrCat("[", absl::StrJoin(shape.subspan(0, kMost), ","),
                      shape.size() > kMost ? ",...]" : "]");
}

absl::Status Bad(const std::string& path, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
}
absl::Status BadTensor(const std::string& path, absl::string_view name, const std::string& what) {
  return Bad(path, absl::StrCat("tensor ", Quoted(name), " ", what));
}

bool ParseDType(absl::string_view text, DType* dtype) {
  for (size_t i = 0; i < std::size(kDTypeNames); ++i) {
    if (text == kDTypeNames[i]) {
      *dtype = static_cast<DType>(i);
      return true;
    }
  }
  return false;
}

// Bytes of a tensor, or false where they do not fit 63 bits.
bool BytesOf(DType dtype, absl::Span<const int64_t> shape, uint64_t* bytes) {
  constexpr auto kMost = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  uint64_t product = static_cast<uint64_t>(DTypeBytes(dtype));
  // A dimension of 0 empties the tensor whatever the others are.
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) product = 0;
  for (const int64_t dimension : shape) {
    if (product != 0 && static_cast<uint64_t>(dimension) > kMost / product) return false;
    product *= static_cast<uint64_t>(dimension);
  }
  *bytes = product;
  return true;
}

absl::StatusOr<SafetensorsFile::Entry> MakeEntry(const std::string& path, HeaderTensor& tensor,
                                                 absl::Span<const uint8_t> data) {
  SafetensorsFile::Entry entry;
  entry.name = tensor.name;
  if (!ParseDType(tensor.dtype, &entry.dtype)) {
    return BadTensor(path, tensor.name, absl::StrCat("has unknown dtype ", Quoted(tensor.dtype)));
  }
  entry.shape = std::move(tensor.shape);
  uint64_t bytes = 0;
  if (!BytesOf(entry.dtype, entry.shape, &bytes)) {
    return BadTensor(path, tensor.name,
                     absl::StrCat("is too large: shape ", ShapeText(entry.shape)));
  }
  const auto [begin, end] = tensor.offsets;
  if (begin > end || end > data.size()) {
    return BadTensor(path, tensor.name,
                     absl::StrCat("has data_offsets [", begin, ",", end,
                                  "] outside the file's data of ", data.size(), " bytes"));
  }
  if (end - begin != bytes) {
    return BadTensor(path, tensor.name,
                     absl::StrCat("has ", end - begin, " bytes of data, but ", tensor.dtype, " ",
                                  ShapeText(entry.shape), " needs ", bytes));
  }
  entry.bytes = data.subspan(begin, bytes);
  return entry;
}

// Copies a tensor of type From into values of type To.
template <typename From, typename To>
std::vector<To> Convert(absl::Span<const uint8_t> bytes) {
  std::vector<To> values(bytes.size() / sizeof(From));
  if constexpr (std::is_same_v<From, To>) {
    if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  } else {
    for (size_t i = 0; i < values.size(); ++i) {
      From value;
      std::memcpy(&value, bytes.data() + i * sizeof(From), sizeof(From));
      values[i] = static_cast<To>(value);
    }
  }
  return values;
}

// The tensor `name` if it has one of these dtypes and this shape.
absl::StatusOr<const SafetensorsFile::Entry*> Expect(const SafetensorsFile& file,
                                                     absl::string_view name,
                                                     absl::Span<const int64_t> shape,
                                                     std::initializer_list<DType> dtypes) {
  const SafetensorsFile::Entry* entry = file.Find(name);
  if (entry == nullptr) {
    return absl::NotFoundError(absl::StrCat(file.path(), ": tensor ", Quoted(name), " is missing"));
  }
  if (std::find(dtypes.begin(), dtypes.end(), entry->dtype) == dtypes.end()) {
    return BadTensor(file.path(), name,
                     absl::StrCat("is ", DTypeName(entry->dtype), ", expected ",
                                  absl::StrJoin(dtypes, " or ", [](std::string* out, DType d) {
                                    out->append(DTypeName(d));
                                  })));
  }
  if (absl::MakeConstSpan(entry->shape) != shape) {
    return BadTensor(
        file.path(), name,
        absl::StrCat("has shape ", ShapeText(entry->shape), ", expected ", ShapeText(shape)));
  }
  return entry;
}

class Crc {
 public:
  void Add(const void* data, uint64_t size) {
    // In pieces: zlib counts in 32 bits.
    constexpr uint64_t kPiece = uint64_t{1} << 24;
    const auto* bytes = static_cast<const Bytef*>(data);
    for (uint64_t at = 0; at < size; at += kPiece) {
      value_ = crc32(value_, bytes + at, static_cast<uInt>(std::min(kPiece, size - at)));
    }
  }
  // With its end, so that two texts cannot be cut elsewhere.
  void AddText(const std::string& text) { Add(text.c_str(), text.size() + 1); }
  void AddMetadata(const std::map<std::string, std::string>& metadata, absl::string_view without) {
    for (const auto& [key, value] : metadata) {
      if (key == without) continue;
      AddText(key);
      AddText(value);
    }
  }
  uint32_t value() const { return static_cast<uint32_t>(value_); }

 private:
  uLong value_ = crc32(0, nullptr, 0);
};

}  // namespace

const char* DTypeName(DType dtype) { return kDTypeNames[static_cast<size_t>(dtype)]; }
int64_t DTypeBytes(DType dtype) { return kDTypeBytes[static_cast<size_t>(dtype)]; }

int64_t SafetensorsFile::Entry::count() const {
  return static_cast<int64_t>(bytes.size()) / DTypeBytes(dtype);
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  auto mapped = MappedFile::Open(path);
  if (!mapped.ok()) return mapped.status();
  SafetensorsFile file;
  file.file_ = *std::move(mapped);
  const absl::Span<const uint8_t> bytes = file.file_->bytes();
  uint64_t header_size = 0;
  if (bytes.size() < sizeof(header_size)) {
    return Bad(path, absl::StrCat("not a safetensors file: only ", bytes.size(), " bytes"));
  }
  std::memcpy(&header_size, bytes.data(), sizeof(header_size));
  if (header_size > bytes.size() - sizeof(header_size) || header_size > kMaxHeaderBytes) {
    return Bad(path, absl::StrCat("not a safetensors file, or truncated: a header of ", header_size,
                                  " bytes in a file of ", bytes.size()));
  }
  const absl::string_view header(reinterpret_cast<const char*>(bytes.data()) + sizeof(header_size),
                                 header_size);
  auto parsed = ParseSafetensorsHeader(header);
  if (!parsed.ok()) return Bad(path, std::string(parsed.status().message()));
  file.metadata_ = std::move(parsed->metadata);

  const auto data = bytes.subspan(sizeof(header_size) + header_size);
  std::vector<HeaderTensor>& tensors = parsed->tensors;
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const auto& a, const auto& b) { return a.offsets < b.offsets; });
  uint64_t next = 0;
  for (HeaderTensor& tensor : tensors) {
    auto entry = MakeEntry(path, tensor, data);
    if (!entry.ok()) return entry.status();
    if (tensor.offsets.first != next) {
      return BadTensor(
          path, tensor.name,
          absl::StrCat(tensor.offsets.first < next ? "overlaps the one before it"
                                                   : "leaves a hole before it",
                       ": it begins at byte ", tensor.offsets.first, ", expected ", next));
    }
    next = tensor.offsets.second;
    file.by_name_.emplace(entry->name, file.entries_.size());
    file.entries_.push_back(*std::move(entry));
  }
  if (next != data.size()) {
    return Bad(path, absl::StrCat("tensors end at byte ", next, " of the data, but it has ",
                                  data.size(), " bytes"));
  }
  return file;
}

const SafetensorsFile::Entry* SafetensorsFile::Find(absl::string_view name) const {
  const auto found = by_name_.find(std::string(name));
  return found == by_name_.end() ? nullptr : &entries_[found->second];
}

absl::StatusOr<std::vector<float>> SafetensorsFile::ReadFloats(
    absl::string_view name, absl::Span<const int64_t> shape) const {
  const auto entry = Expect(*this, name, shape, {DType::kF32, DType::kF64});
  if (!entry.ok()) return entry.status();
  return (*entry)->dtype == DType::kF32 ? Convert<float, float>((*entry)->bytes)
                                        : Convert<double, float>((*entry)->bytes);
}

absl::StatusOr<std::vector<double>> SafetensorsFile::ReadDoubles(
    absl::string_view name, absl::Span<const int64_t> shape) const {
  const auto entry = Expect(*this, name, shape, {DType::kF32, DType::kF64});
  if (!entry.ok()) return entry.status();
  return (*entry)->dtype == DType::kF32 ? Convert<float, double>((*entry)->bytes)
                                        : Convert<double, double>((*entry)->bytes);
}

absl::StatusOr<std::vector<int64_t>> SafetensorsFile::ReadInt64s(
    absl::string_view name, absl::Span<const int64_t> shape) const {
  const auto entry = Expect(*this, name, shape, {DType::kI64});
  if (!entry.ok()) return entry.status();
  return Convert<int64_t, int64_t>((*entry)->bytes);
}

absl::StatusOr<std::string> SafetensorsFile::Metadata(const std::string& key) const {
  const auto found = metadata_.find(key);
  if (found != metadata_.end()) return found->second;
  return absl::NotFoundError(absl::StrCat(path(), ": metadata has no ", Quoted(key)));
}

uint32_t SafetensorsFile::Checksum(absl::string_view without) const {
  Crc crc;
  crc.AddMetadata(metadata_, without);
  for (const Entry& entry : entries_) {
    crc.AddText(entry.name);
    crc.Add(entry.bytes.data(), entry.bytes.size());
  }
  return crc.value();
}

void SafetensorsWriter::SetMetadata(const std::string& key, const std::string& value) {
  metadata_[key] = value;
}

void SafetensorsWriter::Add(const std::string& name, DType dtype, std::vector<int64_t> shape,
                            const void* data) {
  items_.push_back({name, dtype, std::move(shape), data});
}

void SafetensorsWriter::AddFloats(const std::string& name, std::vector<int64_t> shape,
                                  absl::Span<const float> values) {
  uint64_t bytes = 0;
  CNN_CHECK(BytesOf(DType::kF32, shape, &bytes) && bytes == values.size() * sizeof(float), name,
            ": ", values.size(), " values for shape ", ShapeText(shape));
  Add(name, DType::kF32, std::move(shape), values.data());
}

uint32_t SafetensorsWriter::Checksum(absl::string_view without) const {
  Crc crc;
  crc.AddMetadata(metadata_, without);
  for (const Item& item : items_) {
    uint64_t bytes = 0;
    CNN_CHECK(BytesOf(item.dtype, item.shape, &bytes), item.name, " ", ShapeText(item.shape));
    crc.AddText(item.name);
    crc.Add(item.data, bytes);
  }
  return crc.value();
}

bool SafetensorsWriter::Matches(const std::string& path) const {
  const auto file = SafetensorsFile::Open(path);
  return file.ok() && file->entries().size() == items_.size() && file->Checksum("") == Checksum("");
}

absl::Status SafetensorsWriter::Write(const std::string& path) const {
  // Text that is no UTF-8 cannot be in a JSON file: such bytes become U+FFFD.
  const auto quote = [](const std::string& text) {
    return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  };
  std::string header = "{";
  const char* separator = "";
  if (!metadata_.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata_) {
      absl::StrAppend(&header, separator, quote(key), ":", quote(value));
      separator = ",";
    }
    header += "}";
  }
  std::set<absl::string_view> names = {"__metadata__"};
  std::vector<uint64_t> sizes;
  uint64_t offset = 0;
  for (const Item& item : items_) {
    CNN_CHECK(names.insert(item.name).second, item.name, " twice");
    CNN_CHECK(std::all_of(item.shape.begin(), item.shape.end(), [](int64_t d) { return d >= 0; }),
              item.name, " ", ShapeText(item.shape));
    uint64_t bytes = 0;
    CNN_CHECK(BytesOf(item.dtype, item.shape, &bytes), item.name, " ", ShapeText(item.shape));
    absl::StrAppend(&header, separator, quote(item.name), ":{\"dtype\":\"", DTypeName(item.dtype),
                    "\",\"shape\":[", absl::StrJoin(item.shape, ","), "],\"data_offsets\":[",
                    offset, ",", offset + bytes, "]}");
    separator = ",";
    sizes.push_back(bytes);
    offset += bytes;
  }
  header += "}";
  while ((sizeof(uint64_t) + header.size()) % kDataAlignment != 0) header += ' ';

  auto file = AtomicFile::Create(path);
  if (!file.ok()) return file.status();
  const uint64_t header_size = header.size();
  if (auto s = (*file)->Append(&header_size, sizeof(header_size)); !s.ok()) return s;
  if (auto s = (*file)->Append(header.data(), header.size()); !s.ok()) return s;
  for (size_t i = 0; i < items_.size(); ++i) {
    if (auto s = (*file)->Append(items_[i].data, sizes[i]); !s.ok()) return s;
  }
  return (*file)->Commit();
}

}  // namespace classicnn
