#include "tests/verify/golden_reader.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace classicnn::verify {
namespace {

// Text of the file in messages: no line breaks, not too long.
std::string Quoted(absl::string_view text) {
  return absl::StrCat("\"", absl::Utf8SafeCEscape(text.substr(0, 80)),
                      text.size() > 80 ? "...\"" : "\"");
}

}  // namespace

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

void GoldenReader::Fail(absl::string_view message) {
  if (status_.ok()) {
    status_ = absl::InvalidArgumentError(absl::StrCat(file_.path(), ": ", message));
  }
}

void GoldenReader::FailTensor(absl::string_view name, absl::string_view message) {
  Fail(absl::StrCat("tensor ", Quoted(name), ": ", message));
}

std::vector<int64_t> GoldenReader::Shape(absl::string_view name) {
  if (!ok()) return {};
  const SafetensorsFile::Entry* const entry = file_.Find(name);
  if (entry == nullptr) {
    FailTensor(name, "missing");
    return {};
  }
  for (const int64_t size : entry->shape) {
    // Products of a few sizes this large still fit 64 bits; no real tensor comes near.
    if (size < 1 || size > int64_t{1} << 24) {
      FailTensor(name, absl::StrCat("shape ", ShapeText(entry->shape), " is empty or too large"));
      return {};
    }
  }
  return entry->shape;
}

std::vector<double> GoldenReader::Values(const std::string& name,
                                         const std::vector<int64_t>& shape) {
  const std::vector<int64_t> actual = Shape(name);
  if (!ok()) return {};
  if (actual != shape) {
    FailTensor(name, absl::StrCat("shape ", ShapeText(actual), ", should be ", ShapeText(shape)));
    return {};
  }
  absl::StatusOr<std::vector<double>> values = file_.ReadDoubles(name, shape);
  if (!values.ok()) {
    status_ = values.status();
    return {};
  }
  used_.insert(name);
  return *std::move(values);
}

std::vector<int32_t> GoldenReader::Labels(const std::string& name, int64_t count, int64_t classes) {
  const std::vector<int64_t> actual = Shape(name);
  if (!ok()) return {};
  if (actual != std::vector<int64_t>{count}) {
    FailTensor(name, absl::StrCat("shape ", ShapeText(actual), ", should be [", count, "]"));
    return {};
  }
  absl::StatusOr<std::vector<int64_t>> values = file_.ReadInt64s(name, actual);
  if (!values.ok()) {
    status_ = values.status();
    return {};
  }
  std::vector<int32_t> labels;
  for (const int64_t label : *values) {
    if (label < 0 || label >= classes) {
      FailTensor(name, absl::StrCat("label ", label, " is not from 0 to ", classes - 1));
      return {};
    }
    labels.push_back(static_cast<int32_t>(label));
  }
  used_.insert(name);
  return labels;
}

void GoldenReader::ExpectAllUsed() {
  for (const SafetensorsFile::Entry& entry : file_.entries()) {
    if (used_.count(entry.name) == 0) FailTensor(entry.name, "does not belong in this file");
  }
}

std::string GoldenReader::Text(const std::string& key, const char* fallback) {
  const auto found = file_.metadata().find(key);
  if (found != file_.metadata().end()) return found->second;
  if (fallback == nullptr) Fail(absl::StrCat("metadata has no ", Quoted(key)));
  return fallback == nullptr ? "" : fallback;
}

int64_t GoldenReader::Integer(const std::string& key, const char* fallback, int64_t low,
                              int64_t high) {
  const std::string text = Text(key, fallback);
  std::string plain;
  for (const char c : text) {
    if (c != '(' && c != ')' && c != '[' && c != ']') plain += c;
  }
  int64_t value = 0, previous = 0;
  bool first = true, good = true;
  for (const absl::string_view word : absl::StrSplit(plain, ',')) {
    good = good && absl::SimpleAtoi(word, &value) && (first || value == previous);
    previous = value;
    first = false;
  }
  if (!good || value < low || value > high) {
    Fail(absl::StrCat("metadata ", key, " = ", Quoted(text), ", should be a whole number from ",
                      low, " to ", high));
    return low;
  }
  return value;
}

double GoldenReader::Number(const std::string& key, const char* fallback, double low, double high) {
  const std::string text = Text(key, fallback);
  double value = 0;
  if (!absl::SimpleAtod(text, &value) || !(value >= low && value <= high)) {
    Fail(absl::StrCat("metadata ", key, " = ", Quoted(text), ", should be a number from ", low,
                      " to ", high));
    return low;
  }
  return value;
}

bool GoldenReader::Flag(const std::string& key, const char* fallback) {
  const std::string text = absl::AsciiStrToLower(Text(key, fallback));
  if (text == "1" || text == "true") return true;
  if (text != "0" && text != "false") {
    Fail(absl::StrCat("metadata ", key, " = ", Quoted(text), ", should be 1 or 0"));
  }
  return false;
}

void GoldenReader::Only(const std::string& key, const std::vector<std::string>& values) {
  const auto found = file_.metadata().find(key);
  if (found == file_.metadata().end()) return;
  if (std::find(values.begin(), values.end(), found->second) == values.end()) {
    Fail(absl::StrCat("metadata ", key, " = ", Quoted(found->second),
                      " is not supported; it may be ", absl::StrJoin(values, ", ")));
  }
}

}  // namespace classicnn::verify
