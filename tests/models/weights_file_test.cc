#include "models/weights_file.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/model.h"
#include "models/state_tensors.h"
#include "tests/testing/temp_folder.h"

namespace classicnn {
namespace {

using ::testing::HasSubstr;

Graph Build(const std::string& model, int64_t num_classes = 10) {
  ModelOptions options;
  options.num_classes = num_classes;
  auto graph = BuildModel(model, options);
  EXPECT_TRUE(graph.ok()) << graph.status();
  return *std::move(graph);
}

std::unique_ptr<ModelState> State(const Graph& graph, uint64_t seed) {
  auto state = ModelState::Create(graph, Optimizer::kNone, nullptr);
  EXPECT_TRUE(state.ok());
  (*state)->Initialize(graph, seed);
  return *std::move(state);
}

std::vector<float> Values(const Graph& graph, const ModelState& state) {
  std::vector<float> all;
  for (const StateTensor& t : WeightTensors(graph, state)) {
    all.insert(all.end(), t.data, t.data + t.count());
  }
  return all;
}

// Refused by LoadWeights, which leaves the state as it was.
void ExpectRefused(const std::string& path, const Graph& graph, const std::string& what) {
  auto state = State(graph, 8);
  const auto before = Values(graph, *state);
  const absl::Status status = LoadWeights(path, graph, state.get());
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  EXPECT_THAT(std::string(status.message()), HasSubstr(what));
  const std::vector<std::string> lines = absl::StrSplit(status.message(), '\n');
  EXPECT_LE(lines.size(), 3u);
  EXPECT_EQ(Values(graph, *state), before);
}

TEST(WeightsFileTest, RoundTripOfAllModels) {
  TempFolder folder;
  for (const std::string& model : ModelNames()) {
    SCOPED_TRACE(model);
    const Graph graph = Build(model);
    auto saved = State(graph, 3);
    for (size_t i = 0; i < graph.buffers().size(); ++i) {
      saved->buffer(static_cast<int>(i))[0] = static_cast<float>(i) + 0.5f;
    }
    saved->batches_tracked = 77;
    const std::string path = folder / (model + ".safetensors");
    ASSERT_TRUE(SaveWeights(path, graph, *saved, {{"mean", "1,2,3"}}).ok());
    auto loaded = State(graph, 4);
    ASSERT_NE(Values(graph, *loaded), Values(graph, *saved));
    const absl::Status status = LoadWeights(path, graph, loaded.get());
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(Values(graph, *loaded), Values(graph, *saved));
    EXPECT_EQ(loaded->batches_tracked, 77);
    // And the same bytes again.
    ASSERT_TRUE(SaveWeights(folder / "again", graph, *loaded, {{"mean", "1,2,3"}}).ok());
    EXPECT_TRUE(folder.Read("again") == folder.Read(model + ".safetensors"));
  }
}

TEST(WeightsFileTest, HasPytorchsNamesShapesAndOrder) {
  TempFolder folder;
  const Graph graph = Build("vgg16");
  auto state = State(graph, 1);
  ASSERT_TRUE(SaveWeights(folder / "w", graph, *state, {{"mean", "x"}}).ok());
  const auto file = SafetensorsFile::Open(folder / "w");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->metadata().at("model"), "vgg16");
  EXPECT_EQ(file->metadata().at("num_classes"), "10");
  EXPECT_EQ(file->metadata().at("image_size"), "32");
  EXPECT_EQ(file->metadata().at("mean"), "x");
  EXPECT_EQ(file->Find("features.0.weight")->shape, (std::vector<int64_t>{64, 3, 3, 3}));
  EXPECT_EQ(file->Find("classifier.0.weight")->shape, (std::vector<int64_t>{512, 512}));
  EXPECT_EQ(file->Find("features.1.num_batches_tracked")->dtype, DType::kI64);
  EXPECT_TRUE(file->Find("features.1.num_batches_tracked")->shape.empty());
  // 43 parameters, 13 batch norms with two statistics and a counter each.
  EXPECT_EQ(file->entries().size(), 43u + 13 * 3);
  // [O,I,R,S] in the file, [R,S,I,O] in memory.
  const auto values = file->ReadFloats("features.3.weight", {64, 64, 3, 3});
  ASSERT_TRUE(values.ok());
  const int conv2 = graph.node(graph.parameters()[3].node).parameters[0];
  ASSERT_EQ(graph.parameters()[static_cast<size_t>(conv2)].name, "features.3.weight");
  const int64_t o = 5, i = 9, r = 2, s = 1;
  EXPECT_EQ((*values)[static_cast<size_t>(((o * 64 + i) * 3 + r) * 3 + s)],
            state->parameter(conv2)[((r * 3 + s) * 64 + i) * 64 + o]);
}

// A file with every tensor of the graph, each handed to `change` first; false leaves it out.
using Change = std::function<bool(StateTensor&, DType&)>;
void WriteChanged(const std::string& path, const Graph& graph, const Change& change,
                  const std::string& extra = "") {
  auto state = State(graph, 2);
  SafetensorsWriter writer;
  std::vector<double> doubles(1 << 22, 0.25);
  for (StateTensor tensor : WeightTensors(graph, *state)) {
    DType dtype = DType::kF32;
    if (change(tensor, dtype)) writer.Add(tensor.name, dtype, tensor.shape, doubles.data());
  }
  if (!extra.empty()) writer.Add(extra, DType::kF32, {1}, doubles.data());
  ASSERT_TRUE(writer.Write(path).ok());
}

TEST(WeightsFileTest, CountersAndMetadataAreOptionalAndDoublesWelcome) {
  TempFolder folder;
  const Graph graph = Build("mobilenetv1");
  WriteChanged(folder / "w", graph, [](StateTensor& t, DType& d) {
    if (t.name == "bn1.weight") d = DType::kF64;
    return true;
  });
  auto state = State(graph, 2);
  const absl::Status status = LoadWeights(folder / "w", graph, state.get());
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(state->batches_tracked, 0);
}

TEST(WeightsFileTest, RefusesWhatDoesNotFit) {
  TempFolder folder;
  const Graph graph = Build("mobilenetv1");
  const std::string path = folder / "w";
  WriteChanged(path, graph, [](StateTensor& t, DType&) { return t.name != "bn1.bias"; });
  ExpectRefused(path, graph, "bn1.bias");
  WriteChanged(path, graph, [](StateTensor& t, DType&) {
    if (t.name == "conv_stem.weight") t.shape = {32, 3, 9};
    return true;
  });
  ExpectRefused(path, graph, "conv_stem.weight");
  WriteChanged(path, graph, [](StateTensor& t, DType& d) {
    if (t.name == "bn1.running_var") d = DType::kF16;
    return true;
  });
  ExpectRefused(path, graph, "bn1.running_var");
  WriteChanged(
      path, graph, [](StateTensor&, DType&) { return true; }, "fc.weight");
  ExpectRefused(path, graph, "fc.weight");
  WriteChanged(path, graph, [](StateTensor& t, DType&) { return t.name[0] != 'b'; });
  ExpectRefused(path, graph, "more tensors do not fit");
  const auto broken = State(graph, 2);
  WeightTensors(graph, *broken).front().data[0] = std::numeric_limits<float>::quiet_NaN();
  ASSERT_TRUE(SaveWeights(path, graph, *broken, {}).ok());
  ExpectRefused(path, graph, "\"conv_stem.weight\" holds a value that is not finite");
}

TEST(WeightsFileTest, RefusesOtherModelsClassesAndFiles) {
  TempFolder folder;
  const Graph resnet = Build("resnet18");
  ASSERT_TRUE(SaveWeights(folder / "w", resnet, *State(resnet, 0), {}).ok());
  ExpectRefused(folder / "w", Build("vgg16"), "resnet18");
  ExpectRefused(folder / "w", Build("resnet18", 7), "fc.weight");
  const std::string whole = folder.Read("w");
  folder.Write("w", whole.substr(0, whole.size() - 1));
  ExpectRefused(folder / "w", resnet, "");
  folder.Write("w", "not safetensors");
  ExpectRefused(folder / "w", resnet, "");
  ExpectRefused(folder / "missing", resnet, "");
}

}  // namespace
}  // namespace classicnn
