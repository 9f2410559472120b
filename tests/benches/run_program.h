// Runs one of the project's programs and catches what it prints.
#ifndef CLASSICNN_TESTS_BENCHES_RUN_PROGRAM_H_
#define CLASSICNN_TESTS_BENCHES_RUN_PROGRAM_H_

#include <string>
#include <vector>

namespace classicnn {

struct ProgramRun {
  int exit_code = -1;  // -1 where a signal ended it
  std::string out, err;
};

// `arguments` without the program's name. Machine peaks are cached in the folder of the tests.
ProgramRun RunProgram(const std::string& program, std::vector<std::string> arguments);

// Lines that are not empty.
int CountLines(const std::string& text);

}  // namespace classicnn

#endif  // CLASSICNN_TESTS_BENCHES_RUN_PROGRAM_H_
