#include "layers/concat/concat.h"

#include "core/check.h"
#include "layers/copy_rows.h"
#include "layers/pieces.h"

namespace classicnn {

// A piece is a run of pixels with all their channels: y is written, or dy read, front to back.
void ConcatForward(absl::Span<const ConstTensor> inputs, Tensor y, Context& ctx) {
  int64_t channels = 0;
  for (const ConstTensor& x : inputs) {
    CNN_CHECK(x.n == y.n && x.h == y.h && x.w == y.w, x.shape().ToString(), " into ",
              y.shape().ToString());
    channels += x.c;
  }
  CNN_CHECK(channels == y.c, channels, " channels in, ", y.c, " out");
  const Pieces pieces(y.pixels(), 8 * y.c);
  ctx.ParallelFor("concat.forward", pieces.count(), [&](int64_t piece, int) {
    int64_t offset = 0;
    for (const ConstTensor& x : inputs) {
      CopyPixels(x, y.Channels(offset, x.c), pieces.Begin(piece), pieces.Size(piece),
                 /*accumulate=*/false);
      offset += x.c;
    }
  });
}

void ConcatBackward(ConstTensor dy, absl::Span<const Tensor> dx, bool accumulate, Context& ctx) {
  int64_t channels = 0;
  for (const Tensor& d : dx) {
    CNN_CHECK(d.n == dy.n && d.h == dy.h && d.w == dy.w, dy.shape().ToString(), " into ",
              d.shape().ToString());
    channels += d.c;
  }
  CNN_CHECK(channels == dy.c, channels, " channels of dx, ", dy.c, " of dy");
  const Pieces pieces(dy.pixels(), 8 * dy.c);
  ctx.ParallelFor("concat.backward", pieces.count(), [&](int64_t piece, int) {
    int64_t offset = 0;
    for (const Tensor& d : dx) {
      CopyPixels(dy.Channels(offset, d.c), d, pieces.Begin(piece), pieces.Size(piece), accumulate);
      offset += d.c;
    }
  });
}

}  // namespace classicnn
