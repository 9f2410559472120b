// cnn-eval: how good trained weights are on a set of images, or what one picture shows.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/context.h"
#include "core/program.h"
#include "core/safetensors.h"
#include "models/data/dataset.h"
#include "models/data/image_file.h"
#include "models/executor.h"
#include "models/model.h"
#include "models/train/augment.h"
#include "models/train/evaluate.h"
#include "models/train/options.h"
#include "models/weights_file.h"

ABSL_FLAG(std::string, model, "",
          "vgg16, resnet18, googlenet, mobilenetv1 or densenet121. Empty: what the weights say.");
ABSL_FLAG(std::string, weights, "", "Weight file (safetensors), such as RUN/last.safetensors.");
ABSL_FLAG(std::string, data, "synthetic",
          "A folder with CIFAR-10's binary files, a folder with idx files, or synthetic.");
ABSL_FLAG(std::string, split, "test", "Images to evaluate on: test or train.");
ABSL_FLAG(
    std::string, image, "",
    "A PNG or JPEG of any size: prints its most probable classes. Pixels are taken as they are "
    "stored: a camera's note of how it was held is not heeded.");
ABSL_FLAG(int64_t, batch, 128, "Images evaluated at a time.");
ABSL_FLAG(bool, flip, false, "Take the mean over every image and its mirror image.");
ABSL_FLAG(std::string, mean, "",
          "Taken off the pixels. Empty: what the weights' metadata says, else CIFAR-10's.");
ABSL_FLAG(std::string, std, "",
          "Pixels are divided by it. Empty: what the weights' metadata says, else CIFAR-10's.");
ABSL_FLAG(uint64_t, seed, 0, "Of synthetic data: the seed of the run.");
ABSL_FLAG(int64_t, synthetic_images, 0,
          "Synthetic training images, and a quarter as many for testing. 0: 2,048.");

namespace classicnn {
namespace {

// A network with weights, and what their file says about its input.
struct Loaded {
  Graph graph;
  std::unique_ptr<ModelState> state;
  MeanStd normalization;
  std::vector<std::string> class_names;
};

// The flag where it is given, else the metadata, else the default.
absl::StatusOr<int64_t> SizeFrom(const SafetensorsFile& file, const std::string& name,
                                 int64_t flag) {
  const auto found = file.metadata().find(name);
  if (FlagWasGiven(name) || found == file.metadata().end()) return flag;
  int64_t value = 0;
  if (absl::SimpleAtoi(found->second, &value) && value >= 1 && value <= 65536) return value;
  return absl::InvalidArgumentError(absl::StrCat(file.path(), ": metadata ", name, " is \"",
                                                 found->second.substr(0, 80),
                                                 "\", expected a number above 0"));
}

absl::StatusOr<std::array<double, 3>> ChannelsFrom(const SafetensorsFile& file,
                                                   const std::string& name, const std::string& flag,
                                                   const std::string& otherwise, bool positive) {
  const auto found = file.metadata().find(name);
  if (!flag.empty() || found == file.metadata().end()) {
    if (flag == "measure") {
      return absl::InvalidArgumentError(absl::StrCat("bad value \"", flag, "\" for --", name,
                                                     ": give three comma-separated numbers"));
    }
    return ParseChannels(name, flag.empty() ? otherwise : flag, {1, 1, 1}, positive);
  }
  auto values = ParseChannels(name, found->second, {1, 1, 1}, positive);
  if (values.ok() && found->second != "measure") return values;
  return absl::InvalidArgumentError(absl::StrCat(file.path(), ": metadata ", name, " is \"",
                                                 found->second.substr(0, 80),
                                                 "\", expected three comma-separated numbers"));
}

absl::StatusOr<Loaded> Load(Context& ctx) {
  const std::string path = absl::GetFlag(FLAGS_weights);
  if (path.empty()) {
    return absl::InvalidArgumentError("--weights is missing: give a weight file");
  }
  auto file = SafetensorsFile::Open(path);
  if (!file.ok()) return file.status();
  std::string model = absl::GetFlag(FLAGS_model);
  if (model.empty()) {
    auto from_file = file->Metadata("model");
    if (!from_file.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--model is missing, and ", path,
                                                     " does not say: give one of ",
                                                     absl::StrJoin(ModelNames(), ", ")));
    }
    model = *from_file;
  } else if (const auto& known = ModelNames();
             std::find(known.begin(), known.end(), model) == known.end()) {
    return absl::InvalidArgumentError(absl::StrCat("bad value \"", model.substr(0, 80),
                                                   "\" for --model: give one of ",
                                                   absl::StrJoin(known, ", ")));
  }
  const auto image_size = SizeFrom(*file, "image_size", ImageSizeFlag());
  const auto num_classes = SizeFrom(*file, "num_classes", NumClassesFlag());
  if (!image_size.ok()) return image_size.status();
  if (!num_classes.ok()) return num_classes.status();
  ModelOptions options;
  options.image_h = options.image_w = *image_size;
  options.num_classes = *num_classes;
  auto graph = BuildModel(model, options);
  if (!graph.ok()) {
    return absl::Status(graph.status().code(),
                        absl::StrCat(FlagWasGiven("image_size") ? "--image_size: " : path + ": ",
                                     graph.status().message()));
  }
  auto state = ModelState::Create(*graph, Optimizer::kNone, &ctx.memory());
  if (!state.ok()) return state.status();
  if (absl::Status s = LoadWeights(path, *graph, state->get()); !s.ok()) return s;

  const TrainOptions defaults;
  Loaded loaded;
  const auto mean =
      ChannelsFrom(*file, "mean", absl::GetFlag(FLAGS_mean), defaults.mean, /*positive=*/false);
  const auto std =
      ChannelsFrom(*file, "std", absl::GetFlag(FLAGS_std), defaults.std, /*positive=*/true);
  if (!mean.ok()) return mean.status();
  if (!std.ok()) return std.status();
  if (file->metadata().count("mean") == 0 && absl::GetFlag(FLAGS_mean).empty()) {
    std::fprintf(stderr, "cnn-eval: %s says nothing about mean and std: taking CIFAR-10's\n",
                 path.c_str());
  }
  loaded.normalization = {*mean, *std};
  const auto classes = file->metadata().find("classes");
  if (classes != file->metadata().end()) {
    loaded.class_names = absl::StrSplit(classes->second, ',');
    if (static_cast<int64_t>(loaded.class_names.size()) != *num_classes) {
      loaded.class_names.clear();
    }
  }
  loaded.graph = *std::move(graph);
  loaded.state = *std::move(state);
  return loaded;
}

std::string ClassName(const std::vector<std::string>& names, int64_t c) {
  return names.empty() ? absl::StrCat("class ", c) : names[static_cast<size_t>(c)];
}

void PrintConfusion(const Evaluation& e, const std::vector<std::string>& names) {
  constexpr int64_t kMostColumns = 20;
  if (e.classes <= kMostColumns) {
    std::printf("\nconfusion matrix (rows: actual, columns: predicted)\n%16s", "");
    for (int64_t c = 0; c < e.classes; ++c) std::printf(" %5lld", static_cast<long long>(c));
    std::printf("\n");
    for (int64_t a = 0; a < e.classes; ++a) {
      std::printf("%2lld %-13s", static_cast<long long>(a),
                  ClassName(names, a).substr(0, 13).c_str());
      for (int64_t p = 0; p < e.classes; ++p) {
        std::printf(" %5lld", static_cast<long long>(e.confused(a, p)));
      }
      std::printf("\n");
    }
    return;
  }
  struct Pair {
    int64_t count, actual, predicted;
  };
  std::vector<Pair> pairs;
  for (int64_t a = 0; a < e.classes; ++a) {
    for (int64_t p = 0; p < e.classes; ++p) {
      if (a != p && e.confused(a, p) > 0) pairs.push_back({e.confused(a, p), a, p});
    }
  }
  std::stable_sort(pairs.begin(), pairs.end(),
                   [](const Pair& a, const Pair& b) { return a.count > b.count; });
  pairs.resize(std::min<size_t>(pairs.size(), 20));
  std::printf("\nmost frequent confusions (of %lld classes)\n", static_cast<long long>(e.classes));
  for (const Pair& p : pairs) {
    std::printf("%6lld  %s taken for %s\n", static_cast<long long>(p.count),
                ClassName(names, p.actual).c_str(), ClassName(names, p.predicted).c_str());
  }
}

absl::Status EvaluateData(Loaded& loaded, Context& ctx) {
  const std::string split = absl::GetFlag(FLAGS_split);
  if (split != "test" && split != "train") {
    return absl::InvalidArgumentError(
        absl::StrCat("bad value \"", split.substr(0, 80), "\" for --split: give test or train"));
  }
  if (absl::GetFlag(FLAGS_batch) < 1) {
    return absl::InvalidArgumentError(absl::StrCat("bad value \"", absl::GetFlag(FLAGS_batch),
                                                   "\" for --batch: must be at least 1"));
  }
  if (absl::GetFlag(FLAGS_synthetic_images) < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("bad value \"", absl::GetFlag(FLAGS_synthetic_images),
                     "\" for --synthetic_images: must be at least 0"));
  }
  DataOptions data_options;
  data_options.source = absl::GetFlag(FLAGS_data);
  data_options.num_classes = loaded.graph.num_classes();
  data_options.train = split == "train";
  data_options.test = split == "test";
  data_options.seed = absl::GetFlag(FLAGS_seed);
  data_options.synthetic_images = absl::GetFlag(FLAGS_synthetic_images);
  auto data = LoadDataset(data_options, &ctx.memory());
  if (!data.ok()) return data.status();
  const ImageSet* images = data_options.train ? data->train.get() : data->test.get();
  if (images == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("--data=", data_options.source, " has no test images: give --split=train"));
  }
  auto names = data->class_names;
  if (static_cast<int64_t>(names.size()) != loaded.graph.num_classes()) names.clear();

  EvaluateOptions options;
  options.normalization = loaded.normalization;
  options.batch = std::min(absl::GetFlag(FLAGS_batch), images->count());
  options.flip = absl::GetFlag(FLAGS_flip);
  Progress progress("cnn-eval");
  options.progress = [&](int64_t done, int64_t total) { progress.Update(done, total, ""); };
  const auto e = Evaluate(loaded.graph, loaded.state.get(), *images, options, ctx);
  if (!e.ok()) {
    return absl::Status(e.status().code(),
                        absl::StrCat("--batch=", options.batch, ": ", e.status().message()));
  }
  progress.Finish(absl::StrCat(e->images, " images"));

  std::printf("model %s, %lld %s images of %s\n", loaded.graph.model().c_str(),
              static_cast<long long>(e->images), split.c_str(), data_options.source.c_str());
  if (!std::isfinite(e->loss)) {
    return absl::InvalidArgumentError(absl::StrCat(
        absl::GetFlag(FLAGS_weights), ": the network's outputs are not finite: no class is right"));
  }
  std::printf("loss  %.6f\ntop-1 %.2f%%\ntop-5 %.2f%%\n\n", e->loss, 100 * e->accuracy(),
              100 * e->top5_accuracy());
  std::printf("accuracy by class\n");
  for (int64_t c = 0; c < e->classes; ++c) {
    std::printf("%2lld %-13s %6.2f%% of %lld\n", static_cast<long long>(c),
                ClassName(names, c).c_str(), 100 * e->class_accuracy(c),
                static_cast<long long>(e->count(c)));
  }
  PrintConfusion(*e, names);
  return absl::OkStatus();
}

absl::Status ClassifyImage(Loaded& loaded, Context& ctx) {
  const Shape4 shape = loaded.graph.node(loaded.graph.input()).shape;
  const std::string path = absl::GetFlag(FLAGS_image);
  const auto pixels = ReadImageFile(path, shape.h, shape.w);
  if (!pixels.ok()) return pixels.status();
  auto images = ImageSet::Create(1, shape.h, shape.w, 3, &ctx.memory());
  if (!images.ok()) return images.status();
  std::copy(pixels->begin(), pixels->end(), images->image(0));

  const auto probabilities =
      ClassProbabilities(loaded.graph, loaded.state.get(), *images, loaded.normalization,
                         absl::GetFlag(FLAGS_flip), ctx);
  if (!probabilities.ok()) return probabilities.status();
  if (std::any_of(probabilities->begin(), probabilities->end(),
                  [](double p) { return !std::isfinite(p); })) {
    return absl::InvalidArgumentError(
        absl::StrCat(absl::GetFlag(FLAGS_weights), ": the network's outputs are not finite"));
  }
  std::vector<int64_t> order(probabilities->size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return (*probabilities)[static_cast<size_t>(a)] > (*probabilities)[static_cast<size_t>(b)];
  });
  std::printf("%s\n", path.c_str());
  for (size_t i = 0; i < std::min<size_t>(order.size(), 5); ++i) {
    std::printf("%6.2f%%  %s\n", 100 * (*probabilities)[static_cast<size_t>(order[i])],
                ClassName(loaded.class_names, order[i]).c_str());
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  ProgramInfo info;
  info.name = "cnn-eval";
  info.summary =
      "evaluates trained weights: loss, accuracies and confusion matrix on a set of images, or the "
      "classes of one picture";
  ParseProgramFlags(info, &argc, argv);
  if (absl::Status s = RefuseEmpty({"weights", "data", "image"}); !s.ok()) return FailUsage(s);
  Context ctx(ThreadsFlag());
  auto loaded = Load(ctx);
  if (!loaded.ok()) return FailUsage(loaded.status());
  const absl::Status status =
      absl::GetFlag(FLAGS_image).empty() ? EvaluateData(*loaded, ctx) : ClassifyImage(*loaded, ctx);
  if (!status.ok()) return FailUsage(status);
  return FinishOutput(kExitOk);
}

}  // namespace
}  // namespace classicnn

int main(int argc, char** argv) { return classicnn::Main(argc, argv); }
