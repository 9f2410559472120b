#include "core/safetensors_header.h"

#include <limits>
#include <set>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace classicnn {
namespace {

using Json = nlohmann::json;

// Reads events instead of building a tree: a tree would silently keep one of two equal keys, and
// its depth and size would be up to whoever wrote the file. Only the events that the format allows
// next are accepted, so nesting cannot go deeper than three levels.
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return Unexpected("null"); }
  bool boolean(bool /*value*/) override { return Unexpected("a boolean"); }
  bool number_integer(number_integer_t value) override { return Unexpected(absl::StrCat(value)); }
  bool number_float(number_float_t /*value*/, const string_t& text) override {
    return Unexpected(text);
  }
  bool binary(binary_t& /*value*/) override { return Unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (state_ != State::kArray || value > uint64_t{std::numeric_limits<int64_t>::max()}) {
      return Unexpected(absl::StrCat(value));
    }
    numbers_.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (state_ == State::kMetadata) {
      header_.metadata[key_] = std::move(value);
      return true;
    }
    if (state_ != State::kTensor || key_ != "dtype") return Unexpected("a string");
    header_.tensors.back().dtype = std::move(value);
    return true;
  }

  bool start_object(size_t /*elements*/) override {
    if (state_ == State::kStart) {
      state_ = State::kTop;
    } else if (state_ == State::kTop && key_ == "__metadata__") {
      state_ = State::kMetadata;
      fields_.clear();
    } else if (state_ == State::kTop) {
      state_ = State::kTensor;
      header_.tensors.emplace_back();
      header_.tensors.back().name = key_;
      fields_.clear();
    } else {
      return Unexpected("an object");
    }
    return true;
  }

  bool key(string_t& value) override {
    std::set<std::string>& seen = state_ == State::kTop ? names_ : fields_;
    key_ = std::move(value);
    if (!seen.insert(key_).second) return Fail(absl::StrCat("has ", Quoted(key_), " twice"));
    if (state_ == State::kTensor && key_ != "dtype" && key_ != "shape" && key_ != "data_offsets") {
      return Fail(absl::StrCat("has an unknown field ", Quoted(key_)));
    }
    return true;
  }

  bool end_object() override {
    if (state_ == State::kTensor && fields_.size() != 3) {
      return Fail("lacks one of dtype, shape and data_offsets");
    }
    state_ = state_ == State::kTop ? State::kEnd : State::kTop;
    return true;
  }

  bool start_array(size_t /*elements*/) override {
    if (state_ != State::kTensor || key_ == "dtype") return Unexpected("an array");
    state_ = State::kArray;
    numbers_.clear();
    return true;
  }

  bool end_array() override {
    state_ = State::kTensor;
    HeaderTensor& tensor = header_.tensors.back();
    if (key_ == "shape") {
      tensor.shape = numbers_;
      return true;
    }
    if (numbers_.size() != 2) {
      return Fail(absl::StrCat("has ", numbers_.size(), " data_offsets instead of 2"));
    }
    tensor.offsets = {static_cast<uint64_t>(numbers_[0]), static_cast<uint64_t>(numbers_[1])};
    return true;
  }

  bool parse_error(size_t position, const std::string& /*token*/,
                   const nlohmann::detail::exception& /*error*/) override {
    error_ = absl::StrCat("header is not valid JSON at byte ", position);
    return false;
  }

  SafetensorsHeader& header() { return header_; }
  const std::string& error() const { return error_; }

 private:
  enum class State { kStart, kTop, kMetadata, kTensor, kArray, kEnd };

  static std::string Quoted(const std::string& text) {
    return absl::StrCat("\"", absl::Utf8SafeCEscape(text.substr(0, 100)), "\"");
  }

  bool Fail(const std::string& what) {
    switch (state_) {
      case State::kTensor:
      case State::kArray:
        error_ = absl::StrCat("tensor ", Quoted(header_.tensors.back().name), " ", what);
        break;
      case State::kMetadata:
        error_ = absl::StrCat("metadata ", what);
        break;
      default:
        error_ = absl::StrCat("header ", what);
    }
    return false;
  }

  bool Unexpected(const std::string& value) {
    if (state_ == State::kStart) return Fail("is not a JSON object");
    return Fail(absl::StrCat("has ", value.substr(0, 100), " as value of ", Quoted(key_)));
  }

  State state_ = State::kStart;
  std::string key_;
  std::set<std::string> names_;
  std::set<std::string> fields_;
  std::vector<int64_t> numbers_;
  SafetensorsHeader header_;
  std::string error_;
};

}  // namespace

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view text) {
  if (text.empty() || text[0] != '{') {
    return absl::InvalidArgumentError("header does not begin with {");
  }
  HeaderReader reader;
  if (!Json::sax_parse(text.begin(), text.end(), &reader)) {
    return absl::InvalidArgumentError(reader.error());
  }
  return std::move(reader.header());
}

}  // namespace classicnn
