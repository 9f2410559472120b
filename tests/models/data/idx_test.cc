#include "models/data/idx.h"

#include <zlib.h>

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/temp_folder.h"

namespace classicnn {
namespace {

using ::testing::HasSubstr;

std::string Word(uint32_t v) {
  return {static_cast<char>(v >> 24), static_cast<char>(v >> 16), static_cast<char>(v >> 8),
          static_cast<char>(v)};
}

std::string Images(uint32_t count, uint32_t height, uint32_t width) {
  std::string text = Word(0x803) + Word(count) + Word(height) + Word(width);
  for (uint32_t i = 0; i < count * height * width; ++i)
    text.push_back(static_cast<char>(1 + i % 200));
  return text;
}

std::string Labels(const std::vector<int>& labels) {
  std::string text = Word(0x801) + Word(static_cast<uint32_t>(labels.size()));
  for (const int label : labels) text.push_back(static_cast<char>(label));
  return text;
}

std::string Gzip(const std::string& text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(text.size() + 1000, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

constexpr char kImages[] = "train-images-idx3-ubyte";
constexpr char kLabels[] = "train-labels-idx1-ubyte";

absl::StatusOr<Dataset> Load(const TempFolder& folder, int64_t num_classes = 10) {
  DataOptions options;
  options.source = folder.path();
  options.num_classes = num_classes;
  return LoadDataset(options, nullptr);
}

void ExpectRefused(const TempFolder& folder, const std::string& what, const std::string& file) {
  const auto data = Load(folder);
  ASSERT_FALSE(data.ok());
  EXPECT_THAT(std::string(data.status().message()), HasSubstr(what));
  EXPECT_THAT(std::string(data.status().message()), HasSubstr(folder / file));
}

TEST(IdxTest, CentresImagesOfPlainAndGzipFiles) {
  for (const bool gzip : {false, true}) {
    SCOPED_TRACE(gzip);
    TempFolder folder;
    const std::string suffix = gzip ? ".gz" : "";
    const auto pack = [&](const std::string& text) { return gzip ? Gzip(text) : text; };
    folder.Write(kImages + suffix, pack(Images(3, 28, 28)));
    folder.Write(kLabels + suffix, pack(Labels({7, 0, 9})));
    folder.Write("t10k-images-idx3-ubyte" + suffix, pack(Images(1, 28, 28)));
    folder.Write("t10k-labels-idx1-ubyte" + suffix, pack(Labels({2})));
    const auto data = Load(folder);
    ASSERT_TRUE(data.ok()) << data.status();
    EXPECT_EQ(data->kind, "idx");
    ASSERT_EQ(data->train->count(), 3);
    EXPECT_EQ(data->train->channels(), 1);
    EXPECT_EQ(data->train->label(0), 7);
    EXPECT_EQ(data->train->label(2), 9);
    EXPECT_EQ(data->test->label(0), 2);
    const uint8_t* second = data->train->image(1);
    for (int y = 0; y < 32; ++y) {
      for (int x = 0; x < 32; ++x) {
        const bool inside = y >= 2 && y < 30 && x >= 2 && x < 30;
        const int at = 28 * 28 + (y - 2) * 28 + x - 2;
        EXPECT_EQ(second[y * 32 + x], inside ? 1 + at % 200 : 0) << y << " " << x;
      }
    }
  }
}

TEST(IdxTest, ReadsGzipOfSeveralMembers) {
  TempFolder folder;
  const std::string text = Images(2, 28, 28);
  folder.Write(std::string(kImages) + ".gz", Gzip(text.substr(0, 700)) + Gzip(text.substr(700)));
  folder.Write(kLabels, Labels({1, 2}));
  const auto data = Load(folder);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->train->image(0)[2 * 32 + 2], 1);
}

TEST(IdxTest, RefusesBadMagic) {
  TempFolder folder;
  folder.Write(kImages, Labels({1}));
  folder.Write(kLabels, Labels({1}));
  ExpectRefused(folder, "magic 0x00000801, expected 0x00000803", kImages);
}

TEST(IdxTest, RefusesTruncatedFiles) {
  for (const size_t keep : {size_t{0}, size_t{3}, size_t{15}, size_t{16}, size_t{16 + 783}}) {
    SCOPED_TRACE(keep);
    TempFolder folder;
    folder.Write(kImages, Images(1, 28, 28).substr(0, keep));
    folder.Write(kLabels, Labels({1}));
    ExpectRefused(folder, "truncated", kImages);
  }
}

TEST(IdxTest, RefusesTruncatedGzip) {
  const std::string whole = Gzip(Images(40, 28, 28));
  for (const size_t keep :
       {size_t{2}, size_t{10}, size_t{19}, whole.size() / 2, whole.size() - 1}) {
    SCOPED_TRACE(keep);
    TempFolder folder;
    folder.Write(std::string(kImages) + ".gz", whole.substr(0, keep));
    folder.Write(kLabels, Labels(std::vector<int>(40, 1)));
    ExpectRefused(folder, "truncated", std::string(kImages) + ".gz");
  }
}

TEST(IdxTest, RefusesDamagedGzipAndOtherFilesWithItsName) {
  std::string damaged = Gzip(Images(40, 28, 28));
  char& checksum = damaged[damaged.size() - 8];
  checksum = static_cast<char>(checksum ^ 0x55);
  TempFolder folder;
  folder.Write(kLabels, Labels(std::vector<int>(40, 1)));
  folder.Write(std::string(kImages) + ".gz", damaged);
  ExpectRefused(folder, "bad gzip", std::string(kImages) + ".gz");
  folder.Write(std::string(kImages) + ".gz", Images(40, 28, 28));
  ExpectRefused(folder, "not a gzip file", std::string(kImages) + ".gz");
}

TEST(IdxTest, RefusesFilesLongerThanTheirHeaderSays) {
  TempFolder folder;
  folder.Write(kImages, Images(1, 28, 28) + "x");
  folder.Write(kLabels, Labels({1}));
  ExpectRefused(folder, "longer", kImages);
  folder.Write(kImages, Images(1, 28, 28));
  folder.Write(kLabels, Labels({1}) + "x");
  ExpectRefused(folder, "longer", kLabels);
}

TEST(IdxTest, RefusesHeadersThatLie) {
  TempFolder folder;
  folder.Write(kLabels, Labels({1}));
  // More images than any file of this size holds, without trying to get the memory for them.
  std::string huge = Images(1, 28, 28);
  huge.replace(4, 4, Word(0xffffffff));
  std::string huge_labels = Labels({1});
  huge_labels.replace(4, 4, Word(0xffffffff));
  folder.Write(kImages, huge);
  folder.Write(kLabels, huge_labels);
  ExpectRefused(folder, "truncated", kImages);
  folder.Write(kImages, Images(1, 33, 28));
  folder.Write(kLabels, Labels({1}));
  ExpectRefused(folder, "do not fit", kImages);
  folder.Write(kImages, Images(1, 0, 28));
  ExpectRefused(folder, "is 0", kImages);
}

TEST(IdxTest, RefusesCountsThatDisagree) {
  TempFolder folder;
  folder.Write(kImages, Images(2, 28, 28));
  folder.Write(kLabels, Labels({1, 2, 3}));
  ExpectRefused(folder, "3 labels for 2 images", kLabels);
}

TEST(IdxTest, RefusesLabelsOutOfRange) {
  TempFolder folder;
  folder.Write(kImages, Images(2, 28, 28));
  folder.Write(kLabels, Labels({1, 10}));
  ExpectRefused(folder, "label 10 of record 1", kLabels);
}

TEST(IdxTest, RefusesMissingLabels) {
  TempFolder folder;
  folder.Write(kImages, Images(2, 28, 28));
  ExpectRefused(folder, "missing", kLabels);
}

TEST(IdxTest, ClassesOfModelAndData) {
  TempFolder folder;
  folder.Write(kImages, Images(2, 28, 28));
  folder.Write(kLabels, Labels({1, 3}));
  EXPECT_TRUE(Load(folder, 10).ok());  // a digit that happens to be missing
  EXPECT_TRUE(Load(folder, 4).ok());
  EXPECT_FALSE(Load(folder, 3).ok());
  EXPECT_FALSE(Load(folder, 11).ok());
  folder.Write(kLabels, Labels({1, 25}));  // letters
  EXPECT_TRUE(Load(folder, 26).ok());
  EXPECT_FALSE(Load(folder, 27).ok());
}

}  // namespace
}  // namespace classicnn
