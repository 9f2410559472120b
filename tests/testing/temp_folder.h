// A folder of its own for each test, removed afterwards.
#ifndef CLASSICNN_TESTS_TESTING_TEMP_FOLDER_H_
#define CLASSICNN_TESTS_TESTING_TEMP_FOLDER_H_

#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace classicnn {

class TempFolder {
 public:
  TempFolder() {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    path_ = absl::StrCat(::testing::TempDir(), "classicnn_", getpid(), "_", test->test_suite_name(),
                         "_", test->name());
    // Tests with parameters have slashes in their names, which would make folders within folders.
    for (size_t i = std::string(::testing::TempDir()).size(); i < path_.size(); ++i) {
      if (path_[i] == ' ' || path_[i] == '/') path_[i] = '_';
    }
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TempFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

  std::string Write(const std::string& name, const std::string& contents) const {
    std::string path = *this / name;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path, std::ios::binary) << contents;
    return path;
  }
  std::string Read(const std::string& name) const {
    std::ifstream file(*this / name, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }
  bool Has(const std::string& name) const { return std::filesystem::exists(*this / name); }

 private:
  std::string path_;
};

}  // namespace classicnn

#endif  // CLASSICNN_TESTS_TESTING_TEMP_FOLDER_H_
