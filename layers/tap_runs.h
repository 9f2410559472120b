// Taps of a sliding window, and gathering what is under all of them for inputs of few channels.
//
// With, say, 3 channels a product of one tap is too short to be worth its overhead: the values
// under all taps are copied to one row of taps x channels.
#ifndef CLASSICNN_LAYERS_TAP_RUNS_H_
#define CLASSICNN_LAYERS_TAP_RUNS_H_

#include <cstdint>

#include "core/view.h"

namespace classicnn {

struct Tap {
  int64_t h = 0;  // offset from the window's place in the input, in pixels
  int64_t w = 0;
  int64_t weights = 0;  // offset of the tap's matrix
};

inline constexpr int64_t kMaxChannelsForGather = 8;
inline constexpr int64_t kMaxTapsForGather = 64;

// Whether gathering is worth it.
inline bool GathersTaps(int64_t num_taps, int64_t channels) {
  return num_taps > 1 && num_taps <= kMaxTapsForGather && channels <= kMaxChannelsForGather;
}

// Floats from one gathered row to the next: taps x channels of them hold values, Gather may
// overwrite the others.
inline int64_t GatherStride(int64_t num_taps, int64_t channels) {
  return (num_taps * channels + 15) / 16 * 16 + 16;
}

class TapGather {
 public:
  // Where GathersTaps.
  TapGather(const ConstTensor& in, const Tap* taps, int64_t num_taps);

  // What is under the taps where the window is at (h, w), (h, w + step), ... of image n: `count`
  // rows, `to_stride` floats apart; zeros outside the image.
  void Gather(int64_t n, int64_t h, int64_t w, int64_t step, int64_t count, float* to,
              int64_t to_stride) const;

 private:
  struct Run {  // taps that follow each other along a row
    int64_t h;
    int64_t w;
    int64_t length;
  };

  // One window's part of a run that may leave the image, or end where the tensor does.
  void GatherCarefully(int64_t n, int64_t row, int64_t column, int64_t length, float* to) const;

  ConstTensor in_;
  const float* end_;  // of what may be read
  Run runs_[kMaxTapsForGather];
  int64_t num_runs_ = 0;
};

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_TAP_RUNS_H_
