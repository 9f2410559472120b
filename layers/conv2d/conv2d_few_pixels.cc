#include "layers/conv2d/conv2d_few_pixels.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "core/divide.h"
#include "layers/gemm.h"
#include "layers/optimizer/optimizer.h"
#include "layers/row_products.h"

namespace classicnn {
namespace {

constexpr int64_t kMaxTaps = 25;
constexpr int64_t kPieces = 64;  // as many as threads should find work

// The pixels that meet at each tap: one of the input, one of the output.
struct Pairs {
  explicit Pairs(const Conv2dShape& s) : taps(s.kernel * s.kernel) {
    for (int64_t t = 0; t < taps; ++t) {
      count[t] = 0;
      in_mask[t] = out_mask[t] = 0;
      for (int64_t p = 0; p < s.output().pixels(); ++p) {
        const int64_t h = p / s.out_w() % s.out_h() * s.stride - s.padding + t / s.kernel;
        const int64_t w = p % s.out_w() * s.stride - s.padding + t % s.kernel;
        if (h < 0 || h >= s.h || w < 0 || w >= s.w) continue;
        const int64_t n = p / (s.out_h() * s.out_w());
        const int64_t q = (n * s.h + h) * s.w + w;
        in[t][count[t]] = static_cast<uint8_t>(q);
        out[t][count[t]] = static_cast<uint8_t>(p);
        in_mask[t] |= uint64_t{1} << q;
        out_mask[t] |= uint64_t{1} << p;
        ++count[t];
      }
    }
  }

  int64_t taps;
  int64_t count[kMaxTaps];
  uint8_t in[kMaxTaps][kMaxFewPixels];
  uint8_t out[kMaxTaps][kMaxFewPixels];
  uint64_t in_mask[kMaxTaps];  // which pixels are there
  uint64_t out_mask[kMaxTaps];
};

// A piece: a tap's weights for some input channels and some output channels.
struct Cut {
  Cut(const Conv2dShape& s, Conv2dPass pass) : taps(s.kernel * s.kernel) {
    const int64_t c = s.in_channels;
    const int64_t k = s.out_channels;
    switch (pass) {
      case Conv2dPass::kForward: {
        // Each range of input channels has sums of its own for all pixels, which should be little
        // beside its weights.
        constexpr int64_t kLeastColumns = 128;
        const int64_t rows = std::max<int64_t>(32, 8 * s.output().pixels());
        ranges = DivideUp(c, rows);
        columns =
            std::clamp<int64_t>(DivideUp(kPieces, taps * ranges), 1, DivideUp(k, kLeastColumns));
        sums = ranges * taps * s.output().pixels() * k;
        break;
      }
      case Conv2dPass::kBackwardData:
        ranges = std::clamp<int64_t>(DivideUp(kPieces, taps), 1, c / kRowProductRows);
        sums = taps * s.input().pixels() * c;
        break;
      case Conv2dPass::kBackwardWeights:
        // What one makes stays in the cache until it is used up.
        constexpr int64_t kMostFloats = 16 << 10;
        ranges = std::clamp<int64_t>(std::max(DivideUp(kPieces, taps), c * k / kMostFloats), 1,
                                     c / kRowProductRows);
        gradient = RangeBegin(c, 1) * k;
        for (int64_t i = 1; i < ranges; ++i) {
          gradient = std::max(gradient, (RangeBegin(c, i + 1) - RangeBegin(c, i)) * k);
        }
        break;
    }
  }

  // Of input channels; in fours.
  int64_t RangeBegin(int64_t channels, int64_t range) const {
    return channels / kRowProductRows * range / ranges * kRowProductRows;
  }

  // Of a piece that is a range of input channels and all output channels.
  int64_t FirstWeight(const Conv2dShape& s, int64_t piece) const {
    return (piece / ranges * s.in_channels + RangeBegin(s.in_channels, piece % ranges)) *
           s.out_channels;
  }

  int64_t taps;
  int64_t ranges = 1;    // of input channels
  int64_t columns = 1;   // ranges of output channels
  int64_t sums = 0;      // floats of all pieces' sums
  int64_t gradient = 0;  // at most, floats of a piece's gradient
};

bool Supports(const Conv2dShape& s, Conv2dPass /*pass*/) {
  return s.groups == 1 && s.in_channels % kRowProductRows == 0 &&
         s.out_channels % kGemmMaxLanes == 0 && s.kernel * s.kernel <= kMaxTaps &&
         s.input().pixels() <= kMaxFewPixels && s.output().pixels() <= kMaxFewPixels;
}

int64_t ExecutedMacs(const Conv2dShape& s, Conv2dPass /*pass*/) {
  const Pairs pairs(s);
  int64_t all = 0;
  for (int64_t t = 0; t < pairs.taps; ++t) all += pairs.count[t];
  return all * s.in_channels * s.out_channels;
}

size_t WorkspaceBytes(const Conv2dShape& s, Conv2dPass pass, int num_threads,
                      const Conv2dFusion& /*fusion*/) {
  const Cut cut(s, pass);
  return Workspace::BytesFor<float>(cut.sums) +
         static_cast<size_t>(num_threads) * Workspace::BytesFor<float>(cut.gradient);
}

// Adds the pieces' sums up: sums[g][pixel] over the taps g / ranges that pixel has.
void AddPieces(const char* zone, const Cut& cut, const uint64_t* masks, const float* sums,
               const float* bias, bool accumulate, const Tensor& out, Context& ctx) {
  constexpr int64_t kColumns = 256;
  const int64_t column_pieces = DivideUp(out.c, kColumns);
  const int64_t pixels = out.pixels();
  ctx.ParallelFor(zone, pixels * column_pieces, [&](int64_t piece, int /*worker*/) {
    const int64_t pixel = piece / column_pieces;
    const int64_t begin = piece % column_pieces * kColumns;
    float* const to = out.Pixel(pixel) + begin;
    const float* rows[kMaxFewPixels];
    int64_t num_rows = 0;
    const float* first = accumulate ? to : bias != nullptr ? bias + begin : nullptr;
    const auto add = [&] {
      AddRowsTo(first, rows, num_rows, std::min(kColumns, out.c - begin), to);
      num_rows = 0;
      first = to;
    };
    for (int64_t g = 0; g < cut.taps * cut.ranges; ++g) {
      if ((masks[g / cut.ranges] >> pixel & 1) == 0) continue;
      if (num_rows == kMaxFewPixels) add();
      rows[num_rows++] = sums + (g * pixels + pixel) * out.c + begin;
    }
    if (num_rows != 0 || first != to) add();
  });
}

void Forward(const Conv2dForwardArgs<float>& args, Context& ctx) {
  const Conv2dShape& s = args.shape;
  const Cut cut(s, Conv2dPass::kForward);
  const Pairs pairs(s);
  const int64_t lines = s.out_channels / kGemmMaxLanes;
  const int64_t pixels = s.output().pixels();
  Workspace workspace = args.workspace;
  float* const sums = workspace.Take<float>(cut.sums);
  constexpr const char* kZone = "conv2d.forward.few_pixels";

  struct Piece {
    int64_t tap, group, row, num_rows, column, num_columns;
  };
  const auto piece_of = [&](int64_t index) {
    const int64_t group = index / cut.columns;
    const int64_t range = group % cut.ranges;
    const int64_t part = index % cut.columns;
    const int64_t row = cut.RangeBegin(s.in_channels, range);
    const int64_t column = lines * part / cut.columns * kGemmMaxLanes;
    const int64_t end = lines * (part + 1) / cut.columns * kGemmMaxLanes;
    return Piece{
        group / cut.ranges, group, row, cut.RangeBegin(s.in_channels, range + 1) - row, column,
        end - column};
  };
  const auto weights_of = [&](const Piece& piece) {
    return args.weights + (piece.tap * s.in_channels + piece.row) * s.out_channels + piece.column;
  };
  const int64_t pieces = cut.taps * cut.ranges * cut.columns;
  ctx.ParallelFor(kZone, pieces, [&](int64_t index, int /*worker*/) {
    const Piece piece = piece_of(index);
    const int64_t count = pairs.count[piece.tap];
    if (count == 0 || piece.num_columns == 0) return;
    const float* a[kMaxFewPixels];
    float* out[kMaxFewPixels];
    for (int64_t i = 0; i < count; ++i) {
      a[i] = args.x.Pixel(pairs.in[piece.tap][i]) + piece.row;
      out[i] =
          sums + (piece.group * pixels + pairs.out[piece.tap][i]) * s.out_channels + piece.column;
    }
    RowSums row_sums{
        weights_of(piece), s.out_channels, piece.num_rows, piece.num_columns, count, a, out};
    if (index + 1 < pieces) {
      const Piece next = piece_of(index + 1);
      row_sums.next = weights_of(next);
      row_sums.next_rows = next.num_rows;
    }
    SumRows(row_sums);
  });
  AddPieces(kZone, cut, pairs.out_mask, sums, args.bias, /*accumulate=*/false, args.y, ctx);
}

// The sums of backward data: of each tap, for all pixels and input channels.
class DataSums {
 public:
  // A piece is a range of `cut`.
  DataSums(const Conv2dBackwardDataArgs<float>& args, const Cut& cut, const Pairs& pairs,
           float* sums)
      : args_(args), cut_(cut), pairs_(pairs), sums_(sums) {}

  // The products with a piece's weights, while what is read next is fetched.
  void Make(int64_t index, const float* next, int64_t next_floats) const {
    const Conv2dShape& s = args_.shape;
    const int64_t tap = index / cut_.ranges;
    const int64_t row = cut_.RangeBegin(s.in_channels, index % cut_.ranges);
    const int64_t count = pairs_.count[tap];
    const float* a[kMaxFewPixels];
    float* out[kMaxFewPixels];
    for (int64_t i = 0; i < count; ++i) {
      a[i] = args_.dy.Pixel(pairs_.out[tap][i]);
      out[i] = sums_ + (tap * s.input().pixels() + pairs_.in[tap][i]) * s.in_channels + row;
    }
    MultiplyRows({args_.weights + (tap * s.in_channels + row) * s.out_channels,
                  cut_.RangeBegin(s.in_channels, index % cut_.ranges + 1) - row, s.out_channels,
                  count, a, out, next, next_floats});
  }
  void Add(const char* zone, Context& ctx) const {
    Cut taps = cut_;
    taps.ranges = 1;  // they lie side by side
    AddPieces(zone, taps, pairs_.in_mask, sums_, nullptr, args_.accumulate, args_.dx, ctx);
  }

 private:
  const Conv2dBackwardDataArgs<float>& args_;
  const Cut& cut_;
  const Pairs& pairs_;
  float* const sums_;
};

void BackwardData(const Conv2dBackwardDataArgs<float>& args, Context& ctx) {
  const Conv2dShape& s = args.shape;
  const Cut cut(s, Conv2dPass::kBackwardData);
  const Pairs pairs(s);
  Workspace workspace = args.workspace;
  const DataSums sums(args, cut, pairs, workspace.Take<float>(cut.sums));
  constexpr const char* kZone = "conv2d.backward_data.few_pixels";
  // 32 KB: more than one thread reads within the latency of memory.
  constexpr int64_t kAhead = 8192;
  ctx.ParallelFor(kZone, cut.taps * cut.ranges, [&](int64_t index, int /*worker*/) {
    const int64_t ahead = std::min(cut.FirstWeight(s, index) + kAhead, s.weight_count());
    sums.Make(index, args.weights + ahead, s.weight_count() - ahead);
  });
  sums.Add(kZone, ctx);
}

// Makes or applies the gradient of a piece's weights, while what is read next is fetched too.
class WeightGradients {
 public:
  // `scratch` holds cut.gradient floats for each worker.
  WeightGradients(const Conv2dBackwardWeightsArgs<float>& args, const Cut& cut, const Pairs& pairs,
                  float* scratch)
      : args_(args), cut_(cut), pairs_(pairs), scratch_(scratch) {}

  // What of `fetch` is not null has not been read yet, but will be for this piece or the next.
  void Make(int64_t index, int worker, const std::array<const float*, 3>& fetch) const {
    const Conv2dShape& s = args_.shape;
    const int64_t tap = index / cut_.ranges;
    const int64_t row = cut_.RangeBegin(s.in_channels, index % cut_.ranges);
    const int64_t rows = cut_.RangeBegin(s.in_channels, index % cut_.ranges + 1) - row;
    const int64_t first = cut_.FirstWeight(s, index);
    OuterStep steps[kMaxFewPixels];
    for (int64_t i = 0; i < pairs_.count[tap]; ++i) {
      steps[i] = {args_.x.Pixel(pairs_.in[tap][i]) + row, args_.dy.Pixel(pairs_.out[tap][i])};
    }
    OuterProduct product;
    product.steps = steps;
    product.num_steps = pairs_.count[tap];
    product.num_rows = rows;
    product.num_columns = s.out_channels;
    product.out_stride = s.out_channels;
    for (size_t i = 0; i < fetch.size(); ++i) {
      if (fetch[i] == nullptr) continue;
      product.prefetch[i] = {fetch[i], s.out_channels, s.out_channels, rows};
    }
    product.out =
        args_.update == nullptr ? args_.dweights + first : scratch_ + worker * cut_.gradient;
    GemmOuter(product);
    if (args_.update != nullptr) {
      ApplyUpdate(*args_.update, first, rows * s.out_channels, product.out);
    }
  }

 private:
  const Conv2dBackwardWeightsArgs<float>& args_;
  const Cut& cut_;
  const Pairs& pairs_;
  float* const scratch_;
};

const float* Plus(const float* p, int64_t offset) { return p == nullptr ? nullptr : p + offset; }

void BackwardWeights(const Conv2dBackwardWeightsArgs<float>& args, Context& ctx) {
  const Conv2dShape& s = args.shape;
  const Cut cut(s, Conv2dPass::kBackwardWeights);
  const Pairs pairs(s);
  Workspace workspace = args.workspace;
  const WeightGradients gradients(args, cut, pairs,
                                  workspace.Take<float>(cut.gradient * ctx.num_threads()));
  const ParameterUpdate update = args.update != nullptr ? *args.update : ParameterUpdate();
  ctx.ParallelFor(
      "conv2d.backward_weights.few_pixels", cut.taps * cut.ranges, [&](int64_t index, int worker) {
        const int64_t first = cut.FirstWeight(s, index);
        gradients.Make(index, worker,
                       {Plus(update.w, first), Plus(update.m, first), Plus(update.v, first)});
      });
}

size_t BackwardWorkspaceBytes(const Conv2dShape& s, int num_threads,
                              const Conv2dFusion& /*fusion*/) {
  return Workspace::BytesFor<float>(Cut(s, Conv2dPass::kBackwardData).sums) +
         Workspace::BytesFor<float>(Cut(s, Conv2dPass::kBackwardWeights).gradient * num_threads);
}

bool HasBackward(const Conv2dShape& s) { return Supports(s, Conv2dPass::kBackwardData); }

// Of each piece of the weights first the products with it, then its gradient, which may change it:
// it is read from memory once.
void Backward(const Conv2dBackwardDataArgs<float>& data,
              const Conv2dBackwardWeightsArgs<float>& weights, Context& ctx) {
  const Conv2dShape& s = data.shape;
  const Cut cut(s, Conv2dPass::kBackwardWeights);
  const Pairs pairs(s);
  Workspace workspace = data.workspace;
  const DataSums sums(data, cut, pairs,
                      workspace.Take<float>(Cut(s, Conv2dPass::kBackwardData).sums));
  const WeightGradients gradients(weights, cut, pairs,
                                  workspace.Take<float>(cut.gradient * ctx.num_threads()));
  const ParameterUpdate update = weights.update != nullptr ? *weights.update : ParameterUpdate();
  constexpr const char* kZone = "conv2d.backward.few_pixels";
  const int64_t pieces = cut.taps * cut.ranges;
  ctx.ParallelFor(kZone, pieces, [&](int64_t index, int worker) {
    const int64_t first = cut.FirstWeight(s, index);
    const int64_t next = cut.FirstWeight(s, index + 1);
    sums.Make(index, Plus(update.m, first), update.m != nullptr ? next - first : 0);
    gradients.Make(index, worker,
                   {index + 1 < pieces ? data.weights + next : nullptr, Plus(update.v, first)});
  });
  sums.Add(kZone, ctx);
}

}  // namespace

const Conv2dAlgorithmOps kConv2dFewPixelsOps = {
    Supports, ExecutedMacs, WorkspaceBytes,         Forward,  BackwardData,     BackwardWeights,
    nullptr,  HasBackward,  BackwardWorkspaceBytes, Backward, /*updates=*/true,
};

}  // namespace classicnn
