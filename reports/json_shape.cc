#include "reports/json_shape.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace classicnn {
namespace {

const char* KindName(const nlohmann::json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  if (value.is_number()) return "a number";
  if (value.is_string()) return "a text";
  return value.is_boolean() ? "a truth value" : "nothing";
}

bool SameKind(const nlohmann::json& a, const nlohmann::json& b) {
  return a.type() == b.type() || (a.is_number() && b.is_number());
}

absl::Status Error(const std::string& path, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(path.empty() ? "the whole" : path, " ", what));
}

absl::Status Check(const std::string& path, const nlohmann::json& value,
                   const nlohmann::json& pattern) {
  if (pattern.is_null()) return absl::OkStatus();
  if (!SameKind(value, pattern)) {
    return Error(path, absl::StrCat("is ", KindName(value), ", should be ", KindName(pattern)));
  }
  if (pattern.is_number() && pattern != 0 && value < 0) return Error(path, "is negative");
  const auto below = [&path](const std::string& key) {
    return path.empty() ? key : absl::StrCat(path, ".", key);
  };
  if (pattern.is_object()) {
    for (const auto& [key, wanted] : pattern.items()) {
      if (key == "*") {
        for (const auto& [name, element] : value.items()) {
          if (absl::Status s = Check(below(name), element, wanted); !s.ok()) return s;
        }
        continue;
      }
      const bool optional = !key.empty() && key.back() == '?';
      const std::string name = optional ? key.substr(0, key.size() - 1) : key;
      const auto found = value.find(name);
      if (found == value.end()) {
        if (optional) continue;
        return Error(below(name), "is missing");
      }
      if (absl::Status s = Check(below(name), *found, wanted); !s.ok()) return s;
    }
  }
  if (pattern.is_array() && !pattern.empty()) {
    for (size_t i = 0; i < value.size(); ++i) {
      const absl::Status s = Check(absl::StrCat(path, "[", i, "]"), value[i], pattern[0]);
      if (!s.ok()) return s;
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckShape(const nlohmann::json& value, const nlohmann::json& pattern) {
  return Check("", value, pattern);
}

}  // namespace classicnn
