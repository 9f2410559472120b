#include "core/program.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/isa.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

ABSL_FLAG(std::string, test_text, "some text", "A text for the test.");
ABSL_FLAG(bool, test_switch, false, "A switch for the test.");
ABSL_FLAG(double, test_number, 1.5, "A number for the test.");
ABSL_FLAG(double, test_depends, -1, "Default: half of the other.");

namespace classicnn {
namespace {

using testing::HasSubstr;
using testing::Not;

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

std::string ReadAll(int fd) {
  std::string text;
  char buffer[4096];
  for (ssize_t got; (got = read(fd, buffer, sizeof(buffer))) > 0;) {
    text.append(buffer, static_cast<size_t>(got));
  }
  close(fd);
  return text;
}

// Parses in a child, which then prints what it got and leaves with 77.
Outcome Parse(std::vector<std::string> arguments, std::vector<std::string> without_flags = {},
              bool thread_list = false) {
  int out[2];
  int err[2];
  EXPECT_EQ(pipe(out), 0);
  EXPECT_EQ(pipe(err), 0);
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    dup2(out[1], 1);
    dup2(err[1], 2);
    for (const int fd : {out[0], out[1], err[0], err[1]}) close(fd);
    // Leave before the leak check of sanitizers, which looks for the parent's other threads.
    on_exit(
        [](int code, void*) {
          std::fflush(nullptr);
          _exit(code);
        },
        nullptr);
    arguments.insert(arguments.begin(), "program");
    std::vector<char*> argv;
    for (std::string& a : arguments) argv.push_back(a.data());
    argv.push_back(nullptr);
    int argc = static_cast<int>(arguments.size());
    ProgramInfo info;
    info.name = "cnn-test";
    info.summary = "Tests flags.";
    info.without_flags = std::move(without_flags);
    info.takes_thread_list = thread_list;
    info.extra_help = [] { std::printf("extra help\n"); };
    ParseProgramFlags(info, &argc, argv.data(),
                      [](absl::string_view a) { return absl::StartsWith(a, "--foreign"); });
    std::printf("text=%s|switch=%d|number=%g|threads=%d|size=%d|classes=%d|target=%s|given=%d",
                absl::GetFlag(FLAGS_test_text).c_str(), absl::GetFlag(FLAGS_test_switch),
                absl::GetFlag(FLAGS_test_number), ThreadsFlag(), static_cast<int>(ImageSizeFlag()),
                static_cast<int>(NumClassesFlag()), ActiveTarget().c_str(),
                FlagWasGiven("test_text"));
    for (int i = 1; i < argc; ++i) std::printf("|%s", argv[i]);
    if (thread_list) std::printf("|list=%s", absl::StrJoin(ThreadListFlag(), "+").c_str());
    std::fflush(nullptr);
    _exit(77);
  }
  close(out[1]);
  close(err[1]);
  Outcome outcome;
  outcome.out = ReadAll(out[0]);
  outcome.err = ReadAll(err[0]);
  int status = 0;
  waitpid(child, &status, 0);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

TEST(ProgramFlags, ThreadListsWhereTheProgramTakesThem) {
  EXPECT_THAT(Parse({"--threads=1,2,64"}, {}, true).out, HasSubstr("list=1+2+64"));
  EXPECT_THAT(Parse({}, {}, true).out, HasSubstr("list=0"));
  EXPECT_EQ(Parse({"--threads=1,2,"}, {}, true).code, kExitBadUsage);
}

TEST(ProgramFlags, DefaultsAreAsPromised) {
  const Outcome o = Parse({});
  EXPECT_EQ(o.code, 77);
  EXPECT_EQ(o.out, "text=some text|switch=0|number=1.5|threads=0|size=32|classes=10|target=" +
                       ActiveTarget() + "|given=0");
  EXPECT_EQ(o.err, "");
}

TEST(ProgramFlags, TakesEverySpellingAbseilTakes) {
  EXPECT_THAT(Parse({"--test_text=a=b"}).out, HasSubstr("text=a=b|"));
  EXPECT_THAT(Parse({"--test_text=a"}).out, HasSubstr("|given=1"));
  EXPECT_THAT(Parse({"--test_text", "a b"}).out, HasSubstr("text=a b|"));
  EXPECT_THAT(Parse({"-test_text=x"}).out, HasSubstr("text=x|"));
  EXPECT_THAT(Parse({"--test_text="}).out, HasSubstr("text=|"));
  EXPECT_THAT(Parse({"--test_number", "-2"}).out, HasSubstr("number=-2|"));
  EXPECT_THAT(Parse({"--test_switch"}).out, HasSubstr("switch=1"));
  EXPECT_THAT(Parse({"--test_switch", "--threads=3"}).out,
              HasSubstr("switch=1|number=1.5|threads=3"));
  EXPECT_THAT(Parse({"--test_switch", "--notest_switch"}).out, HasSubstr("switch=0"));
  EXPECT_THAT(Parse({"--test_switch=false"}).out, HasSubstr("switch=0"));
  EXPECT_THAT(Parse({"--threads=3", "--threads=5"}).out, HasSubstr("threads=5"));
  EXPECT_THAT(Parse({"--image_size=64", "--num_classes=100", "--"}).out,
              HasSubstr("size=64|classes=100"));
  EXPECT_THAT(Parse({"--target=" + UsableTargets().back()}).out,
              HasSubstr("target=" + UsableTargets().back()));
}

TEST(ProgramFlags, LeavesForeignArgumentsInPlace) {
  const Outcome o = Parse({"--foreign_b=2", "--threads=2", "--foreign_a"});
  EXPECT_EQ(o.code, 77);
  EXPECT_THAT(o.out, testing::EndsWith("|--foreign_b=2|--foreign_a"));
}

TEST(ProgramFlags, BadUsageExitsWith2AndNamesTheFlagInAtMostThreeLines) {
  struct Case {
    std::vector<std::string> arguments;
    std::string expected;
  };
  const Case cases[] = {
      {{"--bogus"}, "--bogus"},
      {{"--bogus=1"}, "--bogus"},
      {{"-x"}, "-x"},
      {{"--thread=2"}, "did you mean --threads?"},
      {{"--nothreads"}, "--nothreads"},
      {{"--notest_switch=1"}, "--notest_switch"},
      {{"--threads=two"}, "--threads"},
      {{"--threads="}, "--threads"},
      {{"--threads=-1"}, "--threads"},
      {{"--threads=1,2"}, "one number is expected"},
      {{"--threads=1,,2"}, "--threads"},
      {{"--threads=4097"}, "--threads"},
      {{"--threads=99999999999999999999"}, "--threads"},
      {{"--threads"}, "--threads needs a value"},
      {{"--test_text", "--threads=2"}, "--test_text needs a value"},
      {{"--test_switch=perhaps"}, "--test_switch"},
      {{"--test_number=1.5x"}, "--test_number"},
      {{"--image_size=0"}, "--image_size"},
      {{"--num_classes=-5"}, "--num_classes"},
      {{"--target=avx9"}, "--target"},
      {{"stray"}, "stray"},
      {{"--", "stray"}, "stray"},
      {{"-"}, "-"},
      {{""}, "unexpected argument"},
      {{"---"}, "---"},
      {{"--=1"}, "--"},
      {{"--a\nb\nc\nd\ne=1"}, "--a\\nb"},
      {{"--threads=1\n2\n3\n4\n5"}, "--threads"},
      {{"--flagfile=/etc/passwd"}, "--flagfile"},
      {{"--" + std::string(100000, 'x')}, "--xxx"},
  };
  for (const Case& c : cases) {
    const Outcome o = Parse(c.arguments);
    SCOPED_TRACE(c.arguments[0].substr(0, 100));
    EXPECT_EQ(o.code, kExitBadUsage);
    EXPECT_EQ(o.out, "");
    EXPECT_THAT(o.err, HasSubstr(c.expected));
    EXPECT_THAT(o.err, testing::StartsWith("cnn-test: "));
    EXPECT_LE(std::count(o.err.begin(), o.err.end(), '\n'), 3);
    EXPECT_LT(o.err.size(), 600u);
  }
}

TEST(ProgramFlags, HelpListsTheFlagsAndExitsWith0) {
  for (const char* spelling : {"--help", "-help", "-h"}) {
    const Outcome o = Parse({"--threads=2", spelling});
    EXPECT_EQ(o.code, kExitOk);
    EXPECT_EQ(o.err, "");
    for (const char* part :
         {"cnn-test: Tests flags.", "--threads (default: 0)", "--target",
          "--image_size (default: 32)", "--num_classes (default: 10)",
          "--test_text (default: \"some text\")", "A switch for the test.", "extra help"}) {
      EXPECT_THAT(o.out, HasSubstr(part));
    }
    EXPECT_THAT(o.out, HasSubstr("--test_depends\n")) << "its -1 is no value to give";
  }
}

TEST(ProgramFlags, FlagsNotTakenAreUnknownAndUnlisted) {
  EXPECT_EQ(Parse({"--num_classes=5"}, {"num_classes", "image_size"}).code, kExitBadUsage);
  const Outcome help = Parse({"--help"}, {"num_classes"});
  EXPECT_THAT(help.out, Not(HasSubstr("num_classes")));
  EXPECT_THAT(help.out, HasSubstr("image_size"));
}

TEST(FailUsage, PrintsAtMostThreeLines) {
  testing::internal::CaptureStderr();
  EXPECT_EQ(FailUsage(absl::InvalidArgumentError("a\n\nb\nc\nd\ne")), kExitBadUsage);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::EndsWith(": a\nb\nc\n"));
}

// The exit code that `code` becomes with standard output on /dev/full.
int FinishedWithFullOutput(int code, bool flush_before) {
  const pid_t child = fork();
  if (child == 0) {
    std::freopen("/dev/full", "w", stdout) == nullptr ? _exit(99) : void();
    std::printf("a result\n");
    if (flush_before) std::fflush(stdout);
    _exit(FinishOutput(code));
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(FinishOutput, WhatCouldNotBePrintedIsAFailure) {
  EXPECT_EQ(FinishOutput(kExitOk), kExitOk);
  EXPECT_EQ(FinishOutput(kExitFailed), kExitFailed);
  for (const bool flush_before : {false, true}) {
    EXPECT_EQ(FinishedWithFullOutput(kExitOk, flush_before), kExitFailed);
    EXPECT_EQ(FinishedWithFullOutput(kExitBadUsage, flush_before), kExitBadUsage);
  }
}

TEST(RefuseEmpty, FlagsThatWereGivenWithoutAValue) {
  const auto parse_and_check = [] {
    char program[] = "program";
    char empty[] = "--test_text=";
    char* argv[] = {program, empty, nullptr};
    int argc = 2;
    ProgramInfo info;
    info.name = "cnn-test";
    ParseProgramFlags(info, &argc, argv);
    _exit(FailUsage(RefuseEmpty({"test_number", "test_text"})));
  };
  // In a child: flags are the process's.
  EXPECT_EXIT(parse_and_check(), testing::ExitedWithCode(kExitBadUsage),
              "cnn-test: --test_text is empty");
  EXPECT_TRUE(RefuseEmpty({"test_number", "test_text"}).ok()) << "not given";
}

TEST(ParseSize, TakesPowersOf1024) {
  EXPECT_EQ(ParseSize("64").value(), 64);
  EXPECT_EQ(ParseSize("0").value(), 0);
  EXPECT_EQ(ParseSize("3K").value(), 3 << 10);
  EXPECT_EQ(ParseSize("512M").value(), int64_t{512} << 20);
  EXPECT_EQ(ParseSize("1.5G").value(), int64_t{1536} << 20);
  EXPECT_EQ(ParseSize("1.1G").value(), 1181116006);
  EXPECT_EQ(ParseSize("0.3K").value(), 307);
  EXPECT_EQ(ParseSize("2g").value(), int64_t{2} << 30);
  EXPECT_EQ(ParseSize("9223372036854775807").value(), INT64_MAX);
  for (const char* bad : {"", "K", "-1", "1.5", " 1", "1 ", "1e3", "0x10", "inf", "nan", "1T",
                          "1KB", "1..5K", "99999999999G", "9223372036854775808", "1,5G", "+1"}) {
    EXPECT_EQ(ParseSize(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(FormatBytes, ChoosesTheUnit) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(1536), "1.50 KiB");
  EXPECT_EQ(FormatBytes(int64_t{3} << 19), "1.50 MiB");
  EXPECT_EQ(FormatBytes(int64_t{3} << 29), "1.50 GiB");
}

TEST(ParseChoices, ChecksEveryWord) {
  const std::vector<std::string> allowed = {"vgg16", "resnet18", "googlenet"};
  EXPECT_EQ(ParseChoices("models", "all", allowed).value(), allowed);
  EXPECT_EQ(ParseChoices("models", "resnet18,vgg16,resnet18", allowed).value(),
            (std::vector<std::string>{"resnet18", "vgg16"}));
  for (const char* bad : {"", "vgg", "vgg16,", "all,x", "VGG16"}) {
    const absl::Status status = ParseChoices("models", bad, allowed).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(status.message()), HasSubstr("--models"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("vgg16, resnet18, googlenet"));
  }
}

TEST(ParsePositiveList, TakesPositiveIntegersOnly) {
  EXPECT_EQ(ParsePositiveList("batch", "64").value(), (std::vector<int64_t>{64}));
  EXPECT_EQ(ParsePositiveList("batch", "1,2,8").value(), (std::vector<int64_t>{1, 2, 8}));
  for (const char* bad : {"", "0", "-1", "1,,2", "1,x", "1.5", "99999999999999999999"}) {
    const absl::Status status = ParsePositiveList("batch", bad).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(status.message()), HasSubstr("--batch"));
  }
}

TEST(Progress, PrintsPlainLinesWhereThereIsNoTerminal) {
  testing::internal::CaptureStderr();
  {
    Progress progress("epoch 1");
    for (int i = 0; i <= 1000; ++i) progress.Update(i, 1000, "loss 2.3");
    progress.Finish("done in 1 s");
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "epoch 1: done in 1 s\n");
}

}  // namespace
}  // namespace classicnn
