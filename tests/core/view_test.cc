#include "core/view.h"

#include <vector>

#include "gtest/gtest.h"

namespace classicnn {
namespace {

TEST(View, AddressesElementsByPixelStride) {
  std::vector<float> data(2 * 3 * 4 * 8);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(i);
  const Tensor v(data.data(), {2, 3, 4, 5}, 8);
  EXPECT_EQ(v.At(1, 2, 3, 4), static_cast<float>(((1 * 3 + 2) * 4 + 3) * 8 + 4));
  EXPECT_EQ(v.Pixel(1, 0, 2), v.Pixel(1 * 12 + 2));
  EXPECT_EQ(v.pixels(), 24);
  EXPECT_EQ(v.size(), 120);
  EXPECT_FALSE(v.dense());
  EXPECT_TRUE(Tensor(data.data(), {2, 3, 4, 8}).dense());
}

TEST(View, ChannelsAndImagesShareTheBuffer) {
  std::vector<float> data(3 * 2 * 2 * 6);
  const Tensor all(data.data(), {3, 2, 2, 6});
  const Tensor part = all.Channels(2, 3).Images(1, 2);
  EXPECT_EQ(part.shape(), (Shape4{2, 2, 2, 3}));
  part.At(0, 1, 0, 2) = 7;
  EXPECT_EQ(all.At(1, 1, 0, 4), 7);
  part.Channels(1, 1).At(1, 0, 0, 0) = 8;
  EXPECT_EQ(all.At(2, 0, 0, 3), 8);
}

TEST(View, ConvertsToConst) {
  float x = 3;
  const Tensor v(&x, {1, 1, 1, 1});
  const ConstTensor c = v;
  EXPECT_EQ(c.At(0, 0, 0, 0), 3);
  static_assert(!std::is_constructible_v<Tensor, ConstTensor>);
}

TEST(Shape4, SpellsItselfAsBenchmarksDo) {
  EXPECT_EQ((Shape4{64, 16, 8, 128}).ToString(), "n64c128h16w8");
}

TEST(Workspace, HandsOutAlignedPartsUntilItIsUsedUp) {
  alignas(64) std::byte memory[256];
  Workspace ws{memory, sizeof(memory)};
  float* a = ws.Take<float>(3);
  double* b = ws.Take<double>(9);
  EXPECT_EQ(reinterpret_cast<std::byte*>(a), memory);
  EXPECT_EQ(reinterpret_cast<std::byte*>(b), memory + 64);
  EXPECT_EQ(ws.size, 64u);
  EXPECT_EQ(Workspace::BytesFor<double>(9), 128u);
  EXPECT_EQ(Workspace::BytesFor<float>(0), 0u);
  EXPECT_DEATH(ws.Take<float>(17), "workspace of 64 bytes left, 128 needed");
}

}  // namespace
}  // namespace classicnn
