// What the executor does to weights: both optimizers, both times of the update, weight decay.
#include <algorithm>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "layers/optimizer/optimizer.h"
#include "models/executor.h"
#include "models/model.h"
#include "models/reference_model.h"
#include "tests/models/executor_fixture.h"

namespace classicnn {
namespace {

class ExecutorUpdatesGraphTest : public testing::TestWithParam<Graph (*)()> {};
INSTANTIATE_TEST_SUITE_P(, ExecutorUpdatesGraphTest, testing::Values(EveryOperation, EveryFusion));

TEST_P(ExecutorUpdatesGraphTest, FusedAndSeparateUpdatesHaveTheSameBits) {
  const Graph graph = GetParam()();
  std::vector<float> expected;
  for (const Update update : {Update::kFused, Update::kAfterBackward}) {
    PlanOptions options;
    options.batch = 5;
    options.update = update;
    Fixture s(graph, options, 2);
    UpdateParams params;
    params.sgd.nesterov = true;
    params.decay_norm_and_bias = false;
    for (int step = 0; step < 3; ++step) s.executor->TrainStep(params);
    const std::vector<float> weights = s.Weights(graph);
    if (expected.empty()) expected = weights;
    EXPECT_EQ(std::memcmp(weights.data(), expected.data(), weights.size() * sizeof(float)), 0);
    EXPECT_EQ(s.state->updates, 3);
    EXPECT_EQ(s.state->batches_tracked, 3);
  }
}

// With one image the last layers' gradients are applied as they are made.
TEST(ExecutorUpdatesTest, UpdatesOnTheWayHaveTheSameBits) {
  const auto graph = BuildModel("resnet18");
  ASSERT_TRUE(graph.ok());
  std::vector<float> expected;
  for (const Update update : {Update::kAfterBackward, Update::kFused}) {
    PlanOptions options;
    options.batch = 1;
    options.update = update;
    Fixture s(*graph, options, 2);
    int64_t updating = 0;
    for (const Step& step : s.executor->plan().steps) updating += step.updates ? 1 : 0;
    EXPECT_EQ(updating > 0, update == Update::kFused);
    for (int step = 0; step < 2; ++step) s.executor->TrainStep(UpdateParams());
    const std::vector<float> weights = s.Weights(*graph);
    if (expected.empty()) expected = weights;
    EXPECT_EQ(std::memcmp(weights.data(), expected.data(), weights.size() * sizeof(float)), 0);
  }
}

TEST(ExecutorUpdatesTest, DecaysWhatItIsToldTo) {
  const Graph graph = EveryOperation();
  PlanOptions options;
  options.batch = 4;
  const auto weights = [&](bool norm_and_bias, bool depthwise, double decay) {
    Fixture s(graph, options, 2);
    UpdateParams params;
    params.sgd.weight_decay = decay;
    params.decay_norm_and_bias = norm_and_bias;
    params.decay_depthwise = depthwise;
    for (size_t i = 0; i < graph.parameters().size(); ++i) {
      s.state->parameter(static_cast<int>(i))[0] = 0.5f;  // biases begin as zeros
    }
    s.executor->TrainStep(params);
    std::vector<std::vector<float>> all;
    for (size_t i = 0; i < graph.parameters().size(); ++i) {
      const float* const p = s.state->parameter(static_cast<int>(i));
      all.emplace_back(p, p + graph.parameters()[i].count());
    }
    return all;
  };
  const auto none = weights(true, true, 0.0);
  int depthwise_weights = 0;
  for (const bool norm_and_bias : {false, true}) {
    for (const bool depthwise : {false, true}) {
      const auto decayed = weights(norm_and_bias, depthwise, 0.5);
      for (size_t i = 0; i < graph.parameters().size(); ++i) {
        const Parameter& p = graph.parameters()[i];
        const bool is_depthwise = graph.node(p.node).groups > 1 && !p.norm_or_bias();
        depthwise_weights += is_depthwise;
        EXPECT_EQ(p.depthwise, is_depthwise) << p.name;
        const bool decays = p.norm_or_bias() ? norm_and_bias : !is_depthwise || depthwise;
        EXPECT_EQ(decayed[i] != none[i], decays) << p.name;
      }
    }
  }
  EXPECT_GT(depthwise_weights, 0);
}

TEST(ExecutorUpdatesTest, StepsMatchTheReferencesSgd) {
  const Graph graph = EveryOperation();
  PlanOptions options;
  options.batch = 4;
  Fixture s(graph, options, 2);
  ReferenceModel<double> reference(graph, 4, /*training=*/true);
  reference.CopyState(*s.state);
  for (int64_t i = 0; i < reference.input().size(); ++i) {
    reference.input().data[i] = static_cast<double>(s.executor->input().data[i]);
  }
  std::copy_n(s.executor->labels(), 4, reference.labels().begin());
  UpdateParams params;
  params.sgd.lr = 0.01;
  for (uint64_t step = 0; step < 2; ++step) {
    s.executor->SetDropoutPosition(3, step);
    reference.SetDropoutPosition(3, step);
    s.executor->TrainStep(params);
    reference.Forward();
    reference.Backward();
    reference.SgdStep(params);
  }
  for (size_t i = 0; i < graph.parameters().size(); ++i) {
    const auto& expected = reference.parameter(static_cast<int>(i));
    EXPECT_LT(RelativeError(s.state->parameter(static_cast<int>(i)), expected.data(),
                            static_cast<int64_t>(expected.size())),
              2e-3)
        << graph.parameters()[i].name;
  }
}

TEST(ExecutorUpdatesTest, StepsMatchTheReferencesAdamW) {
  const Graph graph = EveryOperation();
  PlanOptions options;
  options.batch = 4;
  options.update = Update::kAfterBackward;
  Fixture s(graph, options, 2, 1, Optimizer::kAdamW);
  UpdateParams params;
  params.adamw.lr = 0.01;
  params.adamw.weight_decay = 0.5;
  params.decay_norm_and_bias = false;
  std::vector<std::vector<float>> m(graph.parameters().size()), v(graph.parameters().size());
  for (int64_t step = 1; step <= 3; ++step) {
    s.executor->SetUpdate(params);
    s.executor->Forward();
    s.executor->Backward();
    std::vector<std::vector<float>> expected;
    for (size_t i = 0; i < graph.parameters().size(); ++i) {
      const Parameter& p = graph.parameters()[i];
      const float* const w = s.state->parameter(static_cast<int>(i));
      expected.emplace_back(w, w + p.count());
      m[i].resize(expected[i].size());
      v[i].resize(expected[i].size());
      AdamWParams rule = params.adamw;
      rule.step = step;
      if (p.norm_or_bias()) rule.weight_decay = 0;
      AdamWUpdateNaive<float>(rule, p.count(), expected[i].data(),
                              s.executor->gradient(static_cast<int>(i)), m[i].data(), v[i].data());
    }
    s.executor->ApplyUpdate();
    for (size_t i = 0; i < graph.parameters().size(); ++i) {
      const float* const w = s.state->parameter(static_cast<int>(i));
      for (size_t k = 0; k < expected[i].size(); ++k) {
        ASSERT_NEAR(w[k], expected[i][k], 1e-6) << graph.parameters()[i].name << " step " << step;
      }
    }
  }
}

}  // namespace
}  // namespace classicnn
