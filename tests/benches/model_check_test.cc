#include "benches/model_check.h"

#include <string>
#include <utility>
#include <vector>

#include "benches/profile.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/model_state.h"

namespace classicnn {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// A small network with every kind of edge; `smaller` leaves out nothing but changes a padding.
Graph SmallGraph() {
  GraphBuilder g("small", 8, 8, 3);
  NodeId x = g.Conv2d("conv1", g.input(), {16, 3, 1, 1});
  x = g.BatchNorm2d("bn1", x);
  x = g.Relu("relu1", x);
  NodeId y = g.Conv2d("conv2", x, {16, 1});
  y = g.BatchNorm2d("bn2", y);
  x = g.Add("add", {x, y});
  x = g.Relu("relu2", x);
  x = g.MaxPool2d("pool", x, {2, 2, 0});
  x = g.GlobalAvgPool2d("avgpool", x);
  x = g.Dropout("dropout", x, 0.5);
  x = g.Linear("fc", x, 10);
  auto graph = g.Build(x);
  EXPECT_TRUE(graph.ok()) << graph.status();
  return *std::move(graph);
}

PlanOptions Training(Update update) {
  PlanOptions options;
  options.update = update;
  return options;
}

TEST(ModelCheck, PassesForEveryKindOfPlan) {
  const Graph graph = SmallGraph();
  for (const int threads : {1, 2}) {
    Context ctx(threads);
    for (const Update update : {Update::kNone, Update::kFused, Update::kAfterBackward}) {
      const absl::Status status = CheckModel(graph, Training(update), ctx);
      EXPECT_TRUE(status.ok()) << status;
    }
    PlanOptions inference;
    inference.training = inference.loss = inference.backward = false;
    inference.update = Update::kNone;
    const absl::Status status = CheckModel(graph, inference, ctx);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(ctx.memory().current(), 0) << "everything is freed before a plan is timed";
  }
}

TEST(ModelCheck, InputsDependOnTheSeedAlone) {
  std::vector<float> a(2 * 4 * 4 * 3), b(4 * 4 * 4 * 3);
  std::vector<int32_t> la(2), lb(4);
  FillModelInputs(Tensor(a.data(), Shape4{2, 4, 4, 3}), la.data(), 10);
  FillModelInputs(Tensor(b.data(), Shape4{4, 4, 4, 3}), lb.data(), 10);
  EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin()));
  EXPECT_TRUE(std::equal(la.begin(), la.end(), lb.begin()));
  for (const int32_t label : lb) EXPECT_TRUE(label >= 0 && label < 10);
}

TEST(Profile, HasARowForEveryNodeThatRan) {
  const Graph graph = SmallGraph();
  PlanOptions options = Training(Update::kFused);
  options.batch = 2;
  const auto plan = MakePlan(graph, options);
  ASSERT_TRUE(plan.ok()) << plan.status();
  StepTimes times;
  times.runs = 2;
  times.nanos.assign(plan->steps.size(), 4'000'000);
  const std::string table = FormatProfile(graph, *plan, times);
  for (const char* row : {"conv1 ", "conv2 ", "bn1 ", "pool ", "fc ", "(loss) ", "sum "}) {
    EXPECT_THAT(table, HasSubstr(std::string("\n") + row));
  }
  // Every step took 2 ms a run: the sum row knows them all.
  const double expected = 2.0 * static_cast<double>(plan->steps.size());
  double forward = 0, backward = 0, update = 0;
  const size_t sum = table.find("\nsum ");
  ASSERT_EQ(std::sscanf(table.c_str() + sum, " sum %lf %lf %lf", &forward, &backward, &update), 3);
  EXPECT_NEAR(forward + backward + update, expected, 0.01);
  EXPECT_GT(forward, 0);
  EXPECT_GT(backward, forward);
  EXPECT_GT(update, 0);

  // Steps that did not run leave no row.
  for (size_t i = 0; i < plan->steps.size(); ++i) {
    if (plan->steps[i].phase != Phase::kForward) times.nanos[i] = 0;
  }
  EXPECT_THAT(FormatProfile(graph, *plan, times), Not(HasSubstr("(loss)")));
}

}  // namespace
}  // namespace classicnn
