// Plans on the optimized layers against the same graphs on the naive ones, and what every training
// step must keep: bits on any number of threads, finite results.
#include "models/executor.h"

#include <cmath>
#include <cstring>
#include <set>
#include <string>

#include "core/file.h"
#include "core/random.h"
#include "core/trace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/model.h"
#include "models/reference_model.h"
#include "nlohmann/json.hpp"
#include "tests/models/executor_fixture.h"
#include "tests/testing/temp_folder.h"

namespace classicnn {
namespace {

void ExpectMatchesReference(const Graph& graph) {
  for (const bool training : {true, false}) {
    for (const bool fusion : {true, false}) {
      SCOPED_TRACE(testing::Message() << "training " << training << " fusion " << fusion);
      PlanOptions options;
      options.batch = 6;
      options.training = training;
      options.fusion = fusion;
      options.update = Update::kNone;
      options.label_smoothing = 0.1;
      Fixture s(graph, options, 2);
      ReferenceModel<double> reference(graph, 6, training, 0.1);
      reference.CopyState(*s.state);
      const Tensor x = s.executor->input();
      for (int64_t i = 0; i < x.size(); ++i) {
        reference.input().data[i] = static_cast<double>(x.data[i]);
      }
      std::copy_n(s.executor->labels(), 6, reference.labels().begin());
      s.executor->SetDropoutPosition(5, 17);
      reference.SetDropoutPosition(5, 17);

      s.executor->Forward();
      reference.Forward();
      const ConstTensor logits = s.executor->logits();
      EXPECT_LT(RelativeError(logits.data, reference.logits().data, logits.size()), 1e-4);
      EXPECT_NEAR(s.executor->loss(), reference.loss(), 1e-4);
      s.executor->Backward();
      reference.Backward();
      for (size_t i = 0; i < graph.parameters().size(); ++i) {
        const auto& expected = reference.gradient(static_cast<int>(i));
        EXPECT_LT(RelativeError(s.executor->gradient(static_cast<int>(i)), expected.data(),
                                static_cast<int64_t>(expected.size())),
                  2e-3)
            << graph.parameters()[i].name;
      }
      for (size_t i = 0; i < graph.buffers().size(); ++i) {
        const auto& expected = reference.buffer(static_cast<int>(i));
        EXPECT_LT(RelativeError(s.state->buffer(static_cast<int>(i)), expected.data(),
                                static_cast<int64_t>(expected.size())),
                  1e-4)
            << graph.buffers()[i].name;
      }
    }
  }
}

TEST(ExecutorTest, EveryOperationMatchesReference) { ExpectMatchesReference(EveryOperation()); }
TEST(ExecutorTest, EveryFusionMatchesReference) { ExpectMatchesReference(EveryFusion()); }

// Pixels of 256 channels are spread in memory, but not where a fully connected layer reads images.
TEST(ExecutorTest, ImagesOfManyChannelsIntoALinearLayer) {
  GraphBuilder g("flat", 8, 6, 3);
  NodeId x = g.Conv2d("wide", g.input(), {256, 3, 1, 1});
  x = g.Relu("wide.relu", g.BatchNorm2d("wide.bn", x));
  x = g.Conv2d("again", x, {256, 1});
  x = g.MaxPool2d("pool", g.Relu("again.relu", g.BatchNorm2d("again.bn", x)), {2, 2, 0});
  x = g.Linear("fc1", g.Dropout("drop", x, 0.3), 16);
  const auto graph = g.Build(g.Linear("fc2", g.Relu("fc1.relu", x), 10));
  ASSERT_TRUE(graph.ok()) << graph.status();
  ExpectMatchesReference(*graph);
}

TEST(ExecutorTest, ReferenceGradientsMatchFiniteDifferences) {
  // ReLU and max pooling have kinks; in double, with steps of 1e-6, none is crossed here.
  const Graph graph = EveryOperation();
  ReferenceModel<double> model(graph, 3, /*training=*/true, 0.1);
  Context ctx(1);
  auto state = ModelState::Create(graph, Optimizer::kNone, &ctx.memory());
  ASSERT_TRUE(state.ok());
  (*state)->Initialize(graph, 3);
  model.CopyState(**state);
  const RandomStream random(9, "input");
  for (int64_t i = 0; i < model.input().size(); ++i) {
    model.input().data[i] = static_cast<double>(random.Normal(static_cast<uint64_t>(i)));
  }
  model.labels() = {1, 7, 4};
  model.Forward();
  model.Backward();
  for (size_t p = 0; p < graph.parameters().size(); ++p) {
    auto& values = model.parameter(static_cast<int>(p));
    for (const size_t i : {size_t{0}, values.size() / 2, values.size() - 1}) {
      const double gradient = model.gradient(static_cast<int>(p))[i];
      const double step = 1e-6, saved = values[i];
      values[i] = saved + step;
      model.Forward();
      const double above = model.loss();
      values[i] = saved - step;
      model.Forward();
      const double below = model.loss();
      values[i] = saved;
      EXPECT_NEAR(gradient, (above - below) / (2 * step), 1e-6 + 1e-4 * std::abs(gradient))
          << graph.parameters()[p].name << "[" << i << "]";
    }
  }
}

class ExecutorGraphTest : public testing::TestWithParam<Graph (*)()> {};
INSTANTIATE_TEST_SUITE_P(, ExecutorGraphTest, testing::Values(EveryOperation, EveryFusion));

TEST_P(ExecutorGraphTest, SameBitsOnAnyNumberOfThreads) {
  const Graph graph = GetParam()();
  std::vector<float> expected;
  for (const int threads : {1, 2, 3, 8}) {
    PlanOptions options;
    options.batch = 7;
    Fixture s(graph, options, threads);
    UpdateParams update;
    for (uint64_t step = 0; step < 4; ++step) {
      s.executor->SetDropoutPosition(1, step);
      s.executor->TrainStep(update);
    }
    const std::vector<float> weights = s.Weights(graph);
    if (expected.empty()) expected = weights;
    EXPECT_EQ(std::memcmp(weights.data(), expected.data(), weights.size() * sizeof(float)), 0)
        << threads << " threads";
  }
}

// Weights and running statistics after two steps.
std::vector<float> Trained(const Graph& graph, PlanOptions options) {
  Fixture s(graph, options, 2);
  for (uint64_t step = 0; step < 2; ++step) {
    s.executor->SetDropoutPosition(1, step);
    s.executor->TrainStep(UpdateParams());
  }
  return s.Weights(graph);
}

TEST_P(ExecutorGraphTest, RecomputationKeepsTheBits) {
  const Graph graph = GetParam()();
  for (const bool fusion : {true, false}) {
    PlanOptions options;
    options.batch = 7;
    options.fusion = fusion;
    options.num_threads = 2;
    const auto free = MakePlan(graph, options);
    ASSERT_TRUE(free.ok());
    const std::vector<float> expected = Trained(graph, options);
    int limits = 0;
    for (const double fraction : {0.95, 0.85, 0.75, 0.65, 0.55}) {
      options.memory_limit =
          static_cast<int64_t>(fraction * static_cast<double>(free->arena_bytes));
      const auto plan = MakePlan(graph, options);
      if (!plan.ok()) continue;
      ++limits;
      EXPECT_LE(plan->arena_bytes, options.memory_limit);
      const std::vector<float> actual = Trained(graph, options);
      EXPECT_EQ(std::memcmp(actual.data(), expected.data(), actual.size() * sizeof(float)), 0)
          << fraction << " of the memory";
    }
    EXPECT_GE(limits, 1) << "fusion " << fusion;
  }
}

// Names must live until the trace is written: a kernel's local array does not.
TEST(ExecutorTest, TracesEveryLoopByItsName) {
  const Graph graph = EveryOperation();
  PlanOptions options;
  options.batch = 4;
  Fixture s(graph, options, 2);
  Tracer tracer;
  s.ctx.set_tracer(&tracer);
  s.executor->TrainStep(UpdateParams());
  s.ctx.set_tracer(nullptr);
  EXPECT_EQ(tracer.dropped(), 0);
  const TempFolder folder;
  ASSERT_TRUE(tracer.WriteJson(folder / "trace.json").ok());
  const auto json = nlohmann::json::parse(ReadFile(folder / "trace.json").value());
  std::set<std::string> zones;
  for (const auto& e : json.at("traceEvents")) {
    if (e.value("cat", "") == "pieces") zones.insert(e.at("name").get<std::string>());
  }
  EXPECT_GT(zones.size(), 20u);
  for (const std::string& zone : zones) {
    EXPECT_THAT(zone, testing::MatchesRegex("[a-z0-9_]+([.][a-z0-9_]+)*"));
  }
}

class FiveModelsTest : public testing::TestWithParam<std::string> {};

TEST_P(FiveModelsTest, TrainsAndDiffersFromInference) {
  const auto graph = BuildModel(GetParam());
  ASSERT_TRUE(graph.ok());
  PlanOptions options;
  options.batch = 4;
  options.update = Update::kAfterBackward;
  Fixture s(*graph, options, 2);
  UpdateParams params;
  params.sgd.lr = 0.01;
  params.sgd.weight_decay = 0;

  s.executor->SetUpdate(params);
  s.executor->Forward();
  const ConstTensor logits = s.executor->logits();
  ASSERT_EQ(logits.shape(), (Shape4{4, 1, 1, 10}));
  std::vector<float> training_logits(logits.data, logits.data + logits.size());
  for (const float v : training_logits) ASSERT_TRUE(std::isfinite(v));
  const float first_loss = s.executor->loss();
  ASSERT_TRUE(std::isfinite(first_loss));
  s.executor->Backward();
  for (size_t i = 0; i < graph->parameters().size(); ++i) {
    const float* g = s.executor->gradient(static_cast<int>(i));
    bool nonzero = false;
    for (int64_t k = 0; k < graph->parameters()[i].count(); ++k) {
      ASSERT_TRUE(std::isfinite(g[k])) << graph->parameters()[i].name;
      nonzero |= g[k] != 0;
    }
    EXPECT_TRUE(nonzero) << graph->parameters()[i].name;
  }

  PlanOptions inference = options;
  inference.training = inference.backward = false;
  inference.update = Update::kNone;
  inference.num_threads = 2;
  auto plan = MakePlan(*graph, inference);
  ASSERT_TRUE(plan.ok());
  auto eval = Executor::Create(*graph, *std::move(plan), s.state.get(), s.ctx);
  ASSERT_TRUE(eval.ok());
  std::memcpy((*eval)->input().data, s.executor->input().data,
              static_cast<size_t>(s.executor->input().size()) * sizeof(float));
  (*eval)->Forward();
  EXPECT_GT(RelativeError((*eval)->logits().data, training_logits.data(), logits.size()), 1e-3);

  // One batch, again and again: the network must be able to learn it by heart.
  s.executor->ApplyUpdate();
  for (int step = 1; step < 12; ++step) {
    s.executor->SetDropoutPosition(1, static_cast<uint64_t>(step));
    s.executor->TrainStep(params);
  }
  EXPECT_TRUE(std::isfinite(s.executor->loss()));
  EXPECT_LT(s.executor->loss(), 0.5f * first_loss);
}

INSTANTIATE_TEST_SUITE_P(All, FiveModelsTest, testing::ValuesIn(ModelNames()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace classicnn
