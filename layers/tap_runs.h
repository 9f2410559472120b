// Taps of a sliding window, and runs of them for inputs of few channels.
//
// With, say, 3 channels a product of one tap is too short to be worth its overhead. Taps that
// follow each other along a row of a dense image read consecutive floats, so that they make one
// product of taps x channels values, read in place; only where a run leaves the image is it
// gathered. In a view with gaps between its pixels all runs are gathered, and there all taps are
// one run.
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

inline constexpr int64_t kMaxChannelsForTapRuns = 8;

// Whether such runs are worth it at all.
inline bool UsesTapRuns(int64_t num_taps, int64_t channels) {
  return num_taps > 1 && channels <= kMaxChannelsForTapRuns;
}

struct TapRuns {
  int64_t length = 1;     // taps in each; divides their number
  bool in_place = false;  // can be read from the input where they are inside the image
};
TapRuns FindTapRuns(const ConstTensor& in, const Tap* taps, int64_t num_taps);

// The length x channels values under the run that begins with `taps`, where the window is at (h, w)
// and `origin` is (or would be) the input pixel there, copied to `gathered`; zeros outside the
// image.
void GatherTapRun(const ConstTensor& in, const Tap* taps, const TapRuns& runs, const float* origin,
                  int64_t h, int64_t w, float* gathered);

// Where these values are: in the input, or gathered, or null where all are outside the image.
inline const float* TapRunAt(const ConstTensor& in, const Tap* taps, const TapRuns& runs,
                             const float* origin, int64_t h, int64_t w, float* gathered) {
  if (runs.in_place) {
    if (h + taps->h < 0 || h + taps->h >= in.h) return nullptr;
    if (w + taps->w >= 0 && w + taps->w + runs.length <= in.w) {
      return origin + (taps->h * in.w + taps->w) * in.pixel_stride;
    }
  }
  GatherTapRun(in, taps, runs, origin, h, w, gathered);
  return gathered;
}

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_TAP_RUNS_H_
