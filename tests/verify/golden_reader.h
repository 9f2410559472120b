// Reads the tensors of a golden file, and remembers the first thing that was wrong.
#ifndef CLASSICNN_TESTS_VERIFY_GOLDEN_READER_H_
#define CLASSICNN_TESTS_VERIFY_GOLDEN_READER_H_

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/safetensors.h"
#include "tests/verify/array.h"

namespace classicnn::verify {

// After the first error every call gives something empty and changes nothing: read everything, then
// look at status().
class GoldenReader {
 public:
  explicit GoldenReader(const SafetensorsFile& file) : file_(file) {}

  const absl::Status& status() const { return status_; }
  bool ok() const { return status_.ok(); }
  // "PATH: MESSAGE", or "PATH: tensor "NAME": MESSAGE".
  void Fail(absl::string_view message);
  void FailTensor(absl::string_view name, absl::string_view message);

  bool Has(absl::string_view name) const { return file_.Find(name) != nullptr; }
  // Its shape; empty (and an error) where there is no such tensor or a size is below 1.
  std::vector<int64_t> Shape(absl::string_view name);
  // Its values, which must be floats of this shape.
  std::vector<double> Values(const std::string& name, const std::vector<int64_t>& shape);
  // Labels in [0, classes).
  std::vector<int32_t> Labels(const std::string& name, int64_t count, int64_t classes);
  // A tensor that may be there and is not looked at.
  void Ignore(const std::string& name) { used_.insert(name); }
  // An error where the file has tensors that were not read.
  void ExpectAllUsed();

  // The value of a metadata key; `fallback` where there is none, an error where that is null.
  std::string Text(const std::string& key, const char* fallback);
  // A whole number, also as "(3, 3)" where both are equal.
  int64_t Integer(const std::string& key, const char* fallback, int64_t low, int64_t high);
  double Number(const std::string& key, const char* fallback, double low, double high);
  bool Flag(const std::string& key, const char* fallback);  // "1", "0", "true", "false"
  // Where the key is there, its value must be among these: an attribute that is not supported.
  void Only(const std::string& key, const std::vector<std::string>& values);

 private:
  const SafetensorsFile& file_;
  std::set<std::string> used_;
  absl::Status status_;
};

std::string ShapeText(const std::vector<int64_t>& shape);  // "[2, 3, 32, 32]"

}  // namespace classicnn::verify

#endif  // CLASSICNN_TESTS_VERIFY_GOLDEN_READER_H_
