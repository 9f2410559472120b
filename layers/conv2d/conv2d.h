// 2-D convolution (cross-correlation, as the field calls it), forward and both backwards.
//
//   y[n,oh,ow,k] = bias[k] + sum over (r,s,c) of
//                  x[n, oh*stride - padding + r, ow*stride - padding + s, g*C/G + c] * w[r,s,c,k]
//
// with c in [0, C/G) and g = k / (K/G) the group of output channel k; x outside the image is zero.
// Backward turns the same products round: with h = oh*stride - padding + r, w likewise with s,
//
//   dx[n,h,w,g*C/G + c] = sum over (oh,ow,r,s) that meet (h,w), and over k in group g, of
//                         dy[n,oh,ow,k] * w[r,s,c,k]
//   dw[r,s,c,k]         = sum over (n,oh,ow) of x[n,h,w,g*C/G + c] * dy[n,oh,ow,k]
//   dbias[k]            = sum over (n,oh,ow) of dy[n,oh,ow,k]
//
// Of one pixel h and tap r there is at most one oh: (h + padding - r) / stride, where that is
// whole.
//
// x  [N, H, W, C]     NHWC view
// w  [R, R, C/G, K]   dense, 64-byte aligned ("HWIO": output channels contiguous)
// y  [N, OH, OW, K]   OH = (H + 2*padding - R) / stride + 1, OW alike
//
// Depthwise convolution is groups == C == K. Views may have any pixel stride; y, dx and dw must not
// overlap the inputs. Kernels allocate nothing: scratch comes in the workspace. All sums are cut by
// shape alone and have a fixed order, so results have the same bits on any number of threads.
// Cost: N*OH*OW*K*R*R*C/G multiply-adds in each of the three passes.
#ifndef CLASSICNN_LAYERS_CONV2D_CONV2D_H_
#define CLASSICNN_LAYERS_CONV2D_CONV2D_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/context.h"
#include "core/view.h"
#include "layers/fusion.h"
#include "layers/optimizer/optimizer.h"

namespace classicnn {

struct Conv2dShape {
  int64_t n = 1;
  int64_t in_channels = 1;
  int64_t h = 1;
  int64_t w = 1;
  int64_t out_channels = 1;
  int64_t kernel = 1;
  int64_t stride = 1;
  int64_t padding = 0;
  int64_t groups = 1;

  int64_t out_h() const { return (h + 2 * padding - kernel) / stride + 1; }
  int64_t out_w() const { return (w + 2 * padding - kernel) / stride + 1; }
  Shape4 input() const { return {n, h, w, in_channels}; }
  Shape4 output() const { return {n, out_h(), out_w(), out_channels}; }
  int64_t weight_count() const { return kernel * kernel * (in_channels / groups) * out_channels; }
  // Multiply-adds of the direct algorithm in any one of the three passes.
  int64_t macs() const { return output().size() * kernel * kernel * (in_channels / groups); }
  bool depthwise() const { return groups == in_channels && groups == out_channels; }

  // InvalidArgument for sizes below 1 (padding: below 0), channels that groups does not divide, a
  // kernel larger than the padded image, a padding of the kernel's size or more.
  absl::Status Validate() const;
  // "n64c64h32w32k64r3s1p1", followed by "g64" where groups is not 1. Parse reads the same.
  std::string ToString() const;
  static absl::StatusOr<Conv2dShape> Parse(absl::string_view text);
  bool operator==(const Conv2dShape& o) const {
    return input() == o.input() && out_channels == o.out_channels && kernel == o.kernel &&
           stride == o.stride && padding == o.padding && groups == o.groups;
  }
};

enum class Conv2dPass { kForward, kBackwardData, kBackwardWeights };
const char* Conv2dPassName(Conv2dPass pass);  // "forward", "backward_data", "backward_weights"
inline constexpr Conv2dPass kAllConv2dPasses[] = {Conv2dPass::kForward, Conv2dPass::kBackwardData,
                                                  Conv2dPass::kBackwardWeights};

enum class Conv2dAlgorithm {
  kPointwise,    // GEMM over pixels: kernel 1, stride 1, padding 0, one group
  kDirect,       // implicit GEMM over taps: any shape
  kDepthwise,    // vectorized over channels: depthwise
  kWinograd4,    // F(4x4, 3x3): kernel 3, stride 1, one group (Lavin and Gray, 2015)
  kWinograd2,    // F(2x2, 3x3), likewise
  kWinograd2x5,  // F(2x2, 5x5): kernel 5, stride 1, one group
  kWinograd4x5,  // F(4x4, 5x5), likewise
  // 3 channels of an image: kernel 3, stride 1, one group, out_channels a multiple of 16; not
  // backward data.
  kStem,
  // Bound by reading the weights: up to 64 pixels in all images together, of the input and of the
  // output; kernel up to 5, one group, in_channels a multiple of 4, out_channels of 16.
  kFewPixels,
};
// Whether results differ from a direct sum by the rounding of transforms.
bool IsWinograd(Conv2dAlgorithm algorithm);
const char* Conv2dAlgorithmName(Conv2dAlgorithm algorithm);  // "pointwise", "direct", ...
absl::StatusOr<Conv2dAlgorithm> ParseConv2dAlgorithm(absl::string_view name);

// Algorithms that can run this pass of this shape, the best known first: what the planner takes
// when nothing overrules it. Never empty for a valid shape.
std::vector<Conv2dAlgorithm> Conv2dAlgorithms(const Conv2dShape& shape, Conv2dPass pass,
                                              bool allow_winograd = true);

// Multiply-adds this algorithm executes (Winograd: of its products, without the transforms).
int64_t Conv2dExecutedMacs(const Conv2dShape& shape, Conv2dPass pass, Conv2dAlgorithm algorithm);

// Which prologues and epilogues (layers/fusion.h) a call has, or an algorithm can do itself.
struct Conv2dFusion {
  bool activation = false;         // of x: forward, backward weights
  bool gradient = false;           // of dy: both backwards
  bool statistics = false;         // of y: forward
  bool gradient_epilogue = false;  // of dx: backward data
};

// Scratch that one call needs. What an algorithm cannot fuse in some shape is done in a pass of its
// own, with a copy of the tensor in the workspace where it is read.
size_t Conv2dWorkspaceBytes(const Conv2dShape& shape, Conv2dPass pass, Conv2dAlgorithm algorithm,
                            int num_threads, const Conv2dFusion& fusion = {});
// Which of `fusion` this algorithm does without a pass of its own.
Conv2dFusion Conv2dFuses(const Conv2dShape& shape, Conv2dPass pass, Conv2dAlgorithm algorithm,
                         const Conv2dFusion& fusion);

template <typename T>
struct Conv2dForwardArgs {
  Conv2dShape shape;
  Conv2dAlgorithm algorithm = Conv2dAlgorithm::kDirect;  // ignored by the naive reference
  View<const T> x;
  const T* weights = nullptr;  // [R, R, C/G, K]
  const T* bias = nullptr;     // [K], or null
  View<T> y;                   // overwritten
  Workspace workspace;
  ActivationPrologue<T> activation;  // of x
  StatisticsEpilogue<T> statistics;  // of y
};

template <typename T>
struct Conv2dBackwardDataArgs {
  Conv2dShape shape;
  Conv2dAlgorithm algorithm = Conv2dAlgorithm::kDirect;
  View<const T> dy;
  const T* weights = nullptr;
  View<T> dx;               // overwritten, or added to:
  bool accumulate = false;  // dx += instead of dx =
  Workspace workspace;
  GradientPrologue<T> gradient;  // of dy
  GradientEpilogue<T> epilogue;  // of dx
};

// Whether backward weights can apply the gradient as it is made.
bool Conv2dUpdates(Conv2dAlgorithm algorithm);

template <typename T>
struct Conv2dBackwardWeightsArgs {
  Conv2dShape shape;
  Conv2dAlgorithm algorithm = Conv2dAlgorithm::kDirect;
  View<const T> x;
  View<const T> dy;
  T* dweights = nullptr;  // [R, R, C/G, K], overwritten
  T* dbias = nullptr;     // [K], overwritten, or null
  Workspace workspace;
  ActivationPrologue<T> activation;  // of x
  GradientPrologue<T> gradient;      // of dy; dbias must then be null
  // Where Conv2dUpdates: applied to the weights instead of writing dweights, which may be null. A
  // backward data with the same weights comes before, or in the same sweep.
  const ParameterUpdate* update = nullptr;
};

void Conv2dForward(const Conv2dForwardArgs<float>& args, Context& ctx);
void Conv2dBackwardData(const Conv2dBackwardDataArgs<float>& args, Context& ctx);
void Conv2dBackwardWeights(const Conv2dBackwardWeightsArgs<float>& args, Context& ctx);

// Backward data and backward weights in one sweep, where an algorithm bound by memory can share
// what both read. Both arguments are those of the separate calls, for the same convolution, dy,
// gradient prologue and algorithm; without a bias gradient. An update is of the weights that `data`
// reads. The workspace of `data` serves both. Sums may be grouped otherwise than in the separate
// calls.
bool Conv2dHasBackward(const Conv2dShape& shape, Conv2dAlgorithm algorithm);
// Whether it has, and that takes less time than two passes.
bool Conv2dPrefersBackward(const Conv2dShape& shape, Conv2dAlgorithm algorithm);
size_t Conv2dBackwardWorkspaceBytes(const Conv2dShape& shape, Conv2dAlgorithm algorithm,
                                    int num_threads, const Conv2dFusion& fusion);
void Conv2dBackward(const Conv2dBackwardDataArgs<float>& data,
                    const Conv2dBackwardWeightsArgs<float>& weights, Context& ctx);

// The naive references: plain loops, one thread, sums in double, for float and double. Without
// prologues and epilogues, whose references are in layers/fusion_passes.h.
template <typename T>
void Conv2dForwardNaive(const Conv2dForwardArgs<T>& args);
template <typename T>
void Conv2dBackwardDataNaive(const Conv2dBackwardDataArgs<T>& args);
template <typename T>
void Conv2dBackwardWeightsNaive(const Conv2dBackwardWeightsArgs<T>& args);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_CONV2D_CONV2D_H_
