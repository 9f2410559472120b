#include "benches/comparison.h"

#include <string>
#include <utility>
#include <vector>

#include "benches/layer_selection.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace classicnn {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

ComparisonRow Row(LayerKind kind, const char* shape, LayerPass pass, double seconds,
                  double peer_seconds, std::vector<LayerUse> uses = {}) {
  ComparisonRow row;
  auto parsed = LayerShape::Parse(kind, shape);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  row.shape = parsed.value_or(LayerShape());
  row.pass = pass;
  row.seconds = seconds;
  row.peer_seconds = peer_seconds;
  row.uses = std::move(uses);
  row.label = "ours avx3";
  row.peer_label = "theirs";
  row.executed_macs = row.shape.macs();
  return row;
}

ComparisonRow Conv(const char* shape, LayerPass pass, double seconds, double peer_seconds,
                   std::vector<LayerUse> uses = {}) {
  return Row(LayerKind::kConv2d, shape, pass, seconds, peer_seconds, std::move(uses));
}

const ComparisonGroup& Find(const std::vector<ComparisonGroup>& groups, const std::string& name,
                            const std::string& pass) {
  for (const ComparisonGroup& group : groups) {
    if (group.name == name && group.pass == pass) return group;
  }
  ADD_FAILURE() << name << ", " << pass;
  static const ComparisonGroup none;
  return none;
}

constexpr char kMain[] = "conv2d 3x3 stride 1, 32+ channels, 4x4+";

TEST(CompareGroups, GeometricMeansAndLeastRatiosByPassAndOverThem) {
  // Ratios 2 and 8 forward, 4 backward.
  const std::vector<ComparisonRow> rows = {
      Conv("n1c32h4w4k32r3s1p1", LayerPass::kForward, 1, 2),
      Conv("n1c64h8w8k32r3s1p1", LayerPass::kForward, 0.5, 4),
      Conv("n1c32h4w4k32r3s1p1", LayerPass::kBackwardWeights, 3, 12)};
  const auto groups = CompareGroups(rows);
  ASSERT_EQ(groups.size(), 3u) << "no total of all convolutions: it would be the same";
  EXPECT_EQ(groups[0].pass, "forward");
  EXPECT_EQ(groups[0].count, 2);
  EXPECT_NEAR(groups[0].geometric_mean, 4, 1e-12);
  EXPECT_NEAR(groups[0].least, 2, 1e-12);
  EXPECT_EQ(groups[0].least_at, "n1c32h4w4k32r3s1p1 forward");
  EXPECT_EQ(groups[1].pass, "backward_weights");
  EXPECT_NEAR(groups[1].geometric_mean, 4, 1e-12);
  EXPECT_EQ(groups[2].pass, "all passes");
  EXPECT_EQ(groups[2].count, 3);
  EXPECT_NEAR(groups[2].geometric_mean, 4, 1e-12);
  EXPECT_NEAR(groups[2].least, 2, 1e-12);
}

TEST(CompareGroups, EachKindOfLayerHasItsOwn) {
  const LayerPass forward = LayerPass::kForward;
  const std::vector<std::pair<const char*, const char*>> kinds = {
      {"n1c32h4w4k32r3s1p1", kMain},
      {"n1c31h4w4k32r3s1p1", "conv2d other 3x3"},
      {"n1c32h4w4k16r3s1p1", "conv2d other 3x3"},
      {"n1c32h3w4k32r3s1p1", "conv2d other 3x3"},
      {"n1c32h4w4k32r3s2p1", "conv2d other 3x3"},
      {"n1c32h4w4k32r1s1p0", "conv2d pointwise"},
      {"n1c32h4w4k32r1s2p0", "conv2d pointwise"},
      {"n1c32h8w8k32r5s1p2", "conv2d 5x5"},
      {"n1c32h8w8k32r3s1p1g32", "conv2d depthwise"},
      {"n1c32h8w8k32r3s1p1g2", "conv2d other"},
      {"n1c32h8w8k32r7s1p3", "conv2d other"},
      {"n1c1h8w8k1r3s1p1", "conv2d other 3x3"}};
  for (const auto& [shape, name] : kinds) {
    const auto groups = CompareGroups({Conv(shape, forward, 1, 3)});
    ASSERT_EQ(groups.size(), 1u) << shape;
    EXPECT_EQ(groups[0].name, name) << shape;
  }
  const auto groups = CompareGroups({Row(LayerKind::kAdd, "n1c4h4w4", LayerPass::kBackward, 1, 5),
                                     Row(LayerKind::kBatchNorm2d, "n1c4h4w4m0", forward, 1, 3),
                                     Row(LayerKind::kBatchNorm2d, "n1c4h4w4m1", forward, 1, 2),
                                     Conv("n1c32h8w8k32r5s1p2", forward, 1, 9),
                                     Conv("n1c8h4w4k8r1s1p0", forward, 1, 4)});
  std::vector<std::string> names;
  for (const ComparisonGroup& group : groups) names.push_back(group.name);
  EXPECT_THAT(names,
              testing::ElementsAre("conv2d pointwise", "conv2d 5x5", "conv2d, all",
                                   "batch_norm2d training", "batch_norm2d inference", "add"));
  EXPECT_NEAR(Find(groups, "conv2d, all", "forward").geometric_mean, 6, 1e-12);
  EXPECT_NEAR(Find(groups, "add", "backward").geometric_mean, 5, 1e-12);
}

TEST(CompareGroups, WhatWasNotMeasuredIsInNoMean) {
  ComparisonRow wrong = Conv("n1c32h4w4k32r3s1p1", LayerPass::kForward, 0, 0);
  wrong.error = "wrong result";
  EXPECT_TRUE(CompareGroups({wrong}).empty());
  const auto groups = CompareGroups({wrong, Conv("n1c32h8w8k32r3s1p1", LayerPass::kForward, 1, 3)});
  ASSERT_EQ(groups.size(), 1u);
  EXPECT_EQ(groups[0].count, 1);
  EXPECT_NEAR(groups[0].geometric_mean, 3, 1e-12);
}

// A stem whose input needs no gradient, and a layer that resnet18 has three times, vgg16 once.
std::vector<ComparisonRow> ModelRows() {
  const std::vector<LayerUse> stem = {{"resnet18", 1, 0}};
  const std::vector<LayerUse> block = {{"vgg16", 1, 1}, {"resnet18", 3, 3}};
  return {Conv("n1c3h8w8k32r3s1p1", LayerPass::kForward, 1e-3, 2e-3, stem),
          Conv("n1c3h8w8k32r3s1p1", LayerPass::kBackwardData, 100, 100, stem),
          Conv("n1c32h8w8k32r3s1p1", LayerPass::kForward, 2e-3, 16e-3, block),
          Conv("n1c32h8w8k32r3s1p1", LayerPass::kBackwardData, 4e-3, 4e-3, block),
          Row(LayerKind::kRelu, "n1c32h8w8", LayerPass::kForward, 1, 7, {{"resnet18", 9, 9}})};
}

TEST(CompareModels, SumsAreWeightedMeansAreNot) {
  const auto models = CompareModels(ModelRows());
  ASSERT_EQ(models.size(), 7u);  // vgg16 and resnet18: two passes and all; relu of resnet18
  EXPECT_EQ(models[0].model, "vgg16");
  EXPECT_NEAR(models[0].geometric_mean, 8, 1e-12);
  EXPECT_NEAR(models[2].seconds, 6e-3, 1e-15);

  EXPECT_EQ(models[3].model, "resnet18");
  EXPECT_EQ(models[3].what, "forward");
  EXPECT_EQ(models[3].count, 2);
  EXPECT_NEAR(models[3].geometric_mean, 4, 1e-12);
  EXPECT_NEAR(models[3].least, 2, 1e-12);
  EXPECT_EQ(models[3].least_at, "n1c3h8w8k32r3s1p1 forward");
  EXPECT_EQ(models[3].calls, 4);
  EXPECT_EQ(models[3].calls_in_model, 4);
  EXPECT_NEAR(models[3].seconds, 7e-3, 1e-15);
  EXPECT_NEAR(models[3].peer_seconds, 50e-3, 1e-15);

  EXPECT_EQ(models[4].what, "backward_data");
  EXPECT_EQ(models[4].count, 1) << "a stem has none";
  EXPECT_EQ(models[4].calls, 3);
  EXPECT_NEAR(models[4].seconds, 12e-3, 1e-15);

  EXPECT_EQ(models[5].what, "all passes");
  EXPECT_EQ(models[5].count, 3);
  EXPECT_NEAR(models[5].geometric_mean, 2.5198420997897464, 1e-12);  // the cube root of 16
  EXPECT_NEAR(models[5].seconds, 19e-3, 1e-15);
  EXPECT_NEAR(models[5].peer_seconds, 62e-3, 1e-15);

  EXPECT_EQ(models[6].what, "other layers");
  EXPECT_NEAR(models[6].geometric_mean, 7, 1e-12);
  EXPECT_EQ(models[6].calls, 0);
}

TEST(CompareModels, ASumSaysWhatItLacks) {
  std::vector<ComparisonRow> rows = ModelRows();
  rows[2].seconds = rows[2].peer_seconds = 0;
  for (const ModelComparison& model : CompareModels(rows)) {
    if (model.model != "resnet18" || model.what != "forward") continue;
    EXPECT_EQ(model.calls, 1);
    EXPECT_EQ(model.calls_in_model, 4);
    EXPECT_NEAR(model.seconds, 1e-3, 1e-15);
  }
  EXPECT_TRUE(CompareModels({Conv("n1c3h8w8k32r3s1p1", LayerPass::kForward, 1, 1)}).empty());
}

TEST(FormatComparison, HasRatesRatiosAndErrors) {
  Comparison comparison;
  comparison.peer = "onednn";
  comparison.num_threads = 3;
  comparison.fma_flops = 4e9;
  comparison.copy_bytes_per_second = 1e12;
  // 2 * 8 * 8 * 32 * 32 * 9 = 1,179,648 operations.
  comparison.rows = {Conv("n1c32h8w8k32r3s1p1", LayerPass::kForward, 1179.648e-6, 2359.296e-6),
                     Row(LayerKind::kRelu, "n1c250h10w10", LayerPass::kForward, 1e-4, 2e-4),
                     Conv("n1c8h8w8k8r3s1p1", LayerPass::kForward, 0, 0),
                     Conv("n1c9h9w9k9r3s1p1", LayerPass::kForward, 0, 0)};
  comparison.rows[2].error = "wrong result: y differs";  // the last was left out
  const std::string text = FormatComparison(comparison);
  EXPECT_THAT(text, HasSubstr("Ours against onednn, threads: 3, peaks: 4.0 GFLOP/s"));
  EXPECT_THAT(text, testing::ContainsRegex("conv2d_forward +n1c32h8w8k32r3s1p1 +1179.6 +2359.3 "
                                           "+1.0 +0.5 GFLOP/s +2.00 +25%  ours avx3 / theirs\n"));
  EXPECT_THAT(text,
              testing::ContainsRegex("relu_forward +n1c250h10w10 +100.0 +200.0 +2.0 +1.0 GB/s "
                                     "+2.00 +0%"));
  EXPECT_THAT(text,
              testing::ContainsRegex("conv2d_forward +n1c8h8w8k8r3s1p1 +wrong result: y dif"));
  EXPECT_THAT(text, Not(HasSubstr("n1c9h9w9")));
  EXPECT_THAT(text, Not(HasSubstr("sum ms"))) << "none of these are of a model";

  const nlohmann::json json = comparison;
  ASSERT_EQ(json.at("rows").size(), 3u);
  EXPECT_NEAR(json.at("rows")[0].at("ratio"), 2, 1e-12);
  EXPECT_NEAR(json.at("rows")[0].at("roofline_fraction"), 0.25, 1e-12);
  EXPECT_EQ(json.at("rows")[2].at("error"), "wrong result: y differs");
  EXPECT_FALSE(json.at("rows")[2].contains("ratio"));
  EXPECT_EQ(json.at("groups").size(), 2u);
  EXPECT_EQ(json.at("groups")[0].at("name"), kMain);

  comparison.rows = ModelRows();
  EXPECT_THAT(FormatComparison(comparison),
              testing::ContainsRegex("resnet18 +forward +2 +4.00 +2.00 +4/4 +7.00 +50.00 +7.14"));
}

TEST(SelectLayerShapes, ModelShapesKeepTheirUses) {
  const auto shapes = SelectLayerShapes("n2c3h8w8k8r3s1p1,models,n64c3h32w32k64r3s1p1", {"conv2d"},
                                        64, ModelOptions());
  ASSERT_TRUE(shapes.ok()) << shapes.status();
  EXPECT_EQ(shapes->size(), 145u);
  EXPECT_TRUE(shapes->front().uses.empty());
  int resnet_convolutions = 0;
  for (const ModelLayerShape& entry : *shapes) {
    for (const LayerUse& use : entry.uses) {
      if (use.model == "resnet18") resnet_convolutions += use.count;
    }
  }
  EXPECT_EQ(resnet_convolutions, 20);
  EXPECT_FALSE(SelectLayerShapes("n2c3h8w8", {"conv2d"}, 64, ModelOptions()).ok());
}

}  // namespace
}  // namespace classicnn
