#include "core/machine.h"

#include <stdlib.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "core/context.h"
#include "core/file.h"
#include "core/isa.h"
#include "core/probe.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/testing/temp_folder.h"

namespace classicnn {
namespace {

TEST(MachineInfo, SaysWhatTheMachineIs) {
  const MachineInfo info = GetMachineInfo();
  EXPECT_FALSE(info.cpu_model.empty());
  EXPECT_GE(info.logical_cpus, 1);
  EXPECT_EQ(info.available_threads, AvailableThreads());
  EXPECT_GT(info.memory_bytes, int64_t{64} << 20);
  EXPECT_EQ(info.targets, UsableTargets());
  EXPECT_EQ(info.active_target, ActiveTarget());
  EXPECT_GE(info.l2_bytes, info.l1d_bytes);
  const nlohmann::json json = info;
  EXPECT_EQ(json.at("cpu_model"), info.cpu_model);
  EXPECT_EQ(json.at("l3_bytes"), info.l3_bytes);
}

TEST(BuildInfo, IsFilledIn) {
  const BuildInfo info = GetBuildInfo();
  EXPECT_THAT(info.version, testing::MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+"));
  EXPECT_THAT(info.compiler, testing::MatchesRegex("[A-Za-z]+ [0-9.]+.*"));
  EXPECT_THAT(info.flags, testing::HasSubstr("-ffp-contract=off"));
  EXPECT_THAT(info.flags, testing::Not(testing::HasSubstr("$<")));
  EXPECT_FALSE(info.build_type.empty());
  EXPECT_THAT(info.commit, testing::MatchesRegex("unknown|[0-9a-f]+(-dirty)?"));
  const nlohmann::json json = info;
  EXPECT_EQ(json.at("commit"), info.commit);
}

class MachinePeaksTest : public testing::Test {
 protected:
  void SetUp() override { UseCache(path_); }
  void TearDown() override {
    unsetenv("CLASSICNN_PEAKS_CACHE");
    EXPECT_TRUE(SetTarget("best").ok());
  }
  static void UseCache(const std::string& path) {
    ASSERT_EQ(setenv("CLASSICNN_PEAKS_CACHE", path.c_str(), 1), 0);
  }
  const TempFolder folder_;
  const std::string path_ = folder_ / "peaks.json";
};

TEST_F(MachinePeaksTest, AreMeasuredRememberedAndReadBack) {
  // A bad cache counts as none.
  ASSERT_TRUE(WriteFileAtomically(path_, "[not json").ok());
  const auto measured = GetMachinePeaks(1);
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_EQ(measured->num_threads, 1);
  EXPECT_EQ(measured->target, ActiveTarget());
  EXPECT_GT(measured->fma_flops, 1e8);
  EXPECT_GT(measured->copy_bytes_per_second, 1e8);
  EXPECT_LT(measured->copy_bytes_per_second, 1e13);

  // Another file with other figures under the same key: they must come from there.
  nlohmann::json cache = nlohmann::json::parse(ReadFile(path_).value());
  ASSERT_EQ(cache.size(), 1u);
  EXPECT_EQ(cache.begin()->at("fma_flops"), measured->fma_flops);
  EXPECT_EQ(cache.begin()->at("probes"), 1);
  cache.begin()->at("fma_flops") = 123.0;
  cache.begin()->at("probes") = 3;
  ASSERT_TRUE(WriteFileAtomically(path_ + "2", cache.dump()).ok());
  UseCache(path_ + "2");
  const auto remembered = GetMachinePeaks(1);
  ASSERT_TRUE(remembered.ok());
  EXPECT_EQ(remembered->fma_flops, 123.0);
  EXPECT_EQ(remembered->copy_bytes_per_second, measured->copy_bytes_per_second);
  const nlohmann::json json = *remembered;
  EXPECT_EQ(json.at("fma_flops"), 123.0);
}

TEST_F(MachinePeaksTest, DamageHoweverDeepIsIgnored) {
  constexpr size_t kLevels = 200'000;
  ASSERT_TRUE(WriteFileAtomically(
                  path_, "{\"x\":" + std::string(kLevels, '[') + std::string(kLevels, ']') + "}")
                  .ok());
  EXPECT_TRUE(GetMachinePeaks(1).ok());
  EXPECT_LT(ReadFile(path_).value().size(), 2000u) << "and not written back";
}

// Copying ends at the same window on all threads, also where the budget is over at once.
TEST(RunProbeTest, EndsOnManyThreads) {
  const ProbeRates rates = RunProbe(4, int64_t{64} << 20);
  EXPECT_GT(rates.ordinary_copy, 0);
  EXPECT_GT(rates.streaming_copy, 0);
}

TEST_F(MachinePeaksTest, AreTheBestOfTheFirstThreePrograms) {
  // To this process a cache of another name is that of another program.
  ASSERT_TRUE(GetMachinePeaks(1).ok());
  nlohmann::json cache = nlohmann::json::parse(ReadFile(path_).value());
  cache.begin()->at("fma_flops") = 1e30;
  cache.begin()->at("copy_bytes_per_second") = 1.0;
  for (int probes = 2; probes <= 3; ++probes) {
    UseCache(absl::StrCat(path_, probes));
    ASSERT_TRUE(WriteFileAtomically(absl::StrCat(path_, probes), cache.dump()).ok());
    const auto peaks = GetMachinePeaks(1);
    ASSERT_TRUE(peaks.ok());
    EXPECT_EQ(peaks->fma_flops, 1e30) << "a slower probe changes nothing";
    EXPECT_GT(peaks->copy_bytes_per_second, 1e8) << "a faster one counts";
    cache = nlohmann::json::parse(ReadFile(absl::StrCat(path_, probes)).value());
    EXPECT_EQ(cache.begin()->at("probes"), probes);
    EXPECT_EQ(cache.begin()->at("copy_bytes_per_second"), peaks->copy_bytes_per_second);
  }
}

TEST_F(MachinePeaksTest, AreKeptByThreadsAndTarget) {
  // Entries of another target and thread count are added to the file, not mistaken for each other.
  ASSERT_TRUE(SetTarget(UsableTargets().back()).ok());
  const auto one = GetMachinePeaks(1);
  const auto two = GetMachinePeaks(2);
  ASSERT_TRUE(one.ok() && two.ok());
  EXPECT_EQ(one->target, UsableTargets().back());
  EXPECT_EQ(two->num_threads, 2);
  EXPECT_EQ(nlohmann::json::parse(ReadFile(path_).value()).size(), 2u);
  EXPECT_EQ(GetMachinePeaks(2)->fma_flops, two->fma_flops) << "the same all through a program";
}

TEST_F(MachinePeaksTest, DoWithoutACache) {
  UseCache("/proc/none/peaks.json");
  EXPECT_TRUE(GetMachinePeaks(1).ok());
  EXPECT_FALSE(ReadFile(path_).ok());
}

TEST(Probe, WorksInAChildOfAProgramWhoseThreadsRun) {
  Context ctx(3);
  ctx.ParallelFor("test", 100, [](int64_t, int) {});
  ProbeRates rates;
  ASSERT_TRUE(RunProbeInChild(2, int64_t{8} << 20, &rates));
  EXPECT_GT(rates.fma_flops, 0);
  EXPECT_GT(rates.ordinary_copy, 0);
  EXPECT_GT(rates.streaming_copy, 0);
}

TEST(Probe, WiderVectorsComputeFaster) {
  const auto targets = UsableTargets();
  if (targets.size() < 2) GTEST_SKIP() << "only one target";
  ProbeRates best;
  ProbeRates worst;
  ASSERT_TRUE(SetTarget(targets.back()).ok());
  ASSERT_TRUE(RunProbeInChild(1, int64_t{8} << 20, &worst));
  ASSERT_TRUE(SetTarget("best").ok());
  ASSERT_TRUE(RunProbeInChild(1, int64_t{8} << 20, &best));
  EXPECT_GT(best.fma_flops, worst.fma_flops);
}

}  // namespace
}  // namespace classicnn
