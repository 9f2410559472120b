// The same layers through oneDNN, to be measured beside ours in one process.
//
// Each in the memory layouts that oneDNN prefers, reorders excluded: convolution and linear in
// those its primitive descriptors ask for, the others in the fastest of NHWC and the blocked
// layouts that the channel count allows, which is measured when a case is made. On OpenMP threads.
#ifndef CLASSICNN_BENCHES_PEERS_ONEDNN_H_
#define CLASSICNN_BENCHES_PEERS_ONEDNN_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "benches/layer_case.h"
#include "models/layer_shapes.h"

namespace classicnn {

// What oneDNN has a primitive for: all but dropout and cross-entropy.
bool OneDnnHas(LayerKind kind);

// oneDNN will use no wider instruction set than this target of ours ("avx2", ...). To be called
// before the first case is made.
void LimitOneDnn(const std::string& target);

// After its last parallel work OpenMP's threads keep spinning for a while, in the way of oneTBB's.
// Waits until they sleep.
void SettleOneDnnThreads();

class OneDnnCase {
 public:
  // With oneDNN's direct convolution, or with `automatic` whichever it picks. Takes the inputs of
  // `source`, which may go afterwards. Unimplemented where oneDNN has no such primitive.
  static absl::StatusOr<std::unique_ptr<OneDnnCase>> Create(const LayerCase& source, bool automatic,
                                                            int num_threads);
  virtual ~OneDnnCase() = default;

  // One call.
  virtual void Run() = 0;
  // Runs it and compares its outputs with those that `source`, from which it was made, holds: the
  // naive reference's (after RunNaive or Check). As LayerCase::Check does, with a bound of 1e-4
  // (automatic: 5e-4, it may be Winograd).
  virtual absl::Status Check(const LayerCase& source) = 0;
  virtual int64_t executed_macs() const = 0;
  // "oneDNN 2.6.3 jit:avx512_core"
  virtual std::string label() const = 0;
};

}  // namespace classicnn

#endif  // CLASSICNN_BENCHES_PEERS_ONEDNN_H_
