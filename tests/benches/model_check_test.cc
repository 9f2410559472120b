#include "benches/model_check.h"

#include <memory>
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

// A small network with every kind of edge.
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

// What the optimized side is given is wrong by as little as should be noticed.
class ModelCheckFails : public testing::Test {
 protected:
  ModelCheckFails() : graph_(SmallGraph()), ctx_(2), reference_(graph_, 2, /*training=*/true) {
    auto state = ModelState::Create(graph_, Optimizer::kSgd, nullptr);
    EXPECT_TRUE(state.ok());
    state_ = *std::move(state);
    state_->Initialize(graph_, 1);
    reference_.CopyState(*state_);
  }
  absl::Status Compare() {
    PlanOptions options = Training(Update::kFused);
    options.batch = 2;
    options.num_threads = 2;
    return CompareWithReference(graph_, options, state_.get(), &reference_, ctx_);
  }
  void ExpectNamed(const std::string& what) {
    const absl::Status status = Compare();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("wrong result: small: " + what));
  }
  int Parameter(const std::string& name) const {
    for (size_t i = 0; i < graph_.parameters().size(); ++i) {
      if (graph_.parameters()[i].name == name) return static_cast<int>(i);
    }
    ADD_FAILURE() << name;
    return 0;
  }

  Graph graph_;
  Context ctx_;
  ReferenceModel<float> reference_;
  std::unique_ptr<ModelState> state_;
};

TEST_F(ModelCheckFails, NotWhereAllIsRight) { EXPECT_TRUE(Compare().ok()); }

TEST_F(ModelCheckFails, ForALayerThatIsOffByOnePercent) {
  const int i = Parameter("fc.weight");
  for (int64_t k = 0; k < graph_.parameters()[static_cast<size_t>(i)].count(); ++k) {
    state_->parameter(i)[k] *= 1.01f;
  }
  ExpectNamed("logits");
}

TEST_F(ModelCheckFails, ForRunningStatistics) {
  state_->buffer(0)[0] += 1;
  ExpectNamed("bn1.running_mean");
}

TEST_F(ModelCheckFails, ForOneWrongGradient) {
  const int i = Parameter("conv2.weight");  // what momentum there was is taken for gradient
  for (int64_t k = 0; k < graph_.parameters()[static_cast<size_t>(i)].count(); ++k) {
    state_->momentum(i)[k] = 1;
  }
  ExpectNamed("gradient of conv2.weight");
}

TEST_F(ModelCheckFails, ForManyGradientsThatAreALittleWrong) {
  ASSERT_TRUE(Compare().ok());  // for the reference's gradients
  state_->Initialize(graph_, 1);
  reference_.CopyState(*state_);
  for (size_t i = 0; i < graph_.parameters().size(); ++i) {
    const auto& gradient = reference_.gradient(static_cast<int>(i));
    for (size_t k = 0; k < gradient.size(); ++k) {
      state_->momentum(static_cast<int>(i))[k] = 0.15f / 0.9f * gradient[k];
    }
  }
  ExpectNamed("the median of the gradients");
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
