#include "models/train/options.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/program.h"
#include "models/model.h"
#include "models/train/augment.h"
#include "models/train/schedule.h"
#include "nlohmann/json.hpp"

namespace classicnn {
namespace {

absl::Status Bad(absl::string_view flag, const std::string& value, absl::string_view accepted) {
  return absl::InvalidArgumentError(
      absl::StrCat("bad value \"", value.substr(0, 80), "\" for --", flag, ": ", accepted));
}

absl::Status CheckWord(absl::string_view flag, const std::string& value,
                       const std::vector<std::string>& allowed) {
  if (std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return absl::OkStatus();
  return Bad(flag, value, absl::StrCat("give one of ", absl::StrJoin(allowed, ", ")));
}

absl::Status CheckAtLeast(absl::string_view flag, int64_t value, int64_t least) {
  if (value >= least) return absl::OkStatus();
  return Bad(flag, absl::StrCat(value), absl::StrCat("must be at least ", least));
}

absl::Status CheckAtMost(absl::string_view flag, int64_t value, int64_t most) {
  if (value <= most) return absl::OkStatus();
  return Bad(flag, absl::StrCat(value), absl::StrCat("must be at most ", most));
}

absl::Status CheckNumber(absl::string_view flag, double value, bool ok, absl::string_view what) {
  if (std::isfinite(value) && ok) return absl::OkStatus();
  return Bad(flag, absl::StrCat(value), absl::StrCat("must be ", what));
}

// Every field with its flag's name, for reading, writing and comparing.
template <typename Options, typename F>
void ForEachField(Options& o, F&& f) {
  f("model", o.model);
  f("data", o.data);
  f("recipe", o.recipe);
  f("epochs", o.epochs);
  f("batch", o.batch);
  f("lr", o.lr);
  f("schedule", o.schedule);
  f("warmup_epochs", o.warmup_epochs);
  f("momentum", o.momentum);
  f("nesterov", o.nesterov);
  f("weight_decay", o.weight_decay);
  f("decay_norm_and_bias", o.decay_norm_and_bias);
  f("decay_depthwise", o.decay_depthwise);
  f("label_smoothing", o.label_smoothing);
  f("dropout", o.dropout);
  f("ema", o.ema);
  f("optimizer", o.optimizer);
  f("augment", o.augment);
  f("shuffle", o.shuffle);
  f("mean", o.mean);
  f("std", o.std);
  f("seed", o.seed);
  f("precision", o.precision);
  f("memory_limit", o.memory_limit);
  f("update", o.update);
  f("init", o.init);
  f("max_steps", o.max_steps);
  f("save_every", o.save_every);
  f("keep", o.keep);
  f("log_every", o.log_every);
  f("log_gradients", o.log_gradients);
  f("eval_every", o.eval_every);
  f("synthetic_images", o.synthetic_images);
  f("image_size", o.image_size);
  f("num_classes", o.num_classes);
}

struct Plans {
  int64_t quick_epochs;
  int64_t accuracy_epochs;
  int64_t batch;
};
// Lengths made for two cores with AVX-512: about ten minutes, and about an hour at most. Steps of
// 64 images where they cost no more per image than larger ones: twice as many in the same time.
Plans PlansOf(absl::string_view model) {
  if (model == "vgg16") return {5, 20, 64};
  if (model == "resnet18") return {3, 15, 64};
  if (model == "googlenet") return {1, 4, 64};
  if (model == "densenet121") return {1, 5, 64};
  return {10, 25, 64};  // mobilenetv1
}

}  // namespace

const std::vector<std::string>& RecipeNames() {
  static const auto* names = new std::vector<std::string>{"default", "quick", "accuracy"};
  return *names;
}

absl::StatusOr<TrainOptions> RecipeOptions(absl::string_view recipe, absl::string_view model) {
  TrainOptions o;
  o.model = std::string(model);
  o.recipe = std::string(recipe);
  if (auto s = CheckWord("model", o.model, ModelNames()); !s.ok()) return s;
  if (auto s = CheckWord("recipe", o.recipe, RecipeNames()); !s.ok()) return s;
  if (recipe == "default") return o;
  const Plans plans = PlansOf(model);
  // One-cycle to a high rate (DefaultLr) and smoothing: what gets furthest in few epochs. Weight
  // decay is the optimizer's default, of convolution and linear weights alone; dropout is the
  // architecture's (GoogLeNet's 0.2).
  const bool accuracy = recipe == "accuracy";
  o.epochs = accuracy ? plans.accuracy_epochs : plans.quick_epochs;
  o.batch = plans.batch;
  o.nesterov = true;
  o.label_smoothing = 0.1;
  // Colours are jittered only where there are epochs enough to profit from it.
  if (accuracy && o.epochs >= 10) o.augment = "crop,flip,jitter";
  if (accuracy && model == "vgg16") {
    // As recorded: 89.4%, where batches of 128 at 0.08 ended at 88.9. The default rate is lower,
    // for runs without these batches; mirrored borders have made no difference elsewhere.
    o.lr = 0.05;
    o.augment = "crop_reflect,flip,jitter";
  }
  return o;
}

absl::Status Resolve(TrainOptions* options) {
  TrainOptions& o = *options;
  if (o.model.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--model is missing: give one of ", absl::StrJoin(ModelNames(), ", ")));
  }
  const auto non_negative = [](absl::string_view flag, double v) {
    return CheckNumber(flag, v, v >= 0, "at least 0");
  };
  const auto below_one = [](absl::string_view flag, double v) {
    return CheckNumber(flag, v, v >= 0 && v < 1, "at least 0 and below 1");
  };
  const bool adamw = o.optimizer == "adamw";
  if (o.weight_decay < 0) o.weight_decay = adamw ? 0.05 : 5e-4;
  if (o.update.empty()) o.update = o.log_gradients ? "after_backward" : "fused";
  if (o.log_gradients && o.log_every == 0) o.log_every = 50;

  absl::Status status;
  status.Update(CheckWord("model", o.model, ModelNames()));
  status.Update(CheckWord("recipe", o.recipe, RecipeNames()));
  status.Update(CheckAtLeast("batch", o.batch, 1));
  status.Update(CheckAtLeast("epochs", o.epochs, o.max_steps > 0 ? 0 : 1));
  // Epochs times steps of any data set stay far below 2^63.
  status.Update(CheckAtMost("epochs", o.epochs, 1'000'000));
  status.Update(CheckAtMost("max_steps", o.max_steps, 1'000'000'000'000));
  status.Update(CheckNumber("lr", o.lr, o.lr > 0 || o.lr == -1, "above 0"));
  status.Update(ParseSchedule(o.schedule).status());
  status.Update(CheckNumber("warmup_epochs", o.warmup_epochs,
                            o.warmup_epochs >= 0 || o.warmup_epochs == -1, "at least 0"));
  status.Update(below_one("momentum", o.momentum));
  if (o.nesterov && o.momentum == 0) {
    status.Update(absl::InvalidArgumentError("--nesterov needs a --momentum above 0"));
  }
  status.Update(non_negative("weight_decay", o.weight_decay));
  status.Update(below_one("label_smoothing", o.label_smoothing));
  if (o.dropout != -1) status.Update(below_one("dropout", o.dropout));
  status.Update(below_one("ema", o.ema));
  status.Update(CheckWord("optimizer", o.optimizer, {"sgd", "adamw"}));
  status.Update(ParseAugmentation(o.augment).status());
  status.Update(ParseChannels("mean", o.mean, {0, 0, 0}, false).status());
  status.Update(ParseChannels("std", o.std, {1, 1, 1}, true).status());
  status.Update(CheckWord("precision", o.precision, {"f32"}));
  if (!o.memory_limit.empty()) {
    const auto size = ParseSize(o.memory_limit);
    if (!size.ok() || *size < 1) {
      status.Update(Bad("memory_limit", o.memory_limit,
                        "give a number of bytes above 0, with K, M or G for powers of 1024"));
    }
  }
  status.Update(CheckWord("update", o.update, {"fused", "after_backward"}));
  if (o.log_gradients && o.update == "fused") {
    status.Update(absl::InvalidArgumentError(
        "--log_gradients needs --update=after_backward: a fused update keeps no gradient"));
  }
  status.Update(CheckAtLeast("max_steps", o.max_steps, 0));
  status.Update(CheckAtLeast("save_every", o.save_every, 0));
  status.Update(CheckAtLeast("keep", o.keep, 1));
  status.Update(CheckAtLeast("log_every", o.log_every, 0));
  status.Update(CheckAtLeast("eval_every", o.eval_every, 1));
  status.Update(CheckAtLeast("synthetic_images", o.synthetic_images, 0));
  status.Update(CheckAtLeast("image_size", o.image_size, 1));
  status.Update(CheckAtLeast("num_classes", o.num_classes, 1));
  return status;
}

double DefaultLr(const TrainOptions& options, int64_t batch) {
  const double factor = static_cast<double>(batch) / 128;
  if (options.optimizer == "adamw") return 1e-3 * std::sqrt(factor);
  // Few weights: a high rate helps; 0.2 is too high for grey images.
  if (options.model == "mobilenetv1") return 0.15 * factor;
  if (options.model == "vgg16") return 0.08 * factor;  // no shortcuts: a high rate gets stuck early
  return 0.1 * factor;
}

absl::StatusOr<std::array<double, 3>> ParseChannels(absl::string_view flag, absl::string_view text,
                                                    const std::array<double, 3>& measured,
                                                    bool positive) {
  if (text == "measure") return measured;
  const std::vector<std::string> words = absl::StrSplit(text, ',');
  std::array<double, 3> values{};
  bool ok = words.size() == values.size();
  for (size_t i = 0; ok && i < values.size(); ++i) {
    ok = absl::SimpleAtod(words[i], &values[i]) && std::isfinite(values[i]) &&
         (!positive || values[i] > 0);
  }
  if (ok) return values;
  return Bad(flag, std::string(text),
             absl::StrCat("give three comma-separated numbers", positive ? " above 0" : "",
                          ", or measure"));
}

std::string FormatChannels(const std::array<double, 3>& values) {
  std::vector<std::string> words;
  for (const double v : values) {
    // The shortest text that is this number again.
    std::string word;
    for (int digits = 4; digits <= 17; ++digits) {
      word = absl::StrFormat("%.*g", digits, v);
      double back = 0;
      if (absl::SimpleAtod(word, &back) && back == v) break;
    }
    words.push_back(word);
  }
  return absl::StrJoin(words, ",");
}

void to_json(nlohmann::json& json, const TrainOptions& options) {
  json = nlohmann::json::object();
  ForEachField(options, [&](const char* name, const auto& value) { json[name] = value; });
}

absl::StatusOr<TrainOptions> TrainOptionsFromJson(const nlohmann::json& json) {
  TrainOptions options;
  std::string bad;
  if (!json.is_object()) return absl::InvalidArgumentError("the flags are not an object");
  ForEachField(options, [&](const char* name, auto& value) {
    const auto found = json.find(name);
    if (found == json.end()) {
      // Runs that began before there was such a flag did what is now its default.
      if (absl::string_view(name) != "decay_depthwise") bad = name;
      return;
    }
    try {
      found->get_to(value);
    } catch (const nlohmann::json::exception&) {
      bad = name;
    }
  });
  if (!bad.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("flag ", bad, " is missing or malformed"));
  }
  return options;
}

bool MayChangeOnResume(absl::string_view flag) {
  static const auto* names =
      new std::vector<std::string>{"data",      "memory_limit",  "update",    "save_every", "keep",
                                   "max_steps", "log_gradients", "log_every", "eval_every"};
  return std::find(names->begin(), names->end(), flag) != names->end();
}

}  // namespace classicnn
