// A training run against the same steps taken one by one as its flags say: what a trainer leaves
// out or mixes up, it would do alike in every run.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "core/check.h"
#include "gtest/gtest.h"
#include "models/executor.h"
#include "models/model.h"
#include "models/plan.h"
#include "models/state_tensors.h"
#include "models/train/augment.h"
#include "models/train/checkpoint.h"
#include "models/train/evaluate.h"
#include "models/weights_file.h"
#include "tests/models/train/train_runs.h"

namespace classicnn {
namespace {

constexpr int64_t kImages = 35, kBatch = 8, kStepsInEpoch = 4, kSteps = 6;
constexpr uint64_t kSeed = 11;
constexpr double kRate = 0.02, kSmoothing = 0.1, kDropout = 0.3;
const MeanStd kNormalization{{0.4914, 0.4822, 0.4465}, {0.247, 0.2435, 0.2616}};

std::unique_ptr<ModelState> NewState(const Graph& graph, Optimizer optimizer) {
  auto state = ModelState::Create(graph, optimizer, nullptr);
  CNN_CHECK(state.ok(), state.status().ToString());
  return *std::move(state);
}

// The same run, by hand.
class ByHand {
 public:
  explicit ByHand(Optimizer optimizer) : ctx_(2) {
    ModelOptions model;
    model.image_h = model.image_w = 16;
    model.dropout = kDropout;
    auto graph = BuildModel("mobilenetv1", model);
    CNN_CHECK(graph.ok());
    graph_ = *std::move(graph);
    DataOptions options;
    options.synthetic_images = kImages;
    options.seed = kSeed;
    auto data = LoadDataset(options, nullptr);
    CNN_CHECK(data.ok());
    data_ = *std::move(data);
    state_ = NewState(graph_, optimizer);
    state_->Initialize(graph_, kSeed);
    average_ = NewState(graph_, Optimizer::kNone);
    CopyWeights(graph_, *state_, average_.get());
  }

  const Graph& graph() const { return graph_; }
  ModelState& state() { return *state_; }
  ModelState& average() { return *average_; }

  void Train(const UpdateParams& update, double ema) {
    PlanOptions options;
    options.batch = kBatch;
    options.num_threads = ctx_.num_threads();
    options.label_smoothing = kSmoothing;
    auto plan = MakePlan(graph_, options);
    CNN_CHECK(plan.ok());
    auto executor = Executor::Create(graph_, *std::move(plan), state_.get(), ctx_);
    CNN_CHECK(executor.ok());
    BatchMaker batches(*data_.train, 16, 16, kNormalization);
    for (int64_t step = 0; step < kSteps; ++step) {
      const int64_t epoch = step / kStepsInEpoch;
      const auto order = ShuffledOrder(kImages, kSeed, epoch);
      BatchRequest request;
      request.images = absl::MakeConstSpan(order).subspan(
          static_cast<size_t>(step % kStepsInEpoch * kBatch), kBatch);
      request.augmentation.crop = request.augmentation.flip = request.augmentation.jitter = true;
      request.seed = kSeed;
      request.epoch = static_cast<uint64_t>(epoch);
      batches.Fill(request, (*executor)->input(), (*executor)->labels(), ctx_);
      (*executor)->SetDropoutPosition(kSeed, static_cast<uint64_t>(step));
      (*executor)->TrainStep(update);
      const double done = static_cast<double>(step + 1);
      Average(std::min(ema, (1 + done) / (10 + done)));
    }
  }

  Evaluation TestSet(ModelState* state) {
    EvaluateOptions options;
    options.normalization = kNormalization;
    options.batch = kBatch;
    auto evaluation = Evaluate(graph_, state, *data_.test, options, ctx_);
    CNN_CHECK(evaluation.ok());
    return *std::move(evaluation);
  }

 private:
  void Average(double keep) {
    const auto from = WeightTensors(graph_, *state_), to = WeightTensors(graph_, *average_);
    for (size_t i = 0; i < from.size(); ++i) {
      for (int64_t e = 0; e < from[i].count(); ++e) {
        to[i].data[e] = static_cast<float>(keep) * to[i].data[e] +
                        static_cast<float>(1 - keep) * from[i].data[e];
      }
    }
  }

  Context ctx_;
  Graph graph_;
  Dataset data_;
  std::unique_ptr<ModelState> state_, average_;
};

TrainOptions AllOptions() {
  TrainOptions o = Tiny();
  o.schedule = "constant";
  o.warmup_epochs = 0;
  o.lr = kRate;
  o.max_steps = kSteps;
  o.label_smoothing = kSmoothing;
  o.dropout = kDropout;
  o.augment = "crop,flip,jitter";
  return o;
}

// Trains and compares what is exported and what was measured of it.
void ExpectSameAsByHand(const TrainOptions& options, Optimizer optimizer,
                        const UpdateParams& update) {
  TempFolder folder;
  Train(options, folder / "run", false, 2, 0, TrainOutcome::kFinished);
  ByHand run(optimizer);
  run.Train(update, options.ema);
  ModelState& expected = options.ema > 0 ? run.average() : run.state();
  const auto exported = NewState(run.graph(), Optimizer::kNone);
  const absl::Status loaded =
      LoadWeights(folder / "run/last.safetensors", run.graph(), exported.get());
  ASSERT_TRUE(loaded.ok()) << loaded;
  const auto a = WeightTensors(run.graph(), *exported), b = WeightTensors(run.graph(), expected);
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(std::equal(a[i].data, a[i].data + a[i].count(), b[i].data)) << a[i].name;
  }
  const Evaluation test = run.TestSet(&expected);
  const auto line = Metrics(folder, "run").back();
  EXPECT_NEAR(line["test_loss"].get<double>(), test.loss, 1e-9);
  EXPECT_EQ(line["test_accuracy"].get<double>(), test.accuracy());
}

TEST(RunByHandTest, Sgd) {
  TrainOptions options = AllOptions();
  options.momentum = 0.8;
  options.nesterov = true;
  options.weight_decay = 0.5;
  options.decay_depthwise = false;
  UpdateParams update;
  update.sgd = {kRate, 0.8, 0.5, true};
  update.decay_norm_and_bias = false;
  update.decay_depthwise = false;
  ExpectSameAsByHand(options, Optimizer::kSgd, update);
}

TEST(RunByHandTest, SgdWithAMovingAverage) {
  TrainOptions options = AllOptions();
  options.weight_decay = 0.01;
  options.decay_norm_and_bias = true;
  options.ema = 0.45;  // beyond the ramp: 2/11, 3/12, 4/13, 5/14, 6/15, 7/16
  UpdateParams update;
  update.sgd = {kRate, 0.9, 0.01, false};
  ExpectSameAsByHand(options, Optimizer::kSgd, update);
  options.ema = 0.3;  // which the ramp passes after two steps
  ExpectSameAsByHand(options, Optimizer::kSgd, update);
}

TEST(RunByHandTest, AdamW) {
  TrainOptions options = AllOptions();
  options.optimizer = "adamw";
  options.lr = 1e-3;
  options.weight_decay = 0.2;
  UpdateParams update;
  update.adamw.lr = 1e-3;
  update.adamw.weight_decay = 0.2;
  update.decay_norm_and_bias = false;
  ExpectSameAsByHand(options, Optimizer::kAdamW, update);
}

TEST(RunByHandTest, RatesFollowTheSchedule) {
  TempFolder folder;
  TrainOptions options = Tiny();
  options.lr = 0.1;  // one-cycle: up over two of the eight steps, then down along half a cosine
  Train(options, folder / "run", false, 2, 0, TrainOutcome::kFinished);
  std::vector<double> rates;
  for (const auto& line : Metrics(folder, "run")) {
    if (line["kind"] == "step") rates.push_back(line["lr"]);
  }
  ASSERT_EQ(rates.size(), 8u);
  EXPECT_DOUBLE_EQ(rates[0], 0.1 / 25);
  EXPECT_DOUBLE_EQ(rates[1], 0.1 * 13 / 25);
  EXPECT_DOUBLE_EQ(rates[2], 0.1);
  EXPECT_NEAR(rates[3], 0.1 * (1e-4 + (1 - 1e-4) * 0.5 * (1 + std::cos(M_PI * 0.2))), 1e-12);
  EXPECT_NEAR(rates[7], 1e-5, 1e-12);
}

}  // namespace
}  // namespace classicnn
