#include "tests/verify/results.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "tests/testing/compare.h"

namespace classicnn::verify {
namespace {

// Errors are compared by how close they come to their bounds; not a number is the worst.
double Severity(double error, double bound) {
  if (!std::isfinite(error)) return std::numeric_limits<double>::infinity();
  return bound > 0 ? error / bound : error;
}

void Merge(const std::string& tensor, double error, double bound, Verdict verdict,
           const std::string& detail, Row* row) {
  const bool first = row->comparisons++ == 0;
  const bool worse_verdict = verdict > row->verdict;
  const bool same_verdict = verdict == row->verdict;
  if (first || worse_verdict ||
      (same_verdict && Severity(error, bound) > Severity(row->error, row->bound))) {
    row->tensor = tensor;
    row->error = error;
    if (bound > 0 || row->bound == 0) row->bound = bound;
    row->verdict = verdict;
    row->detail = verdict == Verdict::kPass ? "" : detail;
  }
}

void AppendLine(const Row& row, size_t what_width, size_t impl_width, std::string* out) {
  absl::StrAppendFormat(out, "%-*s  %-*s  %9.2e  %8.1e  %s\n", static_cast<int>(what_width),
                        row.what, static_cast<int>(impl_width), row.impl, row.error, row.bound,
                        VerdictName(row.verdict));
  if (row.verdict == Verdict::kPass || !row.parts.empty()) return;
  absl::StrAppend(out, "    ", row.tensor, ": ", row.detail, "\n");
  if (!row.command.empty()) absl::StrAppend(out, "    repeat: ", row.command, "\n");
}

nlohmann::ordered_json ToJson(const Row& row) {
  nlohmann::ordered_json json = {{"what", row.what},
                                 {"tensor", row.tensor},
                                 {"impl", row.impl},
                                 {"error", row.error},
                                 {"bound", row.bound},
                                 {"verdict", VerdictName(row.verdict)},
                                 {"comparisons", row.comparisons}};
  if (row.verdict != Verdict::kPass) {
    json["detail"] = row.detail;
    json["command"] = row.command;
  }
  return json;
}

}  // namespace

const char* VerdictName(Verdict verdict) {
  switch (verdict) {
    case Verdict::kPass:
      return "pass";
    case Verdict::kMistrusted:
      return "mistrusted";
    case Verdict::kFail:
      return "fail";
  }
  return "?";
}

void Judge(const std::string& tensor, const Array& actual, const Array& expected, double bound,
           Row* row) {
  if (actual.shape != expected.shape) {
    Fail(tensor,
         absl::StrCat("shape ", actual.shape.ToString(), ", expected ", expected.shape.ToString()),
         row);
    return;
  }
  // The verdict follows from the norms; elements are held to the same bound for the message.
  const Comparison comparison = Compare(actual.view(), expected.view(), Tolerance{bound});
  if (comparison.vacuous) {
    Merge(tensor, 0, bound, Verdict::kMistrusted, comparison.message, row);
    return;
  }
  const bool ok = bound > 0 ? comparison.relative_l2 <= bound : comparison.ok;
  const std::string detail =
      bound > 0 ? absl::StrFormat("relative L2 error %.3g, bound %.3g; %s", comparison.relative_l2,
                                  bound, comparison.message)
                : comparison.message;
  Merge(tensor, comparison.relative_l2, bound, ok ? Verdict::kPass : Verdict::kFail, detail, row);
}

void JudgeUnchanged(const std::string& tensor, const Array& actual, const Array& before, Row* row) {
  if (actual.shape == before.shape && actual.values == before.values) {
    Merge(tensor, 0, row->bound, Verdict::kPass, "", row);
    return;
  }
  Row compared;
  Judge(tensor, actual, before, 0, &compared);
  if (compared.verdict == Verdict::kMistrusted) {
    Fail(tensor, "changed, though it must stay as it was", row);
  } else {
    Merge(tensor, compared.error, row->bound, compared.verdict, compared.detail, row);
  }
}

void Fail(const std::string& tensor, const std::string& why, Row* row) {
  Merge(tensor, std::numeric_limits<double>::quiet_NaN(), row->bound, Verdict::kFail, why, row);
}

void Summarize(Row* row) {
  for (const Row& part : row->parts) {
    Merge(absl::StrCat(part.what, " ", part.tensor), part.error, part.bound, part.verdict,
          part.detail, row);
  }
}

Totals CountVerdicts(const std::vector<Row>& rows) {
  Totals totals;
  const auto count = [&](const Row& row) {
    ++(row.verdict == Verdict::kPass   ? totals.pass
       : row.verdict == Verdict::kFail ? totals.fail
                                       : totals.mistrusted);
  };
  for (const Row& row : rows) {
    if (row.parts.empty()) count(row);
    for (const Row& part : row.parts) count(part);
  }
  return totals;
}

std::string FormatTable(const std::vector<Row>& rows) {
  size_t what_width = 4, impl_width = 14;
  for (const Row& row : rows) {
    what_width = std::max(what_width, row.what.size());
    impl_width = std::max(impl_width, row.impl.size());
  }
  std::string out =
      absl::StrFormat("%-*s  %-*s  %9s  %8s  %s\n", static_cast<int>(what_width), "what",
                      static_cast<int>(impl_width), "implementation", "error", "bound", "verdict");
  for (const Row& row : rows) {
    AppendLine(row, what_width, impl_width, &out);
    for (const Row& part : row.parts) {
      if (part.verdict != Verdict::kPass) AppendLine(part, what_width, impl_width, &out);
    }
  }
  return out;
}

void AppendToCommands(const std::string& flags, std::vector<Row>* rows) {
  for (Row& row : *rows) {
    if (!row.command.empty()) row.command += flags;
    AppendToCommands(flags, &row.parts);
  }
}

std::string FormatJson(const std::vector<Row>& rows, double seconds,
                       const nlohmann::ordered_json& conditions) {
  const Totals totals = CountVerdicts(rows);
  nlohmann::ordered_json json = {
      {"program", "cnn-verify"}, {"verdict", VerdictName(totals.verdict())},
      {"pass", totals.pass},     {"mistrusted", totals.mistrusted},
      {"fail", totals.fail},     {"seconds", seconds}};
  json.update(conditions);
  json["rows"] = nlohmann::ordered_json::array();
  for (const Row& row : rows) {
    if (row.parts.empty()) json["rows"].push_back(ToJson(row));
    for (const Row& part : row.parts) json["rows"].push_back(ToJson(part));
  }
  return json.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace classicnn::verify
