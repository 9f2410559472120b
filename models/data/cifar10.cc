#include "models/data/cifar10.h"

#include <filesystem>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/file.h"

namespace classicnn {
namespace {

constexpr int64_t kSide = 32;
constexpr int64_t kPlane = kSide * kSide;
constexpr int64_t kRecord = 1 + 3 * kPlane;
constexpr int64_t kClasses = 10;

bool Exists(const std::string& path) {
  // A link that leads nowhere is there: that it cannot be read is to be said.
  std::error_code error;
  return std::filesystem::exists(std::filesystem::symlink_status(path, error));
}

std::string BatchPath(const std::string& folder, int number) {
  return absl::StrCat(folder, "/data_batch_", number, ".bin");
}
std::string TestPath(const std::string& folder) { return absl::StrCat(folder, "/test_batch.bin"); }

absl::StatusOr<std::unique_ptr<ImageSet>> LoadFiles(const std::vector<std::string>& paths,
                                                    int64_t num_classes, MemoryTracker* tracker) {
  std::vector<std::shared_ptr<const MappedFile>> files;
  int64_t count = 0;
  for (const std::string& path : paths) {
    auto file = MappedFile::Open(path);
    if (!file.ok()) return file.status();
    const auto size = static_cast<int64_t>((*file)->bytes().size());
    if (size == 0 || size % kRecord != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": ", size, " bytes are not a whole number of records of ", kRecord, " bytes",
          size == 0 ? " (at least one is needed)" : ": the file is truncated or too long"));
    }
    count += size / kRecord;
    files.push_back(*std::move(file));
  }
  auto set = ImageSet::Create(count, kSide, kSide, 3, tracker);
  if (!set.ok()) return set.status();
  int64_t next = 0;
  for (const auto& file : files) {
    const int64_t records = static_cast<int64_t>(file->bytes().size()) / kRecord;
    for (int64_t r = 0; r < records; ++r, ++next) {
      const uint8_t* record = file->bytes().data() + r * kRecord;
      absl::Status status = CheckLabel(record[0], r, file->path(), kClasses);
      if (status.ok()) status = CheckLabel(record[0], r, file->path(), num_classes);
      if (!status.ok()) return status;
      set->set_label(next, record[0]);
      uint8_t* pixel = set->image(next);
      for (int64_t p = 0; p < kPlane; ++p) {
        for (int64_t c = 0; c < 3; ++c) pixel[p * 3 + c] = record[1 + c * kPlane + p];
      }
    }
  }
  return std::make_unique<ImageSet>(*std::move(set));
}

}  // namespace

const std::vector<std::string>& Cifar10ClassNames() {
  static const auto* names = new std::vector<std::string>{
      "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"};
  return *names;
}

bool IsCifar10Folder(const std::string& folder) {
  for (int i = 1; i <= 5; ++i) {
    if (Exists(BatchPath(folder, i))) return true;
  }
  return Exists(TestPath(folder));
}

absl::StatusOr<Dataset> LoadCifar10(const DataOptions& options, MemoryTracker* tracker) {
  if (auto s = CheckClasses(kClasses, options.source, options.num_classes); !s.ok()) return s;
  Dataset data;
  data.kind = "cifar10";
  data.num_classes = kClasses;
  data.class_names = Cifar10ClassNames();
  if (options.train) {
    std::vector<std::string> paths = {BatchPath(options.source, 1)};
    for (int i = 2; i <= 5; ++i) {
      if (Exists(BatchPath(options.source, i))) paths.push_back(BatchPath(options.source, i));
    }
    auto train = LoadFiles(paths, options.num_classes, tracker);
    if (!train.ok()) return train.status();
    data.train = *std::move(train);
  }
  if (options.test && Exists(TestPath(options.source))) {
    auto test = LoadFiles({TestPath(options.source)}, options.num_classes, tracker);
    if (!test.ok()) return test.status();
    data.test = *std::move(test);
  }
  return data;
}

}  // namespace classicnn
