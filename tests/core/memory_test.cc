#include "core/memory.h"

#include <cstdint>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace classicnn {
namespace {

BytesByCategory Bytes(int64_t weights, int64_t activations) {
  BytesByCategory bytes{};
  At(bytes, MemoryCategory::kWeights) = weights;
  At(bytes, MemoryCategory::kActivations) = activations;
  return bytes;
}

TEST(MemoryTracker, CountsByCategoryAndRemembersThePeak) {
  MemoryTracker tracker;
  tracker.Add(Bytes(100, 1000));
  tracker.Add(Bytes(0, 500));
  tracker.Remove(Bytes(0, 1000));
  EXPECT_EQ(tracker.current(), 600);
  EXPECT_EQ(tracker.current(MemoryCategory::kWeights), 100);
  EXPECT_EQ(tracker.current(MemoryCategory::kActivations), 500);
  EXPECT_EQ(tracker.current(MemoryCategory::kData), 0);
  EXPECT_EQ(tracker.peak(), 1600);
  tracker.ResetPeak();
  EXPECT_EQ(tracker.peak(), 600);
}

TEST(MemoryTracker, IsThreadSafe) {
  MemoryTracker tracker;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10000; ++i) {
        tracker.Add(Bytes(1, 2));
        tracker.Remove(Bytes(1, 2));
      }
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(tracker.current(), 0);
  EXPECT_GE(tracker.peak(), 3);
  EXPECT_LE(tracker.peak(), 12);
}

TEST(Arena, IsZeroAlignedAndAccountedForWhileItLives) {
  MemoryTracker tracker;
  const int64_t size = (int64_t{3} << 20) + 17;
  {
    auto arena = Arena::Create(Bytes(17, size - 17), &tracker);
    ASSERT_TRUE(arena.ok()) << arena.status();
    EXPECT_EQ((*arena)->size(), static_cast<size_t>(size));
    EXPECT_EQ(reinterpret_cast<uintptr_t>((*arena)->data()) % (2 << 20), 0u);
    EXPECT_EQ(tracker.current(), size);
    for (int64_t i = 0; i < size; i += 4096) {
      ASSERT_EQ((*arena)->data()[i], std::byte{0});
      (*arena)->data()[i] = std::byte{1};
    }
    (*arena)->data()[size - 1] = std::byte{1};
  }
  EXPECT_EQ(tracker.current(), 0);
  EXPECT_EQ(tracker.peak(), size);
}

TEST(Arena, MayBeEmptyAndUntracked) {
  auto arena = Arena::Create({}, nullptr);
  ASSERT_TRUE(arena.ok());
  EXPECT_EQ((*arena)->size(), 0u);
}

TEST(Arena, RefusalIsAnErrorAndIsNotCounted) {
  MemoryTracker tracker;
  const auto arena = Arena::Create(Bytes(int64_t{1} << 60, 0), &tracker);
  ASSERT_FALSE(arena.ok());
  EXPECT_EQ(arena.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(tracker.current(), 0);
  EXPECT_EQ(tracker.peak(), 0);
}

TEST(MemoryCategory, HasNames) {
  EXPECT_STREQ(MemoryCategoryName(MemoryCategory::kWeights), "weights");
  EXPECT_STREQ(MemoryCategoryName(MemoryCategory::kData), "data");
}

}  // namespace
}  // namespace classicnn
