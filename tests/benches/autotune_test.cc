#include "benches/autotune.h"

#include <algorithm>
#include <string>
#include <vector>

#include "core/isa.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/temp_folder.h"

namespace classicnn {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kShape[] = "n2c32h8w8k32r3s1p1";

LayerShape Shape(const char* text = kShape) {
  auto shape = LayerShape::Parse(LayerKind::kConv2d, text);
  EXPECT_TRUE(shape.ok()) << shape.status();
  return shape.value_or(LayerShape());
}

TuningKey Key() {
  return {Shape().conv2d, LayerPass::kForward, /*fused=*/false, ActiveTarget(), 2};
}

std::vector<TuningTime> Times() {
  return {{Conv2dAlgorithm::kWinograd4, 51.234e-6}, {Conv2dAlgorithm::kDirect, 1e-3}};
}

// What `run` says on stderr.
template <class Run>
std::string Said(const Run& run) {
  testing::internal::CaptureStderr();
  run();
  return testing::internal::GetCapturedStderr();
}

// The one entry of a file with Key()'s choice: its name and itself.
nlohmann::json FileWith(const nlohmann::json& entry) {
  const TempFolder folder;
  TuningCache(folder / "choices.json").Put(Key(), Conv2dAlgorithm::kDirect, Times());
  nlohmann::json file = nlohmann::json::parse(folder.Read("choices.json"));
  for (auto& value : file["choices"]) value = entry;
  return file;
}

TEST(TuningCache, RemembersByShapePassFusionTargetAndThreads) {
  const TempFolder folder;
  const std::string path = folder / "new/folders/choices.json";
  EXPECT_EQ(Said([&] {
              TuningCache cache(path);
              EXPECT_FALSE(cache.Find(Key()).has_value());
              cache.Put(Key(), Conv2dAlgorithm::kWinograd2, Times());
              EXPECT_EQ(cache.Find(Key()), Conv2dAlgorithm::kWinograd2);
            }),
            "");
  const TuningCache cache(path);
  EXPECT_EQ(cache.Find(Key()), Conv2dAlgorithm::kWinograd2);
  std::vector<TuningKey> others(5, Key());
  others[0].shape.n = 3;
  others[1].pass = LayerPass::kBackwardData;
  others[2].fused = true;
  others[3].target = "other";
  others[4].num_threads = 3;
  for (const TuningKey& other : others) EXPECT_FALSE(cache.Find(other).has_value());
  EXPECT_EQ(others[2].ToString(), "conv2d_forward/fused/n2c32h8w8k32r3s1p1/" +
                                      std::string(ActiveTarget()) + "/threads:2");
  const auto file = nlohmann::json::parse(folder.Read("new/folders/choices.json"));
  EXPECT_EQ(file.at("classicnn_autotune"), 1);
  ASSERT_EQ(file.at("choices").size(), 1u);
  EXPECT_THAT(file.at("choices").begin().key(), HasSubstr(Key().ToString() + "/"));
  EXPECT_EQ(file.at("choices").begin()->at("microseconds"),
            nlohmann::json({{"winograd4", 51.23}, {"direct", 1000.0}}));
}

TEST(TuningCache, ContentsThatAreNotItsAreIgnoredSaidAndReplaced) {
  const nlohmann::json good = FileWith({{"algorithm", "direct"}});
  nlohmann::json newer = good;
  newer["classicnn_autotune"] = 2;
  const std::vector<std::string> contents = {
      "",
      "not JSON",
      std::string("\0\xff\x80{", 4),
      good.dump().substr(0, good.dump().size() / 2),
      std::string(100000, '['),
      "null",
      "[]",
      "{}",
      "{\"peaks\": {\"fma_flops\": 1e9}}",
      newer.dump(),
      "{\"classicnn_autotune\": 1}",
      "{\"classicnn_autotune\": 1, \"choices\": [1, 2]}",
      "{\"classicnn_autotune\": \"1\", \"choices\": {}}",
      "{\"classicnn_autotune\": 1, \"choices\": {}}" + std::string(size_t{17} << 20, ' '),
      FileWith(7).dump(),
      FileWith(nullptr).dump(),
      FileWith({{"algorithm", 7}}).dump(),
      FileWith({{"algorithm", ""}}).dump(),
      FileWith({{"algorithm", std::string(100000, 'w')}}).dump(),
      FileWith({{"algorithm", "fft\x1b[31m"}}).dump(),
      FileWith({{"algorithm", "depthwise"}}).dump(),  // there is such a one, but not for this
      FileWith({{"microseconds", {{"direct", 1}}}}).dump()};
  for (const std::string& text : contents) {
    SCOPED_TRACE(text.substr(0, 200));
    const TempFolder folder;
    const std::string path = folder.Write("choices.json", text);
    const std::string said = Said([&] {
      TuningCache cache(path);
      EXPECT_FALSE(cache.Find(Key()).has_value());
      cache.Put(Key(), Conv2dAlgorithm::kDirect, Times());
    });
    EXPECT_THAT(said, HasSubstr("autotune: ignoring "));
    EXPECT_THAT(said, HasSubstr(path));
    EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
    EXPECT_LT(said.size(), 1000u);
    EXPECT_EQ(said.find('\x1b'), std::string::npos);
    EXPECT_EQ(Said([&] { EXPECT_EQ(TuningCache(path).Find(Key()), Conv2dAlgorithm::kDirect); }),
              "");
  }
}

TEST(TuningCache, KeepsWhatOthersWroteMeanwhile) {
  const TempFolder folder;
  const std::string path = folder / "choices.json";
  TuningCache one(path), two(path);
  TuningKey other = Key();
  other.pass = LayerPass::kBackwardWeights;
  one.Put(Key(), Conv2dAlgorithm::kDirect, Times());
  two.Put(other, Conv2dAlgorithm::kWinograd4, Times());
  one.Put(Key(), Conv2dAlgorithm::kWinograd2, Times());
  const TuningCache three(path);
  EXPECT_EQ(three.Find(Key()), Conv2dAlgorithm::kWinograd2);
  EXPECT_EQ(three.Find(other), Conv2dAlgorithm::kWinograd4);
}

TEST(TuningCache, WhereNothingCanBeWrittenItRemembersWhileItLives) {
  const TempFolder folder;
  const std::string blocked = folder.Write("file", "") + "/choices.json";
  for (const std::string& path : {blocked, folder.path()}) {
    const std::string said = Said([&] {
      TuningCache cache(path);
      cache.Put(Key(), Conv2dAlgorithm::kDirect, Times());
      EXPECT_EQ(cache.Find(Key()), Conv2dAlgorithm::kDirect);
    });
    EXPECT_THAT(said, HasSubstr(path));
  }
  EXPECT_EQ(Said([&] {
              TuningCache cache("");
              cache.Put(Key(), Conv2dAlgorithm::kDirect, Times());
              EXPECT_EQ(cache.Find(Key()), Conv2dAlgorithm::kDirect);
            }),
            "");
}

TEST(Autotune, MeasuresEveryCandidateOnceAndThenRemembers) {
  const TempFolder folder;
  const std::string path = folder / "choices.json";
  Context ctx(2);
  for (const LayerPass pass : LayerPasses(LayerKind::kConv2d)) {
    for (const bool fused : {false, true}) {
      TunedAlgorithm first;
      std::string said = Said([&] {
        TuningCache cache(path);
        auto tuned = Autotune(Shape(), pass, fused, ctx, cache);
        ASSERT_TRUE(tuned.ok()) << tuned.status();
        first = *tuned;
      });
      EXPECT_THAT(said,
                  HasSubstr("threads:2: " + std::string(Conv2dAlgorithmName(first.algorithm))));
      const auto usable = Conv2dAlgorithms(Shape().conv2d, Conv2dPassOf(pass));
      ASSERT_EQ(usable.size(), 3u);
      ASSERT_EQ(first.times.size(), usable.size());
      double best = first.times[0].seconds;
      double chosen = 0;
      for (size_t i = 0; i < usable.size(); ++i) {
        EXPECT_EQ(first.times[i].algorithm, usable[i]);
        EXPECT_GT(first.times[i].seconds, 0);
        EXPECT_LT(first.times[i].seconds, 10);
        best = std::min(best, first.times[i].seconds);
        if (usable[i] == first.algorithm) chosen = first.times[i].seconds;
      }
      EXPECT_LE(chosen, 1.02 * best);
      said = Said([&] {
        TuningCache cache(path);
        const auto again = Autotune(Shape(), pass, fused, ctx, cache);
        ASSERT_TRUE(again.ok()) << again.status();
        EXPECT_EQ(again->algorithm, first.algorithm);
        EXPECT_THAT(again->times, IsEmpty()) << "nothing is measured";
      });
      EXPECT_EQ(said, "");
    }
  }
  EXPECT_EQ(ctx.memory().current(), 0);
  const auto file = nlohmann::json::parse(folder.Read("choices.json"));
  EXPECT_EQ(file.at("choices").size(), 6u);
}

TEST(Autotune, TakesTheRememberedChoiceUnlessItCannotRun) {
  Context ctx(2);
  for (const Conv2dAlgorithm remembered : Conv2dAlgorithms(Shape().conv2d, Conv2dPass::kForward)) {
    TuningCache cache("");
    cache.Put(Key(), remembered, {});
    const auto tuned = Autotune(Shape(), LayerPass::kForward, /*fused=*/false, ctx, cache);
    ASSERT_TRUE(tuned.ok()) << tuned.status();
    EXPECT_EQ(tuned->algorithm, remembered);
    EXPECT_THAT(tuned->times, IsEmpty());
  }
  TuningCache cache("");
  cache.Put(Key(), Conv2dAlgorithm::kPointwise, {});
  const std::string said = Said([&] {
    const auto tuned = Autotune(Shape(), LayerPass::kForward, /*fused=*/false, ctx, cache);
    ASSERT_TRUE(tuned.ok()) << tuned.status();
    EXPECT_EQ(tuned->times.size(), 3u);
    EXPECT_NE(tuned->algorithm, Conv2dAlgorithm::kPointwise);
  });
  EXPECT_THAT(said, HasSubstr("pointwise does not do that"));
}

}  // namespace
}  // namespace classicnn
