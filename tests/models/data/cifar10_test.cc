#include "models/data/cifar10.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/temp_folder.h"

namespace classicnn {
namespace {

using ::testing::HasSubstr;

// A record whose red, green and blue planes count up from 0, 85 and 170.
std::string Record(int label) {
  std::string record(1, static_cast<char>(label));
  for (int plane = 0; plane < 3; ++plane) {
    for (int p = 0; p < 1024; ++p) record.push_back(static_cast<char>(plane * 85 + p));
  }
  return record;
}

DataOptions Options(const TempFolder& folder) {
  DataOptions options;
  options.source = folder.path();
  return options;
}

void ExpectRefused(const DataOptions& options, const std::string& what, const std::string& where) {
  const auto data = LoadDataset(options, nullptr);
  ASSERT_FALSE(data.ok());
  EXPECT_THAT(std::string(data.status().message()), HasSubstr(what));
  EXPECT_THAT(std::string(data.status().message()), HasSubstr(where));
}

TEST(Cifar10Test, LoadsAllFilesInOrderAsInterleavedPixels) {
  TempFolder folder;
  folder.Write("data_batch_1.bin", Record(3) + Record(9));
  folder.Write("data_batch_3.bin", Record(5));
  folder.Write("test_batch.bin", Record(0));
  MemoryTracker tracker;
  const auto data = LoadDataset(Options(folder), &tracker);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->kind, "cifar10");
  EXPECT_EQ(data->num_classes, 10);
  ASSERT_EQ(data->class_names.size(), 10u);
  EXPECT_EQ(data->class_names[3], "cat");
  ASSERT_EQ(data->train->count(), 3);
  EXPECT_EQ(data->train->label(0), 3);
  EXPECT_EQ(data->train->label(1), 9);
  EXPECT_EQ(data->train->label(2), 5);
  ASSERT_EQ(data->test->count(), 1);
  EXPECT_EQ(data->test->label(0), 0);
  for (const int p : {0, 1, 33, 1023}) {
    for (int c = 0; c < 3; ++c) {
      EXPECT_EQ(data->train->image(2)[p * 3 + c], static_cast<uint8_t>(c * 85 + p))
          << p << " " << c;
    }
  }
  EXPECT_EQ(tracker.current(MemoryCategory::kData), 4 * (3072 + 4));
}

TEST(Cifar10Test, TestFileIsOptional) {
  TempFolder folder;
  folder.Write("data_batch_1.bin", Record(1));
  const auto data = LoadDataset(Options(folder), nullptr);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->test, nullptr);
}

TEST(Cifar10Test, FirstTrainingFileIsRequired) {
  TempFolder folder;
  folder.Write("data_batch_2.bin", Record(1));
  ExpectRefused(Options(folder), "data_batch_1.bin", folder.path());
}

TEST(Cifar10Test, EvaluationNeedsOnlyTheTestFile) {
  TempFolder folder;
  folder.Write("test_batch.bin", Record(1));
  DataOptions options = Options(folder);
  options.train = false;
  const auto data = LoadDataset(options, nullptr);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->test->count(), 1);
}

TEST(Cifar10Test, RefusesEmptyTruncatedAndOversizedFiles) {
  for (const std::string& contents : {std::string(), Record(1).substr(1), Record(1) + "x",
                                      Record(1) + Record(2).substr(0, 3072)}) {
    SCOPED_TRACE(contents.size());
    TempFolder folder;
    folder.Write("data_batch_1.bin", Record(0));
    folder.Write("data_batch_2.bin", contents);
    ExpectRefused(Options(folder), "3073", folder / "data_batch_2.bin");
  }
}

TEST(Cifar10Test, RefusesLabelsOutOfRangeNamingFileAndRecord) {
  TempFolder folder;
  folder.Write("data_batch_1.bin", Record(0) + Record(10));
  ExpectRefused(Options(folder), "label 10 of record 1", folder / "data_batch_1.bin");
}

TEST(Cifar10Test, RefusesFewerAndMoreClassesThanTheDataHas) {
  TempFolder folder;
  folder.Write("data_batch_1.bin", Record(4) + Record(5));
  DataOptions options = Options(folder);
  options.num_classes = 5;
  ExpectRefused(options, "label 5 of record 1", folder / "data_batch_1.bin");
  options.num_classes = 11;
  ExpectRefused(options, "--num_classes=11", "10 classes");
}

TEST(DatasetTest, RefusesFoldersWithoutData) {
  TempFolder folder;
  ExpectRefused(Options(folder), "holds neither", folder.path());
  DataOptions options;
  options.source = folder / "missing";
  ExpectRefused(options, "not a folder", folder / "missing");
}

TEST(DatasetTest, MeasuresMeanAndDeviation) {
  auto images = ImageSet::Create(2, 1, 2, 3, nullptr);
  ASSERT_TRUE(images.ok());
  // Red 0, 255, 0, 255; green always 51; blue 0, 0, 0, 255.
  const uint8_t values[] = {0, 51, 0, 255, 51, 0, 0, 51, 0, 255, 51, 255};
  std::copy(values, values + 12, images->image(0));
  const MeanStd measured = MeasureMeanStd(*images);
  EXPECT_DOUBLE_EQ(measured.mean[0], 0.5);
  EXPECT_DOUBLE_EQ(measured.std[0], 0.5);
  EXPECT_DOUBLE_EQ(measured.mean[1], 0.2);
  EXPECT_DOUBLE_EQ(measured.std[1], 0);
  EXPECT_DOUBLE_EQ(measured.mean[2], 0.25);
  EXPECT_NEAR(measured.std[2], std::sqrt(0.1875), 1e-12);
}

TEST(DatasetTest, FingerprintTellsPixelsAndLabelsApart) {
  auto a = ImageSet::Create(3, 4, 4, 1, nullptr), b = ImageSet::Create(3, 4, 4, 1, nullptr);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(a->Fingerprint(), b->Fingerprint());
  b->image(2)[15] = 1;
  EXPECT_NE(a->Fingerprint(), b->Fingerprint());
  b->image(2)[15] = 0;
  b->set_label(1, 1);
  EXPECT_NE(a->Fingerprint(), b->Fingerprint());
}

}  // namespace
}  // namespace classicnn
