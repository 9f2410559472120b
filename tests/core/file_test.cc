#include "core/file.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/temp_folder.h"

namespace classicnn {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class FileTest : public testing::Test {
 protected:
  int CountEntries() const {
    int count = 0;
    for (const auto& entry : fs::directory_iterator(folder_)) count += entry.exists() ? 1 : 0;
    return count;
  }
  const TempFolder temp_;
  const std::string folder_ = temp_.path();
};

TEST_F(FileTest, WritesAndReadsBack) {
  const std::string path = folder_ + "/a";
  const std::string contents("x\0y\n", 4);
  ASSERT_TRUE(WriteFileAtomically(path, contents).ok());
  EXPECT_EQ(ReadFile(path).value(), contents);
  ASSERT_TRUE(WriteFileAtomically(path, "").ok());
  EXPECT_EQ(ReadFile(path).value(), "");
  EXPECT_EQ(CountEntries(), 1);
}

TEST_F(FileTest, WithoutCommitTheOldFileStaysAndNothingElse) {
  const std::string path = folder_ + "/a";
  ASSERT_TRUE(WriteFileAtomically(path, "old").ok());
  {
    auto file = AtomicFile::Create(path);
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE((*file)->Append("new", 3).ok());
    EXPECT_EQ(ReadFile(path).value(), "old");
  }
  EXPECT_EQ(ReadFile(path).value(), "old");
  EXPECT_EQ(CountEntries(), 1);
}

TEST_F(FileTest, TwoWritersDoNotMix) {
  const std::string path = folder_ + "/a";
  auto one = AtomicFile::Create(path);
  auto two = AtomicFile::Create(path);
  ASSERT_TRUE(one.ok() && two.ok());
  ASSERT_TRUE((*one)->Append("11", 2).ok());
  ASSERT_TRUE((*two)->Append("2", 1).ok());
  ASSERT_TRUE((*one)->Commit().ok());
  EXPECT_EQ(ReadFile(path).value(), "11");
  ASSERT_TRUE((*two)->Commit().ok());
  EXPECT_EQ(ReadFile(path).value(), "2");
  EXPECT_EQ(CountEntries(), 1);
}

TEST_F(FileTest, ALinkStaysALink) {
  ASSERT_TRUE(WriteFileAtomically(folder_ + "/target", "old").ok());
  fs::create_symlink("target", folder_ + "/link");
  ASSERT_TRUE(WriteFileAtomically(folder_ + "/link", "new").ok());
  EXPECT_TRUE(fs::is_symlink(folder_ + "/link"));
  EXPECT_EQ(ReadFile(folder_ + "/target").value(), "new");
}

TEST_F(FileTest, ErrorsNameThePath) {
  const std::string missing = folder_ + "/none/a";
  for (const absl::Status& status : {WriteFileAtomically(missing, "x"), ReadFile(missing).status(),
                                     MappedFile::Open(missing).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
    EXPECT_THAT(std::string(status.message()), HasSubstr(missing));
  }
  for (const absl::Status& status : {WriteFileAtomically(folder_, "x"), ReadFile(folder_).status(),
                                     MappedFile::Open(folder_).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(folder_));
  }
  EXPECT_FALSE(WriteFileAtomically("", "x").ok());
  ASSERT_EQ(mkfifo((folder_ + "/pipe").c_str(), 0600), 0);
  EXPECT_FALSE(ReadFile(folder_ + "/pipe").ok()) << "must not block either";
  EXPECT_FALSE(WriteFileAtomically("/dev/null/x", "x").ok());
}

TEST_F(FileTest, ReadsFilesThatClaimToBeEmpty) {
  const auto status = ReadFile("/proc/self/status");
  ASSERT_TRUE(status.ok());
  EXPECT_THAT(*status, HasSubstr("Name:"));
}

TEST_F(FileTest, AFailedWriteIsAnErrorAndLeavesNothing) {
  // A limit on the size of files stands in for a full disk.
  EXPECT_EXIT(
      {
        signal(SIGXFSZ, SIG_IGN);
        rlimit limit;
        limit.rlim_cur = limit.rlim_max = 1000;
        setrlimit(RLIMIT_FSIZE, &limit);
        const absl::Status status = WriteFileAtomically(folder_ + "/a", std::string(5000, 'x'));
        _exit(!status.ok() && CountEntries() == 0 ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

TEST_F(FileTest, MapsWholeFiles) {
  const std::string path = folder_ + "/a";
  ASSERT_TRUE(WriteFileAtomically(path, "abc").ok());
  auto mapped = MappedFile::Open(path);
  ASSERT_TRUE(mapped.ok());
  ASSERT_EQ((*mapped)->bytes().size(), 3u);
  EXPECT_EQ(std::memcmp((*mapped)->bytes().data(), "abc", 3), 0);
  EXPECT_EQ((*mapped)->path(), path);
  // Replacing the file does not change what is mapped.
  ASSERT_TRUE(WriteFileAtomically(path, "x").ok());
  EXPECT_EQ((*mapped)->bytes()[2], 'c');
  ASSERT_TRUE(WriteFileAtomically(path, "").ok());
  mapped = MappedFile::Open(path);
  ASSERT_TRUE(mapped.ok());
  EXPECT_TRUE((*mapped)->bytes().empty());
}

TEST_F(FileTest, MakesFoldersAndChecksThem) {
  EXPECT_TRUE(MakeWritableFolder(folder_ + "/x/y/z").ok());
  EXPECT_TRUE(MakeWritableFolder(folder_ + "/x/y/z/").ok());
  EXPECT_EQ(CountEntries(), 1);
  EXPECT_TRUE(fs::is_empty(folder_ + "/x/y/z"));
  ASSERT_TRUE(WriteFileAtomically(folder_ + "/file", "").ok());
  for (const std::string& bad :
       {folder_ + "/file", folder_ + "/file/below", std::string("/proc/none"), std::string()}) {
    const absl::Status status = MakeWritableFolder(bad);
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad));
  }
}

}  // namespace
}  // namespace classicnn
