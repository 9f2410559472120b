#include "layers/pool_shape.h"

#include "gtest/gtest.h"

namespace classicnn {
namespace {

TEST(PoolShapeTest, TextThereAndBack) {
  const Pool2dShape shape = {{64, 32, 16, 128}, {3, 2, 1}};
  EXPECT_EQ(shape.ToString(), "n64c128h32w16r3s2p1");
  const auto parsed = Pool2dShape::Parse(shape.ToString());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->ToString(), shape.ToString());
  EXPECT_EQ(parsed->output(), (Shape4{64, 16, 8, 128}));
}

TEST(PoolShapeTest, RejectsOtherText) {
  for (const char* text :
       {"", "n1c1h4w4", "n1c1h4w4r2s2", "n1c1h4w4r2s2p0x", "n0c1h4w4r2s2p0", "n1c0h4w4r2s2p0",
        "n1c1h1w4r2s2p0", "n1c1h4w4r0s2p0", "n1c1h4w4r2s0p0", "n1c1h4w4r2s2p2", "n1c1h40w40r16s2p0",
        "n1c1h4w4r2s2p-1", "n2147483647c2147483647h2147483647w2147483647r2s2p0"}) {
    EXPECT_EQ(Pool2dShape::Parse(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace classicnn
