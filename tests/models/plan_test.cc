// Plans: nothing that lives at the same time overlaps, memory is near the least, sharing is right.
#include "models/plan.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/model.h"
#include "models/placement.h"

namespace classicnn {
namespace {

using ::testing::HasSubstr;

Plan PlanFor(const std::string& model, const PlanOptions& options) {
  const auto graph = BuildModel(model);
  EXPECT_TRUE(graph.ok());
  auto plan = MakePlan(*graph, options);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return *std::move(plan);
}

std::vector<PlanOptions> Variants() {
  std::vector<PlanOptions> variants;
  for (const bool fusion : {true, false}) {
    for (const Update update : {Update::kNone, Update::kFused, Update::kAfterBackward}) {
      PlanOptions o;
      o.batch = 8;
      o.fusion = fusion;
      o.update = update;
      o.num_threads = 3;
      variants.push_back(o);
    }
  }
  PlanOptions inference;
  inference.batch = 5;
  inference.training = inference.loss = inference.backward = false;
  inference.update = Update::kNone;
  variants.push_back(inference);
  return variants;
}

// What a step reads and writes, counted by hand for steps that do little else.
TEST(PlanTest, BytesAreThoseOfTheTensors) {
  PlanOptions options;
  options.batch = 8;
  options.fusion = false;
  options.update = Update::kAfterBackward;
  const auto graph = BuildModel("resnet18");
  ASSERT_TRUE(graph.ok());
  const auto plan = MakePlan(*graph, options);
  ASSERT_TRUE(plan.ok());
  int64_t relus = 0, adds = 0, updates = 0, convolutions = 0;
  for (const Step& step : plan->steps) {
    SCOPED_TRACE(step.name);
    if (step.kind == StepKind::kUpdateParameter) {
      const int64_t count =
          graph->parameters()[static_cast<size_t>(step.parameter_gradients[0].index)].count();
      EXPECT_EQ(step.bytes, 5 * 4 * count) << "gradient; weight and momentum, in and out";
      ++updates;
    }
    if (step.node == kNoNode) continue;
    const int64_t tensor = 4 * graph->shape(step.node, options.batch).size();
    if (step.kind == StepKind::kReluForward) {
      EXPECT_EQ(step.bytes, 2 * tensor);
      ++relus;
    } else if (step.kind == StepKind::kAddForward) {
      EXPECT_EQ(step.bytes, 3 * tensor);
      ++adds;
    } else if (step.kind == StepKind::kConv2dForward) {
      const Node& node = graph->node(step.node);
      EXPECT_EQ(step.bytes,
                tensor + 4 * graph->shape(node.inputs[0], options.batch).size() +
                    4 * graph->parameters()[static_cast<size_t>(node.parameters[0])].count());
      ++convolutions;
    }
  }
  EXPECT_EQ(updates, 62);
  EXPECT_EQ(convolutions, 20);
  EXPECT_EQ(adds, 8);
  EXPECT_GT(relus, 0);
}

TEST(PlanTest, LiveBuffersNeverOverlap) {
  for (const std::string& model : ModelNames()) {
    for (const PlanOptions& options : Variants()) {
      SCOPED_TRACE(model);
      const Plan plan = PlanFor(model, options);
      for (size_t i = 0; i < plan.buffers.size(); ++i) {
        const BufferLifetime& a = plan.buffers[i];
        EXPECT_EQ(a.offset % 64, 0);
        EXPECT_LE(a.offset + a.bytes, plan.arena_bytes);
        for (size_t j = i + 1; j < plan.buffers.size(); ++j) {
          const BufferLifetime& b = plan.buffers[j];
          const bool same_time = a.first <= b.last && b.first <= a.last;
          const bool same_place = a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
          ASSERT_FALSE(same_time && same_place) << a.name << " and " << b.name;
        }
      }
    }
  }
}

TEST(PlanTest, OperandsLieInsideLiveBuffers) {
  for (const std::string& model : ModelNames()) {
    for (const PlanOptions& options : Variants()) {
      SCOPED_TRACE(model);
      const Plan plan = PlanFor(model, options);
      for (size_t i = 0; i < plan.steps.size(); ++i) {
        const Step& step = plan.steps[i];
        step.ForEachOperand([&](const Operand& o) {
          const BufferLifetime& b = plan.buffers[static_cast<size_t>(o.buffer)];
          const int64_t extent = o.shape.size() > 0
                                     ? ((o.shape.pixels() - 1) * o.pixel_stride + o.shape.c) *
                                           static_cast<int64_t>(sizeof(float))
                                     : o.bytes;
          EXPECT_GE(o.offset, b.offset) << step.name;
          EXPECT_LE(o.offset + extent, b.offset + b.bytes) << step.name << " in " << b.name;
          EXPECT_LE(b.first, static_cast<int>(i)) << step.name;
          EXPECT_GE(b.last, static_cast<int>(i)) << step.name;
        });
      }
    }
  }
}

TEST(PlanTest, PixelsDoNotCollideInACache) {
  for (const std::string& model : ModelNames()) {
    for (const PlanOptions& options : Variants()) {
      for (const Step& step : PlanFor(model, options).steps) {
        step.ForEachOperand([&](const Operand& o) {
          if (o.shape.h * o.shape.w <= 1) return;
          EXPECT_NE(o.pixel_stride % 256, 0) << model << " " << step.name;
          EXPECT_LE(o.pixel_stride - 16, std::max<int64_t>(o.shape.c, 1024)) << step.name;
        });
      }
    }
  }
}

TEST(PlanTest, MemoryIsNearTheLargestLiveSet) {
  for (const std::string& model : ModelNames()) {
    PlanOptions options;
    options.batch = 64;
    options.num_threads = 2;
    const Plan plan = PlanFor(model, options);
    EXPECT_GE(plan.arena_bytes, plan.lower_bound_bytes) << model;
    EXPECT_LE(static_cast<double>(plan.arena_bytes),
              1.05 * static_cast<double>(plan.lower_bound_bytes))
        << model;
    EXPECT_EQ(Total(plan.bytes), plan.arena_bytes) << model;
    RecordProperty(model, std::to_string(plan.arena_bytes));
  }
}

TEST(PlanTest, ConcatenationIsFree) {
  for (const char* model : {"googlenet", "densenet121"}) {
    PlanOptions options;
    options.batch = 2;
    const Plan plan = PlanFor(model, options);
    for (const Step& step : plan.steps) {
      EXPECT_NE(step.kind, StepKind::kConcatForward) << step.name;
      EXPECT_NE(step.kind, StepKind::kConcatBackward) << step.name;
    }
  }
}

TEST(PlanTest, ConcatenationOfSharedInputsIsCopied) {
  // b is read twice by one concatenation and again after it: neither can be a slice.
  GraphBuilder g("net", 4, 4, 3);
  const NodeId a = g.Conv2d("a", g.input(), {4});
  const NodeId twice = g.Concat("twice", {a, a});
  const NodeId later = g.Conv2d("later", a, {8});
  const NodeId sum = g.Add("sum", {twice, later});
  const auto graph = g.Build(g.Linear("fc", g.GlobalAvgPool2d("pool", sum), 3));
  ASSERT_TRUE(graph.ok()) << graph.status();
  PlanOptions options;
  options.batch = 2;
  const auto plan = MakePlan(*graph, options);
  ASSERT_TRUE(plan.ok()) << plan.status();
  int forward = 0, backward = 0;
  for (const Step& step : plan->steps) {
    forward += step.kind == StepKind::kConcatForward;
    backward += step.kind == StepKind::kConcatBackward;
  }
  EXPECT_EQ(forward, 1);
  EXPECT_EQ(backward, 2);
}

TEST(PlanTest, BatchNormsCostNoPass) {
  for (const std::string& model : ModelNames()) {
    PlanOptions options;
    options.batch = 64;
    const Plan fused = PlanFor(model, options);
    for (const Step& step : fused.steps) {
      switch (step.kind) {
        case StepKind::kBatchNorm2dForward:
        case StepKind::kBatchNorm2dBackward:
        case StepKind::kReluForward:
        case StepKind::kReluBackward:
        case StepKind::kActivation:
        case StepKind::kStatistics:
        case StepKind::kGradientEpilogue:
        case StepKind::kGradientPrologue:
          // vgg16 has one ReLU without a batch norm; resnet18's first value is added to another.
          EXPECT_TRUE(absl::StartsWith(step.name, "classifier.1 ") ||
                      (model == "resnet18" && absl::StartsWith(step.name, "bn1 ")))
              << model << ": " << step.name;
          break;
        default:
          break;
      }
    }
    options.fusion = false;
    EXPECT_LT(static_cast<double>(fused.arena_bytes),
              0.85 * static_cast<double>(PlanFor(model, options).arena_bytes))
        << model;
  }
}

TEST(PlanTest, FusedUpdateKeepsNoGradients) {
  PlanOptions options;
  options.batch = 4;
  const Plan fused = PlanFor("vgg16", options);
  options.update = Update::kAfterBackward;
  const Plan after = PlanFor("vgg16", options);
  const auto graph = BuildModel("vgg16");
  EXPECT_GE(At(after.bytes, MemoryCategory::kGradients), 4 * graph->parameter_count());
  EXPECT_LT(At(fused.bytes, MemoryCategory::kGradients), 2 * graph->parameter_count());
  int updates = 0;
  for (const Step& step : fused.steps) updates += UpdatedParameter(*graph, step) >= 0;
  EXPECT_EQ(updates, static_cast<int>(graph->parameters().size()));
  updates = 0;
  for (const Step& step : after.steps) updates += UpdatedParameter(*graph, step) >= 0;
  EXPECT_EQ(updates, static_cast<int>(graph->parameters().size()));
}

TEST(PlanTest, MacsAreThreeTimesForwardWithoutTheFirstLayersDataGradient) {
  PlanOptions options;
  options.batch = 3;
  for (const std::string& model : ModelNames()) {
    const auto graph = BuildModel(model);
    ASSERT_TRUE(graph.ok());
    const Plan plan = PlanFor(model, options);
    int64_t first = 0;
    for (const Node& node : graph->nodes()) {
      if (node.op == Op::kConv2d && node.inputs[0] == graph->input()) {
        first = graph->conv2d_shape(graph->readers(graph->input())[0], 3).macs();
      }
    }
    EXPECT_EQ(plan.macs(), 3 * 3 * graph->macs_per_image() - first) << model;
  }
}

TEST(PlanTest, LimitsCostTheLeastTheyCan) {
  // A dense net's convolutions of one pixel make most of its activations and are quickly run again.
  PlanOptions options;
  options.batch = 64;
  options.num_threads = 2;
  const Plan free = PlanFor("densenet121", options);
  EXPECT_EQ(free.recomputed_macs(), 0);
  int64_t last = 0;
  for (const int64_t percent : {75, 50, 43}) {
    options.memory_limit = free.arena_bytes * percent / 100;
    const Plan plan = PlanFor("densenet121", options);
    EXPECT_LE(plan.arena_bytes, options.memory_limit);
    EXPECT_EQ(plan.macs(), free.macs());
    EXPECT_EQ(plan.executed_macs(), free.executed_macs() + plan.recomputed_macs());
    EXPECT_GT(plan.recomputed_macs(), last);
    EXPECT_LT(plan.recomputed_macs(), free.executed_macs() * 15 / 100) << percent;
    last = plan.recomputed_macs();
  }
}

TEST(PlanTest, AlgorithmsOfAnotherBatch) {
  for (const std::string& model : ModelNames()) {
    const Graph graph = *BuildModel(model);
    PlanOptions options;
    options.batch = 64;
    const auto large = MakePlan(graph, options);
    options.batch = 2;
    const auto small = MakePlan(graph, options);
    options.algorithm_batch = 64;
    const auto as_large = MakePlan(graph, options);
    ASSERT_TRUE(large.ok() && small.ok() && as_large.ok());
    const auto algorithms = [](const Plan& plan) {
      std::map<std::string, Conv2dAlgorithm> by_step;
      for (const Step& step : plan.steps) {
        if (step.executed_macs > 0) by_step[step.name] = step.algorithm;
      }
      return by_step;
    };
    EXPECT_NE(algorithms(*small), algorithms(*large)) << model;
    EXPECT_EQ(algorithms(*as_large), algorithms(*large)) << model;
  }
}

TEST(PlanTest, BadInput) {
  const auto graph = BuildModel("resnet18");
  ASSERT_TRUE(graph.ok());
  PlanOptions options;
  options.batch = 0;
  EXPECT_THAT(std::string(MakePlan(*graph, options).status().message()), HasSubstr("batch 0"));

  // The least limit that the error names is enough, and no less is.
  options.batch = 64;
  options.memory_limit = 1 << 20;
  const auto limited = MakePlan(*graph, options, /*state_bytes=*/1000);
  EXPECT_TRUE(absl::IsResourceExhausted(limited.status()));
  const std::string message(limited.status().message());
  const auto found = message.find("needs at least ");
  ASSERT_NE(found, std::string::npos) << message;
  options.memory_limit = std::stoll(message.substr(found + std::strlen("needs at least ")));
  EXPECT_TRUE(MakePlan(*graph, options, /*state_bytes=*/1000).ok());
  EXPECT_FALSE(MakePlan(*graph, options, /*state_bytes=*/1001).ok());
  const auto least = LeastPlanBytes(*graph, options, /*state_bytes=*/1000);
  ASSERT_TRUE(least.ok()) << least.status();
  EXPECT_EQ(*least, options.memory_limit);
  options.batch = 0;
  EXPECT_THAT(std::string(LeastPlanBytes(*graph, options).status().message()),
              HasSubstr("batch 0"));

  ModelOptions one_pixel;
  one_pixel.image_h = one_pixel.image_w = 1;
  const auto tiny = BuildModel("resnet18", one_pixel);
  ASSERT_TRUE(tiny.ok());
  options = {};
  options.batch = 1;
  EXPECT_THAT(std::string(MakePlan(*tiny, options).status().message()), HasSubstr("bn1"));
}

TEST(PlacementTest, FillsGapsByLifetime) {
  // a and c live together, b after a: b takes a's place.
  std::vector<BufferLifetime> buffers(3);
  buffers[0].bytes = 640;
  buffers[0].first = 0;
  buffers[0].last = 1;
  buffers[1].bytes = 600;
  buffers[1].first = 2;
  buffers[1].last = 3;
  buffers[2].bytes = 64;
  buffers[2].first = 0;
  buffers[2].last = 3;
  EXPECT_EQ(PlaceBuffers(&buffers), 704);
  EXPECT_EQ(buffers[0].offset, buffers[1].offset);
  EXPECT_EQ(buffers[2].offset, 640);
}

}  // namespace
}  // namespace classicnn
