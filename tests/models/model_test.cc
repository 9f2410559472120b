// The five architectures: exact totals, names, shapes, errors.
#include "models/model.h"

#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace classicnn {
namespace {

using ::testing::HasSubstr;

struct Totals {
  const char* model;
  int64_t parameters, conv, norm, linear;
  size_t tensors;
  int convs;
  int64_t macs;
};

// Computed with an independent implementation of the architectures.
constexpr Totals kTotals[] = {
    {"vgg16", 14986698, 14710464, 8448, 267786, 43, 13, 313463808},
    {"resnet18", 11173962, 11159232, 9600, 5130, 62, 20, 555422720},
    {"googlenet", 5983402, 5958592, 14560, 10250, 173, 57, 1561143296},
    {"mobilenetv1", 3217226, 3185088, 21888, 10250, 83, 27, 46354432},
    {"densenet121", 6956298, 6862528, 83520, 10250, 362, 120, 888350720},
};

TEST(ModelTest, TotalsAreExact) {
  for (const Totals& expected : kTotals) {
    SCOPED_TRACE(expected.model);
    const auto graph = BuildModel(expected.model);
    ASSERT_TRUE(graph.ok()) << graph.status();
    int64_t conv = 0, norm = 0, linear = 0;
    for (const Parameter& p : graph->parameters()) {
      switch (p.kind) {
        case ParameterKind::kConvWeight:
          conv += p.count();
          break;
        case ParameterKind::kNormWeight:
        case ParameterKind::kNormBias:
          norm += p.count();
          break;
        default:
          linear += p.count();
      }
    }
    int convs = 0;
    for (const Node& node : graph->nodes()) convs += node.op == Op::kConv2d;
    EXPECT_EQ(graph->parameter_count(), expected.parameters);
    EXPECT_EQ(conv, expected.conv);
    EXPECT_EQ(norm, expected.norm);
    EXPECT_EQ(linear, expected.linear);
    EXPECT_EQ(graph->parameters().size(), expected.tensors);
    EXPECT_EQ(convs, expected.convs);
    EXPECT_EQ(graph->macs_per_image(), expected.macs);
    EXPECT_EQ(graph->num_classes(), 10);
  }
}

TEST(ModelTest, DenseNetHas535Connections) {
  const auto graph = BuildModel("densenet121");
  ASSERT_TRUE(graph.ok());
  // A layer reads the block's input and every earlier layer of its block.
  int64_t connections = 0;
  for (const int layers : {6, 12, 24, 16}) connections += layers * (layers + 1) / 2;
  int64_t layers = 0;
  for (const Node& node : graph->nodes()) layers += node.op == Op::kConcat;
  EXPECT_EQ(connections, 535);
  EXPECT_EQ(layers, 6 + 12 + 24 + 16);
}

TEST(ModelTest, NamesArePytorchs) {
  const struct {
    const char* model;
    std::vector<std::string> names;
  } cases[] = {
      {"vgg16",
       {"features.0.weight", "features.1.weight", "features.1.bias", "features.40.weight",
        "classifier.0.weight", "classifier.2.bias"}},
      {"resnet18",
       {"conv1.weight", "bn1.bias", "layer1.0.conv1.weight", "layer2.0.downsample.0.weight",
        "layer2.0.downsample.1.weight", "layer4.1.bn2.weight", "fc.weight"}},
      {"googlenet",
       {"conv1.conv.weight", "conv3.bn.bias", "inception3a.branch1.conv.weight",
        "inception4e.branch2.0.bn.weight", "inception5b.branch3.1.conv.weight",
        "inception5b.branch4.1.bn.bias", "fc.bias"}},
      {"mobilenetv1",
       {"conv_stem.weight", "bn1.weight", "blocks.0.0.conv_dw.weight", "blocks.3.5.conv_pw.weight",
        "blocks.4.1.bn2.bias", "classifier.weight"}},
      {"densenet121",
       {"features.conv0.weight", "features.denseblock1.denselayer1.norm1.weight",
        "features.denseblock3.denselayer24.conv2.weight", "features.transition2.conv.weight",
        "features.norm5.bias", "classifier.bias"}},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.model);
    const auto graph = BuildModel(c.model);
    ASSERT_TRUE(graph.ok());
    std::set<std::string> names;
    for (const Parameter& p : graph->parameters()) {
      EXPECT_TRUE(names.insert(p.name).second) << p.name << " twice";
    }
    for (const std::string& name : c.names) EXPECT_EQ(names.count(name), 1u) << name;
  }
}

TEST(ModelTest, OtherSizesAndClasses) {
  ModelOptions options;
  options.image_h = 64;
  options.image_w = 48;
  options.num_classes = 100;
  for (const std::string& name : ModelNames()) {
    SCOPED_TRACE(name);
    const auto graph = BuildModel(name, options);
    ASSERT_TRUE(graph.ok()) << graph.status();
    EXPECT_EQ(graph->num_classes(), 100);
    EXPECT_EQ(graph->shape(graph->logits(), 7), (Shape4{7, 1, 1, 100}));
  }
}

TEST(ModelTest, ErrorsNameTheNode) {
  ModelOptions options;
  options.image_h = options.image_w = 8;
  EXPECT_THAT(std::string(BuildModel("vgg16", options).status().message()),
              HasSubstr("features.33"));
  EXPECT_THAT(std::string(BuildModel("alexnet").status().message()), HasSubstr("mobilenetv1"));
  options.image_h = 0;
  EXPECT_FALSE(BuildModel("resnet18", options).ok());
  options = {};
  options.num_classes = 0;
  EXPECT_FALSE(BuildModel("resnet18", options).ok());
}

TEST(GraphBuilderTest, FirstErrorIsReported) {
  GraphBuilder g("net", 8, 8, 3);
  const NodeId a = g.Conv2d("a", g.input(), {4, 3, 1, 1});
  const NodeId b = g.Conv2d("b", g.input(), {4, 3, 2, 1});
  const NodeId sum = g.Add("sum", {a, b});
  g.Conv2d("after", sum, {0});
  const auto graph = g.Build(sum);
  EXPECT_THAT(std::string(graph.status().message()), HasSubstr("node sum: inputs of different"));
}

TEST(GraphBuilderTest, RefusesUnreadNodesAndDoubleNames) {
  {
    GraphBuilder g("net", 8, 8, 3);
    const NodeId a = g.GlobalAvgPool2d("a", g.input());
    g.Relu("loose", g.input());
    EXPECT_THAT(std::string(g.Build(a).status().message()), HasSubstr("loose"));
  }
  {
    GraphBuilder g("net", 8, 8, 3);
    const NodeId a = g.Relu("a", g.input());
    const NodeId b = g.GlobalAvgPool2d("a", a);
    EXPECT_THAT(std::string(g.Build(b).status().message()), HasSubstr("twice"));
  }
}

}  // namespace
}  // namespace classicnn
