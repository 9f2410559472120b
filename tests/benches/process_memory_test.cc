#include "benches/process_memory.h"

#include <cstdio>
#include <memory>

#include "gtest/gtest.h"

namespace classicnn {
namespace {

TEST(ProcessMemory, WhatWasFreedIsForgotten) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer keeps what is freed";
#endif
  // Not on a kernel that does not reset the mark (some containers forbid it).
  if (std::FILE* const file = std::fopen("/proc/self/clear_refs", "w"); file == nullptr) {
    GTEST_SKIP() << "/proc/self/clear_refs cannot be written";
  } else {
    std::fclose(file);
  }
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
