#include "layers/tap_runs.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"

namespace classicnn {
namespace {

constexpr int64_t kChunk = 16;  // floats that are copied at once

}  // namespace

TapGather::TapGather(const ConstTensor& in, const Tap* taps, int64_t num_taps)
    : in_(in), end_(in.Pixel(in.pixels() - 1) + in.c) {
  CNN_CHECK(num_taps <= kMaxTapsForGather);
  for (int64_t t = 0; t < num_taps; ++t) {
    // Only in a dense tensor do pixels follow each other without gaps.
    if (num_runs_ > 0 && in.dense()) {
      Run& last = runs_[num_runs_ - 1];
      if (taps[t].h == last.h && taps[t].w == last.w + last.length) {
        ++last.length;
        continue;
      }
    }
    runs_[num_runs_++] = {taps[t].h, taps[t].w, 1};
  }
}

void TapGather::GatherCarefully(int64_t n, int64_t row, int64_t column, int64_t length,
                                float* to) const {
  for (int64_t t = 0; t < length; ++t, to += in_.c) {
    const bool inside = row >= 0 && row < in_.h && column + t >= 0 && column + t < in_.w;
    const float* const from = inside ? in_.Pixel(n, row, column + t) : nullptr;
    for (int64_t c = 0; c < in_.c; ++c) to[c] = inside ? from[c] : 0.0f;
  }
}

void TapGather::Gather(int64_t n, int64_t h, int64_t w, int64_t step, int64_t count, float* to,
                       int64_t to_stride) const {
  // Run after run, each in its columns of the gathered rows: whole chunks are copied, and what is
  // too much is overwritten by the next run, or in the row's end.
  for (int64_t i = 0; i < num_runs_; ++i) {
    const Run& run = runs_[i];
    const int64_t floats = run.length * in_.c;
    const int64_t row = h + run.h;
    const int64_t column = w + run.w;
    // The windows [begin, end) whose chunks are inside the line and the tensor.
    int64_t begin = 0;
    int64_t end = 0;
    if (row >= 0 && row < in_.h) {
      begin = std::min(count, column < 0 ? (-column + step - 1) / step : 0);
      const int64_t last = in_.w - run.length - column;
      end = last < 0 ? 0 : std::min(count, last / step + 1);
      end = std::max(begin, end);
      const int64_t chunks = (floats + kChunk - 1) / kChunk * kChunk;
      while (end > begin && end_ - in_.Pixel(n, row, column + (end - 1) * step) < chunks) {
        --end;
      }
    }
    for (int64_t p = 0; p < begin; ++p) {
      GatherCarefully(n, row, column + p * step, run.length, to + p * to_stride);
    }
    if (end > begin) {
      const float* from = in_.Pixel(n, row, column + begin * step);
      const int64_t from_step = step * in_.pixel_stride;
      for (int64_t p = begin; p < end; ++p, from += from_step) {
        for (int64_t j = 0; j < floats; j += kChunk) {
          std::memcpy(to + p * to_stride + j, from + j, kChunk * sizeof(float));
        }
      }
    }
    for (int64_t p = end; p < count; ++p) {
      GatherCarefully(n, row, column + p * step, run.length, to + p * to_stride);
    }
    to += floats;
  }
}

}  // namespace classicnn
