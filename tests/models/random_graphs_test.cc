// Plans of graphs that are none of the five models: random ones, and those that were once wrong.
// The optimized code must give what the naive layers give in double precision, fused or not, and
// the same bits under a memory limit.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/random.h"
#include "gtest/gtest.h"
#include "models/executor.h"
#include "models/graph.h"
#include "models/plan.h"
#include "models/reference_model.h"

namespace classicnn {
namespace {

constexpr int64_t kBatch = 3;

struct Outcome {
  double loss = 0;
  std::vector<float> gradients;  // of all parameters
};

class GraphCheck {
 public:
  GraphCheck(const Graph& graph, uint64_t seed) : graph_(graph), ctx_(2) {
    auto state = ModelState::Create(graph, Optimizer::kNone, nullptr);
    CNN_CHECK(state.ok(), state.status().ToString());
    state_ = *std::move(state);
    state_->Initialize(graph, seed);
    // At their initial values batch norms' parameters hide a batch norm behind another.
    for (size_t i = 0; i < graph.parameters().size(); ++i) {
      const Parameter& p = graph.parameters()[i];
      if (!p.norm_or_bias()) continue;
      const RandomStream random(seed, p.name);
      for (int64_t k = 0; k < p.count(); ++k) {
        state_->parameter(static_cast<int>(i))[k] += 0.3f * random.Normal(static_cast<uint64_t>(k));
      }
    }
    const RandomStream pixels(seed, "pixels"), labels(seed, "labels");
    images_.resize(static_cast<size_t>(graph.shape(graph.input(), kBatch).size()));
    for (size_t i = 0; i < images_.size(); ++i) images_[i] = pixels.Normal(i);
    for (uint64_t i = 0; i < kBatch; ++i) {
      labels_.push_back(
          static_cast<int32_t>(labels.Below(i, static_cast<uint64_t>(graph.num_classes()))));
    }
  }

  PlanOptions Options(bool fusion) const {
    PlanOptions options;
    options.batch = kBatch;
    options.fusion = fusion;
    options.update = Update::kNone;
    options.num_threads = ctx_.num_threads();
    return options;
  }
  Outcome Run(const PlanOptions& options) {
    auto plan = MakePlan(graph_, options);
    CNN_CHECK(plan.ok(), plan.status().ToString());
    auto executor = Executor::Create(graph_, *std::move(plan), state_.get(), ctx_);
    CNN_CHECK(executor.ok(), executor.status().ToString());
    Executor& e = **executor;
    const Tensor x = e.input();
    CNN_CHECK(x.dense(), "the input is dense");
    std::copy(images_.begin(), images_.end(), x.data);
    std::copy(labels_.begin(), labels_.end(), e.labels());
    e.SetDropoutPosition(9, 3);
    e.Forward();
    Outcome outcome;
    outcome.loss = static_cast<double>(e.loss());
    e.Backward();
    for (size_t i = 0; i < graph_.parameters().size(); ++i) {
      const float* const g = e.gradient(static_cast<int>(i));
      outcome.gradients.insert(outcome.gradients.end(), g, g + graph_.parameters()[i].count());
    }
    return outcome;
  }
  void ExpectRight() {
    ReferenceModel<double> reference(graph_, kBatch, /*training=*/true);
    reference.CopyState(*state_);
    std::copy(images_.begin(), images_.end(), reference.input().data);
    std::copy(labels_.begin(), labels_.end(), reference.labels().begin());
    reference.SetDropoutPosition(9, 3);
    reference.Forward();
    reference.Backward();
    for (const bool fusion : {true, false}) {
      SCOPED_TRACE(fusion ? "fused" : "not fused");
      const Outcome outcome = Run(Options(fusion));
      EXPECT_NEAR(outcome.loss, reference.loss(), 1e-3 * (1 + std::fabs(reference.loss())));
      double difference = 0, norm = 0;
      size_t at = 0;
      for (size_t i = 0; i < graph_.parameters().size(); ++i) {
        for (const double expected : reference.gradient(static_cast<int>(i))) {
          const double d = static_cast<double>(outcome.gradients[at++]) - expected;
          difference += d * d;
          norm += expected * expected;
        }
      }
      // A ReLU or a maximum that rounding decides otherwise may cost a percent; a share of a
      // gradient that is lost or counted twice costs far more.
      EXPECT_LT(std::sqrt(difference / norm), 0.05);
    }
  }
  // Whether the least plan computes anything again.
  bool ExpectSameBitsUnderALimit() {
    PlanOptions options = Options(true);
    options.least_dropped_bytes = 0;
    const Outcome unlimited = Run(options);
    const auto least = LeastPlanBytes(graph_, options);
    CNN_CHECK(least.ok(), least.status().ToString());
    options.memory_limit = *least;
    const Outcome limited = Run(options);
    EXPECT_EQ(limited.loss, unlimited.loss);
    EXPECT_TRUE(limited.gradients == unlimited.gradients);
    const auto plan = MakePlan(graph_, options);
    CNN_CHECK(plan.ok(), plan.status().ToString());
    return std::any_of(plan->steps.begin(), plan->steps.end(),
                       [](const Step& step) { return step.recomputed; });
  }

 private:
  const Graph& graph_;
  Context ctx_;
  std::unique_ptr<ModelState> state_;
  std::vector<float> images_;
  std::vector<int32_t> labels_;
};

// Builds a graph of random nodes on random earlier values; what nobody reads goes into the last
// layers.
class RandomGraph {
 public:
  explicit RandomGraph(uint64_t seed)
      : random_(seed, "random graph"), g_("random", Side(), Side(), 3) {
    values_.push_back({g_.input(), 3, side_, true});
    AddConv(0);
    values_.erase(values_.begin());
    const int64_t steps = 4 + Below(13);
    for (int64_t i = 0; i < steps; ++i) AddNode();
  }

  Graph Build() {
    std::vector<NodeId> pooled;
    for (const Value& v : values_) {
      if (v.read) continue;
      NodeId x = v.id;
      if (Below(3) == 0) x = g_.Relu(Name("relu"), g_.BatchNorm2d(Name("bn"), x));
      pooled.push_back(g_.GlobalAvgPool2d(Name("gap"), x));
    }
    const NodeId top = pooled.size() == 1 ? pooled[0] : g_.Concat(Name("top"), pooled);
    auto graph = g_.Build(g_.Linear("fc", top, 7));
    CNN_CHECK(graph.ok(), graph.status().ToString());
    return *std::move(graph);
  }

 private:
  struct Value {
    NodeId id;
    int64_t channels;
    int64_t side;
    bool read = false;
  };

  int64_t Below(int64_t n) {
    return static_cast<int64_t>(random_.Below(next_++, static_cast<uint64_t>(n)));
  }
  int64_t Side() {
    if (side_ == 0) side_ = Below(3) == 0 ? 12 : 8;
    return side_;
  }
  std::string Name(const char* kind) { return absl::StrCat(kind, names_++); }

  void Push(NodeId id, int64_t channels, int64_t side) { values_.push_back({id, channels, side}); }
  void AddConv(size_t from) {
    Value& v = values_[from];
    v.read = true;
    const int64_t kernel = Below(2) == 0 ? 1 : 3;
    const int64_t stride = v.side > 4 && Below(6) == 0 ? 2 : 1;
    const int64_t channels = 8 * (1 + Below(5));
    Push(g_.Conv2d(Name("conv"), v.id, {channels, kernel, stride, kernel / 2}), channels,
         (v.side + kernel / 2 * 2 - kernel) / stride + 1);
  }
  void AddMany(bool add, const Value& like) {
    std::vector<size_t> chosen;
    int64_t channels = 0;
    for (size_t i = 0; i < values_.size() && chosen.size() < (add ? 3 : 4); ++i) {
      const Value& v = values_[i];
      if (v.side != like.side || (add && v.channels != like.channels) || Below(2) == 0) continue;
      chosen.push_back(i);
      channels += v.channels;
    }
    if (chosen.size() < 2 || channels > 200) return;
    std::vector<NodeId> inputs;
    for (const size_t i : chosen) {
      values_[i].read = true;
      inputs.push_back(values_[i].id);
    }
    if (!add) return Push(g_.Concat(Name("cat"), inputs), channels, like.side);
    NodeId sum = g_.Add(Name("add"), inputs);
    if (Below(2) == 0) sum = g_.Relu(Name("relu"), sum);
    Push(sum, like.channels, like.side);
  }
  void AddNode() {
    const auto recent = std::min<int64_t>(4, static_cast<int64_t>(values_.size()));
    const size_t from = values_.size() - 1 - static_cast<size_t>(Below(recent));
    const Value v = values_[from];
    const int64_t kind = Below(14);
    if (kind < 3) return AddConv(from);
    if (kind >= 10 && kind < 13) return AddMany(kind == 10, v);
    values_[from].read = true;
    if (kind < 7) {
      NodeId x = g_.BatchNorm2d(Name("bn"), v.id);
      if (Below(4) != 0) x = g_.Relu(Name("relu"), x);
      Push(x, v.channels, v.side);
    } else if (kind == 7) {
      Push(g_.Relu(Name("relu"), v.id), v.channels, v.side);
    } else if (kind == 8) {
      Push(g_.MaxPool2d(Name("pool"), v.id, {3, 1, 1}), v.channels, v.side);
    } else if (kind == 9 && v.side >= 4) {
      const Pool2dParams half{2, 2, 0};
      Push(Below(2) == 0 ? g_.MaxPool2d(Name("pool"), v.id, half)
                         : g_.AvgPool2d(Name("pool"), v.id, half),
           v.channels, v.side / 2);
    } else {
      Push(g_.Dropout(Name("drop"), v.id, 0.3), v.channels, v.side);
    }
  }

  RandomStream random_;
  uint64_t next_ = 0;
  int64_t side_ = 0;
  int names_ = 0;
  GraphBuilder g_;
  std::vector<Value> values_;
};

TEST(RandomGraphsTest, MatchTheReference) {
  int computed_again = 0;
  for (uint64_t seed = 1; seed <= 150; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    const Graph graph = RandomGraph(seed).Build();
    GraphCheck check(graph, seed);
    check.ExpectRight();
    computed_again += check.ExpectSameBitsUnderALimit();
    if (HasFailure()) return;  // its seed is enough
  }
  EXPECT_GE(computed_again, 100) << "of 150 graphs";
}

// What follows the first convolution, whose value is given.
template <class Rest>
void ExpectRight(const Rest& rest) {
  GraphBuilder g("once_wrong", 8, 8, 3);
  const NodeId x = g.Conv2d("stem", g.input(), {16, 3, 1, 1});
  auto graph = g.Build(g.Linear("fc", g.GlobalAvgPool2d("gap", rest(g, x)), 5));
  CNN_CHECK(graph.ok(), graph.status().ToString());
  GraphCheck check(*graph, 1);
  check.ExpectRight();
  check.ExpectSameBitsUnderALimit();
}

TEST(OnceWrongTest, BatchNormBehindBatchNorm) {
  ExpectRight([](GraphBuilder& g, NodeId x) {
    x = g.Relu("relu1", g.BatchNorm2d("bn1", x));
    return g.Relu("relu2", g.BatchNorm2d("bn2", x));
  });
}

TEST(OnceWrongTest, ReluOfAConcatenationWhoseInputsAreNeeded) {
  ExpectRight([](GraphBuilder& g, NodeId x) {
    return g.Relu("relu", g.Concat("cat", {x, g.Conv2d("conv", x, {8, 3, 1, 1})}));
  });
}

TEST(OnceWrongTest, SumOfABatchNormThatSharesItsInput) {
  ExpectRight([](GraphBuilder& g, NodeId x) {
    const NodeId other = g.Conv2d("other", g.BatchNorm2d("bn2", x), {16, 1});
    return g.Relu("relu", g.Add("add", {other, g.BatchNorm2d("bn1", x)}));
  });
}

TEST(OnceWrongTest, BatchNormReadBehindAConcatenationOfItsInput) {
  ExpectRight([](GraphBuilder& g, NodeId x) {
    const NodeId normed = g.Relu("relu", g.BatchNorm2d("bn", x));
    const NodeId other = g.Conv2d("other", g.input(), {8, 3, 1, 1});
    const NodeId cat = g.Relu("relu2", g.BatchNorm2d("bn2", g.Concat("cat", {x, other})));
    return g.Concat("top", {g.Conv2d("late", normed, {8, 1}), g.Conv2d("last", cat, {8, 1})});
  });
}

}  // namespace
}  // namespace classicnn
