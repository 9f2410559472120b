#include "models/train/evaluate.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "core/check.h"
#include "gtest/gtest.h"
#include "models/model.h"

namespace classicnn {
namespace {

// Adds an image by its probabilities.
void Add(std::vector<double> probabilities, int32_t label, Evaluation* e) {
  for (double& p : probabilities) p = std::log(p);
  AddPrediction(probabilities, label, e);
}

TEST(EvaluateTest, CountsPredictions) {
  Evaluation e;
  Add({0.1, 0.6, 0.3}, 1, &e);
  Add({0.1, 0.6, 0.3}, 2, &e);
  Add({0.5, 0.5, 0.0}, 1, &e);  // of equals the first one wins
  EXPECT_EQ(e.images, 3);
  EXPECT_EQ(e.top1, 1);
  EXPECT_EQ(e.top5, 3);
  EXPECT_NEAR(e.loss, -std::log(0.6) - std::log(0.3) - std::log(0.5), 1e-12);
  EXPECT_EQ(e.confused(1, 1), 1);
  EXPECT_EQ(e.confused(2, 1), 1);
  EXPECT_EQ(e.confused(1, 0), 1);
  EXPECT_EQ(e.count(1), 2);
  EXPECT_DOUBLE_EQ(e.class_accuracy(1), 0.5);
  EXPECT_DOUBLE_EQ(e.class_accuracy(0), 0);
}

TEST(EvaluateTest, FiveBest) {
  Evaluation e;
  const std::vector<double> p = {0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.05};
  for (int label = 0; label < 7; ++label) Add(p, label, &e);
  EXPECT_EQ(e.top1, 1);
  EXPECT_EQ(e.top5, 5);
}

TEST(EvaluateTest, NotANumberIsWrongAndShows) {
  Evaluation e;
  Add({NAN, NAN}, 0, &e);
  Add({0.1, 0.9}, 1, &e);
  EXPECT_EQ(e.top1, 1);
  EXPECT_FALSE(std::isfinite(e.loss));
}

TEST(EvaluateTest, LogitsFarApartKeepTheirRanksAndLosses) {
  const float logits[] = {1000, 1000, 990, -3e4f, -2e4f, -4e4f, 0};
  const auto p = LogSoftmax(logits, 7);
  EXPECT_NEAR(p[0], std::log(0.5), 1e-4);
  EXPECT_NEAR(p[2], p[0] - 10, 1e-9);
  EXPECT_NEAR(p[3], p[0] - 31000, 1e-9) << "its probability is 0 in double";
  Evaluation e;
  AddPrediction(p, 4, &e);  // the fifth
  EXPECT_EQ(e.top5, 1);
  EXPECT_NEAR(e.loss, 21000 + std::log(2.0), 1e-3);
  AddPrediction(p, 3, &e);  // the sixth
  EXPECT_EQ(e.top5, 1);
}

// A network that was never trained, and images.
struct Small {
  explicit Small(int64_t train_images) {
    ModelOptions model_options;
    model_options.image_h = model_options.image_w = 16;
    auto built = BuildModel("mobilenetv1", model_options);
    CNN_CHECK(built.ok());
    graph = *std::move(built);
    auto created = ModelState::Create(graph, Optimizer::kNone, nullptr);
    CNN_CHECK(created.ok());
    state = *std::move(created);
    state->Initialize(graph, 1);
    DataOptions data_options;
    data_options.synthetic_images = train_images;
    auto loaded = LoadDataset(data_options, nullptr);
    CNN_CHECK(loaded.ok());
    data = *std::move(loaded);
  }

  Graph graph;
  std::unique_ptr<ModelState> state;
  Dataset data;
};

// Every image once, whatever the batch, and the same result for any number of threads.
TEST(EvaluateTest, LastPartialBatchCounts) {
  Small small(52);  // 13 for testing
  EvaluateOptions options;
  options.normalization = {{0.5, 0.5, 0.5}, {0.25, 0.25, 0.25}};
  std::vector<Evaluation> results;
  for (const int threads : {1, 2, 3}) {
    for (const int64_t batch : {1, 5, 13, 100}) {
      Context ctx(threads);
      options.batch = batch;
      int64_t last = 0;
      options.progress = [&](int64_t done, int64_t total) {
        EXPECT_GT(done, last);
        EXPECT_EQ(total, 13);
        last = done;
      };
      auto e = Evaluate(small.graph, small.state.get(), *small.data.test, options, ctx);
      ASSERT_TRUE(e.ok()) << e.status();
      EXPECT_EQ(e->images, 13);
      EXPECT_EQ(last, 13);
      EXPECT_EQ(ctx.memory().current(), 0);
      results.push_back(*e);
    }
  }
  for (const Evaluation& e : results) {
    EXPECT_EQ(e.confusion, results[0].confusion);
    EXPECT_NEAR(e.loss, results[0].loss, 1e-5);
  }
  EXPECT_EQ(results[1].loss, results[5].loss);  // batch 5 on 1 and on 2 threads
  EXPECT_EQ(results[1].loss, results[9].loss);
  Context ctx(1);
  options.progress = nullptr;
  options.cancelled = [] { return true; };
  EXPECT_TRUE(absl::IsCancelled(
      Evaluate(small.graph, small.state.get(), *small.data.test, options, ctx).status()));
}

// Loss and mirroring against the probabilities of images on their own.
TEST(EvaluateTest, LossAndMirroringAreThoseOfSingleImages) {
  Small small(24);                                                // 6 for testing
  for (size_t i = 0; i < small.graph.parameters().size(); ++i) {  // probabilities that differ
    const Parameter& p = small.graph.parameters()[i];
    float* const w = small.state->parameter(static_cast<int>(i));
    if (p.name != "classifier.weight") continue;
    std::transform(w, w + p.count(), w, [](float v) { return 2e4f * v; });
  }
  const ImageSet& images = *small.data.test;
  EvaluateOptions options;
  options.normalization = {{0.5, 0.5, 0.5}, {0.25, 0.25, 0.25}};
  options.batch = 4;
  Context ctx(2);
  double loss = 0, mirrored_loss = 0, largest_difference = 0;
  for (int64_t i = 0; i < images.count(); ++i) {
    auto one = ImageSet::Create(1, images.height(), images.width(), 3, nullptr);
    auto mirrored = ImageSet::Create(1, images.height(), images.width(), 3, nullptr);
    ASSERT_TRUE(one.ok() && mirrored.ok());
    for (int64_t h = 0; h < images.height(); ++h) {
      for (int64_t w = 0; w < images.width(); ++w) {
        for (int64_t c = 0; c < 3; ++c) {
          const uint8_t value = images.image(i)[(h * images.width() + w) * 3 + c];
          one->image(0)[(h * images.width() + w) * 3 + c] = value;
          mirrored->image(0)[(h * images.width() + images.width() - 1 - w) * 3 + c] = value;
        }
      }
    }
    const auto probabilities = [&](const ImageSet& set, bool flip) {
      auto p =
          ClassProbabilities(small.graph, small.state.get(), set, options.normalization, flip, ctx);
      CNN_CHECK(p.ok());
      return *std::move(p);
    };
    const auto p = probabilities(*one, false), q = probabilities(*mirrored, false);
    const auto both = probabilities(*one, true);
    for (size_t c = 0; c < p.size(); ++c) {
      EXPECT_NEAR(both[c], (p[c] + q[c]) / 2, 1e-7);
      largest_difference = std::max(largest_difference, std::fabs(p[c] - q[c]));
    }
    const auto label = static_cast<size_t>(images.label(i));
    loss -= std::log(p[label]) / static_cast<double>(images.count());
    mirrored_loss -= std::log((p[label] + q[label]) / 2) / static_cast<double>(images.count());
  }
  EXPECT_GT(largest_difference, 1e-4) << "the mirror image is another image";
  const auto plain = Evaluate(small.graph, small.state.get(), images, options, ctx);
  ASSERT_TRUE(plain.ok());
  EXPECT_NEAR(plain->loss, loss, 1e-5);
  options.flip = true;
  const auto flipped = Evaluate(small.graph, small.state.get(), images, options, ctx);
  ASSERT_TRUE(flipped.ok());
  EXPECT_NEAR(flipped->loss, mirrored_loss, 1e-5);
}

}  // namespace
}  // namespace classicnn
