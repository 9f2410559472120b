#include <algorithm>
#include <cmath>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "reports/claims.h"
#include "reports/format.h"
#include "reports/speedups.h"

namespace classicnn {
namespace {

// What the claims are judged on: each function below makes one claim.
struct Evidence {
  const Results& results;
  const std::vector<TrainingRun>& runs;

  const ModelResult* model(const std::string& name) const {
    const auto it = results.models.find(name);
    return it == results.models.end() ? nullptr : &it->second;
  }
  // 0 where it was not measured.
  double extra(const std::string& name) const {
    const auto it = results.extra.find(name);
    return it == results.extra.end() ? 0 : it->second;
  }
};

Claim NotMeasured(std::string subject, std::string reason) {
  return {std::move(subject), "", "", "not measured here", Verdict::kNotMeasured,
          std::move(reason)};
}

Claim MobilenetFasterThanVgg(const Evidence& e) {
  const char* subject = "MobileNetV1 is 250 × faster than VGG-16";
  const ModelResult *vgg = e.model("vgg16"), *mobile = e.model("mobilenetv1");
  if (vgg == nullptr || mobile == nullptr) return NotMeasured(subject, "needs both models");
  const double train = vgg->train_step.seconds.median() / mobile->train_step.seconds.median();
  const double inference = vgg->inference.seconds.median() / mobile->inference.seconds.median();
  const double macs = static_cast<double>(vgg->macs) / static_cast<double>(mobile->macs);
  return {
      subject,
      "",
      "250 ×",
      absl::StrCat(FormatTimes(train), " in training, ", FormatTimes(inference), " in inference"),
      JudgeNumber(250, std::max(train, inference)),
      absl::StrCat("it has only ", FormatTimes(macs),
                   " fewer multiply-adds here; 250 is the stated 15.5B over 60M, figures of "
                   "two different image sizes")};
}

Claim SeparableOperations(const Evidence& e) {
  const double standard = e.extra("separable.standard_macs"), own = e.extra("separable.macs");
  const char* subject =
      "Depthwise separable needs 8.4 × fewer operations than standard convolution "
      "(3 × 3, 64→128, 32 × 32: 75,497,472 against 8,978,432)";
  if (own == 0) return NotMeasured(subject, "");
  const double time = e.extra("separable.standard_seconds") / e.extra("separable.seconds");
  return {subject,
          "",
          "8.4 ×",
          absl::StrCat(FormatTimes(standard / own), " fewer (",
                       FormatCount(static_cast<int64_t>(standard)), " against ",
                       FormatCount(static_cast<int64_t>(own)), ")"),
          JudgeNumber(8.4, standard / own),
          absl::StrCat("measured, forward on ", e.results.batch, " images: ", FormatTimes(time),
                       " faster",
                       time < standard / own ? "; a depthwise layer moves many bytes for each "
                                               "multiply-add, so time falls less than operations"
                                             : "")};
}

Claim BottleneckParameters(const Evidence&) {
  const double with = 256.0 * 96 + 96.0 * 128 * 9, without = 256.0 * 128 * 9;
  return {"A 1 × 1 reduction from 256 to 96 before a 3 × 3 to 128 saves 54% of the parameters",
          "",
          "54% of 295,296",
          absl::StrCat(FormatPercent(1 - with / without), " of ",
                       FormatCount(static_cast<int64_t>(without))),
          JudgeNumber(0.54, 1 - with / without),
          "the share holds; 256 · 128 · 9 is 294,912, not 295,296"};
}

Claim DenseConnections(const Evidence& e) {
  const char* subject = "DenseNet-121 has 549 connections";
  const double counted = e.extra("densenet121.dense_connections");
  if (counted == 0) return NotMeasured(subject, "needs densenet121");
  return {subject,
          "",
          "549",
          FormatCount(static_cast<int64_t>(counted)),
          counted == 549 ? Verdict::kHolds : Verdict::kDoesNotHold,
          "counted in the graph: L(L+1)/2 in each block, 21 + 78 + 300 + 136"};
}

Claim DenseMemory(const Evidence& e) {
  const char* subject = "DenseNet's activation memory is O(L²)";
  const double first = e.extra("densenet121.layer_bytes_first");
  const double last = e.extra("densenet121.layer_bytes_last");
  if (first <= 0) return NotMeasured(subject, "needs densenet121");
  // In a quadratic sum the increments grow in proportion to the layer's number; in a linear one
  // they stay the same.
  const bool grows = last > 1.25 * first;
  return {subject,
          "",
          "O(L²)",
          absl::StrCat(FormatMegabytes(first), " for the 2nd layer of the longest block, ",
                       FormatMegabytes(last), " for its last"),
          grows ? Verdict::kHolds : Verdict::kDoesNotHold,
          grows ? "concatenation itself is free here (layers write into one buffer), but what "
                  "each layer's first normalization keeps for backward grows with the layers "
                  "before it"
                : "every layer adds the same: concatenation is free (layers write into one "
                  "buffer) and normalized copies are not kept"};
}

Claim DepthwiseSpeedup(const Evidence& e) {
  const char* subject = "SIMD depthwise convolution is 5–10 × faster than the naive loop";
  const double forward = MeanSpeedup(e.results, "conv2d depthwise", "forward");
  if (forward == 0) return NotMeasured(subject, "needs mobilenetv1");
  return {subject,
          "",
          "5–10 ×",
          absl::StrCat(FormatTimes(forward), " forward, ",
                       FormatTimes(MeanSpeedup(e.results, "conv2d depthwise", "")), " all passes"),
          JudgeRange(5, 10, forward),
          absl::StrCat(forward > 10 ? "faster than claimed; " : "",
                       "geometric means over the models' shapes, one thread")};
}

Claim SimdSpeedup(const Evidence& e) {
  const char* subject =
      "SIMD for concatenation, batch normalization and convolution gives 2–5 × across all "
      "architectures";
  std::vector<std::string> parts;
  std::vector<double> means;
  for (const char* type : {"conv2d 3x3", "conv2d 1x1", "batch_norm2d", "concat"}) {
    const double mean = MeanSpeedup(e.results, type, "");
    if (mean == 0) continue;
    means.push_back(mean);
    parts.push_back(absl::StrCat(type, " ", FormatTimes(mean)));
  }
  if (means.empty()) return NotMeasured(subject, "the comparison with the references was left out");
  const auto [least, most] = std::minmax_element(means.begin(), means.end());
  Verdict verdict = Verdict::kDiffers;
  if (*least >= 2 && *most <= 5) verdict = Verdict::kHolds;
  if (*least < 2) verdict = Verdict::kDoesNotHold;
  return {subject,
          "",
          "2–5 ×",
          absl::StrJoin(parts, ", "),
          verdict,
          absl::StrCat("geometric means against the naive loops, one thread; ",
                       *most > 5 ? "convolution gains more: register blocking and better "
                                   "algorithms come on top of SIMD"
                                 : "all passes")};
}

Claim HalfPrecision(const Evidence&) {
  return NotMeasured("Half-precision activations halve the memory and give 1.5 ×",
                     "every figure of this report is in single precision");
}

Claim AugmentationGain(const Evidence& e) {
  const char* subject =
      "Augmentation (random crop, horizontal flip, colour jitter) adds 2–3% accuracy";
  std::vector<std::string> parts;
  std::vector<double> gains;
  for (const std::string& model : e.results.model_order) {
    const TrainingRun* const without = FindRun(e.runs, model, false);
    if (without == nullptr) continue;
    // Of the runs with it, the best that differs by nothing else.
    std::vector<TrainingRun> alike;
    for (const TrainingRun& run : e.runs) {
      if (run.epochs.empty() || run.batch != without->batch) continue;
      if (run.epochs.back().epoch == without->epochs.back().epoch) alike.push_back(run);
    }
    const TrainingRun* const with = FindRun(alike, model, true);
    if (with == nullptr) continue;
    gains.push_back(with->last()->test_accuracy - without->last()->test_accuracy);
    parts.push_back(absl::StrCat(model, " ", FormatSignedPercent(gains.back())));
  }
  if (gains.empty()) {
    return NotMeasured(subject,
                       "give runs of a model with and without augmentation, of as many epochs and "
                       "the same batch, to --runs");
  }
  double mean = 0;
  for (const double gain : gains) mean += gain / static_cast<double>(gains.size());
  return {subject,
          "",
          "2–3%",
          absl::StrJoin(parts, ", "),
          JudgeRange(0.015, 0.035, mean),
          "difference of last-epoch test accuracies, in percentage points"};
}

Claim NewerIsSmaller(const Evidence& e) {
  const char* subject = "Newer architectures have fewer parameters";
  static constexpr struct {
    const char* model;
    int year;
  } kYears[] = {{"vgg16", 2014},
                {"googlenet", 2014},
                {"resnet18", 2015},
                {"densenet121", 2016},
                {"mobilenetv1", 2017}};
  std::vector<std::string> parts;
  std::string counterexample;
  for (const auto& older : kYears) {
    const ModelResult* a = e.model(older.model);
    if (a == nullptr) return NotMeasured(subject, "needs all five models");
    parts.push_back(absl::StrCat(older.model, " (", older.year, ") ",
                                 FormatScaled(static_cast<double>(a->parameters))));
    for (const auto& newer : kYears) {
      const ModelResult* b = e.model(newer.model);
      if (b == nullptr || newer.year <= older.year || b->parameters <= a->parameters) continue;
      if (counterexample.empty()) {
        counterexample = absl::StrCat(older.model, " of ", older.year, " has fewer than ",
                                      newer.model, " of ", newer.year);
      }
    }
  }
  return {subject,
          "",
          "fewer with each year",
          absl::StrJoin(parts, ", "),
          counterexample.empty() ? Verdict::kHolds : Verdict::kDoesNotHold,
          counterexample};
}

Claim ResnetLayers(const Evidence& e) {
  const char* subject = "ResNet-18 is \"16 conv + 2 linear\"";
  const ModelResult* m = e.model("resnet18");
  if (m == nullptr) return NotMeasured(subject, "needs resnet18");
  const bool holds = m->convolutions == 16 && m->linear_layers == 2;
  return {subject,
          "",
          "16 + 2",
          absl::StrCat(m->convolutions, " convolutions + ", m->linear_layers, " linear"),
          holds ? Verdict::kHolds : Verdict::kDoesNotHold,
          "the 18 are 17 convolutions and 1 linear layer; 3 projection shortcuts are not counted"};
}

Claim DenseBlockConvolutions(const Evidence& e) {
  const char* subject = "DenseNet has \"58 conv in dense blocks\"";
  const double counted = e.extra("densenet121.block_convolutions");
  if (counted == 0) return NotMeasured(subject, "needs densenet121");
  return {subject,
          "",
          "58",
          FormatCount(static_cast<int64_t>(counted)),
          counted == 58 ? Verdict::kHolds : Verdict::kDoesNotHold,
          "58 dense layers of two convolutions each"};
}

Claim LinearParameters(const Evidence& e) {
  const char* subject = "Fully connected parameters are about 10K in four of the models";
  std::vector<std::string> parts;
  int about = 0;
  for (const std::string& model : e.results.model_order) {
    const int64_t count = e.model(model)->linear_parameters;
    parts.push_back(absl::StrCat(model, " ", FormatCount(count)));
    if (JudgeNumber(10e3, static_cast<double>(count)) == Verdict::kHolds) ++about;
  }
  if (e.results.models.size() < 5) return NotMeasured(subject, "needs all five models");
  return {subject,
          "",
          "about 10K in four",
          absl::StrJoin(parts, ", "),
          about == 4 ? Verdict::kHolds : Verdict::kDiffers,
          absl::StrCat("it is so in ", about)};
}

// A CIFAR-10 run of each measured model that has one, with augmentation where there is one.
std::vector<const TrainingRun*> RunOfEachModel(const Evidence& e) {
  std::vector<const TrainingRun*> runs;
  for (const std::string& model : e.results.model_order) {
    const TrainingRun* run = FindRun(e.runs, model, true);
    if (run == nullptr) run = FindRun(e.runs, model, false);
    if (run != nullptr) runs.push_back(run);
  }
  return runs;
}

// Why accuracies of these runs say nothing about the architectures; empty where they can be
// compared. Networks trained for different times are told apart by that first.
std::string NotComparable(const std::vector<const TrainingRun*>& runs) {
  int64_t least = runs.front()->epochs.back().epoch, most = least;
  bool alike = true;
  for (const TrainingRun* run : runs) {
    least = std::min(least, run->epochs.back().epoch);
    most = std::max(most, run->epochs.back().epoch);
    alike = alike && run->augment == runs.front()->augment;
  }
  if (least < most) {
    return absl::StrCat("no verdict: they were trained for ", least, " to ", most, " epochs");
  }
  return alike ? "" : "no verdict: their augmentations differ";
}

Claim BestAccuracy(const Evidence& e) {
  const char* subject = "Best accuracy: DenseNet-121";
  std::vector<const TrainingRun*> runs = RunOfEachModel(e);
  if (runs.size() < 5) {
    return NotMeasured(subject, "give complete CIFAR-10 runs of all five models to --runs");
  }
  std::stable_sort(runs.begin(), runs.end(), [](const TrainingRun* a, const TrainingRun* b) {
    return a->last()->test_accuracy > b->last()->test_accuracy;
  });
  std::vector<std::string> parts;
  for (const TrainingRun* run : runs) {
    parts.push_back(absl::StrCat(run->model, " ", FormatPercent(run->last()->test_accuracy), " (",
                                 run->epochs.back().epoch, " epochs)"));
  }
  const std::string why_not = NotComparable(runs);
  const Verdict verdict = !why_not.empty()                       ? Verdict::kNotMeasured
                          : runs.front()->model == "densenet121" ? Verdict::kHolds
                                                                 : Verdict::kDoesNotHold;
  return {subject,
          "",
          "densenet121 first",
          absl::StrJoin(parts, ", "),
          verdict,
          why_not.empty() ? "last-epoch test accuracies" : why_not};
}

Claim BestEfficiency(const Evidence& e) {
  const char* subject = "Best efficiency: MobileNetV1";
  if (e.results.models.size() < 5) return NotMeasured(subject, "needs all five models");
  const auto first = [&](double (*value)(const ModelResult&), bool smallest) {
    return Rank(e.results, "mobilenetv1", value, smallest) == 1;
  };
  const bool parameters =
      first([](const ModelResult& m) { return static_cast<double>(m.parameters); }, true);
  const bool macs = first([](const ModelResult& m) { return static_cast<double>(m.macs); }, true);
  const bool train =
      first([](const ModelResult& m) { return m.train_step.images_per_second; }, false);
  const bool inference =
      first([](const ModelResult& m) { return m.inference.images_per_second; }, false);
  std::vector<std::string> wins;
  if (parameters) wins.push_back("fewest parameters");
  if (macs) wins.push_back("fewest multiply-adds");
  if (train) wins.push_back("fastest in training");
  if (inference) wins.push_back("fastest in inference");
  Verdict verdict = Verdict::kDiffers;
  if (wins.size() == 4) verdict = Verdict::kHolds;
  if (wins.empty()) verdict = Verdict::kDoesNotHold;
  const ModelResult& m = *e.model("mobilenetv1");
  return {subject,
          "",
          "mobilenetv1 first",
          wins.empty() ? "none" : absl::StrJoin(wins, ", "),
          verdict,
          absl::StrCat("a training step reaches ", FormatPercent(m.train_step.peak_fraction),
                       " of the machine's peak")};
}

Claim BestBalance(const Evidence& e) {
  const char* subject = "Best balance: GoogLeNet";
  const std::vector<const TrainingRun*> runs = RunOfEachModel(e);
  if (runs.size() < 5) {
    return NotMeasured(subject, "needs complete CIFAR-10 runs of all five models (--runs)");
  }
  std::vector<std::pair<int, std::string>> sums;
  for (const TrainingRun* own : runs) {
    const double accuracy = own->last()->test_accuracy;
    const auto better = std::count_if(runs.begin(), runs.end(), [&](const TrainingRun* run) {
      return run->last()->test_accuracy > accuracy;
    });
    const int parameters = Rank(
        e.results, own->model,
        [](const ModelResult& m) { return static_cast<double>(m.parameters); }, true);
    const int speed = Rank(
        e.results, own->model, [](const ModelResult& m) { return m.train_step.images_per_second; },
        false);
    sums.push_back({static_cast<int>(better) + 1 + parameters + speed, own->model});
  }
  std::sort(sums.begin(), sums.end());
  std::vector<std::string> parts;
  int googlenet = 0;
  for (const auto& [sum, model] : sums) {
    parts.push_back(absl::StrCat(model, " ", sum));
    if (model == "googlenet") googlenet = sum;
  }
  const std::string why_not = NotComparable(runs);
  const Verdict verdict = !why_not.empty()             ? Verdict::kNotMeasured
                          : googlenet == sums[0].first ? Verdict::kHolds
                                                       : Verdict::kDoesNotHold;
  return {
      subject,
      "",
      "googlenet first",
      absl::StrJoin(parts, ", "),
      verdict,
      absl::StrCat("sum of the ranks in accuracy, parameters and training speed, lower is better",
                   why_not.empty() ? "" : "; ", why_not)};
}

}  // namespace

std::vector<Claim> CheckSingleClaims(const Results& results, const std::vector<TrainingRun>& runs) {
  const Evidence evidence{results, runs};
  std::vector<Claim> claims;
  for (const auto& check :
       {MobilenetFasterThanVgg, SeparableOperations, BottleneckParameters, DenseConnections,
        DenseMemory, DepthwiseSpeedup, SimdSpeedup, HalfPrecision, AugmentationGain, NewerIsSmaller,
        ResnetLayers, DenseBlockConvolutions, LinearParameters, BestAccuracy, BestEfficiency,
        BestBalance}) {
    claims.push_back(check(evidence));
  }
  return claims;
}

}  // namespace classicnn
