// Which algorithm of a convolution is the fastest on this machine: measured, and remembered in a
// file.
//
// Only for who asks (--autotune of cnn-bench-layers). Another algorithm gives other bits, so plans,
// and with them training, take the table's choice whatever is in the file.
#ifndef CLASSICNN_BENCHES_AUTOTUNE_H_
#define CLASSICNN_BENCHES_AUTOTUNE_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "benches/layer_case.h"
#include "core/context.h"
#include "layers/conv2d/conv2d.h"
#include "nlohmann/json.hpp"

namespace classicnn {

// What a choice is for. The file has the processor's name and this library's version and commit
// beside it.
struct TuningKey {
  Conv2dShape shape;
  LayerPass pass = LayerPass::kForward;
  bool fused = false;  // LayerCaseOptions::fused
  std::string target;  // instruction set, core/isa.h
  int num_threads = 1;

  // "conv2d_forward/fused/n64c64h32w32k64r3s1p1/avx3/threads:2", "/fused" only where it is.
  std::string ToString() const;
};

struct TuningTime {
  Conv2dAlgorithm algorithm = Conv2dAlgorithm::kDirect;
  double seconds = 0;
};

// The file is JSON,
//   {"classicnn_autotune": 1,
//    "choices": {"KEY/PROCESSOR/VERSION/COMMIT":
//                    {"algorithm": "winograd4",
//                     "microseconds": {"winograd4": 51.2, "direct": 97.5}}}}
// with entries of any number of machines; microseconds are for people. What is not of this form, or
// names an algorithm that does not do the pass of the shape, is ignored, with a line on stderr, and
// replaced by the next measurement. The file is replaced as a whole: a reader never sees half of
// one, and of two programs that write at the same time one may have to measure again.
class TuningCache {
 public:
  // $CLASSICNN_AUTOTUNE_CACHE if set, else autotune.json in the user's cache (core/user_cache.h).
  static std::string DefaultPath();

  // Empty: nothing is kept beyond this object.
  explicit TuningCache(std::string path);

  const std::string& path() const { return path_; }
  std::optional<Conv2dAlgorithm> Find(const TuningKey& key) const;
  // Where the file cannot be written, a line on stderr says so and this object alone remembers.
  void Put(const TuningKey& key, Conv2dAlgorithm choice, const std::vector<TuningTime>& times);

 private:
  nlohmann::json ReadChoices(bool quietly) const;  // an object
  std::string path_;
  nlohmann::json choices_;
};

struct TunedAlgorithm {
  Conv2dAlgorithm algorithm = Conv2dAlgorithm::kDirect;
  std::vector<TuningTime> times;  // of every candidate; empty where the choice was remembered, or
                                  // there is only one
};

// The choice for this pass of this shape on the threads of `ctx`: the cache's, else the fastest of
// all algorithms that do it, measured in turns on tensors of their own (least time of a call, about
// 30 ms for each), told on stderr and put into the cache. The one that a plan would take stays
// unless another is at least 2% faster: noise changes nothing. ResourceExhausted where the memory
// for all candidates at a time is refused.
absl::StatusOr<TunedAlgorithm> Autotune(const LayerShape& shape, LayerPass pass, bool fused,
                                        Context& ctx, TuningCache& cache);

}  // namespace classicnn

#endif  // CLASSICNN_BENCHES_AUTOTUNE_H_
