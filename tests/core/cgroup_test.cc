#include "core/cgroup.h"

#include <string>

#include "gtest/gtest.h"
#include "tests/testing/temp_folder.h"

namespace classicnn {
namespace {

class CgroupTest : public testing::Test {
 protected:
  void Write(const std::string& path, const std::string& text) { folder_.Write(path, text); }
  const TempFolder folder_;
  const std::string root_ = folder_.path();
};

TEST_F(CgroupTest, NothingThereMeansNoQuota) { EXPECT_EQ(CgroupCpus(root_), 0); }

TEST_F(CgroupTest, Version2QuotaOfTheMount) {
  Write("proc/self/cgroup", "0::/\n");
  Write("sys/fs/cgroup/cpu.max", "150000 100000\n");
  EXPECT_DOUBLE_EQ(CgroupCpus(root_), 1.5);
}

TEST_F(CgroupTest, Version2WithoutQuota) {
  Write("proc/self/cgroup", "0::/\n");
  Write("sys/fs/cgroup/cpu.max", "max 100000\n");
  EXPECT_EQ(CgroupCpus(root_), 0);
}

TEST_F(CgroupTest, Version2TheTightestOfAllLevelsCounts) {
  Write("proc/self/cgroup", "0::/user.slice/job\n");
  Write("sys/fs/cgroup/user.slice/job/cpu.max", "800000 100000\n");
  Write("sys/fs/cgroup/user.slice/cpu.max", "300000 100000\n");
  Write("sys/fs/cgroup/cpu.max", "max 100000\n");
  EXPECT_DOUBLE_EQ(CgroupCpus(root_), 3);
}

TEST_F(CgroupTest, Version1) {
  Write("proc/self/cgroup", "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n");
  Write("sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us", "250000\n");
  Write("sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us", "100000\n");
  Write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  Write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_DOUBLE_EQ(CgroupCpus(root_), 2.5);
}

TEST_F(CgroupTest, GarbageSetsNoLimit) {
  Write("proc/self/cgroup", "0::no_slash\nnonsense\n::\n0\n");
  Write("sys/fs/cgroup/cpu.max", "lots of it\n");
  Write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000\n");
  Write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "0\n");
  EXPECT_EQ(CgroupCpus(root_), 0);
  Write("sys/fs/cgroup/cpu.max", "nan 100000\n");
  EXPECT_EQ(CgroupCpus(root_), 0);
}

}  // namespace
}  // namespace classicnn
