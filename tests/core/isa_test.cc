#include "core/isa.h"

#include <algorithm>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hwy/highway.h"

namespace classicnn {
namespace {

class IsaTest : public testing::Test {
 protected:
  void TearDown() override { EXPECT_TRUE(SetTarget("best").ok()); }
};

TEST_F(IsaTest, EachUsableTargetCanBeChosen) {
  const auto targets = UsableTargets();
  ASSERT_FALSE(targets.empty());
  EXPECT_EQ(ActiveTarget(), targets.front())
      << "the best one is taken unless something else is said";
  int previous_bytes = 1 << 20;
  for (const std::string& target : targets) {
    ASSERT_TRUE(SetTarget(target).ok());
    EXPECT_EQ(ActiveTarget(), target);
    EXPECT_EQ(UsableTargets(), targets) << "a limit must not hide what could be chosen";
    if (target == "scalar") {
      EXPECT_EQ(ActiveVectorBytes(), 4);
    }
    if (target == "avx2") {
      EXPECT_EQ(ActiveVectorBytes(), 32);
    }
    if (target == "avx3") {
      EXPECT_EQ(ActiveVectorBytes(), 64);
    }
    EXPECT_LE(ActiveVectorBytes(), previous_bytes);
    previous_bytes = ActiveVectorBytes();
  }
  ASSERT_TRUE(SetTarget("").ok());
  EXPECT_EQ(ActiveTarget(), targets.front());
}

#ifndef HWY_COMPILE_ONLY_SCALAR
TEST_F(IsaTest, ThereIsABaselineBelowTheBest) {
  if (hwy::SupportedTargets() & HWY_AVX2) {
    EXPECT_GE(UsableTargets().size(), 2u);
  }
}
#endif

TEST_F(IsaTest, Avx512IsAnotherNameForAvx3AndCaseDoesNotMatter) {
  const auto targets = UsableTargets();
  const bool have = std::find(targets.begin(), targets.end(), "avx3") != targets.end();
  EXPECT_EQ(SetTarget("avx512").ok(), have);
  EXPECT_EQ(SetTarget("AVX3").ok(), have);
  if (have) {
    EXPECT_EQ(ActiveTarget(), "avx3");
  }
}

TEST_F(IsaTest, UnknownNamesAreRefusedWithTheChoices) {
  const std::string before = ActiveTarget();
  for (const char* name : {"avx9", "neon\n", "0", "avx2,avx3"}) {
    const absl::Status status = SetTarget(name);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(UsableTargets().front()));
    EXPECT_EQ(status.message().find('\n'), std::string::npos);
  }
  EXPECT_EQ(ActiveTarget(), before);
}

}  // namespace
}  // namespace classicnn
