#include "tests/benches/run_program.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/file.h"
#include "gtest/gtest.h"

namespace classicnn {

ProgramRun RunProgram(const std::string& program, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), program);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const std::string base = absl::StrCat(testing::TempDir(), "classicnn_run_", getpid());
  const std::string out = base + ".out";
  const std::string err = base + ".err";

  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    setenv("CLASSICNN_PEAKS_CACHE", CLASSICNN_TEST_PEAKS, 1);
    dup2(open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 1);
    dup2(open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 2);
    execv(program.c_str(), argv.data());
    _exit(127);
  }
  ProgramRun run;
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  if (WIFEXITED(status)) run.exit_code = WEXITSTATUS(status);
  run.out = ReadFile(out).value_or("");
  run.err = ReadFile(err).value_or("");
  std::remove(out.c_str());
  std::remove(err.c_str());
  return run;
}

int CountLines(const std::string& text) {
  const std::vector<std::string> lines = absl::StrSplit(text, '\n', absl::SkipEmpty());
  return static_cast<int>(lines.size());
}

}  // namespace classicnn
