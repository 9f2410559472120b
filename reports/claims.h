// What is claimed of the five architectures in reviews and papers, beside what was measured here.
#ifndef CLASSICNN_REPORTS_CLAIMS_H_
#define CLASSICNN_REPORTS_CLAIMS_H_

#include <string>
#include <vector>

#include "reports/results.h"
#include "reports/training_runs.h"

namespace classicnn {

enum class Verdict { kHolds, kDiffers, kDoesNotHold, kNotMeasured };
const char* VerdictName(Verdict verdict);  // "holds", "differs", ...

struct Claim {
  std::string subject = {};   // "parameters", or the whole sentence of a single claim
  std::string model = {};     // empty for single claims
  std::string stated = {};    // "15M"
  std::string measured = {};  // "14,986,698"
  Verdict verdict = Verdict::kNotMeasured;
  std::string reason = {};  // why it differs, or what the verdict rests on
};

// The figures claimed for each model, for the models that were measured.
std::vector<Claim> CheckModelClaims(const Results& results, const std::vector<TrainingRun>& runs);
// Claims about single ideas and comparisons.
std::vector<Claim> CheckSingleClaims(const Results& results, const std::vector<TrainingRun>& runs);

// A stated figure against a measured one: holds within 5%, differs within 15%, else does not hold.
Verdict JudgeNumber(double stated, double measured);
// A stated range, such as a speed-up of 2 to 5: holds inside it; above it, it still holds as a
// lower bound, but differs; below its low end it does not hold.
Verdict JudgeRange(double low, double high, double measured);

// Of the complete runs of `model` on CIFAR-10, with or without augmentation, the one with the best
// test accuracy in its last epoch; null without such a run.
const TrainingRun* FindRun(const std::vector<TrainingRun>& runs, const std::string& model,
                           bool augmented);
// Whether the run was trained on all of CIFAR-10: by the kind of its data, else by the name of its
// folder, and by the number of images where it is recorded.
bool IsCifar10(const TrainingRun& run);

// Position of `model` (1 first) among the measured models by a value; ties share a position.
int Rank(const Results& results, const std::string& model, double (*value)(const ModelResult&),
         bool smallest_first);

}  // namespace classicnn

#endif  // CLASSICNN_REPORTS_CLAIMS_H_
