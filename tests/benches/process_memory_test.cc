#include "benches/process_memory.h"

#include <memory>

#include "gtest/gtest.h"

namespace classicnn {
namespace {

TEST(ProcessMemory, WhatWasFreedIsForgotten) {
  constexpr size_t kBytes = size_t{64} << 20;
  ForgetPeakResident();  // of other tests
  const int64_t before = PeakResidentBytes();
  ASSERT_GT(before, 0);
  {
    const auto block = std::make_unique<char[]>(kBytes);
    for (size_t i = 0; i < kBytes; i += 4096) block[i] = 1;
    volatile const char seen = block[kBytes / 2];
    (void)seen;
    EXPECT_GE(PeakResidentBytes(), before + static_cast<int64_t>(kBytes / 2));
  }
  const int64_t peak = PeakResidentBytes();
  ForgetPeakResident();
  EXPECT_LT(PeakResidentBytes(), peak - static_cast<int64_t>(kBytes / 2));
}

}  // namespace
}  // namespace classicnn
