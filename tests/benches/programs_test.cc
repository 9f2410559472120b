// The benchmark programs from outside: names, counters, context, exit codes.
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "benches/malloc_counter.h"
#include "core/context.h"
#include "core/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "layers/conv2d/conv2d.h"
#include "nlohmann/json.hpp"
#include "tests/benches/run_program.h"
#include "tests/testing/temp_folder.h"

namespace classicnn {
namespace {

using ::testing::HasSubstr;

const char kLayers[] = CNN_BENCH_LAYERS;
const char kModels[] = CNN_BENCH_MODELS;

nlohmann::json RunJson(const std::string& program, std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--benchmark_format=json", "--benchmark_min_time=0.001"});
  const ProgramRun run = RunProgram(program, arguments);
  EXPECT_EQ(run.exit_code, 0) << run.err;
  auto json = nlohmann::json::parse(run.out, nullptr, /*allow_exceptions=*/false);
  EXPECT_FALSE(json.is_discarded()) << run.out;
  return json;
}

// By name, without what Google Benchmark adds to it.
std::map<std::string, nlohmann::json> ByName(const nlohmann::json& json) {
  std::map<std::string, nlohmann::json> result;
  for (const auto& benchmark : json.at("benchmarks")) {
    std::string name = benchmark.at("name");
    for (const char* suffix : {"/real_time", "/manual_time"}) {
      if (absl::EndsWith(name, suffix)) name.resize(name.size() - std::string(suffix).size());
    }
    EXPECT_FALSE(benchmark.value("error_occurred", false)) << benchmark;
    result[name] = benchmark;
  }
  return result;
}

void ExpectConditions(const nlohmann::json& json) {
  for (const char* key : {"cpu_model", "isa_target", "isa_targets", "available_threads", "compiler",
                          "compiler_flags", "build_type", "commit", "data", "seed", "threads"}) {
    EXPECT_TRUE(json.at("context").contains(key)) << key;
    EXPECT_NE(json.at("context").value(key, ""), "") << key;
  }
}

TEST(BenchLayers, NamesCountersAndLabelsAreThoseOfTheContract) {
  const auto json =
      RunJson(kLayers, {"--layers=conv2d,relu", "--threads=1,2",
                        "--shapes=n2c8h6w6k8r3s1p1,n2c8h6w6", "--impl=optimized,reference"});
  ExpectConditions(json);
  EXPECT_THAT(json.at("context").value("data", ""), HasSubstr("warm"));
  const auto benchmarks = ByName(json);
  // 3 convolution passes and 2 of ReLU, each on 1 and 2 threads and as the reference on one.
  EXPECT_EQ(benchmarks.size(), 15u);
  for (const auto& [name, b] : benchmarks) {
    SCOPED_TRACE(name);
    for (const char* counter : {"num_threads", "batch", "gflops", "executed_gflops",
                                "bytes_per_second", "peak_fraction", "roofline_fraction"}) {
      ASSERT_TRUE(b.contains(counter)) << counter;
    }
    EXPECT_EQ(b.at("batch"), 2.0);
    EXPECT_GT(b.at("bytes_per_second"), 0.0);
    const bool conv = absl::StrContains(name, "conv2d");
    EXPECT_EQ(b.at("gflops").get<double>() > 0, conv);
    if (absl::StrContains(name, "/reference/")) {
      EXPECT_EQ(b.at("label"), "naive");
    }
  }
  const auto& conv = benchmarks.at("conv2d_backward_weights/optimized/n2c8h6w6k8r3s1p1/threads:2");
  EXPECT_EQ(conv.at("num_threads"), 2.0);
  const std::vector<std::string> label = absl::StrSplit(conv.value("label", ""), ' ');
  ASSERT_EQ(label.size(), 2u) << "algorithm and instruction set";
  EXPECT_TRUE(ParseConv2dAlgorithm(label[0]).ok()) << label[0];
  EXPECT_EQ(label[1], json.at("context").value("isa_target", ""));
  // Counters follow from the time: 2 flops for each multiply-add, 3 tensors of floats.
  const double seconds = conv.at("real_time").get<double>() * 1e-6;
  EXPECT_EQ(conv.at("time_unit"), "us");
  const double macs = 2 * 6 * 6 * 8 * 9 * 8;
  EXPECT_NEAR(conv.at("gflops").get<double>() * seconds / (2 * macs * 1e-9), 1, 1e-6);
  const auto& relu = benchmarks.at("relu_backward/reference/n2c8h6w6/threads:1");
  EXPECT_NEAR(relu.at("bytes_per_second").get<double>() *
                  (relu.at("real_time").get<double>() * 1e-6) / (3 * 4 * 2 * 8 * 6 * 6),
              1, 1e-6);
  // And fractions from the peaks that the context names.
  const auto peak = [&](const char* what, int threads) {
    return std::stod(
        json.at("context").value(absl::StrCat("peak_", what, "_threads_", threads), "0"));
  };
  EXPECT_NEAR(conv.at("peak_fraction").get<double>() * peak("fma_gflops", 2) /
                  conv.at("gflops").get<double>(),
              1, 2e-3);
  EXPECT_NEAR(relu.at("roofline_fraction").get<double>() * peak("copy_gigabytes_per_second", 1) *
                  1e9 / relu.at("bytes_per_second").get<double>(),
              1, 2e-2);
}

// The table for people: "/s" stands behind what is named per second, and behind nothing else.
TEST(BenchPrograms, TheTableHasUnitsWhereTheyBelong) {
  const ProgramRun layers = RunProgram(
      kLayers, {"--layers=relu", "--shapes=n2c8h6w6", "--threads=1", "--benchmark_min_time=0.001"});
  EXPECT_EQ(layers.exit_code, 0) << layers.err;
  EXPECT_THAT(layers.out, testing::ContainsRegex("bytes_per_second=[0-9.]+[kMG]?/s"));
  EXPECT_THAT(layers.out, testing::ContainsRegex("roofline_fraction=[0-9.]+[a-z]* "));
  const ProgramRun models =
      RunProgram(kModels, {"--models=mobilenetv1", "--batch=2", "--threads=1", "--phases=inference",
                           "--benchmark_repetitions=2", "--benchmark_min_time=0.001"});
  EXPECT_EQ(models.exit_code, 0) << models.err;
  EXPECT_THAT(models.out, testing::ContainsRegex("images_per_second=[0-9.]+[kMG]?/s"));
  EXPECT_THAT(models.out, testing::ContainsRegex("peak_fraction=[0-9.]+[a-z]* "));
  for (const ProgramRun* run : {&layers, &models}) {
    EXPECT_THAT(run->out, testing::Not(testing::ContainsRegex("(gflops|fraction)=[^ ]*/s")));
    EXPECT_THAT(run->out, testing::Not(HasSubstr("\x1b"))) << "no colours in a file";
  }
}

TEST(BenchPrograms, WhatCannotBePrintedIsAFailure) {
  const auto into_full = [](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"-c", "exec \"$0\" \"$@\" >/dev/full"});
    return RunProgram("/bin/sh", arguments);
  };
  for (const ProgramRun& run :
       {into_full({kLayers, "--layers=relu", "--shapes=n2c8h6w6", "--threads=1",
                   "--benchmark_min_time=0.001"}),
        into_full({kLayers, "--layers=relu", "--shapes=n2c8h6w6", "--benchmark_list_tests"}),
        into_full({kModels, "--models=mobilenetv1", "--batch=2", "--threads=1",
                   "--phases=inference", "--benchmark_min_time=0.001",
                   "--benchmark_format=json"})}) {
    EXPECT_EQ(run.exit_code, 1);
    EXPECT_THAT(run.err, HasSubstr("standard output"));
  }
}

TEST(BenchLayers, ListsEveryDistinctModelShape) {
  const ProgramRun run = RunProgram(
      kLayers, {"--layers=conv2d,batch_norm2d", "--benchmark_list_tests", "--threads=2"});
  EXPECT_EQ(run.exit_code, 0);
  int convolutions = 0;
  for (size_t at = 0; (at = run.out.find("conv2d_forward/", at)) != std::string::npos; ++at) {
    ++convolutions;
  }
  EXPECT_EQ(convolutions, 144);  // of the five models
  EXPECT_THAT(run.out,
              HasSubstr("conv2d_backward_data/optimized/n64c512h4w4k512r3s1p1g512/threads:2"));
  EXPECT_THAT(run.out, HasSubstr("batch_norm2d_backward/optimized/n64c64h32w32m1/threads:2"));
  EXPECT_THAT(run.out, HasSubstr("batch_norm2d_forward/optimized/n64c64h32w32m0/threads:2"));
}

TEST(BenchLayers, FusedConvolutionsAreAnImplementation) {
  const auto json = RunJson(kLayers, {"--layers=conv2d,relu", "--threads=2", "--impl=fused",
                                      "--shapes=n2c8h6w6k8r3s1p1,n2c8h6w6"});
  const auto benchmarks = ByName(json);
  EXPECT_EQ(benchmarks.size(), 3u) << "no ReLU";
  const std::vector<std::pair<std::string, int>> floats = {{"forward", 2 * 576 + 576},
                                                           {"backward_data", 4 * 576 + 576},
                                                           {"backward_weights", 3 * 576 + 576}};
  for (const auto& [pass, count] : floats) {
    SCOPED_TRACE(pass);
    const auto& b = benchmarks.at("conv2d_" + pass + "/fused/n2c8h6w6k8r3s1p1/threads:2");
    EXPECT_THAT(b.value("label", ""), HasSubstr(json.at("context").value("isa_target", "?")));
    EXPECT_NEAR(b.at("bytes_per_second").get<double>() * b.at("real_time").get<double>() * 1e-6 /
                    (4 * count),
                1, 1e-6);
  }
}

TEST(BenchLayers, FusedAgainstPlain) {
  const TempFolder folder;
  const std::string path = folder / "compare.json";
  const ProgramRun run =
      RunProgram(kLayers, {"--compare=plain", "--threads=1", "--shapes=n2c16h6w6k8r3s1p1,n2c16h6w6",
                           "--compare_json=" + path});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("Fused against plain, threads: 1"));
  EXPECT_THAT(run.out, testing::ContainsRegex("conv2d other 3x3 +all passes +3 "));
  EXPECT_THAT(run.out, testing::Not(HasSubstr("relu")));
  const auto json = nlohmann::json::parse(folder.Read("compare.json"));
  const auto& comparison = json.at("comparisons").at(0);
  EXPECT_EQ(comparison.at("ours"), "fused");
  EXPECT_EQ(comparison.at("peer"), "plain");
  ASSERT_EQ(comparison.at("rows").size(), 3u);
  for (const auto& row : comparison.at("rows")) {
    EXPECT_GT(row.at("seconds"), 0.0);
    EXPECT_GT(row.at("peer_seconds"), 0.0);
  }
  // Tensors of 1152 and 576 floats, and 1152 weights; the second reads both tensors again.
  EXPECT_EQ(comparison.at("rows")[0].at("bytes"), 4.0 * (1152 + 576 + 1152));
  EXPECT_EQ(comparison.at("rows")[1].at("bytes"), 4.0 * (2 * 1152 + 2 * 576 + 1152));
  EXPECT_EQ(RunProgram(kLayers, {"--compare=plain", "--layers=relu"}).exit_code, 2);
}

// The environment of the programs that are run while it lives.
class TuningFile {
 public:
  explicit TuningFile(const std::string& path) {
    setenv("CLASSICNN_AUTOTUNE_CACHE", path.c_str(), 1);
  }
  ~TuningFile() { unsetenv("CLASSICNN_AUTOTUNE_CACHE"); }
};

TEST(BenchLayers, AutotuneMeasuresOnceRecordsItsChoiceAndHasToBeAskedFor) {
  const TempFolder folder;
  const TuningFile file(folder / "choices.json");
  const std::string name = "conv2d_backward_data/optimized/n2c16h8w8k16r3s1p1/threads:2";
  const std::vector<std::string> plain = {"--layers=conv2d",
                                          "--shapes=n2c16h8w8k16r3s1p1",
                                          "--threads=2",
                                          "--benchmark_filter=backward_data",
                                          "--benchmark_format=json",
                                          "--benchmark_min_time=0.001"};
  std::vector<std::string> tuned = plain;
  tuned.push_back("--autotune");
  const auto label = [&](const ProgramRun& run) {
    EXPECT_EQ(run.exit_code, 0) << run.err;
    return ByName(nlohmann::json::parse(run.out)).at(name).value("label", "");
  };

  const std::string untuned_label = label(RunProgram(kLayers, plain));
  EXPECT_FALSE(folder.Has("choices.json"));
  const ProgramRun first = RunProgram(kLayers, tuned);
  EXPECT_THAT(first.err, HasSubstr("autotune: conv2d_backward_data/n2c16h8w8k16r3s1p1/"));
  EXPECT_EQ(nlohmann::json::parse(first.out).at("context").at("autotune"), folder / "choices.json");
  const std::string first_label = label(first);
  EXPECT_TRUE(absl::EndsWith(first_label, " tuned")) << first_label;

  // Whatever it was, make it another one: the file decides, and nothing is measured.
  auto choices = nlohmann::json::parse(folder.Read("choices.json"));
  ASSERT_EQ(choices.at("choices").size(), 1u);
  auto& choice = *choices.at("choices").begin();
  EXPECT_TRUE(absl::StartsWith(first_label, choice.at("algorithm").get<std::string>() + " "));
  for (const char* forced : {"direct", "winograd2", "winograd4"}) {
    choice["algorithm"] = forced;
    folder.Write("choices.json", choices.dump());
    const ProgramRun again = RunProgram(kLayers, tuned);
    EXPECT_THAT(again.err, testing::Not(HasSubstr("autotune:")));
    EXPECT_TRUE(absl::StartsWith(label(again), std::string(forced) + " "));
    EXPECT_EQ(label(RunProgram(kLayers, plain)), untuned_label) << "not without asking";
  }
  choice["algorithm"] = "depthwise";
  folder.Write("choices.json", choices.dump());
  const ProgramRun wrong = RunProgram(kLayers, tuned);
  EXPECT_THAT(wrong.err, HasSubstr("depthwise does not do that"));
  EXPECT_TRUE(absl::EndsWith(label(wrong), " tuned"));
  EXPECT_THAT(folder.Read("choices.json"), testing::Not(HasSubstr("depthwise")));

  const ProgramRun compared =
      RunProgram(kLayers, {"--compare=plain", "--layers=conv2d", "--shapes=n2c16h8w8k16r3s1p1",
                           "--threads=2", "--autotune"});
  EXPECT_EQ(compared.exit_code, 0) << compared.err;
  EXPECT_THAT(compared.out, testing::ContainsRegex("backward_data .* tuned / "));
  EXPECT_THAT(compared.err, testing::Not(HasSubstr("conv2d_backward_data/n2c16h8w8k16r3s1p1/")));
  EXPECT_THAT(compared.err, HasSubstr("conv2d_forward/n2c16h8w8k16r3s1p1/"));
}

TEST(BenchLayers, AnAlgorithmThatDoesNotFitIsAnErrorOfThatBenchmark) {
  const ProgramRun run =
      RunProgram(kLayers, {"--layers=conv2d", "--shapes=n1c8h6w6k8r3s1p1", "--threads=1",
                           "--algorithm=depthwise", "--benchmark_min_time=0.001"});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.out + run.err, HasSubstr("depthwise does not do forward"));
}

TEST(BenchLayers, BadUsageExitsWith2AndNamesTheFlag) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"--layers=conv3d"}, "--layers"},
      {{"--layers="}, "--layers"},
      {{"--shapes=big"}, "--shapes"},
      {{"--shapes="}, "--shapes"},
      {{"--layers=conv2d", "--shapes=n1c8h6w6k8r7s1p0"}, "--shapes"},
      {{"--layers=relu", "--shapes=n0c8h6w6"}, "--shapes"},
      {{"--layers=relu", "--shapes=n1000c1000h1000w1000"}, "--shapes"},
      {{"--impl=fast"}, "--impl"},
      {{"--algorithm=fft"}, "--algorithm"},
      {{"--algorithm="}, "--algorithm is empty"},
      {{"--compare_json="}, "--compare_json is empty"},
      {{"--layers=relu", "--algorithm=direct"}, "--algorithm"},
      {{"--layers=relu", "--autotune"}, "--autotune"},
      {{"--layers=relu", "--impl=fused"}, "--impl"},
      {{"--layers=conv2d", "--autotune", "--algorithm=direct"}, "--autotune"},
      {{"--layers=conv2d", "--autotune", "--impl=reference"}, "--autotune"},
      {{"--autotune=perhaps"}, "--autotune"},
      {{"--threads=none"}, "--threads"},
      {{"--target=neon"}, "--target"},
      {{"--image_size=2"}, "--image_size"},
      {{"--benchmark_format=xml"}, "--benchmark_format"},
      {{"--benchmark_repetitions=many"}, "--benchmark_repetitions"},
      {{"--benchmark_bogus=1"}, "--benchmark_bogus"},
      {{"--bogus"}, "--bogus"},
      {{"stray"}, "stray"},
      {{"--layers=relu", "--benchmark_filter=nothing_like_it"}, "--benchmark_filter"},
      {{"--layers=relu", "--benchmark_out=/nonexistent/folder/out.json"},
       "/nonexistent/folder/out.json"},
  };
  for (const auto& [arguments, named] : cases) {
    const ProgramRun run = RunProgram(kLayers, arguments);
    EXPECT_EQ(run.exit_code, 2) << arguments[0];
    EXPECT_THAT(run.err, HasSubstr(named));
    EXPECT_LE(CountLines(run.err), 3) << run.err;
    EXPECT_EQ(run.out, "") << arguments[0];
  }
}

TEST(BenchLayers, CsvWithAFailureInFrontKeepsTheOthers) {
  const ProgramRun run =
      RunProgram(kLayers, {"--algorithm=few_pixels", "--layers=conv2d", "--threads=1",
                           "--shapes=n3c40h9w7k70r3s1p0,n4c32h4w4k48r3s1p1",
                           "--benchmark_min_time=0.0001", "--benchmark_format=csv"});
  EXPECT_EQ(run.exit_code, 1) << run.err;
  EXPECT_THAT(run.out, HasSubstr("peak_fraction"));
  EXPECT_THAT(run.out, HasSubstr("n3c40h9w7k70r3s1p0"));
  EXPECT_THAT(run.out, HasSubstr("conv2d_backward_weights/optimized/n4c32h4w4k48r3s1p1"));
}

TEST(BenchLayers, ARunThatMatchesNothingLeavesNoFile) {
  const std::string path = absl::StrCat(testing::TempDir(), "bench_out_", getpid(), ".json");
  const ProgramRun run = RunProgram(
      kLayers, {"--layers=relu", "--benchmark_filter=nothing_like_it", "--benchmark_out=" + path});
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_NE(access(path.c_str(), F_OK), 0);
}

TEST(BenchLayers, OnlyWholeResultsReplaceAnEarlierFile) {
  const std::string path = absl::StrCat(testing::TempDir(), "bench_kept_", getpid(), ".json");
  const auto content = [&] {
    std::ifstream in(path);
    return std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  };
  std::ofstream(path) << "earlier results";
  const std::vector<std::string> flags = {"--layers=relu", "--shapes=n2c3h2w2", "--threads=1",
                                          "--benchmark_min_time=0.001", "--benchmark_out=" + path};
  const auto run = [&](const char* flag) {
    std::vector<std::string> all = flags;
    all.emplace_back(flag);
    return RunProgram(kLayers, all).exit_code;
  };
  EXPECT_EQ(run("--benchmark_filter=nothing_like_it"), 2);
  EXPECT_EQ(content(), "earlier results");
  EXPECT_EQ(run("--benchmark_list_tests"), 0);
  EXPECT_EQ(content(), "earlier results");
  EXPECT_EQ(run("--benchmark_filter=forward"), 0);
  EXPECT_THAT(content(), HasSubstr("relu_forward"));
  EXPECT_NE(access((path + ".partial").c_str(), F_OK), 0);
  unlink(path.c_str());
}

#if CNN_BENCH_HAS_ONEDNN
TEST(BenchLayers, OneDnnComputesTheSameAndIsNamed) {
  // Each result is compared with the naive reference before it is timed.
  const auto benchmarks = ByName(RunJson(
      kLayers,
      {"--impl=onednn,onednn_auto", "--threads=1,2",
       "--shapes=n2c16h6w6k8r3s1p1,n2c16h6w6k16r3s2p1g16,n2c6h5w4k4r3s1p0g2,n3c16k10,"
       "n2c16h6w6m1,n2c16h6w6m0,n2c16h6w6,n2c5h3w3,n2c16h7w6r3s2p1,n2c16+32h4w4,n2c3+5h4w4"}));
  for (const char* name :
       {"conv2d_forward/onednn/n2c16h6w6k8r3s1p1/threads:2",
        "conv2d_backward_weights/onednn_auto/n2c6h5w4k4r3s1p0g2/threads:1",
        "linear_backward_weights/onednn/n3c16k10/threads:1",
        "batch_norm2d_backward/onednn/n2c16h6w6m1/threads:2",
        "max_pool2d_backward/onednn/n2c16h7w6r3s2p1/threads:1",
        "global_avg_pool2d_forward/onednn/n2c5h3w3/threads:1",
        "add_backward/onednn/n2c16h6w6/threads:1", "concat_backward/onednn/n2c3+5h4w4/threads:1"}) {
    ASSERT_EQ(benchmarks.count(name), 1u) << name;
    const std::string label = benchmarks.at(name).value("label", "");
    EXPECT_TRUE(absl::StartsWith(label, "oneDNN 2.")) << label;
    EXPECT_EQ(benchmarks.at(name).at("num_threads"), absl::EndsWith(name, "2") ? 2.0 : 1.0);
  }
  for (const auto& [name, b] : benchmarks) {
    EXPECT_FALSE(absl::StartsWith(name, "dropout")) << "oneDNN has none";
  }
}

TEST(BenchLayers, CompareMeasuresBothAndSumsUp) {
  const std::string path = absl::StrCat(testing::TempDir(), "bench_compare_", getpid(), ".json");
  const ProgramRun run =
      RunProgram(kLayers, {"--compare=onednn_auto", "--layers=conv2d,relu,dropout", "--threads=1",
                           "--shapes=n2c16h6w6k8r3s1p1,n2c16h6w6", "--compare_json=" + path});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("Ours against onednn_auto, threads: 1"));
  for (const char* row :
       {"conv2d_forward +n2c16h6w6k8r3s1p1 .* GFLOP/s .*/ oneDNN 2\\.",
        "conv2d_backward_data +n2c16", "conv2d_backward_weights +n2c16",
        "relu_backward +n2c16h6w6 .* GB/s ", "conv2d other 3x3 +backward_weights +1 ",
        "conv2d other 3x3 +all passes +3 ", "relu +all passes +2 "}) {
    EXPECT_THAT(run.out, testing::ContainsRegex(row));
  }
  EXPECT_THAT(run.out, testing::Not(HasSubstr("dropout"))) << "oneDNN has none";
  const auto text = ReadFile(path);
  ASSERT_TRUE(text.ok()) << text.status();
  std::remove(path.c_str());
  const auto json = nlohmann::json::parse(*text);
  const auto& rows = json.at("comparisons").at(0).at("rows");
  ASSERT_EQ(rows.size(), 5u);
  double product = 1;
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_GT(rows[i].at("seconds"), 0.0);
    EXPECT_NEAR(rows[i].at("ratio").get<double>() * rows[i].at("seconds").get<double>() /
                    rows[i].at("peer_seconds").get<double>(),
                1, 1e-9);
    product *= rows[i].at("ratio").get<double>();
  }
  const auto& all = json.at("comparisons").at(0).at("groups").at(3);
  EXPECT_EQ(all.at("pass"), "all passes");
  EXPECT_NEAR(std::cbrt(product) / all.at("geometric_mean").get<double>(), 1, 1e-9);
}

TEST(BenchLayers, CompareLeavesOutWhatAnAlgorithmDoesNotDo) {
  const ProgramRun run = RunProgram(
      kLayers, {"--compare=onednn", "--layers=conv2d", "--threads=1", "--algorithm=pointwise",
                "--shapes=n1c16h4w4k16r3s1p1,n1c16h4w4k16r1s1p0"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("conv2d_forward"));
  EXPECT_THAT(run.out, testing::Not(HasSubstr("r3s1p1")));
}

TEST(BenchLayers, CompareRefusesBadUsage) {
  const std::string path = absl::StrCat(testing::TempDir(), "bench_refused_", getpid(), ".json");
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"--compare=fast"}, "--compare"},
      {{"--compare="}, "--compare"},
      {{"--compare_json=" + path}, "--compare_json"},
      {{"--compare=onednn", "--impl=reference"}, "--impl"},
      {{"--compare=onednn", "--layers=dropout"}, "--layers"},
      {{"--compare=onednn", "--layers=relu", "--benchmark_filter=relu"}, "--benchmark_filter"},
      {{"--compare=onednn", "--layers=conv2d", "--algorithm=depthwise",
        "--shapes=n2c16h6w6k8r3s1p1", "--compare_json=" + path},
       "--algorithm"},
      {{"--compare=onednn", "--layers=relu", "--compare_json=/nonexistent/folder/c.json"},
       "/nonexistent/folder/c.json"},
  };
  for (const auto& [arguments, named] : cases) {
    const ProgramRun run = RunProgram(kLayers, arguments);
    EXPECT_EQ(run.exit_code, 2) << arguments[0];
    EXPECT_THAT(run.err, HasSubstr(named));
    EXPECT_LE(CountLines(run.err), 3) << run.err;
    EXPECT_EQ(run.out, "") << arguments[0];
  }
  EXPECT_NE(access(path.c_str(), F_OK), 0) << "a refused run leaves nothing";
}

TEST(BenchLayers, OneDnnHasNoDropout) {
  const ProgramRun run = RunProgram(kLayers, {"--impl=onednn", "--layers=dropout"});
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_THAT(run.err, HasSubstr("--impl"));
}
#else
TEST(BenchLayers, OneDnnIsRefusedWhereItIsNotBuiltIn) {
  for (const char* impl : {"--impl=onednn", "--impl=optimized,onednn_auto", "--compare=onednn"}) {
    const ProgramRun run = RunProgram(kLayers, {impl});
    EXPECT_EQ(run.exit_code, 2);
    EXPECT_THAT(run.err, HasSubstr("not built in"));
  }
}
#endif

TEST(BenchPrograms, HelpListsOurFlagsAndGoogleBenchmarks) {
  for (const char* program : {kLayers, kModels}) {
    const ProgramRun run = RunProgram(program, {"--help"});
    EXPECT_EQ(run.exit_code, 0);
    for (const char* flag : {"--impl", "--threads", "--target", "--image_size", "--num_classes",
                             "--benchmark_filter", "--benchmark_out"}) {
      EXPECT_THAT(run.out, HasSubstr(flag));
    }
    EXPECT_EQ(run.err, "");
  }
}

TEST(BenchModels, PhasesCountersAndMemory) {
  const auto json = RunJson(kModels, {"--models=mobilenetv1", "--batch=2", "--threads=2",
                                      "--phases=inference,forward,backward,train_step"});
  ExpectConditions(json);
  const auto benchmarks = ByName(json);
  EXPECT_EQ(benchmarks.size(), 4u);
  for (const auto& [name, b] : benchmarks) {
    SCOPED_TRACE(name);
    for (const char* counter :
         {"num_threads", "batch", "images_per_second", "gflops", "executed_gflops", "peak_fraction",
          "peak_bytes", "weight_bytes", "gradient_bytes", "optimizer_bytes", "activation_bytes",
          "workspace_bytes"}) {
      EXPECT_TRUE(b.contains(counter)) << counter;
    }
    EXPECT_EQ(b.at("num_threads"), 2.0);
    EXPECT_EQ(b.at("batch"), 2.0);
    if (MallocCallsAreCounted()) {
      EXPECT_EQ(b.at("allocs_per_step"), 0.0);
    }
    // 3,217,226 parameters and the running statistics of 10,944 channels.
    EXPECT_GE(b.at("weight_bytes"), 4.0 * (3217226 + 2 * 10944));
    EXPECT_GE(b.at("peak_bytes").get<double>(),
              b.at("weight_bytes").get<double>() + b.at("activation_bytes").get<double>());
  }
  const auto& step = benchmarks.at("train_step/mobilenetv1/f32/optimized/batch:2/threads:2");
  const double seconds = step.at("real_time").get<double>() * 1e-3;
  EXPECT_EQ(step.at("time_unit"), "ms");
  EXPECT_NEAR(step.at("images_per_second").get<double>() * seconds, 2, 1e-5);
  EXPECT_NEAR(step.at("gflops").get<double>() * seconds, 2 * 3 * 2 * 0.046354432, 1e-5);
  EXPECT_GE(step.at("optimizer_bytes"), 4.0 * 3217226);
  const auto& inference = benchmarks.at("inference/mobilenetv1/f32/optimized/batch:2/threads:2");
  EXPECT_EQ(inference.at("optimizer_bytes"), 0.0);
  EXPECT_EQ(inference.at("gradient_bytes"), 0.0);
  EXPECT_LT(inference.at("activation_bytes"), step.at("activation_bytes"));
  const auto& backward = benchmarks.at("backward/mobilenetv1/f32/optimized/batch:2/threads:2");
  EXPECT_GE(backward.at("gradient_bytes"), 4.0 * 3217226) << "all are kept";
}

TEST(BenchModels, ReferenceRunsOnOneThread) {
  const auto benchmarks =
      ByName(RunJson(kModels, {"--models=mobilenetv1", "--batch=2", "--threads=1,2",
                               "--impl=reference", "--phases=inference"}));
  ASSERT_EQ(benchmarks.size(), 1u);
  EXPECT_EQ(benchmarks.begin()->first, "inference/mobilenetv1/f32/reference/batch:2/threads:1");
  EXPECT_EQ(benchmarks.begin()->second.at("num_threads"), 1.0);
}

TEST(BenchModels, TraceAndProfile) {
  const std::string path = absl::StrCat(testing::TempDir(), "bench_trace_", getpid(), ".json");
  const ProgramRun run =
      RunProgram(kModels, {"--models=mobilenetv1", "--batch=2", "--threads=1", "--profile",
                           "--trace=" + path, "--benchmark_min_time=0.001"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("Profile of train_step/mobilenetv1/f32/optimized/batch:2"));
  EXPECT_THAT(run.out, HasSubstr("blocks.0.0.conv_dw"));
  const auto text = ReadFile(path);
  ASSERT_TRUE(text.ok()) << text.status();
  std::remove(path.c_str());
  const auto trace = nlohmann::json::parse(*text);
  bool step = false, memory = false;
  for (const auto& event : trace.at("traceEvents")) {
    step |= event.at("ph") == "X" &&
            absl::StrContains(event.at("name").get<std::string>(), "blocks.0.0.conv_dw");
    memory |= event.at("ph") == "C" && event.at("name") == "memory";
  }
  EXPECT_TRUE(step);
  EXPECT_TRUE(memory);
}

TEST(BenchModels, BadUsageExitsWith2AndNamesTheFlag) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"--models=alexnet"}, "--models"},
      {{"--batch=0"}, "--batch"},
      {{"--batch=8,x"}, "--batch"},
      {{"--batch=100000000000"}, "--batch"},
      {{"--batch=10000000"}, "--batch"},
      {{"--batch=1000000", "--impl=reference"}, "--batch"},
      {{"--phases=sleep"}, "--phases"},
      {{"--precision=bf16"}, "--precision"},
      {{"--impl=onednn"}, "--impl"},
      {{"--fusion=perhaps"}, "--fusion"},
      {{"--winograd=2"}, "--winograd"},
      {{"--update=never"}, "--update"},
      {{"--update=fused,after_backward"}, "--update"},
      {{"--memory_limit=lots"}, "--memory_limit"},
      {{"--memory_limit=1M"}, "at least"},
      {{"--impl=reference", "--memory_limit=2G"}, "--memory_limit does not go with"},
      {{"--num_classes=1"}, "--num_classes"},
      {{"--impl=reference", "--profile"}, "--profile does not go with"},
      {{"--impl=reference", "--trace=/tmp/none.json"}, "--trace does not go with"},
      {{"--image_size=4"}, "--image_size"},
      {{"--trace=/nonexistent/folder/trace.json"}, "/nonexistent/folder/trace.json"},
      {{"--trace="}, "--trace is empty"},
      {{"--threads=5000"}, "--threads"},
  };
  for (const auto& [arguments, named] : cases) {
    const ProgramRun run = RunProgram(kModels, arguments);
    EXPECT_EQ(run.exit_code, 2) << arguments[0];
    EXPECT_THAT(run.err, HasSubstr(named));
    EXPECT_LE(CountLines(run.err), 3) << run.err;
    EXPECT_EQ(run.out, "") << arguments[0];
  }
}

}  // namespace
}  // namespace classicnn
