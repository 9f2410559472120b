// Fully connected layer.
//
//   y[n,k]   = bias[k] + sum over c of x[n,c] * w[c,k]
//   dx[n,c]  = sum over k of dy[n,k] * w[c,k]
//   dw[c,k]  = sum over n of x[n,c] * dy[n,k]
//   dbias[k] = sum over n of dy[n,k]
//
// x  [N, C]  each row is one image of an NHWC view: its H*W*C values, which must be contiguous
//            (pixel_stride == C, or H == W == 1). Rows may be further apart than C.
// w  [C, K]  dense, 64-byte aligned (the transpose of PyTorch's [K, C])
// y  [N, K]
//
// y, dx and dw must not overlap the inputs. Same bits on any number of threads.
// Cost: N*C*K multiply-adds in each of the three passes; with few rows it is the reading of w.
#ifndef CLASSICNN_LAYERS_LINEAR_LINEAR_H_
#define CLASSICNN_LAYERS_LINEAR_LINEAR_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/context.h"
#include "core/view.h"

namespace classicnn {

struct LinearShape {
  int64_t n = 1;
  int64_t in_features = 1;
  int64_t out_features = 1;

  int64_t weight_count() const { return in_features * out_features; }
  int64_t macs() const { return n * in_features * out_features; }
  absl::Status Validate() const;
  std::string ToString() const;  // "n64c512k10"
  static absl::StatusOr<LinearShape> Parse(absl::string_view text);
};

enum class LinearPass { kForward, kBackwardData, kBackwardWeights };
size_t LinearWorkspaceBytes(const LinearShape& shape, LinearPass pass, int num_threads);

template <typename T>
struct LinearForwardArgs {
  LinearShape shape;
  const T* x = nullptr;
  int64_t x_stride = 0;  // elements from one row to the next
  const T* weights = nullptr;
  const T* bias = nullptr;  // [K], or null
  T* y = nullptr;           // overwritten
  int64_t y_stride = 0;
  Workspace workspace;
};

template <typename T>
struct LinearBackwardDataArgs {
  LinearShape shape;
  const T* dy = nullptr;
  int64_t dy_stride = 0;
  const T* weights = nullptr;
  T* dx = nullptr;  // overwritten, or added to:
  int64_t dx_stride = 0;
  bool accumulate = false;  // dx += instead of dx =
  Workspace workspace;
};

template <typename T>
struct LinearBackwardWeightsArgs {
  LinearShape shape;
  const T* x = nullptr;
  int64_t x_stride = 0;
  const T* dy = nullptr;
  int64_t dy_stride = 0;
  T* dweights = nullptr;  // [C, K], overwritten
  T* dbias = nullptr;     // [K], overwritten, or null
  Workspace workspace;
};

void LinearForward(const LinearForwardArgs<float>& args, Context& ctx);
void LinearBackwardData(const LinearBackwardDataArgs<float>& args, Context& ctx);
void LinearBackwardWeights(const LinearBackwardWeightsArgs<float>& args, Context& ctx);

template <typename T>
void LinearForwardNaive(const LinearForwardArgs<T>& args);
template <typename T>
void LinearBackwardDataNaive(const LinearBackwardDataArgs<T>& args);
template <typename T>
void LinearBackwardWeightsNaive(const LinearBackwardWeightsArgs<T>& args);

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_LINEAR_LINEAR_H_
