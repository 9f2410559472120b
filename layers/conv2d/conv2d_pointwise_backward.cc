#include "layers/conv2d/conv2d_pointwise_backward.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/divide.h"
#include "core/view.h"
#include "layers/channel_rows.h"
#include "layers/channel_sums.h"
#include "layers/gemm.h"
#include "layers/prefetch_queue.h"
#include "layers/tree_sum.h"

namespace classicnn {
namespace {

constexpr const char* kZone = "conv2d.backward.pointwise";

// How the pixels are cut: runs of tiles.
struct Cut {
  static constexpr int64_t kMaxTileRows = 64;
  static constexpr int64_t kMaxPartialFloats = 2 << 20;

  explicit Cut(const Conv2dShape& s)
      : pixels(s.input().pixels()),
        gradient_stride(PaddedStride(s.out_channels)),
        input_stride(PaddedStride(s.in_channels)) {
    const GemmGeometry tall = ActiveGemmGeometry();
    geometry = s.in_channels > tall.panel_width() ? WideGemmGeometry() : tall;
    num_panels = geometry.num_panels(s.in_channels);
    while (2 * runs <= kMaxTreeLeaves && pixels >= 2 * runs * kMaxTileRows &&
           2 * runs * s.weight_count() <= kMaxPartialFloats) {
      runs *= 2;
    }
    tiles = DivideUp(DivideUp(pixels, runs), kMaxTileRows);
    tile_rows = DivideUp(DivideUp(pixels, runs), tiles);
    tile_blocks = DivideUp(tile_rows, geometry.rows);
  }

  // Of a run, and of a tile of those.
  int64_t RunBegin(int64_t run) const { return pixels * run / runs; }
  int64_t TileBegin(int64_t run, int64_t tile) const {
    const int64_t begin = RunBegin(run);
    return begin + (RunBegin(run + 1) - begin) * tile / tiles;
  }

  // One line more than whole ones, so that rows spread over the sets of a cache.
  static int64_t PaddedStride(int64_t channels) { return DivideUp(channels, 16) * 16 + 16; }

  int64_t pixels;
  int64_t gradient_stride;  // of a tile's rows in scratch
  int64_t input_stride;
  GemmGeometry geometry;  // of the product
  int64_t num_panels;
  int64_t runs = 1;     // a power of two
  int64_t tiles;        // of a run
  int64_t tile_rows;    // at most
  int64_t tile_blocks;  // at most, of the product
};

// One worker's, for a tile.
struct Scratch {
  Scratch(const Cut& cut, Workspace* workspace)
      : gradient(workspace->Take<float>(cut.tile_rows * cut.gradient_stride)),
        input(workspace->Take<float>(cut.tile_rows * cut.input_stride)),
        blocks(workspace->Take<GemmBlock>(cut.tile_blocks)),
        a(workspace->Take<const float*>(cut.tile_rows)),
        x(workspace->Take<const float*>(cut.tile_rows)),
        out(workspace->Take<float*>(cut.tile_rows)),
        steps(workspace->Take<OuterStep>(cut.tile_rows)) {}

  static size_t Bytes(const Cut& cut) {
    return Workspace::BytesFor<float>(cut.tile_rows * cut.gradient_stride) +
           Workspace::BytesFor<float>(cut.tile_rows * cut.input_stride) +
           Workspace::BytesFor<GemmBlock>(cut.tile_blocks) +
           2 * Workspace::BytesFor<const float*>(cut.tile_rows) +
           Workspace::BytesFor<float*>(cut.tile_rows) +
           Workspace::BytesFor<OuterStep>(cut.tile_rows);
  }

  float* gradient;  // after its prologue
  float* input;     // likewise
  GemmBlock* blocks;
  const float** a;
  const float** x;
  float** out;
  OuterStep* steps;
};

// Rows of a tile, where they are read.
struct Rows {
  const float* data;
  int64_t stride;
};

class Sweep {
 public:
  Sweep(const Conv2dBackwardDataArgs<float>& data, const Conv2dBackwardWeightsArgs<float>& weights,
        const GradientSumPieces* sums, Context& ctx)
      : data_(data), weights_(weights), s_(data.shape), cut_(s_), sums_(sums), ctx_(ctx) {}

  // Takes what Bytes says.
  void Run(Workspace* workspace) {
    packed_ = workspace->Take<float>(GemmPackedFloats(s_.out_channels, s_.in_channels));
    partials_ = workspace->Take<float>((cut_.runs - 1) * s_.weight_count());
    scratch_bytes_ = Scratch::Bytes(cut_);
    scratch_ =
        workspace->Take<std::byte>(static_cast<int64_t>(scratch_bytes_) * ctx_.num_threads());
    ctx_.ParallelFor(kZone, cut_.num_panels, [&](int64_t panel, int /*worker*/) {
      const GemmPanel p = Panel(panel);
      GemmPackPanel(data_.weights + p.first_column * s_.out_channels, 1, s_.out_channels,
                    s_.out_channels, p.columns, packed_ + p.first_column * s_.out_channels);
    });
    ctx_.ParallelFor(kZone, cut_.runs, [&](int64_t run, int worker) { SweepRun(run, worker); });
    AddPartials();
  }

  static size_t Bytes(const Conv2dShape& s, int num_threads) {
    const Cut cut(s);
    return Workspace::BytesFor<float>(GemmPackedFloats(s.out_channels, s.in_channels)) +
           Workspace::BytesFor<float>((cut.runs - 1) * s.weight_count()) +
           static_cast<size_t>(num_threads) * Scratch::Bytes(cut);
  }

 private:
  GemmPanel Panel(int64_t panel) const {
    const int64_t column = panel * cut_.geometry.panel_width();
    const int64_t columns = std::min(cut_.geometry.panel_width(), s_.in_channels - column);
    return {packed_ + column * s_.out_channels,
            DivideUp(columns, cut_.geometry.lanes) * cut_.geometry.lanes, column, columns};
  }

  void SweepRun(int64_t run, int worker) const {
    Workspace own{scratch_ + static_cast<size_t>(worker) * scratch_bytes_, scratch_bytes_};
    const Scratch scratch(cut_, &own);
    GemmEpilogue epilogue;
    epilogue.accumulate = data_.accumulate;
    if (sums_ != nullptr) {
      sums_->Clear(run, 0, s_.in_channels);
      epilogue.gradient = &data_.epilogue;
      epilogue.sum_g = sums_->sum_g(run);
      epilogue.sum_gx = sums_->sum_gx(run);
    }
    float* const dweights =
        run == 0 ? weights_.dweights : partials_ + (run - 1) * s_.weight_count();
    for (int64_t tile = 0; tile < cut_.tiles; ++tile) {
      const int64_t begin = cut_.TileBegin(run, tile);
      const int64_t rows = cut_.TileBegin(run, tile + 1) - begin;
      // Likely this worker's next.
      const int64_t next = begin + rows;
      const int64_t next_rows = std::min(cut_.pixels - next, cut_.tile_rows);
      const Rows gradient = Gradient(begin, rows, scratch);
      Multiply(begin, rows, gradient, epilogue, next, next_rows, scratch);
      Reduce(begin, rows, gradient, next, next_rows, tile > 0, dweights, scratch);
    }
  }

  // The gradient of the output for a tile, after its prologue; readable up to whole vectors.
  Rows Gradient(int64_t begin, int64_t rows, const Scratch& scratch) const {
    const ConstTensor& dy = data_.dy;
    const GradientPrologue<float>& prologue = data_.gradient;
    if (prologue.active()) {
      GradientRows(prologue, 0, dy.Pixel(begin), dy.pixel_stride, prologue.x.Pixel(begin), rows,
                   dy.c, scratch.gradient, cut_.gradient_stride);
      return {scratch.gradient, cut_.gradient_stride};
    }
    if (dy.c % cut_.geometry.lanes == 0) return {dy.Pixel(begin), dy.pixel_stride};
    for (int64_t i = 0; i < rows; ++i) {
      std::memcpy(scratch.gradient + i * cut_.gradient_stride, dy.Pixel(begin + i),
                  static_cast<size_t>(dy.c) * sizeof(float));
    }
    return {scratch.gradient, cut_.gradient_stride};
  }

  // Backward data of a tile, while the next one's gradient is fetched.
  void Multiply(int64_t begin, int64_t rows, const Rows& gradient, const GemmEpilogue& epilogue,
                int64_t next, int64_t next_rows, const Scratch& s) const {
    static constexpr int32_t kSegment = 0;
    for (int64_t i = 0; i < rows; ++i) {
      s.a[i] = gradient.data + i * gradient.stride;
      s.out[i] = data_.dx.Pixel(begin + i);
      if (sums_ != nullptr) s.x[i] = data_.epilogue.x.Pixel(begin + i);
    }
    const int64_t num_blocks = DivideUp(rows, cut_.geometry.rows);
    for (int64_t b = 0; b < num_blocks; ++b) {
      const int64_t first = rows * b / num_blocks;
      s.blocks[b] = {
          rows * (b + 1) / num_blocks - first,     1, s.a + first, &kSegment, s.out + first,
          sums_ != nullptr ? s.x + first : nullptr};
    }
    PrefetchQueue queue;
    queue.Clear();
    if (next_rows > 0) {
      const ConstTensor& dy = data_.dy;
      queue.Add(dy.Pixel(next), dy.c, dy.pixel_stride, next_rows);
      const ConstTensor& x = data_.gradient.x;
      if (data_.gradient.active()) queue.Add(x.Pixel(next), x.c, x.pixel_stride, next_rows);
    }
    queue.SpreadOver(cut_.num_panels * num_blocks * GemmPrefetchSteps(s_.out_channels));
    for (int64_t panel = 0; panel < cut_.num_panels; ++panel) {
      const GemmPrefetch prefetch{false, panel + 1 < cut_.num_panels ? s.blocks : nullptr, &queue};
      GemmMultiply(s.blocks, num_blocks, s_.out_channels, Panel(panel), epilogue, prefetch);
    }
  }

  // Backward weights of a tile, while what the next one's backward data meets is fetched.
  void Reduce(int64_t begin, int64_t rows, const Rows& gradient, int64_t next, int64_t next_rows,
              bool accumulate, float* dweights, const Scratch& scratch) const {
    const ConstTensor& x = weights_.x;
    Rows input{x.Pixel(begin), x.pixel_stride};
    if (weights_.activation.active()) {
      ActivateRows(weights_.activation, 0, input.data, input.stride, rows, x.c, scratch.input,
                   cut_.input_stride);
      input = {scratch.input, cut_.input_stride};
    }
    for (int64_t i = 0; i < rows; ++i) {
      scratch.steps[i] = {input.data + i * input.stride, gradient.data + i * gradient.stride};
    }
    OuterProduct product;
    product.steps = scratch.steps;
    product.num_steps = rows;
    product.num_rows = s_.in_channels;
    product.num_columns = s_.out_channels;
    product.accumulate = accumulate;
    product.out = dweights;
    product.out_stride = s_.out_channels;
    if (next_rows > 0) {
      product.prefetch[0] = {x.Pixel(next), x.c, x.pixel_stride, next_rows};
      product.prefetch[1] = {data_.dx.Pixel(next), x.c, data_.dx.pixel_stride, next_rows};
    }
    GemmOuter(product);
  }

  void AddPartials() const {
    if (cut_.runs == 1) return;
    constexpr int64_t kFloats = 1024;
    const int64_t size = s_.weight_count();
    ctx_.ParallelFor(kZone, DivideUp(size, kFloats), [&](int64_t piece, int /*worker*/) {
      const int64_t begin = piece * kFloats;
      SumTree(partials_ + begin, size, cut_.runs - 1, std::min(kFloats, size - begin),
              weights_.dweights + begin);
    });
  }

  const Conv2dBackwardDataArgs<float>& data_;
  const Conv2dBackwardWeightsArgs<float>& weights_;
  const Conv2dShape& s_;
  const Cut cut_;
  const GradientSumPieces* const sums_;  // of data's epilogue, or null
  Context& ctx_;
  float* packed_ = nullptr;    // the weights in panels of input channels
  float* partials_ = nullptr;  // of the runs but the first
  size_t scratch_bytes_ = 0;
  std::byte* scratch_ = nullptr;
};

}  // namespace

// Measured on two threads of an Intel Xeon (44 GB/s of copying), with all prologues and epilogues,
// batch 64, against the two passes: 32 to 64 channels at 32 x 32 0.76 of the time, 64 to 128 0.85
// (at 16 x 16 0.88), 96 and 128 to 128 0.90, 160 and 192 to 128 0.93 and 0.95. Not where the
// partial sums are large beside the tensors (128 to 128 at 16 x 16: 0.96 to 1.01, 256 to 128 1.07),
// with larger weights (224 to 128 at 32 x 32: 0.99, 256 to 128 1.00), nor with many more input than
// output channels, where what only one of the passes reads is the most (192 to 96: 1.01, 480 to 16
// at 16 x 16: 1.16).
bool PointwisePrefersBackward(const Conv2dShape& s) {
  constexpr int64_t kMaxWeights = 192 * 128;
  const Cut cut(s);
  const int64_t tensors = s.input().size() + s.output().size();
  return 2 * s.in_channels <= 3 * s.out_channels && s.weight_count() <= kMaxWeights &&
         cut.runs == kMaxTreeLeaves && 5 * cut.runs * s.weight_count() <= tensors;
}

size_t PointwiseBackwardWorkspaceBytes(const Conv2dShape& s, int num_threads,
                                       const Conv2dFusion& fusion) {
  size_t bytes = Sweep::Bytes(s, num_threads);
  if (fusion.gradient_epilogue) bytes += GradientSumPieces::Bytes(Cut(s).runs, s.in_channels);
  return bytes;
}

void PointwiseBackward(const Conv2dBackwardDataArgs<float>& data,
                       const Conv2dBackwardWeightsArgs<float>& weights, Context& ctx) {
  Workspace workspace = data.workspace;
  if (!data.epilogue.active()) {
    Sweep(data, weights, nullptr, ctx).Run(&workspace);
    return;
  }
  const GradientSumPieces sums(Cut(data.shape).runs, data.dx.c, &workspace);
  Sweep(data, weights, &sums, ctx).Run(&workspace);
  sums.Merge(data.epilogue, ctx);
}

}  // namespace classicnn
