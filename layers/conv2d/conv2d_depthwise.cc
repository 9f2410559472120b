// Cutting depthwise convolution into pieces, and handing them out.
#include "layers/conv2d/conv2d_depthwise.h"

#include <algorithm>
#include <cstdint>

#include "core/context.h"
#include "core/divide.h"
#include "core/view.h"
#include "layers/channel_sums.h"
#include "layers/conv2d/conv2d_depthwise_kernels.h"
#include "layers/tree_sum.h"

namespace classicnn {
namespace {

// Those with kernels that do prologues and epilogues; the others walk along lists of taps.
bool HasStrips(const Conv2dShape& s) { return s.kernel == 3 && s.stride <= 2; }

// How a tensor is cut into blocks: groups of images or, where images are few and large, bands of
// rows of each image, by shape alone, into at most a few hundred groups; and chunks of channels.
class Cut {
 public:
  Cut(const Conv2dShape& s, Conv2dPass pass)
      : n_(s.n),
        channels_(s.in_channels),
        rows_(pass == Conv2dPass::kBackwardData ? s.h : s.out_h()),
        // The taps and sums of 256 channels stay in the first-level cache.
        chunk_(std::min<int64_t>(s.in_channels, 256)),
        chunks_(DivideUp(s.in_channels, chunk_)) {
    const int64_t image = std::max(s.h * s.w, s.out_h() * s.out_w()) * chunk_;
    while (2 * bands_ * 4 <= rows_ && bands_ * n_ * chunks_ < kPieces &&
           image / (2 * bands_) >= kPieceElements) {
      bands_ *= 2;
    }
    if (pass == Conv2dPass::kBackwardWeights) {
      // Powers of two. More where the partial gradients would cost more than the pixels they come
      // of, or would pass 8 MB.
      while (images_ < 64 && images_ * s.out_h() * s.out_w() < 64) images_ *= 2;
      while (groups() * s.weight_count() * int64_t{sizeof(float)} > (int64_t{8} << 20) &&
             images_ < s.n) {
        if (bands_ > 1) {
          bands_ /= 2;
        } else {
          images_ *= 2;
        }
      }
    } else {
      images_ = std::max({int64_t{1}, kPieceElements / image, DivideUp(n_, kMaxGroups)});
    }
    if (bands_ > 1) images_ = 1;
  }

  int64_t groups() const { return DivideUp(n_, images_) * bands_; }
  // Channels of a block, but for its group's last one, unless there are more threads than blocks.
  int64_t chunk() const { return chunk_; }

  // Runs body(block) for each block. Many threads get narrower ones; each channel has its own sums.
  template <class Body>
  void ForEach(const char* zone, Context& ctx, const Body& body, bool stream = false) const {
    int64_t chunk = chunk_;
    while (groups() * DivideUp(channels_, chunk) < ctx.num_threads() && chunk >= 2 * kLeastChunk) {
      chunk = DivideUp(chunk, 2 * kLeastChunk) * kLeastChunk;
    }
    const int64_t chunks = DivideUp(channels_, chunk);
    ctx.ParallelFor(zone, groups() * chunks, [&](int64_t piece, int) {
      const int64_t group = piece / chunks;
      const int64_t image = group / bands_ * images_;
      const int64_t band = group % bands_;
      const int64_t c0 = piece % chunks * chunk;
      body(DepthwiseBlock{group, image, std::min(n_, image + images_), band * rows_ / bands_,
                          (band + 1) * rows_ / bands_, c0, std::min(channels_, c0 + chunk),
                          stream});
    });
  }

 private:
  static constexpr int64_t kPieceElements = 8192;  // makes handing out a piece cheap
  static constexpr int64_t kPieces = 64;           // are enough without bands
  static constexpr int64_t kMaxGroups = 256;
  static constexpr int64_t kLeastChunk = 32;

  int64_t n_;
  int64_t channels_;
  int64_t rows_;
  int64_t chunk_;
  int64_t chunks_;
  int64_t bands_ = 1;   // of an image
  int64_t images_ = 1;  // of a group; 1 where there are bands
};

// The partial gradients of backward weights' groups.
class WeightSums {
 public:
  WeightSums(const Conv2dBackwardWeightsArgs<float>& args, int64_t groups, Workspace* workspace)
      : dweights_(args.dweights),
        channels_(args.shape.in_channels),
        size_(args.shape.weight_count()),
        groups_(groups),
        partials_(groups == 1 ? dweights_ : workspace->Take<float>(groups * size_)) {}
  static size_t Bytes(const Conv2dShape& shape, int64_t groups) {
    return Workspace::BytesFor<float>(groups * shape.weight_count());
  }

  // That of the block's group, its channels set to zero.
  float* Begin(const DepthwiseBlock& block) const {
    float* const partial = partials_ + block.group * size_;
    for (int64_t tap = 0; tap < size_; tap += channels_) {
      std::fill(partial + tap + block.c0, partial + tap + block.c1, 0.0f);
    }
    return partial;
  }

  void Combine(Context& ctx) const {
    if (groups_ == 1) return;
    constexpr int64_t kSpan = 2048;
    ctx.ParallelFor("conv2d.backward_weights.combine", DivideUp(size_, kSpan),
                    [&](int64_t piece, int) {
                      const int64_t begin = piece * kSpan;
                      const int64_t end = std::min(size_, begin + kSpan);
                      SumTreeInPlace(partials_ + begin, size_, groups_, end - begin);
                      std::copy(partials_ + begin, partials_ + end, dweights_ + begin);
                    });
  }

 private:
  float* const dweights_;
  const int64_t channels_;
  const int64_t size_;
  const int64_t groups_;
  float* const partials_;
};

// Whether a tensor of this shape is written past the caches, as measured: where nothing of what a
// pass writes stays there for the next anyway, that spares reading the lines that are overwritten.
// 8 MB do stay in 32: backward data of stride 2 took 95 us instead of 264 that way. Both backwards
// together move about twice as much as one pass.
bool Streams(const Shape4& written, bool both_backwards) {
  constexpr int64_t kMegabyte = 1 << 20;
  return written.size() * int64_t{sizeof(float)} >= (both_backwards ? 1 : 12) * kMegabyte;
}

bool Supports(const Conv2dShape& shape, Conv2dPass /*pass*/) { return shape.depthwise(); }

Conv2dFusion Fuses(const Conv2dShape& shape, Conv2dPass /*pass*/, const Conv2dFusion& fusion) {
  return HasStrips(shape) ? fusion : Conv2dFusion();
}

size_t WorkspaceBytes(const Conv2dShape& shape, Conv2dPass pass, int /*num_threads*/,
                      const Conv2dFusion& fusion) {
  const int64_t groups = Cut(shape, pass).groups();
  switch (pass) {
    case Conv2dPass::kForward:
      return fusion.statistics ? MomentPieces::Bytes(groups, shape.in_channels) : 0;
    case Conv2dPass::kBackwardData:
      return fusion.gradient_epilogue ? GradientSumPieces::Bytes(groups, shape.in_channels) : 0;
    default:
      return WeightSums::Bytes(shape, groups);
  }
}

// The center of all moments is that of the first group: the middle pixel of a few images, whose
// rows are computed here once more.
void EstimateCenter(const Conv2dForwardArgs<float>& args, const MomentPieces& moments,
                    Context& ctx) {
  const int64_t images = std::min<int64_t>(args.y.n, 4);
  const int64_t distance = args.y.n / images;
  const int64_t row = args.y.h / 2;
  Conv2dForwardArgs<float> sample = args;
  sample.statistics = {};
  ctx.ParallelFor("conv2d.forward.depthwise.center", 1, [&](int64_t, int) {
    for (int64_t i = 0; i < images; ++i) {
      const int64_t n = i * distance;
      DepthwiseForwardStrips(sample, {0, n, n + 1, row, row + 1, 0, args.y.c}, moments);
    }
    moments.Begin(0, 0, args.y.c, args.y.Pixel(0, row, args.y.w / 2),
                  distance * args.y.h * args.y.w * args.y.pixel_stride, images);
  });
}

void Forward(const Conv2dForwardArgs<float>& args, Context& ctx) {
  constexpr const char* kZone = "conv2d.forward.depthwise";
  const Cut cut(args.shape, Conv2dPass::kForward);
  if (!HasStrips(args.shape)) {
    cut.ForEach(kZone, ctx,
                [&](const DepthwiseBlock& block) { DepthwiseForwardTaps(args, block); });
    return;
  }
  Workspace workspace = args.workspace;
  const bool statistics = args.statistics.active();
  const MomentPieces moments(statistics ? cut.groups() : 0, args.shape.in_channels, &workspace);
  if (statistics) EstimateCenter(args, moments, ctx);
  cut.ForEach(
      kZone, ctx,
      [&](const DepthwiseBlock& block) { DepthwiseForwardStrips(args, block, moments); },
      Streams(args.shape.output(), false));
  if (statistics) moments.Merge(args.statistics, ctx);
}

void BackwardData(const Conv2dBackwardDataArgs<float>& args, Context& ctx) {
  constexpr const char* kZone = "conv2d.backward_data.depthwise";
  const Cut cut(args.shape, Conv2dPass::kBackwardData);
  if (!HasStrips(args.shape)) {
    cut.ForEach(kZone, ctx,
                [&](const DepthwiseBlock& block) { DepthwiseBackwardDataTaps(args, block); });
    return;
  }
  Workspace workspace = args.workspace;
  const bool epilogue = args.epilogue.active();
  const GradientSumPieces sums(epilogue ? cut.groups() : 0, args.shape.in_channels, &workspace);
  cut.ForEach(
      kZone, ctx,
      [&](const DepthwiseBlock& block) {
        if (epilogue) sums.Clear(block.group, block.c0, block.c1 - block.c0);
        DepthwiseBackwardDataStrips(args, block, sums);
      },
      Streams(args.shape.input(), false));
  if (epilogue) sums.Merge(args.epilogue, ctx);
}

void BackwardWeights(const Conv2dBackwardWeightsArgs<float>& args, Context& ctx) {
  const Cut cut(args.shape, Conv2dPass::kBackwardWeights);
  Workspace workspace = args.workspace;
  const WeightSums sums(args, cut.groups(), &workspace);
  const auto kernel =
      HasStrips(args.shape) ? DepthwiseBackwardWeightsStrips : DepthwiseBackwardWeightsTaps;
  cut.ForEach("conv2d.backward_weights.depthwise", ctx,
              [&](const DepthwiseBlock& block) { kernel(args, block, sums.Begin(block)); });
  sums.Combine(ctx);
}

bool HasBackward(const Conv2dShape& shape) { return shape.depthwise() && HasStrips(shape); }

size_t BackwardWorkspaceBytes(const Conv2dShape& shape, int /*num_threads*/,
                              const Conv2dFusion& fusion) {
  const int64_t groups = Cut(shape, Conv2dPass::kBackwardWeights).groups();
  return WeightSums::Bytes(shape, groups) +
         (fusion.gradient_epilogue ? GradientSumPieces::Bytes(groups, shape.in_channels) : 0);
}

// Cut as backward weights is. Of each piece, a few images at a time: backward data finds in the
// second-level cache what backward weights has read.
void Backward(const Conv2dBackwardDataArgs<float>& data,
              const Conv2dBackwardWeightsArgs<float>& weights, Context& ctx) {
  constexpr int64_t kElements = 16384;  // of x
  const Conv2dShape& s = data.shape;
  const Cut cut(s, Conv2dPass::kBackwardWeights);
  Workspace workspace = data.workspace;
  const WeightSums weight_sums(weights, cut.groups(), &workspace);
  const bool epilogue = data.epilogue.active();
  const GradientSumPieces sums(epilogue ? cut.groups() : 0, s.in_channels, &workspace);
  const bool stream = Streams(s.input(), true);
  cut.ForEach("conv2d.backward.depthwise", ctx, [&](const DepthwiseBlock& block) {
    float* const partial = weight_sums.Begin(block);
    if (epilogue) sums.Clear(block.group, block.c0, block.c1 - block.c0);
    // How sums are cut must not depend on this block's channels.
    const int64_t images = std::max<int64_t>(1, kElements / (s.h * s.w * cut.chunk()));
    for (int64_t n = block.image0; n < block.image1; n += images) {
      DepthwiseBlock part = block;
      part.image0 = n;
      part.image1 = std::min(block.image1, n + images);
      part.stream = stream;
      DepthwiseBackwardWeightsStrips(weights, part, partial);
      // As many bands of dx.
      part.row0 = block.row0 * s.h / s.out_h();
      part.row1 = block.row1 * s.h / s.out_h();
      DepthwiseBackwardDataStrips(data, part, sums);
    }
  });
  weight_sums.Combine(ctx);
  if (epilogue) sums.Merge(data.epilogue, ctx);
}

}  // namespace

const Conv2dAlgorithmOps kConv2dDepthwiseOps = {
    Supports, nullptr,     WorkspaceBytes,         Forward,  BackwardData, BackwardWeights,
    Fuses,    HasBackward, BackwardWorkspaceBytes, Backward,
};

}  // namespace classicnn
