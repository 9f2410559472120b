#include "reports/results.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/reports/fixtures.h"

namespace classicnn {
namespace {

using ::testing::DoubleNear;
using ::testing::HasSubstr;

TEST(TimingTest, MedianAndSpreadOfFewSamples) {
  Timing t;
  EXPECT_EQ(t.median(), 0);
  t.samples = {3};
  EXPECT_EQ(t.median(), 3);
  EXPECT_EQ(t.spread(), 0);
  t.samples = {3, 1, 2};
  EXPECT_EQ(t.median(), 2);
  EXPECT_THAT(t.spread(), DoubleNear(0.8, 1e-12));  // quantiles 1.2 and 2.8
  t.samples = {4, 1, 2, 3};
  EXPECT_EQ(t.median(), 2.5);
}

TEST(TimingTest, NoiseIsNeverNothing) {
  Timing one;
  one.samples = {5};
  EXPECT_EQ(RelativeNoise(one), 0.1);
  Timing same;
  same.samples = {5, 5, 5};
  EXPECT_EQ(RelativeNoise(same), 0.01);
}

TEST(TimingTest, GeometricMean) {
  EXPECT_THAT(GeometricMean({1, 10, 100}), DoubleNear(10, 1e-9));
  EXPECT_EQ(GeometricMean({}), 0);
}

TEST(ResultsTest, RoundTripKeepsEverything) {
  const nlohmann::json written = MakeResults();
  const absl::StatusOr<Results> read = ParseResults("results.json", written.dump());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(nlohmann::json(*read), written);
  EXPECT_EQ(read->PeaksAt(2).fma_flops, 1e11);
  EXPECT_EQ(read->PeaksAt(7).fma_flops, 0);
}

TEST(ResultsTest, HoldsTheKeysOfTheSchema) {
  const nlohmann::json j = MakeResults();
  for (const char* key : {"schema", "machine", "build", "models"}) EXPECT_TRUE(j.contains(key));
  const nlohmann::json& model = j["models"]["resnet18"];
  for (const char* key :
       {"parameters", "macs", "weight_bytes", "train_step", "inference", "memory", "layers"}) {
    EXPECT_TRUE(model.contains(key)) << key;
  }
  const nlohmann::json& seconds = model["train_step"]["seconds"];
  EXPECT_EQ(seconds["samples"].size(), 3u);
  EXPECT_EQ(seconds["median"], 0.5);
  EXPECT_THAT(seconds["spread"].get<double>(), DoubleNear(0.008, 1e-9));
}

// Files of versions that did not measure these.
TEST(ResultsTest, ReadsFilesWithoutTheLaterKeys) {
  nlohmann::json j = MakeResults();
  for (auto& [name, model] : j["models"].items()) {
    model.erase("memory_limits");
    for (const char* pass : {"train_step", "inference", "inference_one"}) {
      model[pass].erase("bounds");
    }
    for (nlohmann::json& pass : model["scaling"]) pass.erase("bounds");
  }
  const absl::StatusOr<Results> read = ParseResults("results.json", j.dump());
  ASSERT_TRUE(read.ok()) << read.status();
  const ModelResult& m = read->model("vgg16");
  EXPECT_TRUE(m.memory_limits.empty());
  EXPECT_TRUE(m.train_step.bounds.empty());
  EXPECT_EQ(m.parameters, 14986698);
  EXPECT_EQ(m.train_step.seconds.median(), 0.3);
}

void ExpectRefused(const std::string& text, const std::string& what) {
  const absl::StatusOr<Results> r = ParseResults("some/file.json", text);
  ASSERT_FALSE(r.ok());
  EXPECT_EQ(r.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(r.status().message()), HasSubstr("some/file.json"));
  EXPECT_THAT(std::string(r.status().message()), HasSubstr(what));
}

TEST(ResultsTest, RefusesWhatItDidNotWrite) {
  ExpectRefused("", "not a JSON object");
  ExpectRefused("[1, 2]", "not a JSON object");
  ExpectRefused("{}", "schema");
  ExpectRefused(R"({"schema": "other"})", "schema");
  nlohmann::json j = MakeResults();
  j["models"]["vgg16"].erase("train_step");
  ExpectRefused(j.dump(), "'some/file.json': models.vgg16.train_step is missing");
  j = MakeResults();
  j["models"]["vgg16"]["train_step"]["seconds"]["samples"] = {"soon"};
  ExpectRefused(j.dump(),
                "models.vgg16.train_step.seconds.samples[0] is a text, should be a number");
  j = MakeResults();
  j["models"]["vgg16"]["train_step"]["seconds"]["samples"] = {-1.0};
  ExpectRefused(j.dump(), "models.vgg16.train_step.seconds.samples[0] is negative");
  j = MakeResults();
  j["models"]["vgg16"]["memory_limits"] = "many";
  ExpectRefused(j.dump(), "models.vgg16.memory_limits is a text, should be a list");
  j = MakeResults();
  j["models"]["vgg16"]["memory_limits"][1].erase("plan_bytes");
  ExpectRefused(j.dump(), "models.vgg16.memory_limits[1].plan_bytes is missing");
  j = MakeResults();
  j["models"]["vgg16"]["memory_limits"][0]["seconds"]["samples"] = {-1.0};
  ExpectRefused(j.dump(), "models.vgg16.memory_limits[0].seconds.samples[0] is negative");
  j = MakeResults();
  j["models"]["vgg16"]["train_step"]["bounds"] = {7};
  ExpectRefused(j.dump(), "models.vgg16.train_step.bounds[0] is a number, should be an object");
  j = MakeResults();
  j["build"] = "today";
  ExpectRefused(j.dump(), "build is a text, should be an object");
  j = MakeResults();
  j["machine"]["peaks"][0].erase("fma_flops");
  ExpectRefused(j.dump(), "machine.peaks[0].fma_flops is missing");
  j = MakeResults();
  j["models"].erase("vgg16");
  ExpectRefused(j.dump(), "vgg16");
}

}  // namespace
}  // namespace classicnn
