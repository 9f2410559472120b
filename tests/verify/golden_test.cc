#include "tests/verify/golden.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>

#include "absl/strings/str_cat.h"
#include "core/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/layout.h"
#include "tests/verify/model_checks.h"

namespace classicnn::verify {
namespace {

using testing::HasSubstr;

std::string GoldenPath(const std::string& name) {
  return absl::StrCat(CLASSICNN_GOLDEN_FOLDER, "/", name, ".safetensors");
}

std::vector<std::string> GoldenNames() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(CLASSICNN_GOLDEN_FOLDER)) {
    if (entry.path().extension() == ".safetensors") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// A golden file taken apart, to be put together again with changes.
struct Contents {
  struct Tensor {
    DType dtype = DType::kF32;
    std::vector<int64_t> shape;
    std::vector<uint8_t> bytes;

    float* floats() { return reinterpret_cast<float*>(bytes.data()); }
  };
  std::map<std::string, std::string> metadata;
  std::map<std::string, Tensor> tensors;

  static Contents Read(const std::string& path) {
    const auto file = SafetensorsFile::Open(path);
    EXPECT_TRUE(file.ok()) << file.status();
    Contents contents;
    contents.metadata = file->metadata();
    for (const auto& entry : file->entries()) {
      contents.tensors[entry.name] = {
          entry.dtype, entry.shape, {entry.bytes.begin(), entry.bytes.end()}};
    }
    return contents;
  }
  void Write(const std::string& path) const {
    SafetensorsWriter writer;
    for (const auto& [key, value] : metadata) writer.SetMetadata(key, value);
    for (const auto& [name, t] : tensors) writer.Add(name, t.dtype, t.shape, t.bytes.data());
    const absl::Status status = writer.Write(path);
    EXPECT_TRUE(status.ok()) << status;
  }
  void SetFloats(const std::string& name, std::vector<int64_t> shape,
                 const std::vector<float>& values) {
    Tensor& t = tensors[name];
    t.dtype = DType::kF32;
    t.shape = std::move(shape);
    t.bytes.resize(values.size() * sizeof(float));
    std::memcpy(t.bytes.data(), values.data(), t.bytes.size());
  }
};

class GoldenTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = absl::StrCat(testing::TempDir(), "golden_",
                         testing::UnitTest::GetInstance()->current_test_info()->line(), "_",
                         ::getpid(), ".safetensors");
  }
  void TearDown() override { std::remove(path_.c_str()); }

  absl::StatusOr<std::vector<Row>> Check(const Contents& contents,
                                         Precision precision = Precision::kF32) {
    contents.Write(path_);
    return CheckGolden(path_, precision, {}, threads_);
  }
  Verdict VerdictOf(const Contents& contents, Precision precision = Precision::kF32) {
    const auto rows = Check(contents, precision);
    EXPECT_TRUE(rows.ok()) << rows.status();
    return CountVerdicts(*rows).verdict();
  }
  // The file is refused, in one line that has the path and these words.
  void ExpectRefused(const Contents& contents, const std::vector<std::string>& words) {
    const auto rows = Check(contents);
    ASSERT_FALSE(rows.ok()) << "accepted; expected " << words[0];
    EXPECT_THAT(std::string(rows.status().message()), HasSubstr(path_));
    for (const std::string& word : words) {
      EXPECT_THAT(std::string(rows.status().message()), HasSubstr(word));
    }
    EXPECT_EQ(rows.status().message().find('\n'), absl::string_view::npos);
  }

  std::string path_;
  OptimizedThreads threads_{2};
};

class PytorchFileTest : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Files, PytorchFileTest, testing::ValuesIn(GoldenNames()),
                         [](const auto& instance) { return instance.param; });

TEST_P(PytorchFileTest, PassesInBothPrecisions) {
  OptimizedThreads threads(2);
  for (const Precision precision : {Precision::kF32, Precision::kF64}) {
    const auto rows = CheckGolden(GoldenPath(GetParam()), precision, {}, threads);
    ASSERT_TRUE(rows.ok()) << rows.status();
    EXPECT_EQ(CountVerdicts(*rows).verdict(), Verdict::kPass) << FormatTable(*rows);
    EXPECT_GE(rows->size(), 2u);
    for (const Row& row : *rows) {
      EXPECT_EQ(row.tensor.rfind("expected.", 0), 0u) << row.tensor;
      EXPECT_LE(row.bound, precision == Precision::kF64 ? 1e-5 : 5e-4);
    }
  }
}

// Every expected tensor counts: spoiling any one of them is seen, in both precisions.
TEST_P(PytorchFileTest, FailsWhereATensorIsSpoiled) {
  OptimizedThreads threads(1);
  const std::string path =
      absl::StrCat(testing::TempDir(), "spoiled_", GetParam(), "_", ::getpid(), ".safetensors");
  const Contents good = Contents::Read(GoldenPath(GetParam()));
  for (const auto& [name, tensor] : good.tensors) {
    if (name.rfind("expected.", 0) != 0) continue;
    Contents bad = good;
    bad.tensors[name].floats()[0] = bad.tensors[name].floats()[0] * 1.5f + 1;
    bad.Write(path);
    for (const Precision precision : {Precision::kF32, Precision::kF64}) {
      const auto rows = CheckGolden(path, precision, {}, threads);
      ASSERT_TRUE(rows.ok()) << rows.status();
      EXPECT_EQ(CountVerdicts(*rows).verdict(), Verdict::kFail) << name;
      for (const Row& row : *rows) {
        EXPECT_EQ(row.verdict == Verdict::kFail, row.tensor == name) << row.tensor;
        if (row.verdict != Verdict::kFail) continue;
        EXPECT_THAT(row.command, HasSubstr("--golden="));
      }
    }
  }
  std::remove(path.c_str());
}

TEST(PytorchFilesTest, EveryLayerHasSome) {
  std::map<std::string, int> count;
  for (const std::string& name : GoldenNames()) {
    ++count[Contents::Read(GoldenPath(name)).metadata["layer"]];
  }
  for (const char* layer : {"conv2d", "batch_norm2d", "relu", "max_pool2d", "avg_pool2d",
                            "global_avg_pool2d", "linear", "add", "concat", "cross_entropy"}) {
    EXPECT_GE(count[layer], 1) << layer;
  }
}

TEST_F(GoldenTest, ZerosAreMistrustedAndNanFails) {
  const Contents good = Contents::Read(GoldenPath("conv2d_k3_padded"));
  Contents zeros = good;
  auto& output = zeros.tensors["expected.output"];
  std::fill(output.bytes.begin(), output.bytes.end(), uint8_t{0});
  EXPECT_EQ(VerdictOf(zeros), Verdict::kMistrusted);
  EXPECT_EQ(VerdictOf(zeros, Precision::kF64), Verdict::kMistrusted);
  Contents nan = good;
  nan.tensors["input"].floats()[2] = NAN;
  EXPECT_EQ(VerdictOf(nan), Verdict::kFail);
}

TEST_F(GoldenTest, StatisticsThatStayMayBeZero) {
  Contents fresh = Contents::Read(GoldenPath("batch_norm2d_inference"));
  for (const char* name : {"buffer.running_mean", "expected.buffer.running_mean"}) {
    auto& tensor = fresh.tensors[name];
    std::fill(tensor.bytes.begin(), tensor.bytes.end(), uint8_t{0});
  }
  const auto rows = Check(fresh, Precision::kF64);
  ASSERT_TRUE(rows.ok()) << rows.status();
  for (const Row& row : *rows) {
    if (row.tensor.find("buffer") != std::string::npos) {
      EXPECT_EQ(row.verdict, Verdict::kPass) << row.tensor;
    }
  }
}

TEST_F(GoldenTest, InferenceMayLeaveUnchangedStatisticsUnsaid) {
  Contents norm = Contents::Read(GoldenPath("batch_norm2d_inference"));
  norm.tensors.erase("expected.buffer.running_mean");
  norm.tensors.erase("expected.buffer.running_var");
  EXPECT_EQ(VerdictOf(norm), Verdict::kPass);
  EXPECT_EQ(VerdictOf(norm, Precision::kF64), Verdict::kPass);
}

TEST_F(GoldenTest, AttributesInPytorchsOtherSpellings) {
  Contents pool = Contents::Read(GoldenPath("max_pool2d"));
  pool.metadata["kernel_size"] = "(2, 2)";
  pool.metadata.erase("stride");  // PyTorch's default is the kernel's size
  pool.metadata.erase("padding");
  EXPECT_EQ(VerdictOf(pool), Verdict::kPass);
  Contents norm = Contents::Read(GoldenPath("batch_norm2d_training"));
  norm.metadata["training"] = "True";
  norm.tensors["buffer.num_batches_tracked"] = {DType::kI64, {}, std::vector<uint8_t>(8)};
  EXPECT_EQ(VerdictOf(norm), Verdict::kPass);
  // Attributes are used: another value gives another result.
  norm.metadata["momentum"] = "0.2";
  EXPECT_EQ(VerdictOf(norm), Verdict::kFail);
}

TEST_F(GoldenTest, RefusesWhatIsNotAGoldenFile) {
  const Contents good = Contents::Read(GoldenPath("conv2d_k3_padded"));
  const auto refused = [&](const std::function<void(Contents*)>& change,
                           const std::vector<std::string>& words) {
    Contents contents = good;
    change(&contents);
    ExpectRefused(contents, words);
  };
  refused([](Contents* c) { c->metadata.erase("format"); }, {"format"});
  refused([](Contents* c) { c->metadata["format"] = "other"; }, {"classicnn-golden"});
  refused([](Contents* c) { c->metadata["version"] = "2"; }, {"version", "2"});
  refused([](Contents* c) { c->metadata.erase("layer"); }, {"model or a layer"});
  refused([](Contents* c) { c->metadata["model"] = "vgg16"; }, {"model or a layer"});
  refused([](Contents* c) { c->metadata["layer"] = "conv3d"; }, {"unknown layer"});
  refused([](Contents* c) { c->metadata["layer"] = "dropout"; }, {"unknown layer"});
  EXPECT_FALSE(CheckGolden("/nonexistent/file", Precision::kF32, {}, threads_).ok());
  // Not a safetensors file at all, and one that ends too early.
  for (const std::string& text : {std::string(), std::string("PK\3\4 not a tensor file"),
                                  ReadFile(GoldenPath("relu")).value().substr(0, 1000)}) {
    ASSERT_TRUE(WriteFileAtomically(path_, text).ok());
    const auto rows = CheckGolden(path_, Precision::kF32, {}, threads_);
    ASSERT_FALSE(rows.ok());
    EXPECT_THAT(std::string(rows.status().message()), HasSubstr(path_));
  }
}

TEST_F(GoldenTest, RefusesBadAttributes) {
  const Contents conv = Contents::Read(GoldenPath("conv2d_k3_padded"));
  const std::vector<std::pair<const char*, const char*>> bad = {
      {"stride", "0"}, {"stride", "-1"}, {"stride", "two"}, {"stride", "(1, 2)"},
      {"stride", ""},  {"padding", "3"}, {"padding", "-1"}, {"padding", "99999999999999999999"},
      {"groups", "0"}, {"groups", "2"},  {"dilation", "2"}, {"padding_mode", "reflect"}};
  for (const auto& [key, value] : bad) {
    Contents contents = conv;
    contents.metadata[key] = value;
    SCOPED_TRACE(absl::StrCat(key, "=", value));
    // A shape that does not fit is told as such; else the attribute is named.
    ExpectRefused(contents, {""});
  }
  Contents norm = Contents::Read(GoldenPath("batch_norm2d_training"));
  norm.metadata["eps"] = "nan";
  ExpectRefused(norm, {"eps"});
  norm.metadata["eps"] = "1e-05";
  norm.metadata["training"] = "2";
  ExpectRefused(norm, {"training"});
  norm.metadata.erase("training");
  ExpectRefused(norm, {"training"});
  Contents loss = Contents::Read(GoldenPath("cross_entropy"));
  loss.metadata["label_smoothing"] = "1.5";
  ExpectRefused(loss, {"label_smoothing"});
  Contents pool = Contents::Read(GoldenPath("avg_pool2d"));
  pool.metadata["kernel_size"] = "16";
  ExpectRefused(pool, {"kernel"});
  pool.metadata.erase("kernel_size");
  ExpectRefused(pool, {"kernel_size"});
}

TEST_F(GoldenTest, RefusesTensorsThatDoNotFit) {
  for (const std::string& file : GoldenNames()) {
    SCOPED_TRACE(file);
    const Contents good = Contents::Read(GoldenPath(file));
    for (const auto& [name, tensor] : good.tensors) {
      SCOPED_TRACE(name);
      Contents contents = good;
      contents.tensors.erase(name);
      // Biases are optional, what a third input of add brings, and the statistics that inference
      // leaves as they are: the rest must be there.
      const bool unsaid =
          file == "batch_norm2d_inference" && name.rfind("expected.buffer.", 0) == 0;
      if (name != "param.bias" && !unsaid) ExpectRefused(contents, {""});
      contents.tensors["wrong.name"] = tensor;
      ExpectRefused(contents, {"tensor \""});

      contents = good;
      auto& bytes = contents.tensors[name];
      bytes.shape.push_back(1);
      bytes.shape.insert(bytes.shape.begin(), 1);
      // Of relu and add any rank will do, but not the same for all.
      ExpectRefused(contents, {"tensor \""});

      contents = good;
      auto& retyped = contents.tensors[name];
      retyped.dtype = retyped.dtype == DType::kI64 ? DType::kF64 : DType::kI32;
      ExpectRefused(contents, {name});
    }
  }
  Contents loss = Contents::Read(GoldenPath("cross_entropy"));
  for (const int64_t label : {int64_t{-1}, int64_t{10}, int64_t{1} << 40}) {
    Contents contents = loss;
    std::memcpy(contents.tensors["labels"].bytes.data(), &label, sizeof(label));
    ExpectRefused(contents, {"labels", "from 0 to 9"});
  }
}

// A model's golden file made by the reference in double: what PyTorch's looks like, without it.
Contents ModelGolden(bool training) {
  ModelOptions options;
  options.num_classes = 4;
  options.image_w = 64;
  const absl::StatusOr<ModelCase> made = MakeModelCase("mobilenetv1", options, training, 2, 3);
  EXPECT_TRUE(made.ok());
  const ModelCase& c = *made;
  ReferenceModel<double> reference(c.graph, c.batch, training);
  const Arrays results = RunReferenceModel(c, &reference);
  Contents contents;
  contents.metadata = {{"format", "classicnn-golden"},
                       {"version", "1"},
                       {"model", "mobilenetv1"},
                       {"mode", training ? "train" : "eval"},
                       {"num_classes", "4"}};
  const Shape4 shape = c.graph.shape(c.graph.input(), c.batch);
  std::vector<float> nchw(c.input.size());
  NhwcToNchw(ConstTensor(c.input.data(), shape), nchw.data());
  contents.SetFloats("input", {shape.n, 3, shape.h, shape.w}, nchw);
  auto& labels = contents.tensors["labels"];
  labels.dtype = DType::kI64;
  labels.shape = {c.batch};
  for (const int32_t label : c.labels) {
    const int64_t wide = label;
    const auto* bytes = reinterpret_cast<const uint8_t*>(&wide);
    labels.bytes.insert(labels.bytes.end(), bytes, bytes + sizeof(wide));
  }
  const auto floats = [](const Array& a) {
    return std::vector<float>(a.values.begin(), a.values.end());
  };
  contents.SetFloats("expected.logits", {c.batch, 4}, floats(results.at("logits")));
  contents.SetFloats("expected.loss", {}, floats(results.at("loss")));
  for (size_t i = 0; i < c.graph.parameters().size(); ++i) {
    const Parameter& p = c.graph.parameters()[i];
    std::vector<float> values(static_cast<size_t>(p.count()));
    ToPytorchLayout(p, c.state->parameter(static_cast<int>(i)), values.data());
    contents.SetFloats("param." + p.name, p.shape, values);
    ToPytorchLayout(p, results.at("grad." + p.name).values.data(), values.data());
    contents.SetFloats("expected.grad." + p.name, p.shape, values);
  }
  for (size_t i = 0; i < c.graph.buffers().size(); ++i) {
    const Buffer& b = c.graph.buffers()[i];
    const float* const before = c.state->buffer(static_cast<int>(i));
    contents.SetFloats("buffer." + b.name, {b.count}, {before, before + b.count});
    contents.SetFloats("expected.buffer." + b.name, {b.count},
                       floats(results.at("buffer." + b.name)));
  }
  return contents;
}

TEST_F(GoldenTest, ModelsPassAndFail) {
  for (const bool training : {true, false}) {
    const Contents good = ModelGolden(training);
    const auto rows = Check(good);
    ASSERT_TRUE(rows.ok()) << rows.status();
    EXPECT_EQ(CountVerdicts(*rows).verdict(), Verdict::kPass) << FormatTable(*rows);
    EXPECT_EQ(CountVerdicts(*rows).checks(), 2 + 83 + 54 + 1);  // and the median
    EXPECT_EQ(VerdictOf(good, Precision::kF64), Verdict::kPass);
    for (const char* name : {"expected.logits", "expected.loss", "expected.grad.classifier.weight",
                             "expected.buffer.bn1.running_var"}) {
      Contents bad = good;
      bad.tensors[name].floats()[1 % (bad.tensors[name].bytes.size() / 4)] += 100;
      EXPECT_EQ(VerdictOf(bad), Verdict::kFail) << name;
    }
    // What f32 may not tell apart, f64 does.
    Contents slightly = good;
    slightly.tensors["expected.loss"].floats()[0] *= 1.0001f;
    EXPECT_EQ(VerdictOf(slightly), Verdict::kPass);
    EXPECT_EQ(VerdictOf(slightly, Precision::kF64), Verdict::kFail);
  }
}

TEST_F(GoldenTest, RefusesModelsThatDoNotFit) {
  const Contents good = ModelGolden(false);
  const auto refused = [&](const std::function<void(Contents*)>& change,
                           const std::vector<std::string>& words) {
    Contents contents = good;
    change(&contents);
    ExpectRefused(contents, words);
  };
  refused([](Contents* c) { c->metadata["model"] = "alexnet"; }, {"alexnet", "vgg16"});
  refused([](Contents* c) { c->metadata["model"] = "resnet18"; }, {"tensor \""});
  refused([](Contents* c) { c->metadata["mode"] = "test"; }, {"mode", "train or eval"});
  refused([](Contents* c) { c->metadata.erase("mode"); }, {"mode"});
  refused([](Contents* c) { c->metadata["num_classes"] = "0"; }, {"num_classes"});
  refused([](Contents* c) { c->metadata.erase("num_classes"); }, {"expected.logits", "[2, 10]"});
  refused(
      [](Contents* c) {
        c->tensors["input"].shape = {2, 32, 3, 64};
      },
      {"input", "[N, 3, H, W]"});
  refused([](Contents* c) { c->tensors.erase("param.bn1.weight"); },
          {"param.bn1.weight", "missing"});
  refused(
      [](Contents* c) {
        c->tensors["param.bn1.weight"].shape = {4, 8};
      },
      {"param.bn1.weight", "[4, 8]", "[32]"});
  refused([](Contents* c) { c->tensors["param.bn1.weight"].dtype = DType::kI32; },
          {"param.bn1.weight"});
  refused([](Contents* c) { c->tensors.erase("expected.grad.bn1.bias"); },
          {"expected.grad.bn1.bias"});
  refused([](Contents* c) { c->tensors.erase("expected.buffer.bn1.running_var"); },
          {"expected.buffer.bn1.running_var"});
  refused([](Contents* c) { c->tensors["param.extra"] = c->tensors["param.bn1.weight"]; },
          {"param.extra", "does not belong"});
  refused(
      [](Contents* c) {
        const int64_t label = 4;
        std::memcpy(c->tensors["labels"].bytes.data(), &label, sizeof(label));
      },
      {"labels", "label 4", "from 0 to 3"});
}

}  // namespace
}  // namespace classicnn::verify
