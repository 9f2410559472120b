#include "models/model_state.h"

#include <cmath>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "models/model.h"

namespace classicnn {
namespace {

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
