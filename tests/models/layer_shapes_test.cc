#include "models/layer_shapes.h"

#include <map>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace classicnn {
namespace {

using ::testing::HasSubstr;

TEST(LayerShapes, EveryShapeIsThereOnceAndEveryLayerIsCounted) {
  struct Expected {
    int convolutions, distinct_convolutions, linears, batch_norms;
  };
  // Convolutions and weighted layers as published; the distinct shapes counted by hand.
  const std::map<std::string, Expected> expected = {{"vgg16", {13, 9, 2, 13}},
                                                    {"resnet18", {20, 11, 1, 20}},
                                                    {"googlenet", {57, 49, 1, 57}},
                                                    {"mobilenetv1", {27, 19, 1, 27}},
                                                    {"densenet121", {120, 66, 1, 120}}};
  for (const auto& [model, e] : expected) {
    SCOPED_TRACE(model);
    const auto graph = BuildModel(model);
    ASSERT_TRUE(graph.ok()) << graph.status();
    std::map<LayerKind, int> uses;
    std::map<LayerKind, int> distinct;
    std::set<std::string> names;
    int64_t macs = 0;
    for (const ModelLayerShape& entry : GraphLayerShapes(*graph, 64)) {
      const LayerKind kind = entry.shape.kind;
      EXPECT_TRUE(names.insert(std::string(LayerKindName(kind)) + entry.shape.ToString()).second);
      EXPECT_EQ(entry.shape.batch(), 64);
      ASSERT_EQ(entry.uses.size(), 1u);
      EXPECT_EQ(entry.uses[0].model, model);
      uses[kind] += entry.uses[0].count;
      distinct[kind] += 1;
      macs += entry.uses[0].count * entry.shape.macs();
    }
    EXPECT_EQ(uses[LayerKind::kConv2d], e.convolutions);
    EXPECT_EQ(distinct[LayerKind::kConv2d], e.distinct_convolutions);
    EXPECT_EQ(uses[LayerKind::kLinear], e.linears);
    EXPECT_EQ(uses[LayerKind::kBatchNorm2d], 2 * e.batch_norms);  // both modes
    EXPECT_EQ(uses[LayerKind::kCrossEntropy], 1);
    EXPECT_EQ(macs, 64 * graph->macs_per_image());
  }
}

TEST(LayerShapes, AllModelsTogetherShareShapes) {
  const auto all = ModelLayerShapes(ModelNames(), 64);
  ASSERT_TRUE(all.ok()) << all.status();
  int convolutions = 0;
  for (const ModelLayerShape& entry : *all) {
    if (entry.shape.kind != LayerKind::kConv2d) continue;
    ++convolutions;
    if (entry.shape.ToString() == "n64c3h32w32k64r3s1p1") {
      // The stem of all but MobileNet; a first convolution needs no gradient of its input.
      ASSERT_EQ(entry.uses.size(), 4u);
      for (const LayerUse& use : entry.uses) {
        EXPECT_EQ(use.count, 1);
        EXPECT_EQ(use.with_input_gradient, 0);
      }
    }
    if (entry.shape.ToString() == "n64c64h32w32k64r3s1p1") {
      ASSERT_EQ(entry.uses.size(), 2u);
      EXPECT_EQ(entry.uses[0].model, "vgg16");
      EXPECT_EQ(entry.uses[1].model, "resnet18");
      EXPECT_EQ(entry.uses[1].count, 4);
      EXPECT_EQ(entry.uses[1].with_input_gradient, 4);
    }
  }
  EXPECT_EQ(convolutions, 144);
}

TEST(LayerShapes, FollowsImageSizeClassesAndBatch) {
  ModelOptions options;
  options.image_h = options.image_w = 64;
  options.num_classes = 100;
  const auto shapes = ModelLayerShapes({"resnet18"}, 7, options);
  ASSERT_TRUE(shapes.ok()) << shapes.status();
  std::set<std::string> names;
  for (const ModelLayerShape& entry : *shapes) {
    names.insert(std::string(LayerKindName(entry.shape.kind)) + " " + entry.shape.ToString());
  }
  EXPECT_EQ(names.count("conv2d n7c3h64w64k64r3s1p1"), 1u);
  EXPECT_EQ(names.count("linear n7c512k100"), 1u);
  EXPECT_EQ(names.count("cross_entropy n7c100"), 1u);
  EXPECT_EQ(names.count("batch_norm2d n7c64h64w64m1"), 1u);
  EXPECT_EQ(names.count("batch_norm2d n7c64h64w64m0"), 1u);
  EXPECT_EQ(names.count("add n7c512h8w8"), 1u);
  EXPECT_EQ(names.count("global_avg_pool2d n7c512h8w8"), 1u);
  EXPECT_FALSE(ModelLayerShapes({"alexnet"}, 1).ok());
}

TEST(LayerShapes, TextsOfAllModelShapesParseBack) {
  const auto all = ModelLayerShapes(ModelNames(), 3);
  ASSERT_TRUE(all.ok()) << all.status();
  std::set<LayerKind> kinds;
  for (const ModelLayerShape& entry : *all) {
    const auto parsed = LayerShape::Parse(entry.shape.kind, entry.shape.ToString());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_TRUE(*parsed == entry.shape);
    EXPECT_EQ(parsed->macs(), entry.shape.macs());
    for (const LayerPass pass : LayerPasses(parsed->kind)) {
      EXPECT_EQ(parsed->traffic(pass), entry.shape.traffic(pass));
      EXPECT_GT(parsed->traffic(pass), 0);
    }
    EXPECT_EQ(entry.shape.WithBatch(1).batch(), 1);
    kinds.insert(entry.shape.kind);
  }
  EXPECT_EQ(kinds.size(), LayerKindNames().size()) << "every kind of layer occurs";
}

TEST(LayerShapes, TrafficCountsTensorPasses) {
  const auto traffic = [](LayerKind kind, const char* text, LayerPass pass) {
    const auto shape = LayerShape::Parse(kind, text);
    EXPECT_TRUE(shape.ok()) << shape.status();
    return shape.ok() ? shape->traffic(pass) : 0;
  };
  const int64_t tensor = 2 * 3 * 8 * 8;
  const LayerPass forward = LayerPass::kForward;
  const LayerPass backward = LayerPass::kBackward;
  EXPECT_EQ(traffic(LayerKind::kBatchNorm2d, "n2c3h8w8m1", forward), 3 * tensor);
  EXPECT_EQ(traffic(LayerKind::kBatchNorm2d, "n2c3h8w8m1", backward), 5 * tensor);
  EXPECT_EQ(traffic(LayerKind::kBatchNorm2d, "n2c3h8w8m0", forward), 2 * tensor);
  EXPECT_EQ(traffic(LayerKind::kRelu, "n2c3h8w8", forward), 2 * tensor);
  EXPECT_EQ(traffic(LayerKind::kRelu, "n2c3h8w8", backward), 3 * tensor);
  EXPECT_EQ(traffic(LayerKind::kAdd, "n2c3h8w8", forward), 3 * tensor);
  EXPECT_EQ(traffic(LayerKind::kMaxPool2d, "n2c3h8w8r2s2p0", backward), tensor + tensor / 4);
  EXPECT_EQ(traffic(LayerKind::kConcat, "n2c1+2h8w8", forward), 2 * tensor);
  EXPECT_EQ(traffic(LayerKind::kCrossEntropy, "n2c10", forward), 2 * 20);
}

TEST(LayerShapes, BadTextsSayWhatIsWrong) {
  const auto message = [](LayerKind kind, const char* text) {
    const auto shape = LayerShape::Parse(kind, text);
    EXPECT_FALSE(shape.ok()) << text;
    return shape.ok() ? "" : std::string(shape.status().message());
  };
  EXPECT_THAT(message(LayerKind::kRelu, "n2c3h8"), HasSubstr("'w' is missing"));
  EXPECT_THAT(message(LayerKind::kRelu, "n0c3h8w8"), HasSubstr("at least 1"));
  EXPECT_THAT(message(LayerKind::kRelu, "n2c3h8w8m1"), HasSubstr("left over"));
  EXPECT_THAT(message(LayerKind::kRelu, "n2147483647c2147483647h99w99"), HasSubstr("too large"));
  EXPECT_THAT(message(LayerKind::kBatchNorm2d, "n2c3h8w8"), HasSubstr("'m' is missing"));
  EXPECT_THAT(message(LayerKind::kBatchNorm2d, "n2c3h8w8m2"), HasSubstr("1 (training)"));
  EXPECT_THAT(message(LayerKind::kBatchNorm2d, "n1c3h1w1m1"), HasSubstr("more than one value"));
  EXPECT_THAT(message(LayerKind::kCrossEntropy, "n2k10"), HasSubstr("'c' is missing"));
  EXPECT_THAT(message(LayerKind::kConv2d, "n2c3h8w8"), HasSubstr("'k' is missing"));
  EXPECT_FALSE(ParseLayerKind("conv3d").ok());
}

}  // namespace
}  // namespace classicnn
