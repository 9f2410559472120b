// A plan with its state and a batch, and graphs that have every operation and every fusion, for
// tests of the executor.
#ifndef CLASSICNN_TESTS_MODELS_EXECUTOR_FIXTURE_H_
#define CLASSICNN_TESTS_MODELS_EXECUTOR_FIXTURE_H_

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/context.h"
#include "core/random.h"
#include "models/executor.h"
#include "models/graph.h"
#include "models/model_state.h"
#include "models/plan.h"

namespace classicnn {

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
inline Graph EveryOperation() {
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
inline Graph EveryFusion() {
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

}  // namespace classicnn

#endif  // CLASSICNN_TESTS_MODELS_EXECUTOR_FIXTURE_H_
