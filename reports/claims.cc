#include "reports/claims.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "reports/format.h"

namespace classicnn {
namespace {

struct StatedModel {
  const char* model;
  const char* parameters_text;
  double parameters;
  const char* operations_text;
  double operations;
  // Where the stated operations come from, when it is not this network.
  const char* operations_origin;
  const char* weights_text;
  double weight_megabytes;
  int speed_rank;
  int parameter_rank;
  const char* plain_text;
  double plain_low, plain_high;
  const char* augmented_text;
  double augmented_low, augmented_high;
};

constexpr StatedModel kStated[] = {
    {"vgg16", "15M (conv 14.7M, FC 300K)", 15e6, "15.5B", 15.5e9,
     "the multiply-adds of the ImageNet network on 224 × 224 images", "60 MB", 60, 5, 5, "91–93%",
     0.91, 0.93, "92–94%", 0.92, 0.94},
    {"resnet18", "11M", 11e6, "1.8B", 1.8e9,
     "the multiply-adds of the ImageNet network, whose stem halves a 224 × 224 image twice",
     "44 MB", 44, 4, 4, "93–94%", 0.93, 0.94, "94–95%", 0.94, 0.95},
    {"googlenet", "6.8M", 6.8e6, "1.5B", 1.5e9,
     "the multiply-adds of the ImageNet network, by coincidence close to this one's", "27 MB", 27,
     3, 2, "92–94%", 0.92, 0.94, "93–95%", 0.93, 0.95},
    {"mobilenetv1", "4.2M", 4.2e6, "60M", 60e6, "an estimate for small images", "17 MB", 17, 1, 1,
     "90–92%", 0.90, 0.92, "92–94%", 0.92, 0.94},
    {"densenet121", "7M", 7e6, "600M (estimate)", 600e6, "an estimate for small images", "28 MB",
     28, 2, 3, "94–95%", 0.94, 0.95, "95–96%", 0.95, 0.96},
};

double TrainSpeed(const ModelResult& m) { return m.train_step.images_per_second; }
double InferenceSpeed(const ModelResult& m) { return m.inference.images_per_second; }
double Parameters(const ModelResult& m) { return static_cast<double>(m.parameters); }

// Says so where the stated parameters are those of the same network with 1000 classes.
std::string ThousandClasses(const Results& results, const StatedModel& s) {
  const auto it = results.extra.find(absl::StrCat(s.model, ".parameters_1000"));
  if (it == results.extra.end()) return "";
  const double error = std::fabs(it->second / s.parameters - 1);
  return absl::StrCat("with 1000 classes this network has ", FormatScaled(it->second),
                      error < 0.02 ? ": the stated figure is of that one"
                                   : ", so the stated figure is of a variant");
}

Claim ParametersClaim(const Results& results, const StatedModel& s, const ModelResult& m) {
  Claim c{"parameters", s.model, s.parameters_text, FormatCount(m.parameters)};
  c.verdict = JudgeNumber(s.parameters, static_cast<double>(m.parameters));
  if (c.verdict != Verdict::kHolds) {
    c.reason = ThousandClasses(results, s);
  } else if (std::string(s.model) == "vgg16") {
    absl::StrAppend(&c.measured, " (conv ", FormatScaled(static_cast<double>(m.conv_parameters)),
                    ", FC ", FormatCount(m.linear_parameters), ")");
  }
  return c;
}

Claim OperationsClaim(const Results& results, const StatedModel& s, const ModelResult& m) {
  const double macs = static_cast<double>(m.macs);
  Claim c{"operations per inference", s.model, s.operations_text,
          absl::StrCat(FormatScaled(macs), " MACs = ", FormatScaled(2 * macs), " FLOPs")};
  c.verdict = JudgeNumber(s.operations, macs);
  if (c.verdict == Verdict::kHolds) {
    c.reason = "counted as multiply-adds";
    return c;
  }
  if (JudgeNumber(s.operations, 2 * macs) == Verdict::kHolds) {
    c.verdict = Verdict::kHolds;
    c.reason = "counted as FLOPs";
    return c;
  }
  c.reason = absl::StrCat("the stated figure is ", s.operations_origin);
  const auto large = results.extra.find(absl::StrCat(s.model, ".macs_224"));
  if (large != results.extra.end()) {
    absl::StrAppend(&c.reason, "; on 224 × 224 images this network takes ",
                    FormatScaled(large->second), " MACs");
  }
  return c;
}

Claim WeightsClaim(const StatedModel& s, const ModelResult& m) {
  const double megabytes = static_cast<double>(m.weight_bytes) / 1e6;
  Claim c{"weights in memory", s.model, s.weights_text,
          FormatMegabytes(static_cast<double>(m.weight_bytes))};
  c.verdict = JudgeNumber(s.weight_megabytes, megabytes);
  c.reason = c.verdict == Verdict::kHolds
                 ? "4 bytes a parameter"
                 : "4 bytes a parameter; the stated figure follows from the stated parameters";
  return c;
}

Claim SpeedRankClaim(const Results& results, const StatedModel& s) {
  Claim c{"speed rank (1 fastest)", s.model, absl::StrCat(s.speed_rank)};
  if (results.models.size() < std::size(kStated)) {
    c.measured = "–";
    c.reason = "needs all five models in one run";
    return c;
  }
  const int train = Rank(results, s.model, TrainSpeed, false);
  const int inference = Rank(results, s.model, InferenceSpeed, false);
  c.measured = train == inference
                   ? absl::StrCat(train)
                   : absl::StrCat(train, " in training, ", inference, " in inference");
  const bool either = train == s.speed_rank || inference == s.speed_rank;
  const bool both = train == s.speed_rank && inference == s.speed_rank;
  c.verdict = both ? Verdict::kHolds : either ? Verdict::kDiffers : Verdict::kDoesNotHold;
  c.reason =
      absl::StrCat("images/s at batch ", results.batch, ", ", FormatThreads(results.threads));
  return c;
}

Claim ParameterRankClaim(const Results& results, const StatedModel& s) {
  Claim c{"parameter rank (1 smallest)", s.model, absl::StrCat(s.parameter_rank)};
  if (results.models.size() < std::size(kStated)) {
    c.measured = "–";
    c.reason = "needs all five models in one run";
    return c;
  }
  const int rank = Rank(results, s.model, Parameters, true);
  c.measured = absl::StrCat(rank);
  c.verdict = rank == s.parameter_rank ? Verdict::kHolds : Verdict::kDoesNotHold;
  return c;
}

Claim AccuracyClaim(const std::vector<TrainingRun>& runs, const StatedModel& s, bool augmented) {
  const double low = augmented ? s.augmented_low : s.plain_low;
  const double high = augmented ? s.augmented_high : s.plain_high;
  Claim c{augmented ? "accuracy, with augmentation" : "accuracy, no augmentation", s.model,
          augmented ? s.augmented_text : s.plain_text};
  const TrainingRun* run = FindRun(runs, s.model, augmented);
  if (run == nullptr) {
    c.measured = "not measured here";
    c.reason = absl::StrCat("give a complete CIFAR-10 run ", augmented ? "with" : "without",
                            " augmentation to --runs");
    return c;
  }
  const double accuracy = run->last()->test_accuracy;
  c.measured = FormatPercent(accuracy);
  c.reason = absl::StrCat("last of ", run->epochs.size(), " epochs, ", run->path,
                          run->note.empty() ? "" : ": ", run->note);
  // Accuracies are stated in whole percents.
  if (accuracy >= low - 0.005 && accuracy < high + 0.005) {
    c.verdict = Verdict::kHolds;
  } else if (accuracy > high) {
    c.verdict = Verdict::kDiffers;
    c.reason = absl::StrCat("better than stated; ", c.reason);
  } else {
    c.verdict = Verdict::kDoesNotHold;
    c.reason = absl::StrCat("not reached by this run; ", c.reason);
  }
  return c;
}

}  // namespace

const char* VerdictName(Verdict verdict) {
  switch (verdict) {
    case Verdict::kHolds:
      return "holds";
    case Verdict::kDiffers:
      return "differs";
    case Verdict::kDoesNotHold:
      return "does not hold";
    case Verdict::kNotMeasured:
      return "not measured";
  }
  return "";
}

Verdict JudgeNumber(double stated, double measured) {
  const double error = std::fabs(measured / stated - 1);
  constexpr double kRounding = 1e-9;  // so that exactly 5% is within 5%
  if (error <= 0.05 + kRounding) return Verdict::kHolds;
  return error <= 0.15 + kRounding ? Verdict::kDiffers : Verdict::kDoesNotHold;
}

Verdict JudgeRange(double low, double high, double measured) {
  if (measured < low) return Verdict::kDoesNotHold;
  return measured <= high ? Verdict::kHolds : Verdict::kDiffers;
}

bool IsCifar10(const TrainingRun& run) {
  const std::string& text = run.kind.empty() ? run.data : run.kind;
  const bool whole = (run.train_images == 0 || run.train_images == 50000) &&
                     (run.test_images == 0 || run.test_images == 10000);
  return whole && absl::StrContains(absl::AsciiStrToLower(text), "cifar");
}

const TrainingRun* FindRun(const std::vector<TrainingRun>& runs, const std::string& model,
                           bool augmented) {
  const TrainingRun* found = nullptr;
  for (const TrainingRun& run : runs) {
    if (run.model != model || run.augmented() != augmented || !IsCifar10(run)) continue;
    if (run.last() == nullptr || !run.complete()) continue;
    if (found == nullptr || run.last()->test_accuracy > found->last()->test_accuracy) found = &run;
  }
  return found;
}

int Rank(const Results& results, const std::string& model, double (*value)(const ModelResult&),
         bool smallest_first) {
  const double own = value(results.model(model));
  int rank = 1;
  for (const auto& [name, other] : results.models) {
    const double v = value(other);
    if (smallest_first ? v < own : v > own) ++rank;
  }
  return rank;
}

std::vector<Claim> CheckModelClaims(const Results& results, const std::vector<TrainingRun>& runs) {
  std::vector<std::vector<Claim>> by_subject(7);
  for (const StatedModel& s : kStated) {
    const auto m = results.models.find(s.model);
    if (m == results.models.end()) continue;
    by_subject[0].push_back(ParametersClaim(results, s, m->second));
    by_subject[1].push_back(OperationsClaim(results, s, m->second));
    by_subject[2].push_back(WeightsClaim(s, m->second));
    by_subject[3].push_back(SpeedRankClaim(results, s));
    by_subject[4].push_back(ParameterRankClaim(results, s));
    by_subject[5].push_back(AccuracyClaim(runs, s, false));
    by_subject[6].push_back(AccuracyClaim(runs, s, true));
  }
  std::vector<Claim> claims;
  for (const std::vector<Claim>& list : by_subject) {
    claims.insert(claims.end(), list.begin(), list.end());
  }
  return claims;
}

}  // namespace classicnn
