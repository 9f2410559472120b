#include "models/train/metrics.h"

#include <limits>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/testing/temp_folder.h"

namespace classicnn {
namespace {

TEST(MetricsTest, AppendsLines) {
  TempFolder folder;
  for (int i = 0; i < 2; ++i) {
    auto log = MetricsLog::Open(folder / "m.jsonl");
    ASSERT_TRUE(log.ok()) << log.status();
    EXPECT_TRUE((*log)->Append({{"step", i}, {"x", std::numeric_limits<double>::infinity()}}).ok());
    EXPECT_TRUE((*log)->Sync().ok());
  }
  EXPECT_EQ(folder.Read("m.jsonl"), "{\"step\":0,\"x\":null}\n{\"step\":1,\"x\":null}\n");
  EXPECT_FALSE(MetricsLog::Open(folder / "no/m.jsonl").ok());
}

TEST(MetricsTest, CutsBackToASavedState) {
  TempFolder folder;
  const std::string kept =
      "{\"kind\":\"step\",\"step\":4}\n"
      "{\"epoch\":1,\"kind\":\"epoch\",\"step\":5}\n"
      "{\"kind\":\"step\",\"step\":6}\n";
  const std::string path =
      folder.Write("m.jsonl", kept +
                                  "{\"kind\":\"step\",\"step\":8}\n"
                                  "{\"epoch\":2,\"kind\":\"epoch\",\"step\":6}\n"
                                  "{\"kind\":\"step\",\"st");
  ASSERT_TRUE(CutMetrics(path, 6, 1).ok());
  EXPECT_EQ(folder.Read("m.jsonl"), kept);
  ASSERT_TRUE(CutMetrics(path, -1, -1).ok());
  EXPECT_EQ(folder.Read("m.jsonl"), "");
  EXPECT_TRUE(CutMetrics(folder / "missing", 1, 1).ok());
  EXPECT_FALSE(folder.Has("missing"));
}

}  // namespace
}  // namespace classicnn
