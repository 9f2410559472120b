// Cache lines to fetch little by little while something else is computed.
//
// What a kernel reads next is often a block of short rows a stride apart, or is first touched after
// a long time of arithmetic: hardware does not fetch it ahead. A queue of such blocks is worked off
// a few lines at a time by the kernel that computes meanwhile.
#ifndef CLASSICNN_LAYERS_PREFETCH_QUEUE_H_
#define CLASSICNN_LAYERS_PREFETCH_QUEUE_H_

#include <algorithm>
#include <cstdint>

#include "core/divide.h"

namespace classicnn {

class PrefetchQueue {
 public:
  void Clear() {
    count_ = at_ = 0;
    lines_ = lines_per_step_ = 0;
    line_ = row_end_ = nullptr;
    rows_left_ = 0;
  }
  // `rows` runs of `floats`, `stride` floats apart, no more than kMaxBlocks of these blocks.
  void Add(const float* data, int64_t floats, int64_t stride, int64_t rows) {
    if (floats <= 0 || rows <= 0) return;
    if (stride == floats) {  // one run
      floats *= rows;
      rows = 1;
    }
    blocks_[count_++] = {data, floats, stride, rows};
    lines_ += DivideUp(floats, kLine) * rows;
  }
  // To be done after this many calls of Step.
  void SpreadOver(int64_t steps) {
    lines_per_step_ = lines_ == 0 ? 0 : (lines_ + steps - 1) / (steps > 0 ? steps : 1);
  }
  void Step() {
    for (int64_t left = lines_per_step_; left > 0;) {
      if (line_ >= row_end_ && !NextRow()) {
        lines_per_step_ = 0;
        return;
      }
      const int64_t lines = std::min(left, (row_end_ - line_ + kLine - 1) / kLine);
      // In a register, and four at a time: a third of what a hint costs would be the loop's.
      const float* line = line_;
      for (int64_t i = lines / 4; i > 0; --i, line += 4 * kLine) {
        Fetch(line);
        Fetch(line + kLine);
        Fetch(line + 2 * kLine);
        Fetch(line + 3 * kLine);
      }
      for (int64_t i = lines % 4; i > 0; --i, line += kLine) Fetch(line);
      line_ = line;
      left -= lines;
    }
  }

  static constexpr int kMaxBlocks = 6;

 private:
  static constexpr int64_t kLine = 16;  // floats

  struct Block {
    const float* data;
    int64_t floats;
    int64_t stride;
    int64_t rows;
  };

  static void Fetch(const float* line) {
#if defined(__GNUC__) || defined(__clang__)
    // To the first level, from where it falls to the second: measured, less is lost than when it is
    // fetched to the second alone.
    __builtin_prefetch(line, /*rw=*/0, /*locality=*/3);
#else
    (void)line;
#endif
  }

  bool NextRow() {
    if (rows_left_ == 0) {
      if (at_ == count_) return false;
      row_ = blocks_[at_].data;
      rows_left_ = blocks_[at_].rows;
      ++at_;
    } else {
      row_ += blocks_[at_ - 1].stride;
    }
    --rows_left_;
    line_ = row_;
    row_end_ = row_ + blocks_[at_ - 1].floats;
    return true;
  }

  Block blocks_[kMaxBlocks];
  int count_ = 0;
  int at_ = 0;  // the block after the one at hand
  int64_t lines_ = 0;
  int64_t lines_per_step_ = 0;
  const float* row_ = nullptr;
  const float* line_ = nullptr;  // the next to fetch, in the row at hand
  const float* row_end_ = nullptr;
  int64_t rows_left_ = 0;
};

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_PREFETCH_QUEUE_H_
