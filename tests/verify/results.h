// Outcomes of checks: judging one, the table, the JSON file, the exit code.
#ifndef CLASSICNN_TESTS_VERIFY_RESULTS_H_
#define CLASSICNN_TESTS_VERIFY_RESULTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "nlohmann/json_fwd.hpp"
#include "tests/verify/array.h"

namespace classicnn::verify {

enum class Verdict {
  kPass,
  kMistrusted,  // the check proves nothing: its expectation is all zeros, empty or not finite
  kFail,
};
const char* VerdictName(Verdict verdict);  // "pass", "mistrusted", "fail"

// One check. It may stand for several comparisons of the same thing: then its error is the largest
// of them in units of its bound, and its verdict the worst.
struct Row {
  std::string what;    // "conv2d_forward n2c64h32w32k64r3s1p1"
  std::string tensor;  // "output", "grad.weight", ...: the one with the largest error
  std::string impl;    // "optimized winograd4", "reference f64"
  double error = 0;    // ||ours - expected|| / ||expected||, norms in double
  double bound = 0;
  Verdict verdict = Verdict::kPass;
  int64_t comparisons = 0;
  std::string detail;   // of a check that did not pass: the worst element, both values
  std::string command;  // repeats this check alone
  // Of a group of checks that share one line of the table: the JSON file has a row for each.
  std::vector<Row> parts;
};

// --tolerance: replaces every bound, except that of comparisons with ==.
struct Bounds {
  double replacement = 0;  // 0: none
  double operator()(double bound) const { return replacement > 0 ? replacement : bound; }
};

// Compares and merges the outcome into `row`: a wrong shape, a NaN or infinity in `actual` or an
// error above the bound fails; an expectation that is empty, all zeros or not finite is mistrusted.
// A bound of 0 compares with == (0 equals -0); the row then keeps its own bound.
void Judge(const std::string& tensor, const Array& actual, const Array& expected, double bound,
           Row* row);
// The same for what a pass must leave as it was: compared with ==, and zeros are as good as others.
void JudgeUnchanged(const std::string& tensor, const Array& actual, const Array& before, Row* row);
// A check that failed for another reason than a comparison.
void Fail(const std::string& tensor, const std::string& why, Row* row);
// Takes the parts' worst verdict and largest error (in units of the bound) into `row`.
void Summarize(Row* row);

struct Totals {
  int64_t pass = 0, mistrusted = 0, fail = 0;
  int64_t checks() const { return pass + mistrusted + fail; }
  Verdict verdict() const {
    return fail > 0 ? Verdict::kFail : mistrusted > 0 ? Verdict::kMistrusted : Verdict::kPass;
  }
};
// Groups count their parts.
Totals CountVerdicts(const std::vector<Row>& rows);

// To every command that repeats a check.
void AppendToCommands(const std::string& flags, std::vector<Row>* rows);

// A line for each row; below those that did not pass (of a group: below each such part) what was
// wrong and the command that repeats it.
std::string FormatTable(const std::vector<Row>& rows);
// {"verdict", "pass", "mistrusted", "fail", "seconds", "rows": [{"what", "tensor", "impl", "error",
// "bound", "verdict", "comparisons", and if it did not pass "detail" and "command"}]}
// `conditions` go before the rows.
std::string FormatJson(const std::vector<Row>& rows, double seconds,
                       const nlohmann::ordered_json& conditions);

}  // namespace classicnn::verify

#endif  // CLASSICNN_TESTS_VERIFY_RESULTS_H_
