// Plans on the optimized layers against the same graphs on the naive ones, and what every training
// step must keep: bits on any number of threads, both ways to update, finite results.
#include "models/executor.h"

#include <cmath>
#include <cstring>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/file.h"
#include "core/random.h"
#include "core/trace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/model.h"
#include "models/reference_model.h"
#include "nlohmann/json.hpp"
#include "tests/testing/temp_folder.h"

namespace classicnn {
namespace {

struct Fixture {
  Fixture(const Graph& g, PlanOptions options, int threads, uint64_t seed = 1,
          Optimizer optimizer = Optimizer::kSgd)
      : ctx(threads) {
    options.num_threads = threads;
    auto plan = MakePlan(g, options);
    CNN_CHECK(plan.ok(), plan.status().ToString());
    auto s = ModelState::Create(g, options.update == Update::kNone ? Optimizer::kNone : optimizer,
                                &ctx.memory());
    CNN_CHECK(s.ok(), s.status().ToString());
    state = *std::move(s);
    state->Initialize(g, seed);
    // Without biases a batch norm behind a batch norm makes gradients that cancel to nothing.
    for (size_t i = 0; i < g.parameters().size(); ++i) {
      const Parameter& p = g.parameters()[i];
      if (p.kind != ParameterKind::kNormBias) continue;
      const RandomStream random(seed, p.name);
      for (int64_t k = 0; k < p.count(); ++k) {
        state->parameter(static_cast<int>(i))[k] = 0.3f * random.Normal(static_cast<uint64_t>(k));
      }
    }
    auto e = Executor::Create(g, *std::move(plan), state.get(), ctx);
    CNN_CHECK(e.ok(), e.status().ToString());
    executor = *std::move(e);
    FillBatch(g, seed);
  }
  void FillBatch(const Graph& g, uint64_t seed) {
    const Tensor x = executor->input();
    const RandomStream random(seed, "test input");
    for (int64_t i = 0; i < x.size(); ++i) {
      x.data[i] = random.Normal(static_cast<uint64_t>(i));
    }
    const auto classes = static_cast<uint64_t>(g.num_classes());
    const RandomStream labels(seed, "test labels");
    for (int64_t i = 0; i < x.n; ++i) {
      if (executor->labels() != nullptr) {
        executor->labels()[i] =
            static_cast<int32_t>(labels.Below(static_cast<uint64_t>(i), classes));
      }
    }
  }
  std::vector<float> Weights(const Graph& g) const {
    std::vector<float> all;
    for (size_t i = 0; i < g.parameters().size(); ++i) {
      const float* p = state->parameter(static_cast<int>(i));
      all.insert(all.end(), p, p + g.parameters()[i].count());
    }
    for (size_t i = 0; i < g.buffers().size(); ++i) {
      const float* p = state->buffer(static_cast<int>(i));
      all.insert(all.end(), p, p + g.buffers()[i].count);
    }
    return all;
  }

  Context ctx;
  std::unique_ptr<ModelState> state;
  std::unique_ptr<Executor> executor;
};

// ||a - b|| / ||b||, norms in double. A gradient that cancels to nothing, such as that of a bias
// before a batch norm, is held to an absolute bound.
template <typename A, typename B>
double RelativeError(const A* a, const B* b, int64_t count) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += d * d;
    norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return norm < 1e-20 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

// A network that has every operation and every kind of sharing, on odd sizes.
Graph EveryOperation() {
  GraphBuilder g("everything", 13, 11, 3);
  NodeId x = g.Conv2d("stem", g.input(), {20, 3, 1, 1});
  x = g.BatchNorm2d("stem.bn", x);
  x = g.Relu("stem.relu", x);
  // A residual block whose shortcut is read by three.
  NodeId y = g.Conv2d("r1", x, {20, 3, 1, 1});
  y = g.BatchNorm2d("r1.bn", y);
  y = g.Add("r.add", {y, x});
  y = g.Relu("r.relu", y);
  // Branches, one of them with a pool, one with two readers of its value.
  NodeId b1 = g.Relu("b1.relu", g.BatchNorm2d("b1.bn", g.Conv2d("b1", y, {7, 1})));
  NodeId b2 = g.Conv2d("b2", y, {9, 5, 1, 2});
  NodeId b3 = g.Conv2d("b3", g.MaxPool2d("b3.pool", y, {3, 1, 1}), {5, 1});
  NodeId cat = g.Concat("cat", {b1, b2, b3});
  // Dense growth on top of a concatenation.
  NodeId d = g.Conv2d("d1", g.Relu("d1.relu", g.BatchNorm2d("d1.bn", cat)), {6, 3, 1, 1});
  NodeId cat2 = g.Concat("cat2", {cat, d});
  d = g.Conv2d("d2", g.Relu("d2.relu", g.BatchNorm2d("d2.bn", cat2)), {6, 3, 1, 1});
  NodeId cat3 = g.Concat("cat3", {cat2, d});
  NodeId z = g.Conv2d("dw", cat3, {33, 3, 2, 1, 33});
  z = g.Relu("dw.relu", g.BatchNorm2d("dw.bn", z));
  z = g.AvgPool2d("avg", z, {2, 2, 0});
  // A value that is read by both inputs of an addition's neighbours, copied by a concatenation.
  NodeId e = g.Conv2d("e", z, {8});
  NodeId twice = g.Concat("twice", {e, e});
  NodeId f = g.Conv2d("f", e, {16, 1});
  NodeId s = g.Add("s", {twice, f, f});
  NodeId p = g.MaxPool2d("pool", s, {2, 2, 1});
  NodeId flat = g.Linear("fc1", p, 19);
  flat = g.Dropout("drop", g.Relu("fc1.relu", flat), 0.3);
  NodeId flat2 = g.Linear("fc2", flat, 10);
  auto graph = g.Build(flat2);
  CNN_CHECK(graph.ok(), graph.status().ToString());
  return *std::move(graph);
}

// Batch norms in every place where they cost no pass of their own, and in those where they do.
Graph EveryFusion() {
  GraphBuilder g("fusions", 12, 10, 3);
  const auto conv = [&](const std::string& name, NodeId x, int64_t channels, int64_t kernel,
                        int64_t stride = 1) {
    x = g.Conv2d(name, x, {channels, kernel, stride, kernel / 2});
    return g.BatchNorm2d(name + ".bn", x);
  };
  const auto conv_relu = [&](const std::string& name, NodeId x, int64_t channels, int64_t kernel) {
    return g.Relu(name + ".relu", conv(name, x, channels, kernel));
  };
  NodeId x = conv_relu("stem", g.input(), 20, 3);
  // Residual blocks, without and with a convolution on the shortcut; and batch norm alone.
  NodeId y = conv("r1b", conv_relu("r1a", x, 20, 3), 20, 3);
  x = g.Relu("r1.relu", g.Add("r1.add", {y, x}));
  y = conv("r2b", conv_relu("r2a", x, 24, 3), 24, 3);
  x = g.Relu("r2.relu", g.Add("r2.add", {y, conv("r2s", x, 24, 1)}));
  x = conv("plain", x, 18, 1);
  // An inception module, whose branches are activated as one, read by three and by a pool.
  const auto inception = [&](const std::string& name, NodeId in) {
    const NodeId b1 = conv_relu(name + ".b1", in, 9, 1);
    const NodeId b2 = conv_relu(name + ".b2b", conv_relu(name + ".b2a", in, 7, 1), 12, 5);
    const NodeId b3 = conv_relu(name + ".b3", g.MaxPool2d(name + ".pool", in, {3, 1, 1}), 6, 1);
    return g.Concat(name, {b1, b2, b3});
  };
  x = inception("i2", inception("i1", x));
  x = g.MaxPool2d("down", x, {2, 2, 0});
  // A dense block on a pool's value and a transition; one of its batch norms has two readers.
  for (const char* name : {"d1", "d2"}) {
    const NodeId a =
        g.Relu(absl::StrCat(name, ".relu"), g.BatchNorm2d(absl::StrCat(name, ".n"), x));
    const NodeId c = conv_relu(absl::StrCat(name, ".1"), a, 16, 1);
    x = g.Concat(absl::StrCat(name, ".cat"),
                 {x, g.Conv2d(absl::StrCat(name, ".2"), c, {8, 3, 1, 1})});
  }
  const NodeId t = g.Relu("t.relu", g.BatchNorm2d("t.bn", x));
  const NodeId both =
      g.Add("t.add", {g.Conv2d("t.1", t, {14, 1}), g.Conv2d("t.2", t, {14, 3, 1, 1})});
  x = g.AvgPool2d("t.pool", both, {2, 2, 0});
  // Batch norms of a pooled value and of a sum; one read by an average pool; depthwise ones.
  x = g.Relu("p.relu", g.BatchNorm2d("p.bn", x));
  x = g.Conv2d("dw", x, {14, 3, 1, 1, 14});
  x = g.BatchNorm2d("dw.bn", x);
  const NodeId sum = g.Add("q.add", {x, g.Conv2d("q", x, {14, 1})});
  x = g.Relu("q.relu", g.BatchNorm2d("q.bn", sum));
  x = g.AvgPool2d("q.pool", x, {2, 1, 0});
  x = g.GlobalAvgPool2d("gap", conv_relu("last", x, 33, 1));
  auto graph = g.Build(g.Linear("fc", x, 10));
  CNN_CHECK(graph.ok(), graph.status().ToString());
  return *std::move(graph);
}

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

TEST_P(ExecutorGraphTest, FusedAndSeparateUpdatesHaveTheSameBits) {
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
TEST(ExecutorTest, UpdatesOnTheWayHaveTheSameBits) {
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

TEST(ExecutorTest, DecaysWhatItIsToldTo) {
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

TEST(ExecutorTest, StepsMatchTheReferencesAdamW) {
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

TEST(ExecutorTest, StepsMatchTheReferencesSgd) {
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

TEST(ModelStateTest, InitializationDependsOnSeedAndNameAlone) {
  const auto resnet = BuildModel("resnet18");
  ASSERT_TRUE(resnet.ok());
  const Parameter& p = resnet->parameters()[3];
  EXPECT_EQ(InitialValues(p, 1, 5), InitialValues(p, 1, 5));
  EXPECT_NE(InitialValues(p, 1, 5), InitialValues(p, 1, 6));
  Parameter renamed = p;
  renamed.name = "other";
  EXPECT_NE(InitialValues(p, 1, 5), InitialValues(renamed, 1, 5));
}

TEST(ModelStateTest, InitialVariances) {
  const auto mobilenet = BuildModel("mobilenetv1");
  ASSERT_TRUE(mobilenet.ok());
  for (const Parameter& p : mobilenet->parameters()) {
    if (p.kind != ParameterKind::kConvWeight || p.count() < 2000) continue;
    const Node& node = mobilenet->node(p.node);
    double sum = 0, largest = 0;
    for (const float v : InitialValues(p, node.groups, 1)) {
      sum += static_cast<double>(v) * static_cast<double>(v);
      largest = std::max(largest, std::abs(static_cast<double>(v)));
    }
    const double variance = sum / static_cast<double>(p.count());
    if (node.kernel == 1) {  // Xavier uniform
      const double limit = std::sqrt(6.0 / static_cast<double>(p.shape[0] + p.shape[1]));
      EXPECT_NEAR(variance, limit * limit / 3, 0.05 * limit * limit) << p.name;
      EXPECT_LE(largest, limit) << p.name;
    } else {
      const double expected =
          2.0 * static_cast<double>(node.groups) / static_cast<double>(9 * p.shape[0]);
      EXPECT_NEAR(variance, expected, 0.1 * expected) << p.name;
    }
  }
}

}  // namespace
}  // namespace classicnn
