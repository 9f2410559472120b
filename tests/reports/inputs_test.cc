#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "reports/peer.h"
#include "reports/training_runs.h"

namespace classicnn {
namespace {

using ::testing::HasSubstr;

class InputsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "inputs_test.XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ + "/" + name) << text;
    return folder_ + "/" + name;
  }

  std::string folder_;
};

constexpr char kEpochs[] =
    "{\"kind\":\"epoch\",\"epoch\":1,\"step\":10,\"train_loss\":1.5,\"train_accuracy\":0.4,"
    "\"test_loss\":1.2,\"test_accuracy\":0.6,\"seconds\":2.0}\n"
    "{\"kind\":\"step\",\"step\":11,\"train_loss\":1.0}\n"
    "{\"kind\":\"epoch\",\"epoch\":2,\"train_loss\":1.0,\"train_accuracy\":0.5,"
    "\"test_accuracy\":0.55}\n"
    "{\"kind\":\"epoch\",\"epoch\":3,\"train_loss\":0.9,\"train_accuracy\":0.7}\n";

TEST_F(InputsTest, ReadsARun) {
  Write("config.json", R"({"model": "vgg16", "flags": {"data": "cifar", "augment": "none"}})");
  Write("metrics.jsonl", kEpochs);
  const auto run = ReadTrainingRun(folder_);
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->model, "vgg16");
  EXPECT_EQ(run->data, "cifar");
  EXPECT_FALSE(run->augmented());
  EXPECT_EQ(run->kind, "");
  ASSERT_EQ(run->epochs.size(), 3u);
  EXPECT_EQ(run->last()->epoch, 2) << "the third was not evaluated";
  EXPECT_EQ(run->best()->epoch, 1);
}

TEST_F(InputsTest, ReadsTheKindOfTheData) {
  Write(
      "config.json",
      R"({"data": {"kind": "cifar10"}, "flags": {"model": "vgg16", "data": "data", "augment": "crop"},
          "threads": 2, "machine": {"cpu_model": "A CPU"}})");
  Write("metrics.jsonl", kEpochs);
  const auto run = ReadTrainingRun(folder_);
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->kind, "cifar10");
  EXPECT_EQ(run->data, "data");
  EXPECT_TRUE(run->augmented());
  EXPECT_EQ(run->machine, "2 threads, A CPU");
  EXPECT_EQ(run->note, "");
  EXPECT_TRUE(run->complete()) << "as far as is known";
}

TEST_F(InputsTest, KnowsWhetherARunWentToItsEnd) {
  for (const int epochs : {3, 4}) {
    Write("config.json",
          absl::StrCat(R"({"data": {"kind": "cifar10", "train_images": 40, "test_images": 20},
                          "flags": {"model": "vgg16", "epochs": )",
                       epochs, "}}"));
    Write("metrics.jsonl", kEpochs);
    const auto run = ReadTrainingRun(folder_);
    ASSERT_TRUE(run.ok()) << run.status();
    EXPECT_EQ(run->planned_epochs, epochs);
    EXPECT_EQ(run->train_images, 40);
    EXPECT_EQ(run->test_images, 20);
    EXPECT_EQ(run->complete(), epochs == 3);
  }
}

TEST_F(InputsTest, ARunMayHaveANote) {
  Write("config.json", R"({"model": "vgg16"})");
  Write("metrics.jsonl", kEpochs);
  Write("note.txt", "trained on small images \nand more\n");
  const auto run = ReadTrainingRun(folder_);
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->note, "trained on small images");
}

TEST_F(InputsTest, ARunThatIsStillGoingHasAHalfLine) {
  Write("config.json", R"({"model": "vgg16"})");
  Write("metrics.jsonl", std::string(kEpochs) + "{\"kind\":\"epo");
  const auto run = ReadTrainingRun(folder_);
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->epochs.size(), 3u);
}

TEST_F(InputsTest, RunErrorsNameTheFileAndLine) {
  const auto message = [&] { return std::string(ReadTrainingRun(folder_).status().message()); };
  EXPECT_THAT(message(), HasSubstr(folder_ + "/config.json"));
  Write("config.json", "{\"model\": ");
  EXPECT_THAT(message(), HasSubstr("config.json' is not a JSON object"));
  Write("config.json", "{}");
  EXPECT_THAT(message(), HasSubstr("names no model"));
  Write("config.json", R"({"model": "vgg16"})");
  EXPECT_THAT(message(), HasSubstr("metrics.jsonl"));
  Write("metrics.jsonl", "nonsense\n" + std::string(kEpochs));
  EXPECT_THAT(message(), HasSubstr("metrics.jsonl' line 1"));
  Write("metrics.jsonl", "{\"kind\":\"epoch\"}\n");
  EXPECT_THAT(message(), HasSubstr("line 1: epoch is missing"));
  Write("metrics.jsonl", "{\"kind\":\"epoch\",\"epoch\":1,\"seconds\":\"2\"}\n");
  EXPECT_THAT(message(), HasSubstr("line 1: seconds is a text, should be a number"));
}

TEST_F(InputsTest, RunsMayHoldWhatIsOfNoInterest) {
  Write("config.json", R"({"model": "vgg16", "data": {"kind": 7}})");
  Write("metrics.jsonl",
        "{\"kind\":7}\n{\"kind\":\"epoch\",\"epoch\":1,\"train_loss\":null,\"seconds\":2}\n");
  const auto run = ReadTrainingRun(folder_);
  ASSERT_TRUE(run.ok()) << run.status();
  ASSERT_EQ(run->epochs.size(), 1u);
  EXPECT_EQ(run->epochs[0].seconds, 2);
}

constexpr char kPeer[] = R"({"schema": "classicnn-peer-1", "peer": "PyTorch 1.13.1",
  "cpu_model": "cpu", "batch": 64, "threads": 2, "models": {"vgg16": {
  "ours": {"seconds": {"samples": [0.2, 0.3]}, "process_peak_bytes": 100},
  "peer": {"seconds": {"samples": [0.5]}, "layout": "channels_last",
           "process_peak_bytes": 700}}}})";

TEST_F(InputsTest, ReadsAPeerComparison) {
  const auto peer = ReadPeerComparison(Write("peer.json", kPeer));
  ASSERT_TRUE(peer.ok()) << peer.status();
  EXPECT_EQ(peer->peer, "PyTorch 1.13.1");
  EXPECT_EQ(peer->models.at("vgg16").ours.median(), 0.25);
  EXPECT_EQ(peer->models.at("vgg16").peer_peak_bytes, 700);
}

TEST_F(InputsTest, PeerErrorsNameTheFile) {
  const auto message = [&](const std::string& path) {
    return std::string(ReadPeerComparison(path).status().message());
  };
  EXPECT_THAT(message(folder_ + "/none.json"), HasSubstr("none.json"));
  EXPECT_THAT(message(Write("a.json", "{}")), HasSubstr("a.json"));
  std::string text = kPeer;
  text.replace(text.find("[0.5]"), 5, "[]");
  EXPECT_THAT(message(Write("b.json", text)), HasSubstr("no times of vgg16"));
  text.replace(text.find("700"), 3, "\"7\"");
  EXPECT_EQ(message(Write("c.json", text)),
            "'" + folder_ +
                "/c.json': models.vgg16.peer.process_peak_bytes is a text, should be a number");
}

}  // namespace
}  // namespace classicnn
