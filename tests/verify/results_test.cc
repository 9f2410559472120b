#include "tests/verify/results.h"

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace classicnn::verify {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

Array Vector(std::vector<double> values) {
  Array array(Shape4{1, 1, 1, static_cast<int64_t>(values.size())});
  array.values = std::move(values);
  return array;
}

Row Judged(const Array& actual, const Array& expected, double bound) {
  Row row;
  row.what = "what";
  row.impl = "optimized";
  row.bound = bound;
  row.command = "cnn-verify --models=what";
  Judge("tensor", actual, expected, bound, &row);
  return row;
}

TEST(JudgeTest, PassesWithinTheBoundOfTheRelativeNorm) {
  // The difference is 0.003 long, the expectation 5: 6e-4.
  const Row row = Judged(Vector({3.003, 4}), Vector({3, 4}), 1e-3);
  EXPECT_EQ(row.verdict, Verdict::kPass);
  EXPECT_NEAR(row.error, 6e-4, 1e-9);
  EXPECT_EQ(row.tensor, "tensor");
  EXPECT_EQ(row.comparisons, 1);
  EXPECT_EQ(Judged(Vector({3.003, 4}), Vector({3, 4}), 5e-4).verdict, Verdict::kFail);
}

TEST(JudgeTest, NothingThatIsNotANumberPasses) {
  for (const double bad : {kNan, HUGE_VAL, -HUGE_VAL}) {
    EXPECT_EQ(Judged(Vector({3, bad}), Vector({3, 4}), 1e-3).verdict, Verdict::kFail);
    EXPECT_EQ(Judged(Vector({3, bad}), Vector({3, 4}), 0).verdict, Verdict::kFail);
    EXPECT_EQ(Judged(Vector({3, 4}), Vector({3, bad}), 1e-3).verdict, Verdict::kMistrusted);
    EXPECT_EQ(Judged(Vector({3, bad}), Vector({3, bad}), 1e-3).verdict, Verdict::kMistrusted);
  }
}

TEST(JudgeTest, ZerosProveNothing) {
  EXPECT_EQ(Judged(Vector({0, 0}), Vector({0, 0}), 1e-3).verdict, Verdict::kMistrusted);
  EXPECT_EQ(Judged(Vector({0, 0}), Vector({0, 0}), 0).verdict, Verdict::kMistrusted);
  EXPECT_EQ(Judged(Vector({}), Vector({}), 1e-3).verdict, Verdict::kMistrusted);
  EXPECT_EQ(Judged(Vector({0, 0}), Vector({3, 4}), 1e-3).verdict, Verdict::kFail);
}

TEST(JudgeTest, AFailureCountsElementsByItsOwnBound) {
  // All four differ, one by more than the bound of 1e-3 allows an element of its size.
  const Row row = Judged(Vector({5.00001, 4.99999, 6, 5.00001}), Vector({5, 5, 5, 5}), 1e-3);
  EXPECT_EQ(row.verdict, Verdict::kFail);
  EXPECT_THAT(row.detail, HasSubstr("1 of 4 elements"));
  EXPECT_THAT(row.detail, HasSubstr("6, expected 5, bound 0.01"));
  EXPECT_THAT(row.detail, HasSubstr("relative L2 error 0.1, bound 0.001"));
  EXPECT_THAT(Judged(Vector({5.00001, 5}), Vector({5, 5}), 0).detail, HasSubstr("1 of 2 elements"));
}

TEST(JudgeTest, AnotherShapeFails) {
  EXPECT_EQ(Judged(Vector({3, 4, 5}), Vector({3, 4}), 1e-3).verdict, Verdict::kFail);
  Array column(Shape4{2, 1, 1, 1});
  column.values = {3, 4};
  EXPECT_EQ(Judged(column, Vector({3, 4}), 1e-3).verdict, Verdict::kFail);
}

TEST(JudgeTest, ABoundOfZeroComparesExactly) {
  EXPECT_EQ(Judged(Vector({3, -0.0}), Vector({3, 0}), 0).verdict, Verdict::kPass);
  EXPECT_EQ(Judged(Vector({3, 1e-30}), Vector({3, 0}), 0).verdict, Verdict::kFail);
}

TEST(JudgeTest, ARowKeepsItsWorstComparison) {
  Row row;
  row.bound = 1e-3;
  Judge("good", Vector({3, 4}), Vector({3, 4}), 1e-3, &row);
  Judge("bad", Vector({3, 5}), Vector({3, 4}), 1e-3, &row);
  Judge("zero", Vector({0}), Vector({0}), 1e-3, &row);
  Judge("better", Vector({3, 4}), Vector({3, 4}), 0, &row);
  EXPECT_EQ(row.verdict, Verdict::kFail);
  EXPECT_EQ(row.tensor, "bad");
  EXPECT_NEAR(row.error, 0.2, 1e-9);
  EXPECT_EQ(row.comparisons, 4);
  EXPECT_EQ(row.bound, 1e-3);
}

TEST(JudgeTest, WhatMustNotChangeMayBeZero) {
  Row row;
  JudgeUnchanged("buffer", Vector({0, 0}), Vector({0, 0}), &row);
  EXPECT_EQ(row.verdict, Verdict::kPass);
  JudgeUnchanged("buffer", Vector({0, 1e-9}), Vector({0, 0}), &row);
  EXPECT_EQ(row.verdict, Verdict::kFail);
  Row nan;
  JudgeUnchanged("buffer", Vector({kNan}), Vector({1}), &nan);
  EXPECT_EQ(nan.verdict, Verdict::kFail);
}

TEST(ResultsTest, TableTellsWhatFailedAndHowToRepeatIt) {
  const std::vector<Row> rows = {Judged(Vector({3, 4}), Vector({3, 4}), 1e-3),
                                 Judged(Vector({3, 5}), Vector({3, 4}), 1e-3)};
  const std::string table = FormatTable(rows);
  EXPECT_THAT(table, HasSubstr("pass"));
  EXPECT_THAT(table, HasSubstr("2.00e-01"));
  EXPECT_THAT(table, HasSubstr("repeat: cnn-verify --models=what"));
  EXPECT_THAT(table, HasSubstr("5, expected 4"));
  EXPECT_THAT(FormatTable({rows[0]}), Not(HasSubstr("repeat")));
}

TEST(ResultsTest, GroupsCountAndShowTheirParts) {
  Row group;
  group.what = "group";
  group.parts = {Judged(Vector({3, 4}), Vector({3, 4}), 1e-3),
                 Judged(Vector({0}), Vector({0}), 1e-3),
                 Judged(Vector({3, 5}), Vector({3, 4}), 1e-3)};
  Summarize(&group);
  EXPECT_EQ(group.verdict, Verdict::kFail);
  const Totals totals = CountVerdicts({group});
  EXPECT_EQ(totals.pass, 1);
  EXPECT_EQ(totals.mistrusted, 1);
  EXPECT_EQ(totals.fail, 1);
  EXPECT_EQ(totals.verdict(), Verdict::kFail);
  EXPECT_THAT(FormatTable({group}), HasSubstr("it proves nothing"));

  group.parts.pop_back();
  EXPECT_EQ(CountVerdicts({group}).verdict(), Verdict::kMistrusted);
  group.parts.pop_back();
  EXPECT_EQ(CountVerdicts({group}).verdict(), Verdict::kPass);
}

TEST(ResultsTest, JsonHasARowForEachComparison) {
  Row group;
  group.parts = {Judged(Vector({3, 4}), Vector({3, 4}), 1e-3),
                 Judged(Vector({3, kNan}), Vector({3, 4}), 1e-3)};
  Summarize(&group);
  const auto json = nlohmann::json::parse(FormatJson(
      {group, Judged(Vector({3, 4}), Vector({3, 4}), 1e-3)}, 1.5, {{"isa_target", "avx2"}}));
  EXPECT_EQ(json["verdict"], "fail");
  EXPECT_EQ(json["isa_target"], "avx2");
  EXPECT_EQ(json["pass"], 2);
  EXPECT_EQ(json["fail"], 1);
  ASSERT_EQ(json["rows"].size(), 3u);
  EXPECT_EQ(json["rows"][0]["impl"], "optimized");
  EXPECT_EQ(json["rows"][0]["tensor"], "tensor");
  EXPECT_EQ(json["rows"][0]["error"], 0.0);
  EXPECT_EQ(json["rows"][1]["verdict"], "fail");
  EXPECT_TRUE(json["rows"][1]["error"].is_null());
  EXPECT_EQ(json["rows"][1]["command"], "cnn-verify --models=what");
}

}  // namespace
}  // namespace classicnn::verify
