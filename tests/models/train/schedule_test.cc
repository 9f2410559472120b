#include "models/train/schedule.h"

#include <cmath>

#include "gtest/gtest.h"

namespace classicnn {
namespace {

Schedule Make(ScheduleKind kind, int64_t total, int64_t warmup) {
  Schedule s;
  s.kind = kind;
  s.lr = 0.5;
  s.total_steps = total;
  s.warmup_steps = warmup;
  return s;
}

TEST(ScheduleTest, NamesGoBothWays) {
  for (const std::string& name : ScheduleNames()) {
    const auto kind = ParseSchedule(name);
    ASSERT_TRUE(kind.ok());
    EXPECT_EQ(ScheduleName(*kind), name);
  }
  EXPECT_FALSE(ParseSchedule("triangle").ok());
}

TEST(ScheduleTest, ConstantAndStep) {
  const Schedule constant = Make(ScheduleKind::kConstant, 100, 0);
  EXPECT_EQ(constant.At(0), 0.5);
  EXPECT_EQ(constant.At(99), 0.5);
  const Schedule step = Make(ScheduleKind::kStep, 100, 0);
  EXPECT_EQ(step.At(49), 0.5);
  EXPECT_DOUBLE_EQ(step.At(50), 0.05);
  EXPECT_DOUBLE_EQ(step.At(74), 0.05);
  EXPECT_DOUBLE_EQ(step.At(75), 0.005);
}

TEST(ScheduleTest, CosineFallsToZero) {
  const Schedule s = Make(ScheduleKind::kCosine, 100, 0);
  EXPECT_DOUBLE_EQ(s.At(0), 0.5);
  EXPECT_NEAR(s.At(50), 0.25, 1e-12);
  EXPECT_NEAR(s.At(99), 0.5 * 0.5 * (1 + std::cos(M_PI * 0.99)), 1e-12);
}

TEST(ScheduleTest, LinearFallsByTheSameEveryStep) {
  const Schedule s = Make(ScheduleKind::kLinear, 100, 20);
  EXPECT_DOUBLE_EQ(s.At(20), 0.5);
  EXPECT_NEAR(s.At(60), 0.25, 1e-12);
  EXPECT_NEAR(s.At(99), 0.5 / 80, 1e-12);  // not 0: the last step should do something
  for (int64_t i = 20; i < 99; ++i) EXPECT_NEAR(s.At(i) - s.At(i + 1), 0.5 / 80, 1e-12) << i;
}

TEST(ScheduleTest, OneCycleRisesAndFalls) {
  const Schedule s = Make(ScheduleKind::kOneCycle, 101, 20);
  EXPECT_DOUBLE_EQ(s.At(0), 0.5 / 25);
  EXPECT_NEAR(s.At(10), 0.5 * (1 / 25.0 + (1 - 1 / 25.0) / 2), 1e-12);
  EXPECT_DOUBLE_EQ(s.At(20), 0.5);
  EXPECT_NEAR(s.At(60), 0.5 * (1e-4 + (1 - 1e-4) / 2), 1e-12);
  EXPECT_NEAR(s.At(100), 0.5e-4, 1e-12);
  for (int64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(s.At(i) < s.At(i + 1), i < 20) << i;
  }
}

TEST(ScheduleTest, WarmUpReachesTheRate) {
  const Schedule s = Make(ScheduleKind::kCosine, 100, 4);
  EXPECT_DOUBLE_EQ(s.At(0), 0.1);
  EXPECT_DOUBLE_EQ(s.At(3), 0.4);
  EXPECT_DOUBLE_EQ(s.At(4), 0.5);
}

TEST(ScheduleTest, RunsOfOneStep) {
  for (const auto kind : {ScheduleKind::kConstant, ScheduleKind::kStep, ScheduleKind::kCosine,
                          ScheduleKind::kOneCycle}) {
    EXPECT_GT(Make(kind, 1, 0).At(0), 0);
    EXPECT_TRUE(std::isfinite(Make(kind, 2, 1).At(1)));
  }
}

}  // namespace
}  // namespace classicnn
