// cnn-verify from outside: exit codes and what it prints.
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "core/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/benches/run_program.h"

namespace classicnn {
namespace {

using testing::HasSubstr;

ProgramRun Verify(std::vector<std::string> arguments) {
  return RunProgram(CNN_VERIFY, std::move(arguments));
}
std::string Golden(const char* name) {
  return absl::StrCat("--golden=", CLASSICNN_GOLDEN_FOLDER, "/", name, ".safetensors");
}
std::string Temporary(const char* name) {
  return absl::StrCat(testing::TempDir(), "cnn_verify_", ::getpid(), "_", name);
}

TEST(CnnVerifyTest, LayersPassWithTableAndJson) {
  const std::string json_path = Temporary("layers.json");
  const ProgramRun run = Verify({"--layers=relu,optimizer", "--threads=3", "--seed=9",
                                 "--image_size=32", "--json=" + json_path});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("relu_backward n2c17h5w3"));
  EXPECT_THAT(run.out, HasSubstr("sgd_nesterov c1000"));
  EXPECT_THAT(run.out, HasSubstr("\npass: "));
  const auto json = nlohmann::json::parse(ReadFile(json_path).value());
  EXPECT_EQ(json["verdict"], "pass");
  EXPECT_EQ(json["threads"], 3);
  for (const char* key : {"isa_target", "machine", "build"}) EXPECT_TRUE(json.contains(key)) << key;
  EXPECT_GT(json["rows"].size(), 50u);
  for (const auto& row : json["rows"]) {
    for (const char* key : {"what", "tensor", "impl", "error", "bound", "verdict"}) {
      EXPECT_TRUE(row.contains(key)) << key;
    }
  }
  std::filesystem::remove(json_path);
}

TEST(CnnVerifyTest, FailuresExitWithOneAndTheirCommand) {
  const ProgramRun run = Verify({"--layers=linear", "--shapes=n3c37k11", "--seed=2",
                                 "--tolerance=1e-12", "--target=scalar", "--threads=1"});
  EXPECT_EQ(run.exit_code, 1);
  // All that made it fail.
  EXPECT_THAT(run.out, HasSubstr("repeat: cnn-verify --layers=linear --shapes=n3c37k11 --seed=2 "
                                 "--tolerance=1e-12 --target=scalar --threads=1\n"));
  EXPECT_THAT(run.out, HasSubstr("\nfail: "));
}

TEST(CnnVerifyTest, GoldenFiles) {
  for (const char* precision : {"f32", "f64"}) {
    const ProgramRun run = Verify({Golden("conv2d_k5"), absl::StrCat("--precision=", precision)});
    EXPECT_EQ(run.exit_code, 0) << run.err;
    EXPECT_THAT(run.out, HasSubstr("grad.weight"));
  }
  // One float of what is expected changed: the last in the file.
  const std::string path = Temporary("spoiled.safetensors");
  std::string bytes = ReadFile(absl::StrCat(CLASSICNN_GOLDEN_FOLDER, "/relu.safetensors")).value();
  bytes[bytes.size() - 2] = static_cast<char>(bytes[bytes.size() - 2] ^ 0x7f);
  bytes[bytes.size() - 1] = 0x41;
  std::ofstream(path, std::ios::binary) << bytes;
  const ProgramRun spoiled = Verify({"--golden=" + path});
  EXPECT_EQ(spoiled.exit_code, 1) << spoiled.out << spoiled.err;
  EXPECT_THAT(spoiled.out, HasSubstr("repeat: cnn-verify --golden=" + path));

  std::ofstream(path, std::ios::binary) << bytes.substr(0, bytes.size() / 2);
  const ProgramRun truncated = Verify({"--golden=" + path});
  EXPECT_EQ(truncated.exit_code, 2);
  EXPECT_THAT(truncated.err, HasSubstr(path));
  EXPECT_EQ(truncated.out, "");
  std::filesystem::remove(path);
}

TEST(CnnVerifyTest, BadUsageExitsWithTwoInAFewLines) {
  const std::string json_path = Temporary("refused.json");
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"--layer=relu"}, "layer"},
      {{"--layers=conv3d"}, "conv3d"},
      {{"--layers="}, "layers"},
      {{"--models=alexnet"}, "alexnet"},
      {{"--models=vgg16", "--image_size=8"}, "vgg16"},
      {{"--shapes=n2c3h4w5"}, "--shapes"},
      {{"--layers=relu", "--shapes=n2c3"}, "n2c3"},
      {{"--layers=relu", "--shapes="}, "shapes"},
      {{"--layers=conv2d", "--shapes=n2c3h4w5k6r9s1p1"}, "n2c3h4w5k6r9s1p1"},
      {{"--layers=optimizer", "--shapes=n7"}, "n7"},
      {{"--seed=-1"}, "--seed"},
      {{"--seed=x"}, "seed"},
      {{"--precision=f16"}, "f16"},
      {{"--precision=f64"}, "--golden"},
      {{"--tolerance=0"}, "--tolerance"},
      {{"--tolerance=nan"}, "--tolerance"},
      {{"--tolerance=-1"}, "--tolerance"},
      {{"--golden="}, "--golden"},
      {{"--golden=/nonexistent/x.safetensors"}, "/nonexistent/x.safetensors"},
      {{Golden("relu"), "--layers=relu"}, "--layers"},
      {{Golden("relu"), "--json=/nonexistent/folder/x.json"}, "/nonexistent/folder"},
      {{"--golden=/nonexistent/x.safetensors", "--json=" + json_path}, "/nonexistent"},
      {{"--threads=-1"}, "threads"},
      {{"stray"}, "stray"}};
  for (const auto& [arguments, word] : cases) {
    const ProgramRun run = Verify(arguments);
    SCOPED_TRACE(arguments.back());
    EXPECT_EQ(run.exit_code, 2) << run.out.substr(0, 300);
    EXPECT_EQ(run.out, "");
    EXPECT_THAT(run.err, HasSubstr(word));
    EXPECT_LE(CountLines(run.err), 3) << run.err;
    EXPECT_FALSE(std::filesystem::exists(json_path));
  }
}

TEST(CnnVerifyTest, Help) {
  const ProgramRun run = Verify({"--help"});
  EXPECT_EQ(run.exit_code, 0);
  for (const char* flag : {"--layers", "--models", "--shapes", "--seed", "--json", "--golden",
                           "--precision", "--tolerance", "--threads", "--target"}) {
    EXPECT_THAT(run.out, HasSubstr(flag));
  }
}

}  // namespace
}  // namespace classicnn
