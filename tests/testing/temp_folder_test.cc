#include "tests/testing/temp_folder.h"

#include <filesystem>

#include "gtest/gtest.h"

namespace classicnn {
namespace {

// A test with a parameter is called "Suite/Test.Name/0".
class TempFolderTest : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Kinds, TempFolderTest, testing::Values(0, 1));

TEST_P(TempFolderTest, IsOneFolderAndLeavesNothing) {
  std::filesystem::path path;
  {
    const TempFolder folder;
    path = folder.path();
    EXPECT_TRUE(std::filesystem::is_empty(path));
    EXPECT_TRUE(std::filesystem::equivalent(path.parent_path(), testing::TempDir()))
        << "folders above it would stay behind";
    folder.Write("a/b", "text");
    EXPECT_TRUE(folder.Has("a/b"));
    EXPECT_EQ(folder.Read("a/b"), "text");
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace classicnn
