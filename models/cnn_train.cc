// cnn-train: trains one of the five networks on CIFAR-10, idx files or synthetic images.
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/context.h"
#include "core/isa.h"
#include "core/machine.h"
#include "core/program.h"
#include "models/train/options.h"
#include "models/train/run_folder.h"
#include "models/train/trainer.h"
#include "nlohmann/json.hpp"

ABSL_FLAG(std::string, model, "", "vgg16, resnet18, googlenet, mobilenetv1 or densenet121.");
ABSL_FLAG(
    std::string, data, "synthetic",
    "A folder with CIFAR-10's binary files, a folder with MNIST-like idx files (plain or gz), "
    "or synthetic: images made from the seed.");
ABSL_FLAG(std::string, out, "",
          "Folder for config.json, metrics.jsonl and the weights. Empty: runs/MODEL, or the first "
          "of runs/MODEL-2, ... that is not there yet.");
ABSL_FLAG(std::string, recipe, "default",
          "Defaults for all flags of training: default, quick (about ten minutes on two cores, "
          "googlenet more) or "
          "accuracy. Flags that are given overrule it.");
ABSL_FLAG(int64_t, epochs, 10, "Passes over the training images.");
ABSL_FLAG(int64_t, batch, 128, "Images in a step.");
ABSL_FLAG(double, lr, -1,
          "Highest learning rate. Default with SGD: 0.1 (mobilenetv1 0.15, vgg16 0.08), times the "
          "images in a step / 128; with AdamW: 0.001, times the root of that.");
ABSL_FLAG(std::string, schedule, "onecycle",
          "Of the learning rate: constant, step (a tenth after half, a hundredth after three "
          "quarters), cosine, onecycle or linear.");
ABSL_FLAG(double, warmup_epochs, -1,
          "Epochs over which the rate rises. Default: a quarter of them with onecycle, else 0.");
ABSL_FLAG(double, momentum, 0.9, "Of SGD.");
ABSL_FLAG(bool, nesterov, false, "Nesterov's form of the momentum.");
ABSL_FLAG(double, weight_decay, -1, "Default: 0.0005 (SGD), 0.05 (AdamW).");
ABSL_FLAG(bool, decay_norm_and_bias, false,
          "Weight decay of batch norms' and biases' parameters, too.");
ABSL_FLAG(bool, decay_depthwise, true,
          "Weight decay of depthwise convolutions' weights. MobileNet's authors advise little or "
          "none: there are few of them.");
ABSL_FLAG(double, label_smoothing, 0, "Part of the target spread over all classes.");
ABSL_FLAG(double, dropout, -1, "Before the classifier. Default: GoogLeNet 0.2, the others none.");
ABSL_FLAG(double, ema, 0,
          "Decay of a moving average of the weights, such as 0.999; it is what is evaluated and "
          "exported. 0: none.");
ABSL_FLAG(std::string, optimizer, "sgd", "sgd or adamw.");
ABSL_FLAG(std::string, augment, "crop,flip",
          "none, or a list of crop or crop_reflect, flip, jitter, cutout.");
ABSL_FLAG(bool, shuffle, true,
          "Take the images of each epoch in an order of its own. --noshuffle: in that of the data, "
          "to compare with another program.");
ABSL_FLAG(std::string, mean, "0.4914,0.4822,0.4465",
          "Taken off the pixels (in [0, 1]): three values, or measure.");
ABSL_FLAG(std::string, std, "0.2470,0.2435,0.2616",
          "Pixels are divided by it after that: three values, or measure.");
ABSL_FLAG(uint64_t, seed, 0, "Of initial weights, order, augmentation, dropout, synthetic data.");
ABSL_FLAG(std::string, precision, "f32", "f32.");
ABSL_FLAG(std::string, memory_limit, "",
          "Bytes that data, weights and a step may take together (K, M, G are powers of 1024). "
          "Empty: no limit.");
ABSL_FLAG(std::string, update, "",
          "fused (with each gradient, which is then not kept) or after_backward; the same bits. "
          "Default: fused, or after_backward with --log_gradients.");
ABSL_FLAG(std::string, init, "", "Weight file to start from.");
ABSL_FLAG(bool, resume, false, "Go on with the run in --out.");
ABSL_FLAG(int64_t, max_steps, 0,
          "Stop after so many steps. Without --epochs and --recipe: as many epochs as they need.");
ABSL_FLAG(int64_t, save_every, 0, "Save after so many steps, too. 0: after every epoch only.");
ABSL_FLAG(int64_t, keep, 1, "Saved states to keep: the last and those before it.");
ABSL_FLAG(int64_t, log_every, 0, "A line in metrics.jsonl every so many steps. 0: epochs only.");
ABSL_FLAG(bool, log_gradients, false,
          "Norms of each parameter and its gradient in those lines (every 50 steps unless "
          "--log_every says otherwise); needs --update=after_backward.");
ABSL_FLAG(int64_t, eval_every, 1, "Evaluate after every so many epochs, and at the end.");
ABSL_FLAG(int64_t, synthetic_images, 0,
          "Synthetic training images, and a quarter as many for testing. 0: 2,048.");

namespace classicnn {
namespace {

volatile std::sig_atomic_t stop_signal = 0;

void OnSignal(int signal) { stop_signal = signal; }

// The first SIGINT or SIGTERM asks for an orderly end; the second one is not caught any more.
void CatchSignals() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  // Beyond a limit on the size of files a write fails, as on a full disk.
  std::signal(SIGXFSZ, SIG_IGN);
}

// What the command line says, by flag name; only flags that were given.
nlohmann::json GivenValues() {
  nlohmann::json given = nlohmann::json::object();
  const auto take = [&given](const char* name, const auto& value) {
    if (FlagWasGiven(name)) given[name] = value;
  };
  take("model", absl::GetFlag(FLAGS_model));
  take("data", absl::GetFlag(FLAGS_data));
  take("recipe", absl::GetFlag(FLAGS_recipe));
  take("epochs", absl::GetFlag(FLAGS_epochs));
  take("batch", absl::GetFlag(FLAGS_batch));
  take("lr", absl::GetFlag(FLAGS_lr));
  take("schedule", absl::GetFlag(FLAGS_schedule));
  take("warmup_epochs", absl::GetFlag(FLAGS_warmup_epochs));
  take("momentum", absl::GetFlag(FLAGS_momentum));
  take("nesterov", absl::GetFlag(FLAGS_nesterov));
  take("weight_decay", absl::GetFlag(FLAGS_weight_decay));
  take("decay_norm_and_bias", absl::GetFlag(FLAGS_decay_norm_and_bias));
  take("decay_depthwise", absl::GetFlag(FLAGS_decay_depthwise));
  take("label_smoothing", absl::GetFlag(FLAGS_label_smoothing));
  take("dropout", absl::GetFlag(FLAGS_dropout));
  take("ema", absl::GetFlag(FLAGS_ema));
  take("optimizer", absl::GetFlag(FLAGS_optimizer));
  take("augment", absl::GetFlag(FLAGS_augment));
  take("shuffle", absl::GetFlag(FLAGS_shuffle));
  take("mean", absl::GetFlag(FLAGS_mean));
  take("std", absl::GetFlag(FLAGS_std));
  take("seed", absl::GetFlag(FLAGS_seed));
  take("precision", absl::GetFlag(FLAGS_precision));
  take("memory_limit", absl::GetFlag(FLAGS_memory_limit));
  take("update", absl::GetFlag(FLAGS_update));
  take("init", absl::GetFlag(FLAGS_init));
  take("max_steps", absl::GetFlag(FLAGS_max_steps));
  take("save_every", absl::GetFlag(FLAGS_save_every));
  take("keep", absl::GetFlag(FLAGS_keep));
  take("log_every", absl::GetFlag(FLAGS_log_every));
  take("log_gradients", absl::GetFlag(FLAGS_log_gradients));
  take("eval_every", absl::GetFlag(FLAGS_eval_every));
  take("synthetic_images", absl::GetFlag(FLAGS_synthetic_images));
  take("image_size", ImageSizeFlag());
  take("num_classes", NumClassesFlag());
  return given;
}

// Values that stand for "as the rest suggests" inside cannot be asked for.
absl::Status CheckGiven(const nlohmann::json& given) {
  for (const char* name : {"lr", "warmup_epochs", "weight_decay", "dropout", "epochs"}) {
    const auto value = given.find(name);
    const bool epochs = std::string(name) == "epochs";
    if (value != given.end() && value->get<double>() < (epochs ? 1 : 0)) {
      return absl::InvalidArgumentError(absl::StrCat("bad value \"", value->dump(), "\" for --",
                                                     name, ": must be at least ", epochs ? 1 : 0));
    }
  }
  return RefuseEmpty({"out", "data", "update", "memory_limit", "init"});
}

absl::StatusOr<TrainOptions> NewOptions(const nlohmann::json& given) {
  auto recipe = RecipeOptions(absl::GetFlag(FLAGS_recipe), absl::GetFlag(FLAGS_model));
  if (!recipe.ok()) {
    // An empty model gets the friendlier message.
    TrainOptions empty;
    return absl::GetFlag(FLAGS_model).empty() ? Resolve(&empty) : recipe.status();
  }
  nlohmann::json merged = *recipe;
  merged.update(given);
  if (given.contains("max_steps") && given["max_steps"] > 0 && !given.contains("epochs") &&
      !given.contains("recipe")) {
    merged["epochs"] = 0;
  }
  auto options = TrainOptionsFromJson(merged);
  if (!options.ok()) return options.status();
  if (absl::Status s = Resolve(&*options); !s.ok()) return s;
  return options;
}

// The run's own options; of the flags that are given, only those that cannot change a weight may
// say something else.
absl::StatusOr<TrainOptions> ResumedOptions(const RunConfig& config, const std::string& out,
                                            const nlohmann::json& given) {
  nlohmann::json merged = config.options;
  for (const auto& [name, value] : given.items()) {
    if (!MayChangeOnResume(name) && merged[name] != value) {
      return absl::InvalidArgumentError(
          absl::StrCat("--", name, "=", value.is_string() ? value.get<std::string>() : value.dump(),
                       " is not what the run in ", out, " has: ", merged[name].dump(),
                       "\na continued run must give the same weights as an uninterrupted one"));
    }
  }
  merged.update(given);
  // What the command line says about the length of the run replaces what was recorded.
  if (given.contains("epochs") && !given.contains("max_steps")) merged["max_steps"] = 0;
  if (given.contains("log_gradients") && !given.contains("update")) merged["update"] = "";
  auto options = TrainOptionsFromJson(merged);
  if (!options.ok()) return options.status();
  if (absl::Status s = Resolve(&*options); !s.ok()) return s;
  return options;
}

std::string FreeRunFolder(const std::string& model) {
  std::error_code error;
  std::string folder = absl::StrCat("runs/", model);
  for (int i = 2; std::filesystem::exists(folder, error); ++i) {
    folder = absl::StrCat("runs/", model, "-", i);
  }
  return folder;
}

void PrintEpoch(const EpochResult& r) {
  std::string test = "not evaluated";
  if (r.test_accuracy) {
    test = absl::StrFormat("test loss %.4f accuracy %6.2f%%", *r.test_loss, 100 * *r.test_accuracy);
  }
  std::printf("%s\n",
              absl::StrFormat("epoch %3d/%d  step %6d  train loss %.4f accuracy %6.2f%%  %s"
                              "  %.0f images/s  %.1f s  lr %.5f",
                              r.epoch, r.epochs, r.step, r.train_loss, 100 * r.train_accuracy, test,
                              r.images_per_second, r.seconds, r.lr)
                  .c_str());
  std::fflush(stdout);
}

absl::StatusOr<TrainOutcome> Watch(Trainer& trainer, const std::string& title) {
  auto progress = std::make_unique<Progress>(title);
  TrainCallbacks callbacks;
  callbacks.stop_requested = [] { return stop_signal != 0; };
  callbacks.on_step = [&](const TrainCallbacks::Step& s) {
    progress->Update(s.step, s.total_steps,
                     absl::StrFormat("epoch %d/%d loss %.4f accuracy %.1f%% %.0f images/s", s.epoch,
                                     s.epochs, s.loss, 100 * s.accuracy, s.images_per_second));
  };
  callbacks.on_epoch = [&](const EpochResult& result) {
    progress->Clear();
    PrintEpoch(result);
  };
  auto outcome = trainer.Run(callbacks);
  if (outcome.ok() && *outcome == TrainOutcome::kFinished) {
    progress->Finish("finished");
  }
  return outcome;
}

void PrintEnd(const Trainer& trainer, const std::string& out) {
  const TrainPosition& p = trainer.position();
  if (p.best_step >= 0 || p.stop_epoch >= 0) {
    const bool stop = p.stop_is_best();
    std::printf("best test accuracy %.2f%% in epoch %lld (chosen on the test set)\n",
                100 * (stop ? p.stop_accuracy : p.best_accuracy),
                static_cast<long long>(stop ? p.stop_epoch : p.best_epoch));
  } else {
    std::printf("no test set: nothing to choose a best epoch by\n");
  }
  std::printf("weights: %s/%s\n", out.c_str(), kLastFile);
}

int Main(int argc, char** argv) {
  ProgramInfo info;
  info.name = "cnn-train";
  info.summary = "trains a network and keeps its weights and figures";
  ParseProgramFlags(info, &argc, argv);
  const bool resume = absl::GetFlag(FLAGS_resume);
  std::string out = absl::GetFlag(FLAGS_out);
  const nlohmann::json given = GivenValues();
  if (absl::Status s = CheckGiven(given); !s.ok()) return FailUsage(s);

  absl::StatusOr<TrainOptions> options;
  if (resume) {
    if (out.empty()) {
      return FailUsage(absl::InvalidArgumentError("--resume needs --out: the folder of the run"));
    }
    const auto config = ReadRunConfig(out);
    if (!config.ok()) {
      return FailUsage(absl::Status(config.status().code(),
                                    absl::StrCat("--resume: ", config.status().message())));
    }
    if (config->target != ActiveTarget()) {
      std::fprintf(stderr,
                   "cnn-train: the run began on %s, this is %s: results may differ in the "
                   "last bits\n",
                   config->target.c_str(), ActiveTarget().c_str());
    }
    options = ResumedOptions(*config, out, given);
  } else {
    options = NewOptions(given);
  }
  if (!options.ok()) return FailUsage(options.status());
  if (out.empty()) out = FreeRunFolder(options->model);

  CatchSignals();
  Context ctx(ThreadsFlag());
  nlohmann::json extra;
  extra["program"] = "cnn-train";
  extra["threads"] = ctx.num_threads();
  extra["target"] = ActiveTarget();
  extra["machine"] = GetMachineInfo();
  extra["build"] = GetBuildInfo();
  auto trainer = Trainer::Create(*options, out, resume, extra, ctx);
  if (!trainer.ok()) return FailUsage(trainer.status());
  const Trainer& t = **trainer;
  if (t.restarted()) {
    std::fprintf(stderr, "cnn-train: nothing was saved in %s yet: starting at step 0\n",
                 out.c_str());
  } else if (resume) {
    std::fprintf(stderr, "cnn-train: going on in %s at step %lld\n", out.c_str(),
                 static_cast<long long>(t.position().step));
  }
  std::fprintf(stderr, "%s",
               absl::StrFormat("cnn-train: %s on %s (%d training images, %d classes), %d steps of "
                               "%d images, %d threads, %s, into %s\n",
                               options->model, options->data, t.data().train->count(),
                               t.graph().num_classes(), t.total_steps(), t.batch(),
                               ctx.num_threads(), ActiveTarget(), out)
                   .c_str());

  const auto outcome = Watch(**trainer, options->model);
  if (!outcome.ok()) {
    FailUsage(outcome.status());
    return kExitFailed;
  }
  switch (*outcome) {
    case TrainOutcome::kInterrupted:
      std::fprintf(stderr,
                   "\ncnn-train: stopped at step %lld; go on with\n  cnn-train --resume --out=%s\n",
                   static_cast<long long>(t.position().step), out.c_str());
      return FinishOutput(kExitOk);
    case TrainOutcome::kAlreadyFinished:
      std::printf("%s is finished: nothing to do\n", out.c_str());
      break;
    case TrainOutcome::kFinished:
      break;
  }
  PrintEnd(t, out);
  return FinishOutput(kExitOk);
}

}  // namespace
}  // namespace classicnn

int main(int argc, char** argv) { return classicnn::Main(argc, argv); }
