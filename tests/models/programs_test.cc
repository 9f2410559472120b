// cnn-train and cnn-eval as programs: exit codes, messages, signals.
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/models/data/make_png.h"
#include "tests/testing/temp_folder.h"

namespace classicnn {
namespace {

using ::testing::HasSubstr;

struct Result {
  int code = -1;
  std::string out, err;
};

// Runs a program with standard output and error into files of the folder.
class Child {
 public:
  // `file_limit`: bytes that a file may have (0: any number).
  Child(const TempFolder& folder, const char* program, std::vector<std::string> args,
        rlim_t file_limit = 0)
      : folder_(folder) {
    args.insert(args.begin(), program);
    pid_ = fork();
    if (pid_ == 0) {
      FILE* const out = std::freopen((folder / "stdout").c_str(), "w", stdout);
      FILE* const err = std::freopen((folder / "stderr").c_str(), "w", stderr);
      std::vector<char*> argv;
      for (auto& arg : args) argv.push_back(arg.data());
      argv.push_back(nullptr);
      const rlimit limit{file_limit, RLIM_INFINITY};
      if (file_limit > 0 && setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(127);
      if (out != nullptr && err != nullptr) execv(program, argv.data());
      _exit(127);
    }
  }
  void Signal(int number) { kill(pid_, number); }
  Result Wait() {
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    Result result;
    result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    result.out = folder_.Read("stdout");
    result.err = folder_.Read("stderr");
    return result;
  }

 private:
  const TempFolder& folder_;
  pid_t pid_ = -1;
};

Result RunTrain(const TempFolder& folder, const std::vector<std::string>& args) {
  return Child(folder, CNN_TRAIN, args).Wait();
}
Result RunEval(const TempFolder& folder, const std::vector<std::string>& args) {
  return Child(folder, CNN_EVAL, args).Wait();
}

const std::vector<std::string> kTiny = {
    "--model=mobilenetv1", "--image_size=16", "--synthetic_images=32",
    "--batch=8",           "--epochs=2",      "--threads=2"};
std::vector<std::string> Tiny(const std::vector<std::string>& more) {
  std::vector<std::string> args = kTiny;
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

TEST(CnnTrainTest, HelpListsTheFlags) {
  TempFolder folder;
  const Result r = RunTrain(folder, {"--help"});
  EXPECT_EQ(r.code, 0);
  for (const char* flag : {"model",
                           "data",
                           "out",
                           "recipe",
                           "epochs",
                           "batch",
                           "lr",
                           "schedule",
                           "warmup_epochs",
                           "momentum",
                           "nesterov",
                           "weight_decay",
                           "decay_norm_and_bias",
                           "decay_depthwise",
                           "label_smoothing",
                           "dropout",
                           "ema",
                           "optimizer",
                           "augment",
                           "mean",
                           "std",
                           "seed",
                           "threads",
                           "precision",
                           "memory_limit",
                           "update",
                           "init",
                           "resume",
                           "max_steps",
                           "save_every",
                           "keep",
                           "log_every",
                           "log_gradients",
                           "eval_every",
                           "synthetic_images",
                           "target",
                           "image_size",
                           "num_classes"}) {
    EXPECT_THAT(r.out, testing::ContainsRegex(absl::StrCat("  --", flag, "( |\n)")));
  }
}

TEST(CnnTrainTest, BadUsageExitsTwoAndLeavesNothing) {
  TempFolder folder;
  const std::string out = "--out=" + (folder / "new/run");
  const auto refused = [&](const std::vector<std::string>& args, const std::string& what) {
    const Result r = RunTrain(folder, args);
    SCOPED_TRACE(r.err);
    EXPECT_EQ(r.code, 2);
    EXPECT_THAT(r.err, HasSubstr(what));
    const std::vector<std::string> lines = absl::StrSplit(r.err, '\n', absl::SkipEmpty());
    EXPECT_LE(lines.size(), 3u);
    EXPECT_FALSE(folder.Has("new"));
  };
  refused({out}, "--model");
  refused({out, "--model=vgg19"}, "--model");
  refused(Tiny({out, "--modle=vgg16"}), "--modle");
  refused(Tiny({out, "--batch=0"}), "--batch");
  refused(Tiny({out, "--batch=some"}), "--batch");
  refused(Tiny({out, "--lr=-1"}), "--lr");
  refused(Tiny({out, "--epochs=0"}), "--epochs");
  refused(Tiny({out, "--epochs=2000000000000000000"}), "--epochs");
  refused(Tiny({out, "--max_steps=9223372036854775807"}), "--max_steps");
  refused(Tiny({out, "--precision=bf16"}), "f32");
  refused(Tiny({out, "--recipe=magic"}), "--recipe");
  refused(Tiny({out, "--num_classes=33"}), "--num_classes");
  refused(Tiny({out, "--data=" + (folder / "none")}), folder / "none");
  refused(Tiny({out, "--init=" + (folder / "none")}), folder / "none");
  refused(Tiny({out, "--memory_limit=3M"}), "--memory_limit");
  for (const char* flag : {"--init=", "--data=", "--memory_limit=", "--update=", "--out="}) {
    refused(Tiny({out, flag}), std::string(flag, std::strlen(flag) - 1) + " is empty");
  }
  refused(Tiny({"--resume"}), "--out");
  refused(Tiny({out, "--resume"}), folder / "new/run");
  folder.Write("file", "");
  refused(Tiny({"--out=" + (folder / "file/run")}), folder / "file/run");
}

TEST(CnnTrainTest, TrainsAndEvaluates) {
  TempFolder folder;
  const std::string run = folder / "run";
  const Result r = RunTrain(folder, Tiny({"--out=" + run}));
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("epoch   2/2"));
  EXPECT_THAT(r.out, HasSubstr("chosen on the test set"));

  const std::vector<std::string> eval = {"--weights=" + run + "/last.safetensors",
                                         "--synthetic_images=32"};
  const Result e = RunEval(folder, eval);
  EXPECT_EQ(e.code, 0) << e.err;
  for (const char* what : {"loss", "top-1", "top-5", "accuracy by class", "confusion matrix"}) {
    EXPECT_THAT(e.out, HasSubstr(what));
  }
  // The accuracy of the last epoch is that of last.safetensors.
  const std::string log = folder.Read("run/metrics.jsonl");
  const size_t at = log.rfind("\"test_accuracy\":");
  const double accuracy = std::stod(log.substr(at + 16));
  EXPECT_NEAR(std::stod(e.out.substr(e.out.find("top-1") + 6)), 100 * accuracy, 0.006);
  // And the loss, which few images tell apart better: another normalization would show.
  const double loss = std::stod(log.substr(log.rfind("\"test_loss\":") + 12));
  EXPECT_NEAR(std::stod(e.out.substr(e.out.find("loss  ") + 6)), loss, 1e-6);
  const Result mirrored = RunEval(folder, {eval[0], eval[1], "--flip"});
  EXPECT_EQ(mirrored.code, 0) << mirrored.err;
  EXPECT_NE(std::stod(mirrored.out.substr(mirrored.out.find("loss  ") + 6)), loss);

  EXPECT_EQ(RunEval(folder, {"--model=vgg16", eval[0]}).code, 2);
  EXPECT_EQ(RunEval(folder, {}).code, 2);
  const Result missing = RunEval(folder, {eval[0], "--image=" + (folder / "none.png")});
  EXPECT_EQ(missing.code, 2);
  EXPECT_THAT(missing.err, HasSubstr("none.png"));
  const Result nameless = RunEval(folder, {eval[0], "--image="});
  EXPECT_EQ(nameless.code, 2);
  EXPECT_THAT(nameless.err, HasSubstr("--image is empty"));

  // A picture: the five best of the classes, best first.
  const std::string picture = folder.Write("a.png", Png(40, 30, "\x0a\x64\xc8"));
  const Result classified = RunEval(folder, {eval[0], "--image=" + picture});
  EXPECT_EQ(classified.code, 0) << classified.err;
  const std::vector<std::string> lines = absl::StrSplit(classified.out, '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), 6u) << classified.out;
  EXPECT_EQ(lines[0], picture);
  double before = 100, sum = 0;
  for (size_t i = 1; i < 6; ++i) {
    const double percent = std::stod(lines[i]);
    EXPECT_LE(percent, before);
    EXPECT_THAT(lines[i], HasSubstr("%  class "));
    before = percent;
    sum += percent;
  }
  EXPECT_GE(sum, 49.9) << "half of ten classes, the better one";
  EXPECT_LE(sum, 100.1);

  const Result again = RunTrain(folder, {"--resume", "--out=" + run});
  EXPECT_EQ(again.code, 0);
  EXPECT_THAT(again.out, HasSubstr("finished"));
  const Result other = RunTrain(folder, {"--resume", "--out=" + run, "--lr=0.5"});
  EXPECT_EQ(other.code, 2);
  EXPECT_THAT(other.err, HasSubstr("--lr"));
  EXPECT_EQ(RunTrain(folder, Tiny({"--out=" + run})).code, 2);
}

TEST(CnnTrainTest, FlagsOverruleARecipe) {
  TempFolder folder;
  const Result r = RunTrain(
      folder, Tiny({"--out=" + (folder / "run"), "--recipe=accuracy", "--max_steps=1", "--lr=0.03",
                    "--augment=none", "--nonesterov", "--label_smoothing=0.2"}));
  ASSERT_EQ(r.code, 0) << r.err;
  const auto flags = nlohmann::json::parse(folder.Read("run/config.json"))["flags"];
  EXPECT_EQ(flags["recipe"], "accuracy");
  EXPECT_EQ(flags["epochs"], 2);
  EXPECT_EQ(flags["batch"], 8);
  EXPECT_EQ(flags["lr"], 0.03);
  EXPECT_EQ(flags["augment"], "none");
  EXPECT_EQ(flags["nesterov"], false);
  EXPECT_EQ(flags["label_smoothing"], 0.2);
  EXPECT_EQ(flags["schedule"], "onecycle") << "what was not given is the recipe's";
}

TEST(CnnTrainTest, DivergenceExitsOne) {
  TempFolder folder;
  const Result r = RunTrain(folder, Tiny({"--out=" + (folder / "run"), "--lr=1e30",
                                          "--schedule=constant", "--warmup_epochs=0"}));
  EXPECT_EQ(r.code, 1);
  EXPECT_THAT(r.err, HasSubstr("not finite"));
  EXPECT_THAT(r.err, HasSubstr("no weights"));
  EXPECT_TRUE(folder.Has("run/config.json"));
  EXPECT_FALSE(folder.Has("run/last.safetensors"));
}

// Files cannot grow as on a full disk: the first state fits, that with the best weights beside the
// current ones does not.
TEST(CnnTrainTest, ADiskThatIsFullLeavesWhatWasSaved) {
  TempFolder folder;
  const std::vector<std::string> flags = {"--log_every=1", "--save_every=2"};
  auto whole = flags, part = flags;
  whole.push_back("--out=" + (folder / "whole"));
  part.push_back("--out=" + (folder / "part"));
  ASSERT_EQ(RunTrain(folder, Tiny(whole)).code, 0);
  // Weights and momentum have 26 MB; at step 6, between epochs, the best ones are another 13. The
  // last state has them only where the last epoch is not the best.
  constexpr rlim_t kLimit = rlim_t{30} << 20;
  ASSERT_GT(folder.Read("whole/state.safetensors").size(), size_t{24} << 20);
  const Result full = Child(folder, CNN_TRAIN, Tiny(part), kLimit).Wait();
  EXPECT_EQ(full.code, 1) << full.err;
  EXPECT_THAT(full.err, HasSubstr("state.safetensors: File too large"));
  EXPECT_THAT(full.err, HasSubstr("keeps, whole, the state and weights saved last, of step 4"));
  EXPECT_THAT(full.err, HasSubstr("cnn-train --resume --out=" + (folder / "part")));
  for (const auto& entry : std::filesystem::directory_iterator(folder / "part")) {
    EXPECT_NE(entry.path().extension(), ".tmp") << entry.path();
  }
  const Result resumed = RunTrain(folder, {"--resume", "--out=" + (folder / "part")});
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_THAT(resumed.err, HasSubstr("at step 4"));
  for (const char* name : {"state", "last", "best"}) {
    EXPECT_TRUE(folder.Read(absl::StrCat("whole/", name, ".safetensors")) ==
                folder.Read(absl::StrCat("part/", name, ".safetensors")))
        << name;
  }
}

// Interrupted by `number` once training has begun, resumed, equal to an uninterrupted run.
void InterruptAndResume(int number, int expected_code) {
  TempFolder folder;
  const std::vector<std::string> flags = {"--epochs=9", "--log_every=1", "--save_every=3"};
  auto whole = flags, parts = flags;
  whole.push_back("--out=" + (folder / "whole"));
  parts.push_back("--out=" + (folder / "parts"));
  ASSERT_EQ(RunTrain(folder, Tiny(whole)).code, 0);
  Child child(folder, CNN_TRAIN, Tiny(parts));
  for (int i = 0; i < 1000 && folder.Read("parts/metrics.jsonl").size() < 600; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  child.Signal(number);
  const Result stopped = child.Wait();
  EXPECT_EQ(stopped.code, expected_code) << stopped.err;
  if (expected_code == 0) {
    EXPECT_THAT(stopped.err, HasSubstr("--resume"));
  }
  const Result resumed = RunTrain(folder, {"--resume", "--out=" + (folder / "parts")});
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  for (const char* name : {"state", "last", "best"}) {
    EXPECT_TRUE(folder.Read(absl::StrCat("whole/", name, ".safetensors")) ==
                folder.Read(absl::StrCat("parts/", name, ".safetensors")))
        << name;
  }
}
TEST(CnnTrainTest, InterruptSavesAndExitsZero) { InterruptAndResume(SIGINT, 0); }
TEST(CnnTrainTest, TerminateSavesAndExitsZero) { InterruptAndResume(SIGTERM, 0); }
TEST(CnnTrainTest, KillLeavesAStateToGoOnFrom) { InterruptAndResume(SIGKILL, 128 + SIGKILL); }

}  // namespace
}  // namespace classicnn
