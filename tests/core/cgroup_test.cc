#include "core/cgroup.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace classicnn {
namespace {

class CgroupTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = testing::TempDir() + "cgroup_" +
            testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(root_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  std::string root_;
};

TEST_F(CgroupTest, NothingThereMeansNoQuota) { EXPECT_EQ(CgroupCpus(root_), 0); }

TEST_F(CgroupTest, Version2QuotaOfTheMount) {
  Write("/proc/self/cgroup", "0::/\n");
  Write("/sys/fs/cgroup/cpu.max", "150000 100000\n");
  EXPECT_DOUBLE_EQ(CgroupCpus(root_), 1.5);
}

TEST_F(CgroupTest, Version2WithoutQuota) {
  Write("/proc/self/cgroup", "0::/\n");
  Write("/sys/fs/cgroup/cpu.max", "max 100000\n");
  EXPECT_EQ(CgroupCpus(root_), 0);
}

TEST_F(CgroupTest, Version2TheTightestOfAllLevelsCounts) {
  Write("/proc/self/cgroup", "0::/user.slice/job\n");
  Write("/sys/fs/cgroup/user.slice/job/cpu.max", "800000 100000\n");
  Write("/sys/fs/cgroup/user.slice/cpu.max", "300000 100000\n");
  Write("/sys/fs/cgroup/cpu.max", "max 100000\n");
  EXPECT_DOUBLE_EQ(CgroupCpus(root_), 3);
}

TEST_F(CgroupTest, Version1) {
  Write("/proc/self/cgroup", "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n");
  Write("/sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us", "250000\n");
  Write("/sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us", "100000\n");
  Write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  Write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_DOUBLE_EQ(CgroupCpus(root_), 2.5);
}

TEST_F(CgroupTest, GarbageSetsNoLimit) {
  Write("/proc/self/cgroup", "0::no_slash\nnonsense\n::\n0\n");
  Write("/sys/fs/cgroup/cpu.max", "lots of it\n");
  Write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000\n");
  Write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "0\n");
  EXPECT_EQ(CgroupCpus(root_), 0);
  Write("/sys/fs/cgroup/cpu.max", "nan 100000\n");
  EXPECT_EQ(CgroupCpus(root_), 0);
}

}  // namespace
}  // namespace classicnn
