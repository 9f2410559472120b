#include "layers/tap_runs.h"

namespace classicnn {
namespace {

// Whether taps[0, length) follow each other along a row.
bool AlongRow(const Tap* taps, int64_t length) {
  for (int64_t t = 1; t < length; ++t) {
    if (taps[t].h != taps[0].h || taps[t].w != taps[0].w + t) return false;
  }
  return true;
}

}  // namespace

TapRuns FindTapRuns(const ConstTensor& in, const Tap* taps, int64_t num_taps) {
  if (!UsesTapRuns(num_taps, in.c)) return {};
  const TapRuns all_gathered{num_taps, false};
  if (!in.dense()) return all_gathered;
  int64_t length = 1;
  while (length < num_taps && AlongRow(taps, length + 1)) ++length;
  if (num_taps % length != 0) return all_gathered;
  for (int64_t t = 0; t < num_taps; t += length) {
    if (!AlongRow(taps + t, length)) return all_gathered;
  }
  return {length, true};
}

void GatherTapRun(const ConstTensor& in, const Tap* taps, const TapRuns& runs, const float* origin,
                  int64_t h, int64_t w, float* gathered) {
  float* to = gathered;
  for (int64_t t = 0; t < runs.length; ++t, to += in.c) {
    const int64_t tap_h = h + taps[t].h;
    const int64_t tap_w = w + taps[t].w;
    const bool inside = tap_h >= 0 && tap_h < in.h && tap_w >= 0 && tap_w < in.w;
    const float* from = origin + (taps[t].h * in.w + taps[t].w) * in.pixel_stride;
    for (int64_t c = 0; c < in.c; ++c) to[c] = inside ? from[c] : 0.0f;
  }
}

}  // namespace classicnn
