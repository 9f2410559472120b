#include "tests/verify/golden.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tests/verify/golden_reader.h"

namespace classicnn::verify {
namespace {

// A word for a shell.
std::string ShellWord(const std::string& text) {
  const bool plain =
      text.find_first_not_of(
          "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./+=:,") ==
      std::string::npos;
  if (plain && !text.empty()) return text;
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

}  // namespace

absl::StatusOr<std::vector<Row>> CheckGolden(const std::string& path, Precision precision,
                                             Bounds bounds, OptimizedThreads& optimized) {
  absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(path);
  if (!file.ok()) return file.status();
  GoldenReader reader(*file);
  const std::string format = reader.Text("format", nullptr);
  if (reader.ok() && format != "classicnn-golden") {
    reader.Fail(absl::StrCat("metadata format is not classicnn-golden"));
  }
  reader.Integer("version", nullptr, 1, 1);
  const bool model = file->metadata().count("model") != 0;
  const bool layer = file->metadata().count("layer") != 0;
  if (model == layer) reader.Fail("metadata must name either a model or a layer");
  if (!reader.ok()) return reader.status();
  std::string command = absl::StrCat("cnn-verify --golden=", ShellWord(path));
  if (precision == Precision::kF64) absl::StrAppend(&command, " --precision=f64");
  return model ? CheckGoldenModel(*file, precision, bounds, command, optimized)
               : CheckGoldenLayer(*file, precision, bounds, command, optimized);
}

}  // namespace classicnn::verify
