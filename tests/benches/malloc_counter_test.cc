#include "benches/malloc_counter.h"

#include <cstdint>
#include <cstdlib>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace classicnn {
namespace {

// Keeps the compiler from removing an allocation that nobody looks at.
void Escape(void* pointer) { asm volatile("" : : "g"(pointer) : "memory"); }

TEST(MallocCounter, CountsEveryWayToAllocate) {
  if (!MallocCallsAreCounted()) GTEST_SKIP() << "malloc belongs to the sanitizer";
  const auto calls = [](auto&& body) {
    const int64_t before = MallocCalls();
    body();
    return MallocCalls() - before;
  };
  EXPECT_EQ(calls([] {}), 0);
  EXPECT_EQ(calls([] {
              void* p = std::malloc(100);
              Escape(p);
              std::free(p);
            }),
            1);
  EXPECT_EQ(calls([] {
              void* p = std::calloc(10, 10);
              Escape(p);
              p = std::realloc(p, 1000);
              Escape(p);
              std::free(p);
            }),
            2);
  EXPECT_EQ(calls([] {
              auto* p = new std::vector<int>(100);
              Escape(p->data());
              delete p;
            }),
            2);
  EXPECT_EQ(calls([] {
              void* p = std::aligned_alloc(64, 128);
              EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 64, 0u);
              std::free(p);
              EXPECT_EQ(posix_memalign(&p, 4096, 100), 0);
              EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 4096, 0u);
              std::free(p);
            }),
            2);
}

TEST(MallocCounter, RefusesBadAlignments) {
  if (!MallocCallsAreCounted()) GTEST_SKIP() << "malloc belongs to the sanitizer";
  void* p = nullptr;
  EXPECT_NE(posix_memalign(&p, 3, 100), 0);
  EXPECT_NE(posix_memalign(&p, 2, 100), 0);
  EXPECT_EQ(p, nullptr);
}

TEST(MallocCounter, CountsOnAllThreads) {
  if (!MallocCallsAreCounted()) GTEST_SKIP() << "malloc belongs to the sanitizer";
  constexpr int kEach = 1000;
  const int64_t before = MallocCalls();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      for (int i = 0; i < kEach; ++i) {
        void* p = std::malloc(64);
        Escape(p);
        std::free(p);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const int64_t counted = MallocCalls() - before;
  EXPECT_GE(counted, 4 * kEach);
  EXPECT_LE(counted, 4 * kEach + 100);  // beside what starting a thread takes
}

}  // namespace
}  // namespace classicnn
