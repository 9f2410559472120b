// One layer, one pass, one shape: tensors filled with fixed random numbers, the optimized kernel
// and the naive reference on them, what a call costs, and whether the two agree.
//
// What the layer benchmarks time and reports compare. Convolutions are in layer_case_conv2d.cc,
// linear in layer_case_linear.cc, and every other layer in layer_case_streams.cc.
#ifndef CLASSICNN_BENCHES_LAYER_CASE_H_
#define CLASSICNN_BENCHES_LAYER_CASE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/context.h"
#include "core/memory.h"
#include "core/view.h"
#include "models/layer_shapes.h"

namespace classicnn {

// Where the numbers in all cases come from.
inline constexpr uint64_t kLayerCaseSeed = 20140901;

// Convolutions only.
struct LayerCaseOptions {
  std::optional<Conv2dAlgorithm> algorithm;  // none: what a plan would take
  // With the prologues and epilogues of a fused plan (layers/fusion.h):
  //   forward           batch norm and ReLU of x, statistics of y
  //   backward_data     gradient of the batch norm behind y from dy and its x ("dy_x"); mask, with
  //                     sums, of the one before x (its x is "dx_x")
  //   backward_weights  batch norm and ReLU of x, gradient of the batch norm behind y
  bool fused = false;
};

class LayerCase {
 public:
  // Allocates and fills all tensors, on the threads of `ctx` (which must outlive the case).
  // InvalidArgument for an algorithm that does not do this pass of this shape (naming those that
  // do), ResourceExhausted where the memory is refused.
  static absl::StatusOr<std::unique_ptr<LayerCase>> Create(const LayerShape& shape, LayerPass pass,
                                                           const LayerCaseOptions& options,
                                                           Context& ctx);
  // Bytes that Create would take for tensors, without the scratch of threads beyond one. 0 where
  // Create would not accept the options.
  static int64_t BytesNeeded(const LayerShape& shape, LayerPass pass,
                             const LayerCaseOptions& options);
  virtual ~LayerCase();
  LayerCase(const LayerCase&) = delete;
  LayerCase& operator=(const LayerCase&) = delete;

  const LayerShape& shape() const { return shape_; }
  LayerPass pass() const { return pass_; }

  // One call, on warm data. Both overwrite the same outputs.
  virtual void RunOptimized() = 0;
  virtual void RunNaive() = 0;

  // "winograd4" and so on for convolutions, else empty.
  virtual std::string algorithm() const { return ""; }
  int64_t macs() const { return shape_.macs(); }
  virtual int64_t executed_macs() const { return shape_.macs(); }
  // LayerCaseOptions::fused.
  virtual bool fused() const { return false; }
  // Floats that prologues and epilogues read beside the layer's own tensors
  // and arrays of channels.
  virtual int64_t fused_traffic() const { return 0; }
  // Which of them have a pass of their own in this case's algorithm: "statistics", ...
  virtual std::vector<std::string> unfused() const { return {}; }
  // Least traffic, as models/layer_shapes.h counts it, and fused_traffic().
  int64_t bytes() const { return 4 * (shape_.traffic(pass_) + fused_traffic()); }
  // Largest ||optimized - naive|| / ||naive|| of any output tensor that passes: 1e-4, and 5e-4 for
  // Winograd, whose transforms cost digits.
  virtual double error_bound() const { return 1e-4; }

  // The tensors that inputs are read from and outputs written to, dense, in the layers' layout:
  // "x", "y", "weights", "dweights", "gamma", ... as the layers' headers call them.
  struct TensorRef {
    std::string name;
    float* data;
    int64_t count;
    bool output;
  };
  std::vector<TensorRef> tensors() const;
  // A check fails for a name that is not there.
  float* tensor(absl::string_view name) const;

  // Runs both on outputs full of NaN and compares every output. FailedPrecondition names the tensor
  // and the error; an expectation that is all zeros or not finite fails too. Meant for small
  // batches: the naive reference is slow. `worst_error`, if given, is set. Where all is well, the
  // outputs hold the reference's results afterwards.
  absl::Status Check(double* worst_error = nullptr);

 protected:
  LayerCase(const LayerShape& shape, LayerPass pass, Context& ctx);

  // In constructors: *target points to `count` floats after Allocate().
  void Request(const char* name, float** target, int64_t count, MemoryCategory category);
  void RequestOutput(const char* name, float** target, int64_t count, MemoryCategory category);
  // 64-byte aligned scratch.
  void RequestWorkspace(size_t bytes);
  Workspace workspace() const { return {reinterpret_cast<std::byte*>(scratch_), workspace_bytes_}; }

  // What was requested; nothing is filled yet.
  absl::Status Allocate();

  // Fills the inputs, once they exist.
  virtual void Fill() = 0;
  // Brings tensors that are read and updated (running statistics) back to their first values.
  virtual void Rewind() {}
  // Spoils what CheckMore looks at, before the optimized pass.
  virtual void SpoilMore() {}
  // What Check compares beside the floats of the outputs.
  virtual absl::Status CheckMore() { return absl::OkStatus(); }

  // Uniform with mean 0 and variance 1, from the stream named `purpose`.
  void FillRandom(absl::string_view purpose, float* data, int64_t count);

  LayerShape shape_;
  LayerPass pass_;
  Context& ctx_;

 private:
  struct Buffer {
    const char* name;
    float** target;
    int64_t count;
    MemoryCategory category;
    bool output;
  };
  static absl::StatusOr<std::unique_ptr<LayerCase>> Construct(const LayerShape& shape,
                                                              LayerPass pass,
                                                              const LayerCaseOptions& options,
                                                              Context& ctx);

  std::vector<Buffer> buffers_;
  std::unique_ptr<Arena> arena_;
  float* scratch_ = nullptr;
  size_t workspace_bytes_ = 0;
};

// "winograd4 avx3": the algorithm, if there is a choice, and the instruction set; for a fused case
// with "apart:statistics,gradient" behind it where some of that is done in passes of its own.
std::string LayerCaseLabel(const LayerCase& layer);

// ||actual - expected|| / ||expected||, norms in double. FailedPrecondition where the expectation
// is empty, zero everywhere, or either side is not finite.
absl::StatusOr<double> RelativeError(const float* actual, const float* expected, int64_t count);

// The algorithm that a case of this convolution runs: the one in `options`, or what a plan would
// take. InvalidArgument, naming those that do, where the one in `options` does not do this pass of
// this shape.
absl::StatusOr<Conv2dAlgorithm> ChooseConv2dAlgorithm(const Conv2dShape& shape, LayerPass pass,
                                                      const LayerCaseOptions& options);

// A convolution's pass by the name that the layer cases have for it.
Conv2dPass Conv2dPassOf(LayerPass pass);

// Internal: factories by family.
absl::StatusOr<std::unique_ptr<LayerCase>> CreateConv2dCase(const LayerShape& shape, LayerPass pass,
                                                            const LayerCaseOptions& options,
                                                            Context& ctx);
std::unique_ptr<LayerCase> CreateLinearCase(const LayerShape& shape, LayerPass pass, Context& ctx);
std::unique_ptr<LayerCase> CreateStreamCase(const LayerShape& shape, LayerPass pass, Context& ctx);

}  // namespace classicnn

#endif  // CLASSICNN_BENCHES_LAYER_CASE_H_
