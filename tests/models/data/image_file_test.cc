#include "models/data/image_file.h"

#include <string>

#include "absl/strings/escaping.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/models/data/make_png.h"
#include "tests/testing/temp_folder.h"

namespace classicnn {
namespace {

using ::testing::HasSubstr;

TEST(ImageFileTest, ReadsPngOfAnySize) {
  TempFolder folder;
  for (const uint32_t size : {1u, 20u, 100u}) {
    const std::string path = folder.Write("a.png", Png(size, size + 3, "\x0a\x64\xc8"));
    const auto pixels = ReadImageFile(path, 32, 32);
    ASSERT_TRUE(pixels.ok()) << pixels.status();
    ASSERT_EQ(pixels->size(), 32u * 32 * 3);
    EXPECT_EQ((*pixels)[0], 10);
    EXPECT_EQ((*pixels)[3 * 500 + 1], 100);
    EXPECT_EQ((*pixels)[3 * 1023 + 2], 200);
  }
}

// 8 x 8 pixels of one colour.
std::string Jpeg() {
  return absl::HexStringToBytes(
      "ffd8ffdb0043000201010101010201010102020202020403020202020504040304060506060605060606070908"
      "060709070606080b08090a0a0a0a0a06080b0c0b0a0c090a0a0affdb004301020202020202050303050a070607"
      "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"
      "0a0a0a0a0affc00011080008000803011100021101031101ffc400140001000000000000000000000000000000"
      "08ffc40014100100000000000000000000000000000000ffc40015010101000000000000000000000000000008"
      "09ffc40014110100000000000000000000000000000000ffda000c03010002110311003f0027a82056ffd9");
}

TEST(ImageFileTest, ReadsJpeg) {
  TempFolder folder;
  const auto pixels = ReadImageFile(folder.Write("a.jpg", Jpeg()), 16, 16);
  ASSERT_TRUE(pixels.ok()) << pixels.status();
  const int expected[] = {10, 100, 200};
  for (size_t i = 0; i < pixels->size(); ++i) EXPECT_NEAR((*pixels)[i], expected[i % 3], 2) << i;
}

TEST(ImageFileTest, RefusesHuffmanTablesOfTooManyCodes) {
  TempFolder folder;
  const std::string jpeg = Jpeg();
  int tables = 0;
  for (size_t at = jpeg.find("\xff\xc4"); at != std::string::npos;
       at = jpeg.find("\xff\xc4", at + 1), ++tables) {
    std::string bad = jpeg;
    bad[at + 5 + 14] = bad[at + 5 + 15] = '\xff';  // codes of 15 and 16 bits
    EXPECT_THAT(std::string(ReadImageFile(folder.Write("b.jpg", bad), 16, 16).status().message()),
                HasSubstr("bad codes"));
    // A segment of its own, as an attacker would add, before and after the others.
    std::string added = jpeg;
    added.insert(at, std::string("\xff\xc4\x00\x13\x00", 5) + std::string(16, '\x20'));
    EXPECT_FALSE(ReadImageFile(folder.Write("c.jpg", added), 16, 16).ok());
  }
  EXPECT_GE(tables, 2);
}

TEST(ImageFileTest, RefusesWhatIsNoPicture) {
  TempFolder folder;
  const std::string png = Png(20, 20, "abc");
  for (const std::string& contents :
       {std::string(), std::string("hello"), png.substr(0, 40), std::string("\xff\xd8\xff\xe0")}) {
    const std::string path = folder.Write("bad.png", contents);
    const auto pixels = ReadImageFile(path, 32, 32);
    ASSERT_FALSE(pixels.ok());
    EXPECT_THAT(std::string(pixels.status().message()), HasSubstr(path));
  }
  EXPECT_FALSE(ReadImageFile(folder / "missing.png", 32, 32).ok());
}

}  // namespace
}  // namespace classicnn
