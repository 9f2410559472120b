#include "models/data/idx.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/file.h"

namespace classicnn {
namespace {

constexpr int64_t kSide = 32;
// Deflate cannot shrink by more than about 1,032 to 1: a header that promises more lies.
constexpr int64_t kMostInflation = 1100;

// The bytes of a plain or gzip file in order.
class ByteReader {
 public:
  static absl::StatusOr<std::unique_ptr<ByteReader>> Open(const std::string& path) {
    auto file = MappedFile::Open(path);
    if (!file.ok()) return file.status();
    auto reader = std::unique_ptr<ByteReader>(new ByteReader);
    reader->file_ = *std::move(file);
    const auto bytes = reader->file_->bytes();
    reader->gzip_ = bytes.size() >= 2 && bytes[0] == 0x1f && bytes[1] == 0x8b;
    if (!reader->gzip_ && absl::EndsWith(path, ".gz")) {
      return absl::InvalidArgumentError(absl::StrCat(path, " is not a gzip file"));
    }
    if (reader->gzip_ && inflateInit2(&reader->stream_, 15 + 16) != Z_OK) {
      return absl::ResourceExhaustedError(absl::StrCat("no memory to decompress ", path));
    }
    return reader;
  }
  ~ByteReader() {
    if (gzip_) inflateEnd(&stream_);
  }
  ByteReader(const ByteReader&) = delete;
  ByteReader& operator=(const ByteReader&) = delete;

  const std::string& path() const { return file_->path(); }

  // The most that the rest of the file can hold.
  int64_t MostLeft() const {
    const auto left = static_cast<int64_t>(file_->bytes().size() - next_);
    return gzip_ ? left * kMostInflation : left;
  }

  // Exactly `size` bytes; an error where the file ends before.
  absl::Status Read(uint8_t* to, int64_t size) {
    int64_t got = 0;
    if (absl::Status s = ReadSome(to, size, &got); !s.ok()) return s;
    if (got == size) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(path(), ": truncated, its header promises more"));
  }

  absl::Status ExpectEnd() {
    uint8_t byte;
    int64_t got = 0;
    if (absl::Status s = ReadSome(&byte, 1, &got); !s.ok()) return s;
    if (got == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(path(), ": longer than its header says"));
  }

 private:
  ByteReader() = default;

  absl::Status ReadSome(uint8_t* to, int64_t size, int64_t* got) {
    const auto bytes = file_->bytes();
    if (!gzip_) {
      *got = std::min(size, static_cast<int64_t>(bytes.size() - next_));
      if (*got > 0) std::memcpy(to, bytes.data() + next_, static_cast<size_t>(*got));
      next_ += static_cast<size_t>(*got);
      return absl::OkStatus();
    }
    constexpr size_t kPiece = size_t{1} << 30;  // zlib counts in 32 bits
    *got = 0;
    while (*got < size && !ended_) {
      const size_t in = std::min(kPiece, bytes.size() - next_);
      const size_t out = std::min(kPiece, static_cast<size_t>(size - *got));
      stream_.next_in = const_cast<Bytef*>(bytes.data() + next_);
      stream_.avail_in = static_cast<uInt>(in);
      stream_.next_out = to + *got;
      stream_.avail_out = static_cast<uInt>(out);
      const int result = inflate(&stream_, Z_NO_FLUSH);
      next_ += in - stream_.avail_in;
      *got += static_cast<int64_t>(out - stream_.avail_out);
      if (result == Z_STREAM_END) {
        if (next_ == bytes.size()) {
          ended_ = true;
        } else if (inflateReset(&stream_) != Z_OK) {  // another member follows
          return Damaged("the stream cannot be read on");
        }
      } else if (result == Z_BUF_ERROR ||
                 (result == Z_OK && next_ == bytes.size() && stream_.avail_out > 0)) {
        return Damaged("the compressed data is truncated");
      } else if (result != Z_OK) {
        return Damaged(stream_.msg != nullptr ? stream_.msg : "the compressed data is damaged");
      }
    }
    return absl::OkStatus();
  }

  absl::Status Damaged(absl::string_view why) const {
    return absl::InvalidArgumentError(absl::StrCat(path(), ": bad gzip file: ", why));
  }

  std::shared_ptr<const MappedFile> file_;
  bool gzip_ = false;
  bool ended_ = false;
  size_t next_ = 0;
  z_stream stream_{};
};

// The sizes in an idx file's header, which must be of bytes in `dims` dimensions.
absl::StatusOr<std::vector<int64_t>> ReadHeader(ByteReader& reader, int dims) {
  uint8_t word[4];
  const auto read = [&](uint32_t* value) {
    absl::Status s = reader.Read(word, 4);
    *value = (uint32_t{word[0]} << 24) | (uint32_t{word[1]} << 16) | (uint32_t{word[2]} << 8) |
             uint32_t{word[3]};
    return s;
  };
  uint32_t magic = 0;
  if (absl::Status s = read(&magic); !s.ok()) return s;
  const uint32_t expected = 0x800u + static_cast<uint32_t>(dims);
  if (magic != expected) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: bad idx magic 0x%08x, expected 0x%08x",
                                                      reader.path(), magic, expected));
  }
  std::vector<int64_t> sizes;
  for (int i = 0; i < dims; ++i) {
    uint32_t size = 0;
    if (absl::Status s = read(&size); !s.ok()) return s;
    if (size == 0) {
      return absl::InvalidArgumentError(absl::StrCat(reader.path(), ": a size in it is 0"));
    }
    sizes.push_back(size);
  }
  return sizes;
}

std::string Truncated(const std::string& path, int64_t promised, int64_t most) {
  return absl::StrCat(path, ": truncated, its header promises ", promised,
                      " bytes of data and at most ", most, " are there");
}

absl::StatusOr<std::unique_ptr<ImageSet>> LoadPair(const std::string& images_path,
                                                   const std::string& labels_path,
                                                   int64_t num_classes, MemoryTracker* tracker) {
  auto images = ByteReader::Open(images_path);
  if (!images.ok()) return images.status();
  auto labels = ByteReader::Open(labels_path);
  if (!labels.ok()) return labels.status();
  auto sizes = ReadHeader(**images, 3);
  if (!sizes.ok()) return sizes.status();
  auto label_sizes = ReadHeader(**labels, 1);
  if (!label_sizes.ok()) return label_sizes.status();

  const int64_t count = (*sizes)[0], height = (*sizes)[1], width = (*sizes)[2];
  if (height > kSide || width > kSide) {
    return absl::InvalidArgumentError(absl::StrCat(images_path, ": images of ", height, " x ",
                                                   width, " do not fit in ", kSide, " x ", kSide));
  }
  if (count != (*label_sizes)[0]) {
    return absl::InvalidArgumentError(absl::StrCat(
        labels_path, ": ", (*label_sizes)[0], " labels for ", count, " images in ", images_path));
  }
  if (count * height * width > (*images)->MostLeft()) {
    return absl::InvalidArgumentError(
        Truncated(images_path, count * height * width, (*images)->MostLeft()));
  }
  if (count > (*labels)->MostLeft()) {
    return absl::InvalidArgumentError(Truncated(labels_path, count, (*labels)->MostLeft()));
  }

  auto set = ImageSet::Create(count, kSide, kSide, 1, tracker);
  if (!set.ok()) return set.status();
  const int64_t top = (kSide - height) / 2, left = (kSide - width) / 2;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t row = 0; row < height; ++row) {
      uint8_t* to = set->image(i) + (top + row) * kSide + left;
      if (absl::Status s = (*images)->Read(to, width); !s.ok()) return s;
    }
  }
  if (absl::Status s = (*images)->ExpectEnd(); !s.ok()) return s;
  std::vector<uint8_t> values(static_cast<size_t>(count));
  if (absl::Status s = (*labels)->Read(values.data(), count); !s.ok()) return s;
  if (absl::Status s = (*labels)->ExpectEnd(); !s.ok()) return s;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t label = values[static_cast<size_t>(i)];
    if (absl::Status s = CheckLabel(label, i, labels_path, num_classes); !s.ok()) return s;
    set->set_label(i, label);
  }
  return std::make_unique<ImageSet>(*std::move(set));
}

// The file itself or the one with ".gz"; nothing where neither exists.
std::optional<std::string> Find(const std::string& folder, const std::string& name) {
  const std::string plain = absl::StrCat(folder, "/", name);
  std::error_code error;
  if (std::filesystem::exists(plain, error)) return plain;
  if (std::filesystem::exists(plain + ".gz", error)) return plain + ".gz";
  return std::nullopt;
}

absl::StatusOr<std::unique_ptr<ImageSet>> LoadSplit(const std::string& folder,
                                                    const std::string& prefix, int64_t num_classes,
                                                    MemoryTracker* tracker) {
  const std::string images_name = prefix + "-images-idx3-ubyte";
  const std::string labels_name = prefix + "-labels-idx1-ubyte";
  const auto images = Find(folder, images_name);
  const auto labels = Find(folder, labels_name);
  if (!images || !labels) {
    return absl::NotFoundError(absl::StrCat(folder, "/", images ? labels_name : images_name,
                                            ": missing (with and without .gz)"));
  }
  return LoadPair(*images, *labels, num_classes, tracker);
}

}  // namespace

bool IsIdxFolder(const std::string& folder) {
  for (const char* name : {"train-images-idx3-ubyte", "train-labels-idx1-ubyte",
                           "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"}) {
    if (Find(folder, name)) return true;
  }
  return false;
}

// Of a folder's path.
std::string LastName(const std::string& folder) {
  const auto path = std::filesystem::path(folder).lexically_normal();
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

absl::StatusOr<Dataset> LoadIdx(const DataOptions& options, MemoryTracker* tracker) {
  Dataset data;
  data.kind = "idx";
  data.num_classes = 10;
  const auto count_classes = [&data](const ImageSet& set) {
    for (int64_t i = 0; i < set.count(); ++i) {
      data.num_classes = std::max<int64_t>(data.num_classes, set.label(i) + 1);
    }
  };
  if (options.train) {
    auto train = LoadSplit(options.source, "train", options.num_classes, tracker);
    if (!train.ok()) return train.status();
    data.train = *std::move(train);
    count_classes(*data.train);
  }
  if (options.test && (Find(options.source, "t10k-images-idx3-ubyte") ||
                       Find(options.source, "t10k-labels-idx1-ubyte"))) {
    auto test = LoadSplit(options.source, "t10k", options.num_classes, tracker);
    if (!test.ok()) return test.status();
    data.test = *std::move(test);
    count_classes(*data.test);
  }
  // The images of one split may lack the last classes that the others have.
  if (!options.train || !options.test) {
    data.num_classes = std::max(data.num_classes, options.num_classes);
  }
  if (absl::Status s = CheckClasses(data.num_classes, options.source, options.num_classes);
      !s.ok()) {
    return s;
  }
  if (data.num_classes == 10 &&
      absl::StrContains(absl::AsciiStrToLower(LastName(options.source)), "fashion")) {
    data.class_names = {"T-shirt/top", "trouser", "pullover", "dress", "coat",
                        "sandal",      "shirt",   "sneaker",  "bag",   "ankle boot"};
  }
  return data;
}

}  // namespace classicnn
