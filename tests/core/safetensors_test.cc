#include "core/safetensors.h"

#include <cstring>
#include <fstream>
#include <limits>
#include <string>

#include "core/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/temp_folder.h"

namespace classicnn {
namespace {

using testing::HasSubstr;

class SafetensorsTest : public testing::Test {
 protected:
  absl::StatusOr<SafetensorsFile> OpenContents(const std::string& contents) {
    std::ofstream(path_, std::ios::binary) << contents;  // thousands of times: without syncing
    return SafetensorsFile::Open(path_);
  }
  static std::string WithHeader(const std::string& header, const std::string& data) {
    const uint64_t size = header.size();
    std::string contents(8, '\0');
    std::memcpy(contents.data(), &size, 8);
    return contents + header + data;
  }
  const TempFolder folder_;
  const std::string path_ = folder_ / "file";
};

TEST_F(SafetensorsTest, ReadsBackWhatWasWritten) {
  const std::vector<float> floats = {1, -2, std::numeric_limits<float>::denorm_min(), 4, 5, 6};
  const double pi = 3.141592653589793;
  const std::vector<int64_t> labels = {7, -8};
  const uint8_t odd[3] = {1, 2, 3};
  SafetensorsWriter writer;
  writer.SetMetadata("model", "resnet18");
  writer.SetMetadata("a \"quoted\" key", "line\nbreak \xc3\xa9");
  writer.AddFloats("conv.weight", {2, 3, 1, 1}, floats);
  writer.Add("odd", DType::kU8, {3}, odd);
  writer.Add("scalar", DType::kF64, {}, &pi);
  writer.AddFloats("empty", {0, 5}, {});
  writer.Add("labels", DType::kI64, {2}, labels.data());
  ASSERT_TRUE(writer.Write(path_).ok());

  const auto file = SafetensorsFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->metadata().size(), 2u);
  EXPECT_EQ(file->Metadata("model").value(), "resnet18");
  EXPECT_EQ(file->Metadata("a \"quoted\" key").value(), "line\nbreak \xc3\xa9");
  EXPECT_EQ(file->ReadFloats("conv.weight", {2, 3, 1, 1}).value(), floats);
  EXPECT_EQ(file->ReadDoubles("conv.weight", {2, 3, 1, 1}).value()[1], -2.0);
  EXPECT_EQ(file->ReadDoubles("scalar", {}).value(), std::vector<double>{pi});
  EXPECT_EQ(file->ReadFloats("scalar", {}).value(), std::vector<float>{static_cast<float>(pi)});
  EXPECT_EQ(file->ReadInt64s("labels", {2}).value(), labels);
  EXPECT_TRUE(file->ReadFloats("empty", {0, 5}).value().empty());
  ASSERT_EQ(file->entries().size(), 5u);
  EXPECT_EQ(file->entries()[0].name, "conv.weight");
  EXPECT_EQ(file->entries()[0].count(), 6);
  EXPECT_EQ(file->Find("odd")->dtype, DType::kU8);
  EXPECT_EQ(file->Find("none"), nullptr);
}

TEST_F(SafetensorsTest, DataBeginAtAMultipleOf64AndEqualContentsMakeEqualFiles) {
  std::string first;
  for (int run = 0; run < 2; ++run) {
    SafetensorsWriter writer;
    const float x = 5;
    writer.AddFloats("x", {1}, absl::MakeConstSpan(&x, 1));
    writer.SetMetadata(run == 0 ? "a" : "b", run == 0 ? "1" : "2");
    writer.SetMetadata(run == 0 ? "b" : "a", run == 0 ? "2" : "1");
    ASSERT_TRUE(writer.Write(path_).ok());
    const std::string contents = ReadFile(path_).value();
    uint64_t header_size = 0;
    std::memcpy(&header_size, contents.data(), 8);
    EXPECT_EQ((header_size + 8) % 64, 0u);
    EXPECT_EQ(contents.size(), header_size + 8 + 4);
    if (run == 0) first = contents;
    EXPECT_EQ(contents, first);
  }
}

TEST_F(SafetensorsTest, ChecksumsTellDamageInDataNamesAndMetadata) {
  const std::vector<float> values{1, 2, 3, 4};
  const auto write = [&](const std::string& name, const std::string& value, float last) {
    std::vector<float> data = values;
    data.back() = last;
    SafetensorsWriter writer;
    writer.SetMetadata("key", value);
    writer.AddFloats("a", {0}, {});
    writer.AddFloats(name, {2, 2}, data);
    const uint32_t checksum = writer.Checksum("sum");
    writer.SetMetadata("sum", std::to_string(checksum));
    EXPECT_EQ(writer.Checksum("sum"), checksum);
    EXPECT_TRUE(writer.Write(path_).ok());
    const auto file = SafetensorsFile::Open(path_);
    EXPECT_TRUE(file.ok());
    EXPECT_EQ(file->Checksum("sum"), checksum);
    EXPECT_NE(file->Checksum(""), checksum);
    return checksum;
  };
  const uint32_t one = write("b", "1", 4);
  EXPECT_EQ(write("b", "1", 4), one);
  EXPECT_NE(write("b", "1", 5), one);
  EXPECT_NE(write("c", "1", 4), one);
  EXPECT_NE(write("b", "2", 4), one);
}

TEST_F(SafetensorsTest, AFileWithoutTensorsIsFine) {
  ASSERT_TRUE(SafetensorsWriter().Write(path_).ok());
  const auto file = SafetensorsFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->entries().empty());
}

TEST_F(SafetensorsTest, ReadsUnalignedDataInAnyOrder) {
  const float values[2] = {1.5f, -2.5f};
  std::string data("\x01", 1);
  data.append(reinterpret_cast<const char*>(values), sizeof(values));
  std::string header = R"({"f":{"shape":[2],"data_offsets":[1,9],"dtype":"F32"},)"
                       R"("b":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}})";
  if (header.size() % 2 == 0) header += ' ';
  const auto file = OpenContents(WithHeader(header, data));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->ReadFloats("f", {2}).value(), (std::vector<float>{1.5f, -2.5f}));
  EXPECT_EQ(file->entries()[0].name, "b") << "entries come in the order of their data";
}

TEST_F(SafetensorsTest, HostileFilesAreRefusedWithThePathAndTheTensor) {
  const auto tensor = [](const std::string& fields) { return "{\"w.x\":{" + fields + "}}"; };
  struct Case {
    std::string header;
    size_t data_bytes;
    std::string expected;
  };
  const Case cases[] = {
      {"", 0, "begin with {"},
      {"[]", 0, "begin with {"},
      {" {}", 0, "begin with {"},
      {"{", 0, "not valid JSON"},
      {"{}x", 0, "not valid JSON"},
      {"{} {}", 0, "not valid JSON"},
      {"{\"a\xff\":{}}", 0, "not valid JSON"},
      {std::string("{\"a\":") + std::string(100000, '['), 0, "\"a\""},
      {std::string(100000, '{'), 0, "not valid JSON"},
      {"{}", 4, "4 bytes"},
      {"{\"__metadata__\":{\"a\":1}}", 0, "metadata"},
      {"{\"__metadata__\":{\"a\":{}}}", 0, "metadata"},
      {"{\"__metadata__\":\"a\"}", 0, "__metadata__"},
      {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, "\"a\" twice"},
      {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "twice"},
      {"{\"w.x\":5}", 0, "w.x"},
      {"{\"w.x\":null}", 0, "w.x"},
      {tensor(""), 0, "w.x"},
      {tensor(R"("dtype":"F32","shape":[1])"), 4, "w.x"},
      {tensor(R"("dtype":"F32","data_offsets":[0,4])"), 4, "w.x"},
      {tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4],"more":[])"), 4, "\"more\""},
      {tensor(R"("dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4])"), 4, "twice"},
      {tensor(R"("dtype":"F33","shape":[1],"data_offsets":[0,4])"), 4, "F33"},
      {tensor(R"("dtype":32,"shape":[1],"data_offsets":[0,4])"), 4, "w.x"},
      {tensor(R"("dtype":["F32"],"shape":[1],"data_offsets":[0,4])"), 4, "w.x"},
      {tensor(R"("dtype":"F32","shape":1,"data_offsets":[0,4])"), 4, "w.x"},
      {tensor(R"("dtype":"F32","shape":"1","data_offsets":[0,4])"), 4, "w.x"},
      {tensor(R"("dtype":"F32","shape":[[1]],"data_offsets":[0,4])"), 4, "w.x"},
      {tensor(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"), 4, "w.x"},
      {tensor(R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])"), 4, "w.x"},
      {tensor(R"("dtype":"F32","shape":["1"],"data_offsets":[0,4])"), 4, "w.x"},
      {tensor(R"("dtype":"F32","shape":[null],"data_offsets":[0,4])"), 4, "w.x"},
      {tensor(R"("dtype":"F32","shape":[true],"data_offsets":[0,4])"), 4, "w.x"},
      {tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), 4, "needs 8"},
      {tensor(R"("dtype":"F32","shape":[],"data_offsets":[0,0])"), 0, "needs 4"},
      {tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0])"), 4, "1 data_offsets"},
      {tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,4])"), 4, "3 data_offsets"},
      {tensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), 4, "w.x"},
      {tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), 3, "outside"},
      {tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), 8, "8 bytes"},
      {tensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"), 8, "hole"},
      {tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615])"), 4, "w.x"},
      {tensor(
           R"("dtype":"F32","shape":[1],"data_offsets":[9223372036854775800,9223372036854775804])"),
       4, "outside"},
      {tensor(R"("dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0])"), 0,
       "too large"},
      {tensor(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])"), 0,
       "too large"},
      {tensor(R"("dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0])"), 0,
       "too large"},
      {tensor(R"("dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,4])"), 4, "w.x"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
       R"("w.x":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
       6, "overlaps"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
       R"("w.x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
       4, "overlaps"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
       R"("w.x":{"dtype":"U8","shape":[4],"data_offsets":[6,10]}})",
       10, "hole"},
      {R"({"w.x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
       R"("w.x":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
       8, "\"w.x\" twice"},
      {"{\"w\\nx\":5}", 0, "w\\nx"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.header.substr(0, 200));
    const auto file = OpenContents(WithHeader(c.header, std::string(c.data_bytes, '\1')));
    ASSERT_FALSE(file.ok());
    EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
    const std::string message(file.status().message());
    EXPECT_THAT(message, HasSubstr(path_));
    EXPECT_THAT(message, HasSubstr(c.expected));
    EXPECT_EQ(message.find('\n'), std::string::npos);
    EXPECT_LT(message.size(), path_.size() + 500);
  }
}

TEST_F(SafetensorsTest, AnEmptyTensorMayHaveHugeDimensions) {
  const auto file = OpenContents(
      WithHeader(R"({"e":{"dtype":"F32","shape":[9223372036854775807,0,9223372036854775807],)"
                 R"("data_offsets":[0,0]}})",
                 ""));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->entries()[0].count(), 0);
}

TEST_F(SafetensorsTest, TruncationAtEveryByteIsNoticed) {
  SafetensorsWriter writer;
  const std::vector<float> x = {1, 2, 3};
  writer.AddFloats("x", {3}, x);
  writer.AddFloats("y", {1, 3}, x);
  ASSERT_TRUE(writer.Write(path_).ok());
  const std::string whole = ReadFile(path_).value();
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_FALSE(OpenContents(whole.substr(0, size)).ok()) << size;
  }
  EXPECT_FALSE(OpenContents(whole + '\0').ok());
  EXPECT_TRUE(OpenContents(whole).ok());
}

TEST_F(SafetensorsTest, AnyFlippedHeaderBitIsReadOrRefusedButNeverTrusted) {
  SafetensorsWriter writer;
  const std::vector<float> x = {1, 2, 3};
  writer.AddFloats("x", {3}, x);
  writer.SetMetadata("k", "v");
  ASSERT_TRUE(writer.Write(path_).ok());
  const std::string whole = ReadFile(path_).value();
  for (size_t bit = 0; bit < whole.size() * 8; ++bit) {
    std::string broken = whole;
    broken[bit / 8] = static_cast<char>(broken[bit / 8] ^ (1 << (bit % 8)));
    const auto file = OpenContents(broken);
    if (!file.ok()) continue;
    for (const auto& entry : file->entries()) {
      // As many bytes as the shape says.
      int64_t count = 1;
      for (const int64_t side : entry.shape) count *= side;
      EXPECT_EQ(static_cast<int64_t>(entry.bytes.size()), count * DTypeBytes(entry.dtype));
      // Every one can be read: the address sanitizer watches.
      volatile uint8_t sink = 0;
      for (const uint8_t byte : entry.bytes) sink = byte;
      static_cast<void>(sink);
    }
  }
}

TEST_F(SafetensorsTest, ClaimedHeaderSizesAreChecked) {
  for (const uint64_t claim : {uint64_t{3}, uint64_t{1} << 32, ~uint64_t{0}, ~uint64_t{7}}) {
    std::string contents(8, '\0');
    std::memcpy(contents.data(), &claim, 8);
    EXPECT_FALSE(OpenContents(contents + "{}").ok()) << claim;
  }
}

TEST_F(SafetensorsTest, WrongExpectationsNameTheTensor) {
  SafetensorsWriter writer;
  const std::vector<float> x = {1, 2, 3, 4, 5, 6};
  writer.AddFloats("x", {2, 3}, x);
  ASSERT_TRUE(writer.Write(path_).ok());
  const auto file = SafetensorsFile::Open(path_);
  ASSERT_TRUE(file.ok());
  const auto expect = [&](const absl::Status& status, const std::string& part) {
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), HasSubstr(path_));
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  };
  expect(file->ReadFloats("y", {2, 3}).status(), "\"y\" is missing");
  expect(file->ReadFloats("x", {3, 2}).status(), "\"x\" has shape [2,3], expected [3,2]");
  expect(file->ReadFloats("x", {6}).status(), "\"x\"");
  expect(file->ReadInt64s("x", {2, 3}).status(), "\"x\" is F32, expected I64");
  expect(file->Metadata("model").status(), "\"model\"");
}

TEST_F(SafetensorsTest, FilesThatAreNoneNameThePath) {
  for (const std::string path : {"/nonexistent/x.safetensors", "/", "/dev/zero"}) {
    const auto file = SafetensorsFile::Open(path);
    ASSERT_FALSE(file.ok());
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(path));
  }
}

}  // namespace
}  // namespace classicnn
