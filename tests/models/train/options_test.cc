#include "models/train/options.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/model.h"
#include "nlohmann/json.hpp"

namespace classicnn {
namespace {

using ::testing::HasSubstr;

TEST(OptionsTest, RecipesOfAllModelsAreValid) {
  for (const std::string& recipe : RecipeNames()) {
    for (const std::string& model : ModelNames()) {
      auto options = RecipeOptions(recipe, model);
      ASSERT_TRUE(options.ok()) << options.status();
      EXPECT_EQ(options->model, model);
      EXPECT_TRUE(Resolve(&*options).ok()) << recipe << " " << model;
      EXPECT_GT(DefaultLr(*options, options->batch), 0);
    }
  }
  EXPECT_FALSE(RecipeOptions("best", "vgg16").ok());
  EXPECT_FALSE(RecipeOptions("quick", "vgg19").ok());
}

TEST(OptionsTest, RecipesForAccuracy) {
  struct Expected {
    const char* model;
    int64_t epochs;
    const char* augment;
  };
  for (const Expected& e :
       {Expected{"mobilenetv1", 25, "crop,flip,jitter"},
        Expected{"vgg16", 20, "crop_reflect,flip,jitter"},
        Expected{"resnet18", 15, "crop,flip,jitter"}, Expected{"googlenet", 4, "crop,flip"},
        Expected{"densenet121", 5, "crop,flip"}}) {
    auto o = RecipeOptions("accuracy", e.model);
    ASSERT_TRUE(o.ok()) << o.status();
    EXPECT_EQ(o->epochs, e.epochs) << e.model;
    EXPECT_EQ(o->augment, e.augment) << e.model;
    EXPECT_EQ(o->schedule, "onecycle");
    EXPECT_TRUE(o->nesterov);
    EXPECT_FALSE(o->decay_norm_and_bias);
    EXPECT_DOUBLE_EQ(o->label_smoothing, 0.1);
    EXPECT_EQ(o->dropout, -1) << "the architecture's own";
    const auto quick = RecipeOptions("quick", e.model);
    ASSERT_TRUE(quick.ok());
    EXPECT_LT(quick->epochs, o->epochs) << e.model;
    // Decay by optimizer, also where the recipe's optimizer is overruled.
    auto adamw = *o;
    adamw.optimizer = "adamw";
    ASSERT_TRUE(Resolve(&*o).ok());
    ASSERT_TRUE(Resolve(&adamw).ok());
    EXPECT_DOUBLE_EQ(o->weight_decay, 5e-4);
    EXPECT_DOUBLE_EQ(adamw.weight_decay, 0.05);
  }
}

TEST(OptionsTest, DefaultsFollowOptimizerAndBatch) {
  TrainOptions sgd;
  sgd.model = "vgg16";
  sgd.batch = 256;
  ASSERT_TRUE(Resolve(&sgd).ok());
  EXPECT_EQ(sgd.lr, -1) << "the data may be smaller than a batch";
  EXPECT_DOUBLE_EQ(DefaultLr(sgd, 256), 0.16);
  EXPECT_DOUBLE_EQ(DefaultLr(sgd, 32), 0.02);
  sgd.model = "mobilenetv1";
  EXPECT_DOUBLE_EQ(DefaultLr(sgd, 128), 0.15);
  sgd.model = "densenet121";
  EXPECT_DOUBLE_EQ(DefaultLr(sgd, 128), 0.1);
  EXPECT_DOUBLE_EQ(sgd.weight_decay, 5e-4);
  EXPECT_EQ(sgd.update, "fused");
  TrainOptions adamw;
  adamw.model = "vgg16";
  adamw.optimizer = "adamw";
  adamw.log_gradients = true;
  ASSERT_TRUE(Resolve(&adamw).ok());
  EXPECT_DOUBLE_EQ(DefaultLr(adamw, 128), 1e-3);
  EXPECT_DOUBLE_EQ(DefaultLr(adamw, 32), 5e-4);
  EXPECT_EQ(adamw.update, "after_backward");
  EXPECT_EQ(adamw.log_every, 50);
}

TEST(OptionsTest, RefusesBadValuesNamingTheFlag) {
  const auto refused = [](const char* flag, const nlohmann::json& value) {
    TrainOptions good;
    good.model = "resnet18";
    nlohmann::json json = good;
    json[flag] = value;
    auto options = TrainOptionsFromJson(json);
    ASSERT_TRUE(options.ok()) << options.status();
    const absl::Status status = Resolve(&*options);
    EXPECT_FALSE(status.ok()) << flag << " " << value;
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::string("--") + flag));
  };
  refused("model", "");
  refused("model", "alexnet");
  refused("batch", 0);
  refused("epochs", 0);
  refused("lr", 0.0);
  refused("lr", -0.5);
  refused("schedule", "triangle");
  refused("warmup_epochs", -0.5);
  refused("momentum", 1.0);
  refused("weight_decay", std::numeric_limits<double>::infinity());
  refused("label_smoothing", 1.0);
  refused("dropout", 1.5);
  refused("ema", -0.1);
  refused("optimizer", "adam");
  refused("augment", "crop,mixup");
  refused("mean", "1,2");
  refused("mean", "1,2,x");
  refused("std", "1,0,1");
  refused("precision", "bf16");
  refused("memory_limit", "much");
  refused("memory_limit", "0");
  refused("update", "later");
  refused("max_steps", -1);
  refused("save_every", -1);
  refused("keep", 0);
  refused("log_every", -1);
  refused("eval_every", 0);
  refused("synthetic_images", -1);
}

TEST(OptionsTest, RefusesGradientLogsOfFusedUpdates) {
  TrainOptions options;
  options.model = "vgg16";
  options.log_gradients = true;
  options.update = "fused";
  EXPECT_THAT(std::string(Resolve(&options).message()), HasSubstr("--log_gradients"));
}

TEST(OptionsTest, JsonGoesBothWays) {
  auto options = RecipeOptions("accuracy", "googlenet");
  ASSERT_TRUE(options.ok());
  options->seed = ~uint64_t{0};
  options->lr = 0.1 + 0.2;
  ASSERT_TRUE(Resolve(&*options).ok());
  const nlohmann::json json = *options;
  const auto back = TrainOptionsFromJson(nlohmann::json::parse(json.dump()));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(nlohmann::json(*back), json);
  EXPECT_EQ(back->seed, ~uint64_t{0});
  nlohmann::json broken = json;
  broken.erase("ema");
  EXPECT_FALSE(TrainOptionsFromJson(broken).ok());
  nlohmann::json before_there_was_a_flag = json;
  before_there_was_a_flag.erase("decay_depthwise");
  EXPECT_EQ(nlohmann::json(TrainOptionsFromJson(before_there_was_a_flag).value()), json);
  broken = json;
  broken["epochs"] = "ten";
  EXPECT_FALSE(TrainOptionsFromJson(broken).ok());
}

TEST(OptionsTest, ChannelsAsText) {
  const std::array<double, 3> values{0.1, 1.0 / 3, 12345.678901234567};
  const auto back = ParseChannels("mean", FormatChannels(values), {}, false);
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(*back, values);
  EXPECT_EQ(FormatChannels({0.4914, 0.4822, 0.4465}), "0.4914,0.4822,0.4465");
  EXPECT_EQ(*ParseChannels("mean", "measure", values, false), values);
}

}  // namespace
}  // namespace classicnn
