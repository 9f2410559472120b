// Innovations, claims, accuracies, comparisons with others.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/program.h"
#include "reports/charts.h"
#include "reports/claims.h"
#include "reports/format.h"
#include "reports/sections.h"

namespace classicnn {
namespace {

struct TypeShare {
  double seconds = 0, share = 0;  // of a training step
  double mac_share = 0;           // of the model's nominal multiply-adds
  double flops_per_second = 0;    // nominal
};

TypeShare ShareOf(const ModelResult& m, const std::string& type) {
  TypeShare s;
  double macs = 0, all_macs = 0;
  for (const TypeResult& t : m.train_step.types) {
    all_macs += static_cast<double>(t.macs);
    if (t.type != type) continue;
    s.seconds += t.seconds.median();
    macs += static_cast<double>(t.macs);
  }
  s.share = s.seconds / std::max(1e-12, m.train_step.seconds.median());
  s.mac_share = macs / std::max(1.0, all_macs);
  if (s.seconds > 0) s.flops_per_second = 2 * macs / s.seconds;
  return s;
}

std::string SharesText(const ModelResult& m, const std::string& type) {
  const TypeShare s = ShareOf(m, type);
  return absl::StrCat(FormatPercent(s.mac_share), " of the MACs in ", FormatPercent(s.share),
                      " of the time");
}

double Extra(const Results& r, const std::string& name) {
  const auto it = r.extra.find(name);
  return it == r.extra.end() ? 0 : it->second;
}

// "the gradient of the first convolution's weights is 0.021 × that of the last one's"
std::string GradientText(const Results& r, const std::string& model) {
  const double first = Extra(r, absl::StrCat(model, ".first_gradient_rms"));
  const double last = Extra(r, absl::StrCat(model, ".last_gradient_rms"));
  if (first <= 0 || last <= 0) return "";
  return absl::StrCat("At the initial weights the gradient of its first convolution is ",
                      FormatTimes(first / last), " that of its last (root mean squares).");
}

std::string Vgg(const Results& r, const ModelResult& m) {
  return absl::StrCat(
      "Gained: two 3 × 3 layers see 5 × 5 pixels, three see 7 × 7, with fewer weights and more "
      "non-linearities than one large kernel; the whole stack sees ",
      m.receptive_field, " × ", m.receptive_field,
      " pixels. Its work is all dense 3 × 3 convolution (", SharesText(m, "conv2d 3x3"),
      "), and a step reaches ", FormatPercent(m.train_step.peak_fraction),
      " of the peak. Paid: ", FormatScaled(static_cast<double>(m.parameters)), " parameters, ",
      FormatMegabytes(static_cast<double>(m.weight_bytes)), " of weights, for ",
      FormatDigits(static_cast<double>(m.macs) / static_cast<double>(m.parameters), 3),
      " MACs each; the update alone takes ", FormatPercent(ShareOf(m, "update").share),
      " of a step. ", GradientText(r, "vgg16"));
}

std::string Resnet(const Results& r, const ModelResult& m) {
  const double vgg_first = Extra(r, "vgg16.first_gradient_rms");
  const double vgg_last = Extra(r, "vgg16.last_gradient_rms");
  const std::string beside =
      vgg_first > 0 && vgg_last > 0
          ? absl::StrCat(" (VGG-16, without such a path but with batch normalization: ",
                         FormatTimes(vgg_first / vgg_last), ".)")
          : "";
  return absl::StrCat(
      "Gained: a path without weights from the loss to every block, on which gradients do not "
      "vanish. ",
      GradientText(r, "resnet18"), beside, " Paid: the sums themselves, ",
      FormatPercent(ShareOf(m, "add").share),
      " of a step (the ReLU behind them and the normalization of what they add included, which "
      "are done in the same pass), and a backward pass in which a value has two "
      "readers whose gradients add up: ",
      FormatTimes(m.train_step.backward.median() / std::max(1e-12, m.train_step.forward.median())),
      " the time of forward.");
}

std::string Googlenet(const Results&, const ModelResult& m) {
  return absl::StrCat(
      "Gained: each module looks through windows of 1, 3 and 5 pixels and a pooling at once, and "
      "1 × 1 reductions keep that affordable: ",
      FormatScaled(static_cast<double>(m.parameters)), " parameters. By branch type: 3 × 3 ",
      SharesText(m, "conv2d 3x3"), ", 1 × 1 ", SharesText(m, "conv2d 1x1"), ", 5 × 5 ",
      SharesText(m, "conv2d 5x5"),
      "; max pooling, in those "
      "branches and between stages, takes ",
      FormatPercent(ShareOf(m, "max_pool2d").share), ". Paid: ", m.nodes, " nodes, ", m.plan_steps,
      " kernel calls a step, and at this image size (",
      "no pooling in the stem) the most work of all: ", FormatScaled(static_cast<double>(m.macs)),
      " MACs an image. ", FormatBytes(m.memory.activations), " of activations.");
}

std::string Mobilenet(const Results& r, const ModelResult& m) {
  const TypeShare depthwise = ShareOf(m, "conv2d depthwise"), pointwise = ShareOf(m, "conv2d 1x1");
  return absl::StrCat(
      "Gained: a 3 × 3 convolution cut into a depthwise and a 1 × 1 one, ",
      FormatTimes(Extra(r, "separable.standard_macs") / std::max(1.0, Extra(r, "separable.macs"))),
      " fewer multiply-adds for 64→128 channels; the whole network has ",
      FormatScaled(static_cast<double>(m.macs)),
      " MACs an image. Paid in use of the machine, not "
      "only in accuracy: depthwise convolutions are ",
      SharesText(m, "conv2d depthwise"), " (", FormatFlops(depthwise.flops_per_second), " against ",
      FormatFlops(pointwise.flops_per_second),
      " of the 1 × 1 ones; both rates include the batch normalization and ReLU that the "
      "convolutions do on the way, and kernels of batch normalization alone take ",
      FormatPercent(ShareOf(m, "batch_norm2d").share), "), and the step as a whole reaches ",
      FormatPercent(m.train_step.peak_fraction), " of the peak.");
}

std::string Densenet(const Results& r, const ModelResult& m) {
  const double first = Extra(r, "densenet121.layer_bytes_first");
  const double last = Extra(r, "densenet121.layer_bytes_last");
  std::string growth;
  if (first > 0) {
    growth = absl::StrCat(" In the longest block the second layer adds ", FormatMegabytes(first),
                          " of activations in forward and the last one ", FormatMegabytes(last),
                          last > 1.25 * first ? ": quadratic in the number of layers."
                                              : ": linear in the number of layers.");
  }
  return absl::StrCat(
      "Gained: every layer reads all features before it in its block, ",
      FormatCount(static_cast<int64_t>(Extra(r, "densenet121.dense_connections"))),
      " direct connections in all, so ", FormatScaled(static_cast<double>(m.parameters)),
      " parameters suffice for ", m.convolutions,
      " convolutions. Paid: the same features are normalized again for each reader, which here the "
      "reading convolution does as it loads them (their statistics are taken once, and kernels of "
      "batch normalization alone are ",
      FormatPercent(ShareOf(m, "batch_norm2d").share), " of a step); ", m.plan_steps,
      " small kernel calls a step; ", FormatBytes(m.memory.activations), " of activations.", growth,
      " Concatenation itself takes ", FormatPercent(ShareOf(m, "concat").share),
      " of a step: layers write their features into slices of one buffer.");
}

Tone VerdictTone(Verdict verdict) {
  switch (verdict) {
    case Verdict::kHolds:
      return Tone::kGood;
    case Verdict::kDiffers:
      return Tone::kNeutral;
    case Verdict::kDoesNotHold:
      return Tone::kBad;
    case Verdict::kNotMeasured:
      return Tone::kMuted;
  }
  return Tone::kNeutral;
}

std::string CountVerdicts(const std::vector<Claim>& a, const std::vector<Claim>& b) {
  std::map<Verdict, int> counts;
  for (const Claim& c : a) ++counts[c.verdict];
  for (const Claim& c : b) ++counts[c.verdict];
  return absl::StrCat(counts[Verdict::kHolds], " hold, ", counts[Verdict::kDiffers], " differ, ",
                      counts[Verdict::kDoesNotHold], " do not hold, ",
                      counts[Verdict::kNotMeasured], " were not measured here.");
}

}  // namespace

Section InnovationsSection(const ReportInput& input) {
  const Results& r = input.results;
  Section s{"innovations", "What each architecture gained, and what it paid", {}};
  static constexpr struct {
    const char* model;
    const char* idea;
    std::string (*text)(const Results&, const ModelResult&);
  } kModels[] = {{"vgg16", "deep stacks of 3 × 3 convolutions", Vgg},
                 {"resnet18", "skip connections", Resnet},
                 {"googlenet", "inception modules", Googlenet},
                 {"mobilenetv1", "depthwise separable convolutions", Mobilenet},
                 {"densenet121", "dense connectivity", Densenet}};
  Table table;
  table.header = {"model", "idea", "gained", "paid", "images/s", "parameters", "peak memory"};
  table.text_columns = 4;
  static const std::map<std::string, std::pair<const char*, const char*>> kTradeOffs = {
      {"vgg16", {"receptive field from small kernels", "many parameters"}},
      {"resnet18", {"gradients that do not vanish", "a more complex backward pass"}},
      {"googlenet", {"features at several scales", "a complex structure"}},
      {"mobilenetv1", {"efficiency", "a little accuracy"}},
      {"densenet121", {"reuse of features", "memory O(L²) where normalized inputs are kept"}}};
  List list;
  for (const auto& entry : kModels) {
    const auto m = r.models.find(entry.model);
    if (m == r.models.end()) continue;
    const auto& [gained, paid] = kTradeOffs.at(entry.model);
    table.rows.push_back({ModelTitle(entry.model), entry.idea, gained, paid,
                          FormatDigits(m->second.train_step.images_per_second, 3),
                          FormatScaled(static_cast<double>(m->second.parameters)),
                          FormatBytes(m->second.memory.peak_bytes)});
    list.items.push_back(
        absl::StrCat(ModelTitle(entry.model), ", ", entry.idea, ". ", entry.text(r, m->second)));
  }
  s.blocks.push_back(std::move(table));
  s.blocks.push_back(std::move(list));
  return s;
}

Section ClaimsSection(const ReportInput& input) {
  const Results& r = input.results;
  Section s{"claims", "What is claimed of these models, and what was measured", {}};
  const std::vector<Claim> models = CheckModelClaims(r, input.runs);
  const std::vector<Claim> single = CheckSingleClaims(r, input.runs);
  s.Text(absl::StrCat(
      "Reviews of these five repeat the figures below; several are of 224 × 224 ImageNet networks "
      "or "
      "of 1000 classes. Verdicts are made from the measured values. A number holds within 5% and "
      "differs within 15%. A range holds inside it; above it a speed-up, a gain or an accuracy "
      "differs, for as a least value it is right; accuracies are stated in whole percents, and "
      "half "
      "a percent of rounding is allowed. Counts and orders hold only where they are the "
      "same. ",
      CountVerdicts(models, single)));
  std::string subject;
  for (size_t i = 0; i < models.size();) {
    Table table;
    table.caption = models[i].subject;
    table.header = {"model", "claimed", "measured", "verdict", "because"};
    table.text_columns = 5;
    subject = models[i].subject;
    for (; i < models.size() && models[i].subject == subject; ++i) {
      const Claim& c = models[i];
      table.rows.push_back({ModelTitle(c.model),
                            c.stated,
                            c.measured,
                            {VerdictName(c.verdict), "", VerdictTone(c.verdict)},
                            c.reason});
    }
    s.blocks.push_back(std::move(table));
  }
  Table table;
  table.caption = "Single claims";
  table.header = {"claim", "measured", "verdict", "because"};
  table.text_columns = 4;
  for (const Claim& c : single) {
    table.rows.push_back(
        {c.subject, c.measured, {VerdictName(c.verdict), "", VerdictTone(c.verdict)}, c.reason});
  }
  s.blocks.push_back(std::move(table));
  return s;
}

// Of each run the last part of its path; the whole path where two end alike.
std::vector<std::string> ShortNames(const std::vector<TrainingRun>& runs) {
  std::map<std::string, int> count;
  const auto last = [](const TrainingRun& run) {
    const std::filesystem::path path(run.path);
    return (path.has_filename() ? path.filename() : path.parent_path().filename()).string();
  };
  for (const TrainingRun& run : runs) ++count[last(run)];
  std::vector<std::string> names;
  for (const TrainingRun& run : runs) {
    names.push_back(count[last(run)] == 1 ? last(run) : run.path);
  }
  return names;
}

Section AccuracySection(const ReportInput& input) {
  Section s{"accuracy", "Accuracy of training runs", {}};
  Table table;
  table.header = {"run",
                  "model",
                  "data",
                  "augmentation",
                  "epochs",
                  "test accuracy, last epoch",
                  "train accuracy, last epoch",
                  "best epoch (chosen on the test set)",
                  "images/s, median epoch",
                  "time",
                  "machine"};
  table.text_columns = 4;
  std::vector<PointSeries> curves, losses;
  const std::vector<std::string> names = ShortNames(input.runs);
  size_t index = 0;
  for (const TrainingRun& run : input.runs) {
    const TrainedEpoch *last = run.last(), *best = run.best();
    double seconds = 0;
    bool resumed = false;  // then the time before is not known
    std::vector<double> rates;
    PointSeries curve{names[index], PaletteColor(index), {}};
    ++index;
    curve.marked_line = true;
    PointSeries train = curve, test = curve;
    train.label += ", training";
    train.marked_line = false;
    train.line = true;
    train.dashed = true;
    for (const TrainedEpoch& e : run.epochs) {
      seconds += e.seconds;
      resumed = resumed || e.resumed;
      rates.push_back(e.images_per_second);
      train.points.push_back({static_cast<double>(e.epoch), e.train_loss});
      if (e.test_accuracy < 0) continue;
      test.points.push_back({static_cast<double>(e.epoch), e.test_loss});
      curve.points.push_back({static_cast<double>(e.epoch), e.test_accuracy});
      curve.point_labels.push_back(absl::StrCat(run.model, ", epoch ", e.epoch));
    }
    table.rows.push_back(
        {absl::StrCat("`", run.path, "`"), run.model, run.data,
         run.augment.empty() ? "not recorded" : run.augment,
         run.complete() ? absl::StrCat(run.epochs.size())
                        : absl::StrCat(run.epochs.size(), " of ", run.planned_epochs),
         last == nullptr ? "–" : FormatPercent(last->test_accuracy),
         run.epochs.empty() ? "–" : FormatPercent(run.epochs.back().train_accuracy),
         best == nullptr
             ? "–"
             : absl::StrCat(FormatPercent(best->test_accuracy), " in epoch ", best->epoch),
         rates.empty() ? "–" : FormatDigits(Quantile(rates, 0.5), 3),
         absl::StrCat(resumed ? "over " : "", FormatSeconds(seconds)),
         run.machine.empty() ? "not recorded" : run.machine});
    if (!curve.points.empty()) curves.push_back(std::move(curve));
    for (PointSeries* loss : {&train, &test}) {
      if (!loss->points.empty()) losses.push_back(std::move(*loss));
    }
  }
  s.blocks.push_back(std::move(table));
  std::map<std::string, std::vector<std::string>> notes;
  for (const TrainingRun& run : input.runs) {
    if (!run.note.empty()) notes[run.note].push_back(absl::StrCat("`", run.path, "`"));
  }
  for (const auto& [note, paths] : notes) {
    s.Text(absl::StrCat(absl::StrJoin(paths, ", "), ": ", note, "."));
  }
  if (!curves.empty()) {
    Chart chart =
        PointChart("chart-accuracy", curves, {"epoch", "number"}, {"test accuracy", "percent"});
    chart.config["options"]["scales"]["y"]["beginAtZero"] = false;
    chart.caption = "Test accuracy after each epoch.";
    s.blocks.push_back(std::move(chart));
  }
  if (!losses.empty()) {
    Chart chart = PointChart("chart-loss", losses, {"epoch", "number"}, {"loss", "number"});
    for (const PointSeries& loss : losses) {
      if (loss.dashed) chart.config["presets"]["hide_legend_of"].push_back(loss.label);
    }
    chart.config["options"]["scales"]["y"]["beginAtZero"] = false;
    chart.caption =
        "Loss in each epoch. Dashed: of the training batches, as trained (augmented and, where the "
        "run does so, with smoothed labels). With markers: of the test images, plain.";
    s.blocks.push_back(std::move(chart));
  }
  s.Text(
      "The last epoch is what is quoted. The best one was chosen by looking at the test set and "
      "is therefore a little too good.");
  return s;
}

Section PeerSection(const ReportInput& input) {
  const PeerComparison& peer = input.peer[0];
  Section s{"peer", absl::StrCat("Against ", peer.peer), {}};
  Table table;
  table.caption =
      absl::StrCat("A training step of ", peer.batch, " images on ", FormatThreads(peer.threads),
                   ", measured in turns on ", peer.cpu_model);
  table.header = {"model",
                  "classicnn",
                  peer.peer,
                  "its layout",
                  "speed-up",
                  "process peak",
                  absl::StrCat(peer.peer, "'s"),
                  "memory ratio"};
  std::vector<std::string> labels;
  Series bar{"speed-up", PaletteColor(0), {}};
  std::vector<double> ratios;
  for (const std::string& name : input.results.model_order) {
    const auto it = peer.models.find(name);
    if (it == peer.models.end()) continue;
    const PeerModel& m = it->second;
    const double ratio = m.peer.median() / m.ours.median();
    ratios.push_back(ratio);
    labels.push_back(name);
    bar.values.push_back(ratio);
    table.rows.push_back({name,
                          FormatTiming(m.ours),
                          FormatTiming(m.peer),
                          m.peer_layout,
                          {FormatTimes(ratio), "", ratio > 1 ? Tone::kGood : Tone::kBad},
                          FormatBytes(m.ours_peak_bytes),
                          FormatBytes(m.peer_peak_bytes),
                          m.peer_peak_bytes > 0
                              ? FormatTimes(static_cast<double>(m.ours_peak_bytes) /
                                            static_cast<double>(m.peer_peak_bytes))
                              : "–"});
  }
  s.blocks.push_back(std::move(table));
  if (!labels.empty()) {
    Chart chart = BarChart("chart-peer", labels, {bar}, {"times as fast", "times"}, false, true);
    chart.caption = absl::StrCat("Above 1 this program is faster. Geometric mean: ",
                                 FormatTimes(GeometricMean(ratios)), ".");
    s.blocks.push_back(std::move(chart));
  }
  s.Text(absl::StrCat("From `", peer.path,
                      "`. The peer ran with contiguous and with channels-last tensors, and the "
                      "better of the two is shown; its allocator was told to keep memory."));
  return s;
}

Section ChangesSection(const ReportInput& input) {
  const Results& r = input.results;
  Section s{"changes", "Changes against the baseline", {}};
  s.Text(
      absl::StrCat("Baseline: `", input.baseline_path, "`, commit ", input.baseline_commit,
                   ". Beside what was measured in both stands the change against it, also in the "
                   "other sections; coloured ones exceed the noise of both measurements. Shares, "
                   "ratios and texts follow from those figures."));
  Table table;
  table.header = {"figure", "before", "now", "change", "beyond noise"};
  const std::pair<const char*, bool> kKeys[] = {{"train_step/seconds", true},
                                                {"inference/seconds", true},
                                                {"inference_one/seconds", true},
                                                {"memory/peak_bytes", false}};
  for (const std::string& name : r.model_order) {
    for (const auto& [key, is_time] : kKeys) {
      const std::string full = absl::StrCat(name, "/", key);
      const Change* change = input.comparison.Find(full);
      if (change == nullptr) continue;
      const auto text = [is_time = is_time](double value) {
        return is_time ? FormatSeconds(value) : FormatBytes(static_cast<int64_t>(value));
      };
      Tone tone = Tone::kMuted;
      if (change->beyond_noise) tone = change->worse ? Tone::kBad : Tone::kGood;
      table.rows.push_back({full,
                            text(change->before),
                            text(change->after),
                            {FormatSignedPercent(change->relative), "", tone},
                            !change->beyond_noise ? "no"
                            : change->worse       ? "worse"
                                                  : "better"});
    }
  }
  s.blocks.push_back(std::move(table));
  return s;
}

}  // namespace classicnn
