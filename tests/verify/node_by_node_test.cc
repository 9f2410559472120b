// Plans of small graphs in every arrangement of batch norms, step by step and as a whole; and what
// spoils a plan, which the check must find.
#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/verify/model_checks.h"
#include "tests/verify/step_data.h"

namespace classicnn::verify {
namespace {

NodeId Conv(GraphBuilder& g, const std::string& name, NodeId x, int64_t channels, int64_t kernel,
            int64_t stride = 1) {
  return g.Conv2d(name, x, {channels, kernel, stride, /*padding=*/kernel / 2});
}
NodeId NormRelu(GraphBuilder& g, const std::string& name, NodeId x) {
  return g.Relu(name + ".relu", g.BatchNorm2d(name + ".norm", x));
}
NodeId ConvNormRelu(GraphBuilder& g, const std::string& name, NodeId x, int64_t channels,
                    int64_t kernel) {
  return NormRelu(g, name, Conv(g, name + ".conv", x, channels, kernel));
}
Graph Finish(GraphBuilder& g, NodeId x) {
  x = g.Linear("fc", g.GlobalAvgPool2d("gap", x), 5);
  absl::StatusOr<Graph> graph = g.Build(x);
  CNN_CHECK(graph.ok(), graph.status().ToString());
  return *std::move(graph);
}

Graph Residual() {
  GraphBuilder g("residual", 8, 8, 3);
  NodeId x = ConvNormRelu(g, "stem", g.input(), 19, 3);
  for (const int64_t stride : {1, 2}) {
    const std::string name = absl::StrCat("block", stride);
    const int64_t channels = stride == 1 ? 19 : 24;
    NodeId shortcut = x;
    if (stride == 2) {
      shortcut = g.BatchNorm2d(name + ".down.norm", Conv(g, name + ".down", x, channels, 1, 2));
    }
    NodeId y = NormRelu(g, name + ".a", Conv(g, name + ".a.conv", x, channels, 3, stride));
    y = g.BatchNorm2d(name + ".b.norm", Conv(g, name + ".b.conv", y, channels, 3));
    x = g.Relu(name + ".relu", g.Add(name + ".add", {y, shortcut}));
  }
  return Finish(g, x);
}

Graph Inception() {
  GraphBuilder g("inception", 9, 9, 3);
  NodeId x = ConvNormRelu(g, "stem", g.input(), 17, 3);
  for (const char* name : {"a", "b"}) {
    const std::string m = name;
    const NodeId b1 = ConvNormRelu(g, m + ".1", x, 5, 1);
    const NodeId b2 = ConvNormRelu(g, m + ".2.1", ConvNormRelu(g, m + ".2.0", x, 8, 1), 16, 3);
    const NodeId b3 = ConvNormRelu(g, m + ".3", g.MaxPool2d(m + ".pool", x, {3, 1, 1}), 7, 1);
    x = g.Concat(m, {b1, b2, b3});
    if (m == "a") x = g.MaxPool2d("pool", x, {3, 2, 1});
  }
  return Finish(g, x);
}

Graph Dense() {
  GraphBuilder g("dense", 8, 8, 3);
  NodeId x = Conv(g, "stem", g.input(), 10, 3);
  for (int block = 0; block < 2; ++block) {
    for (int layer = 0; layer < 3; ++layer) {
      const std::string name = absl::StrCat("dense", block, ".", layer);
      NodeId y = Conv(g, name + ".1.conv", NormRelu(g, name + ".0", x), 13, 1);
      y = Conv(g, name + ".2.conv", NormRelu(g, name + ".1", y), 6, 3);
      x = g.Concat(name + ".concat", {x, y});
    }
    if (block == 0) {
      x = Conv(g, "transition.conv", NormRelu(g, "transition", x), 11, 1);
      x = g.AvgPool2d("transition.pool", x, {2, 2, 0});
    }
  }
  return Finish(g, NormRelu(g, "last", x));
}

// Depthwise convolutions; norms without ReLU; readers that cannot activate what they load, or not
// mask what they write; norms of what no convolution computes.
Graph Odd() {
  GraphBuilder g("odd", 8, 8, 3);
  NodeId x = g.Relu("first.relu", g.BatchNorm2d("first.norm", g.input()));
  x = g.BatchNorm2d("a.norm", Conv(g, "a.conv", x, 9, 3));
  x = g.Conv2d("depthwise", x, {9, 3, 1, 1, /*groups=*/9});
  x = NormRelu(g, "b", x);
  const NodeId pooled = g.AvgPool2d("b.pool", x, {3, 1, 1});
  const NodeId read = Conv(g, "b.conv", x, 9, 1);
  x = g.Add("three", {pooled, read, x});
  x = NormRelu(g, "c", g.MaxPool2d("c.pool", x, {2, 2, 0}));
  const NodeId plain = Conv(g, "plain", x, 6, 1);
  x = g.Concat("mixed", {NormRelu(g, "d", Conv(g, "d.conv", x, 5, 3)), plain});
  x = Conv(g, "e.conv", x, 12, 1);
  const NodeId two = g.Add("two", {NormRelu(g, "e1", x), NormRelu(g, "e2", x)});
  x = g.Dropout("dropout", NormRelu(g, "f", g.Dropout("f.dropout", two, 0.3)), 0.3);
  return Finish(g, x);
}

ModelCase Case(Graph graph, uint64_t seed = 1) {
  return MakeGraphCase(std::move(graph), true, 3, seed);
}

class NodeByNodeTest : public testing::Test {
 protected:
  PlanOptions Options(bool fusion = true) const {
    PlanOptions options;
    options.batch = 3;
    options.fusion = fusion;
    options.num_threads = threads_.num_threads();
    return options;
  }
  Plan PlanOf(const ModelCase& c, const PlanOptions& options) const {
    absl::StatusOr<Plan> plan = MakePlan(c.graph, options);
    CNN_CHECK(plan.ok(), plan.status().ToString());
    return *std::move(plan);
  }
  OptimizedThreads threads_{2};
};

TEST_F(NodeByNodeTest, EveryArrangementOfBatchNorms) {
  std::set<StepKind> kinds;
  for (const auto& make : {Residual, Inception, Dense, Odd}) {
    for (const bool fusion : {true, false}) {
      const PlanOptions options = Options(fusion);
      int close = 0;
      for (uint64_t seed = 1; seed <= 4; ++seed) {
        const ModelCase c = Case(make(), seed);
        ReferenceModel<double> reference(c.graph, c.batch, true);
        const Arrays expected = RunReferenceModel(c, &reference);
        const std::string what =
            absl::StrCat(c.graph.model(), " seed ", seed, " fusion ", fusion ? "on" : "off");
        const Plan plan = PlanOf(c, options);
        for (const Step& s : plan.steps) kinds.insert(s.kind);
        const Row steps = CheckPlan(what, c, reference, plan, {}, "", threads_);
        EXPECT_EQ(steps.verdict, Verdict::kPass) << FormatTable({steps});
        EXPECT_EQ(steps.parts.size(), plan.steps.size());

        const Arrays actual = RunOptimizedModel(c, options, threads_);
        const auto compare = [&](const ModelBounds& bounds) {
          return CompareModel(what, "", c, actual, expected, bounds, {}, "");
        };
        const Row whole = compare(ModelBounds());
        EXPECT_EQ(whole.verdict, Verdict::kPass) << FormatTable({whole});
        ModelBounds tight;
        tight.gradient = tight.median = 1e-3;
        if (compare(tight).verdict == Verdict::kPass) ++close;
      }
      // So few values that rounding seldom flips a ReLU; where none flips, gradients are close.
      EXPECT_GE(close, 3) << make().model() << " fusion " << fusion;
    }
  }
  // These graphs need every kind of step that there is for batch norms.
  for (const StepKind kind : {StepKind::kBatchNorm2dForward, StepKind::kBatchNorm2dBackward,
                              StepKind::kBatchNorm2dFoldForward, StepKind::kBatchNorm2dFoldBackward,
                              StepKind::kStatistics, StepKind::kActivation,
                              StepKind::kGradientEpilogue, StepKind::kGradientPrologue}) {
    EXPECT_EQ(kinds.count(kind), 1u) << static_cast<int>(kind);
  }
}

TEST_F(NodeByNodeTest, NothingThatAStepWritesGoesUncompared) {
  for (const auto& make : {Residual, Inception, Dense, Odd}) {
    const ModelCase c = Case(make());
    ReferenceModel<double> reference(c.graph, c.batch, true);
    RunReferenceModel(c, &reference);
    const ReferenceOperands operands(c.graph, c.batch, reference);
    const Plan plan = PlanOf(c, Options());
    for (const Step& s : plan.steps) {
      const StepData data = MakeStepData(operands, s);
      std::set<const Operand*> written, compared, read;
      for (const Operand* o : WrittenOperands(s)) {
        if (o->role != Role::kArgmax) written.insert(o);
      }
      for (const StepData::Output& o : data.outputs) {
        compared.insert(o.operand);
        EXPECT_EQ(o.error, "") << s.name;
      }
      EXPECT_EQ(written, compared) << s.name;
      // All others are read, and what is added to.
      for (const StepData::Input& i : data.inputs) read.insert(i.operand);
      s.ForEachOperand([&](const Operand& o) {
        if (o.role == Role::kWorkspace || o.role == Role::kLabels || o.role == Role::kArgmax)
          return;
        EXPECT_TRUE(written.count(&o) + read.count(&o) > 0) << s.name;
      });
    }
  }
}

TEST_F(NodeByNodeTest, ZerosAreMistrusted) {
  const ModelCase c = Case(Residual());
  ReferenceModel<double> reference(c.graph, c.batch, true);
  RunReferenceModel(c, &reference);
  const std::vector<Node>& nodes = c.graph.nodes();
  const auto conv = std::find_if(nodes.begin(), nodes.end(),
                                 [](const Node& n) { return n.name == "block2.b.conv"; });
  const View<double> edge = reference.edge_gradient(static_cast<NodeId>(conv - nodes.begin()), 0);
  std::fill_n(edge.data, edge.size(), 0.0);
  const Row row = CheckPlan("plan", c, reference, PlanOf(c, Options()), {}, "", threads_);
  for (const Row& part : row.parts) {
    EXPECT_EQ(part.verdict, part.what == "plan: block2.b.conv backward_data" ? Verdict::kMistrusted
                                                                             : Verdict::kPass)
        << part.what;
  }
}

// Spoils one step of a plan: its row must fail, worst in this tensor (null: in any), and no other.
struct Spoil {
  const char* step;
  const char* tensor;
  std::function<void(Step*)> spoil;
};

class SpoiledPlanTest : public NodeByNodeTest {
 protected:
  void Check(Graph graph, const std::vector<Spoil>& spoils) {
    const ModelCase c = Case(std::move(graph));
    ReferenceModel<double> reference(c.graph, c.batch, true);
    RunReferenceModel(c, &reference);
    Plan plan = PlanOf(c, Options());
    std::map<std::string, const char*> expected;
    for (const Spoil& s : spoils) {
      const auto step = std::find_if(plan.steps.begin(), plan.steps.end(),
                                     [&](const Step& p) { return p.name == s.step; });
      ASSERT_NE(step, plan.steps.end()) << s.step;
      ASSERT_TRUE(expected.emplace(s.step, s.tensor).second) << s.step << " is spoiled twice";
      s.spoil(&*step);
    }
    const Row row = CheckPlan("plan", c, reference, plan, {}, "", threads_);
    for (const Row& part : row.parts) {
      const std::string name = part.what.substr(std::string("plan: ").size());
      const auto found = expected.find(name);
      EXPECT_EQ(part.verdict, found == expected.end() ? Verdict::kPass : Verdict::kFail)
          << name << ": " << part.tensor << " " << part.error << " " << part.detail;
      if (found == expected.end() || found->second == nullptr) continue;
      EXPECT_EQ(part.tensor, found->second) << name;
    }
  }
};

void SwapStatistics(Step* s) { std::swap(s->mean, s->var); }
void SwapActivation(Step* s) { std::swap(s->activations[0].scale, s->activations[0].shift); }
void SwapSums(Step* s) { std::swap(s->epilogues[0].sum_g, s->epilogues[0].sum_gx); }
void NoMask(Step* s) { s->epilogues[0].relu = false; }

TEST_F(SpoiledPlanTest, ResidualBlocks) {
  Check(Residual(),
        {{"stem.conv forward", nullptr, SwapStatistics},
         {"block1.b.conv forward", nullptr, SwapActivation},
         {"block2.b.conv forward", nullptr, [](Step* s) { s->activations[0].relu = false; }},
         {"block1.add forward", "output", [](Step* s) { s->activations[0].relu = true; }},
         {"block1.a.norm fold", nullptr, [](Step* s) { s->mean = s->var; }},
         {"block2.a.norm fold", nullptr, SwapActivation},
         {"block2.add backward", "sum_gx",
          [](Step* s) { std::swap(s->epilogues[0].x, s->epilogues[1].x); }},
         {"block2.b.conv backward_data", nullptr, NoMask},
         {"block2.a.conv backward_weights", "grad.block2.a.conv.weight",
          [](Step* s) { std::swap(s->gradient.slope, s->gradient.offset); }},
         {"block2.down backward_weights", "grad.block2.down.weight",
          [](Step* s) { s->gradient.gain = s->gradient.slope; }},
         {"block2.down backward_data", "output", [](Step* s) { s->gradient.x = s->inputs[0]; }},
         {"block2.a.norm fold backward", nullptr, SwapSums},
         {"block1.b.conv backward_data", nullptr, SwapSums}});
}

TEST_F(SpoiledPlanTest, Concatenations) {
  Check(
      Inception(),
      {{"a.1.conv forward", nullptr, SwapActivation},
       {"a.3.conv forward", nullptr, SwapStatistics},
       {"a.2.0.norm fold", nullptr, [](Step* s) { s->activations[0].scale = s->var; }},
       {"pool forward", "output", [](Step* s) { s->activations[0].relu = false; }},
       {"gap forward", "output", SwapActivation},
       {"gap backward", "sum_gx", [](Step* s) { s->epilogues[0].mean = s->epilogues[0].shift; }},
       {"pool backward", nullptr, NoMask},
       {"a.1.conv backward_data", nullptr, SwapSums},
       {"a.2.1.conv backward_data", nullptr,
        [](Step* s) { s->epilogues[0].scale = s->epilogues[0].mean; }},
       {"b.2.1.conv backward_data", "sum_g", [](Step* s) { s->epilogues[0].sum_g.node = s->node; }},
       {"b.3.conv backward_weights", "grad.b.3.conv.weight",
        [](Step* s) { s->gradient.offset = s->gradient.gain; }}});
}

TEST_F(SpoiledPlanTest, DenseBlocks) {
  Check(Dense(),
        {{"dense0.1.2.conv forward", nullptr, SwapStatistics},
         {"dense0.2.1.conv forward", nullptr, [](Step* s) { s->activations[0].relu = false; }},
         {"transition.pool forward", nullptr, SwapStatistics},
         {"dense0.2.0.norm fold", nullptr, [](Step* s) { std::swap(s->mean, s->var); }},
         {"dense0.2.1.conv backward_data", "output",
          [](Step* s) { s->epilogues[0].gain = s->epilogues[0].shift; }},
         {"dense0.1.1.conv backward_data", nullptr, NoMask},
         {"dense0.1.2.conv backward_data", nullptr, SwapSums},
         {"dense0.1.0.norm fold backward", nullptr,
          [](Step* s) { std::swap(s->gradient.slope, s->gradient.offset); }},
         {"dense0.0.0.norm fold backward", nullptr, [](Step* s) { s->var = s->epilogues[0].mean; }},
         {"transition.pool backward", "output",
          [](Step* s) { std::swap(s->gradient.slope, s->gradient.offset); }},
         {"stem backward_weights", "grad.stem.weight",
          [](Step* s) { s->gradient.x = s->inputs[0]; }}});
}

}  // namespace
}  // namespace classicnn::verify
