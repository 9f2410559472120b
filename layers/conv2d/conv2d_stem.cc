#include "layers/conv2d/conv2d_stem.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/divide.h"
#include "layers/channel_rows.h"
#include "layers/channel_sums.h"
#include "layers/gemm.h"
#include "layers/tree_sum.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/conv2d/conv2d_stem.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "layers/gemm-inl.h"

#ifndef CLASSICNN_LAYERS_CONV2D_STEM_ONCE_
#define CLASSICNN_LAYERS_CONV2D_STEM_ONCE_
namespace classicnn {

inline constexpr int kStemKernel = 3;
inline constexpr int kStemChannels = 3;
inline constexpr int kStemRun = kStemKernel * kStemChannels;  // values under a row of the window

// Pixels of a line of the output or its gradient.
struct StemPixels {
  const float* lines[kStemKernel];  // the image's under the first pixel, with padding
  int64_t pixels;
  int64_t channels;  // of the output
};
struct StemForwardLine {
  StemPixels in;
  const float* weights;  // [kStemKernel][kStemRun][channels]
  float* out;
  int64_t out_stride;
  GemmEpilogue epilogue;
};
struct StemGradientLine {
  StemPixels in;
  const float* grad;
  int64_t grad_stride;
  float* out;  // as weights; added to
  // What the next line reads, to be fetched: of the gradient and, with a prologue, of its x.
  int64_t next_pixels;
  const float* next[2];
  int64_t next_stride[2];
};

}  // namespace classicnn
#endif  // CLASSICNN_LAYERS_CONV2D_STEM_ONCE_

HWY_BEFORE_NAMESPACE();
namespace classicnn {
namespace HWY_NAMESPACE {

// Neighbouring pixels' windows overlap. To keep what they share in registers from one step to the
// next, as GCC would, costs more in spills than to load it again.
HWY_INLINE void LoadAgain() {
#if HWY_COMPILER_GCC || HWY_COMPILER_CLANG
  asm volatile("" ::: "memory");
#endif
}

template <int kRows, int kVectors>
HWY_NOINLINE void ForwardBlock(const StemForwardLine& line, int64_t pixel, int64_t column) {
  const GemmTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t channels = line.in.channels;
  GemmSums<kRows, kVectors> sums;
  if (line.epilogue.bias == nullptr) {
    sums.Fill(hn::Zero(d), hn::Zero(d));
  } else {
    const float* const bias = line.epilogue.bias + column;
    sums.Fill(hn::LoadU(d, bias), hn::LoadU(d, bias + (kVectors - 1) * lanes));
  }
  const float* HWY_RESTRICT b = line.weights + column;
  for (const float* const from : line.in.lines) {
    const float* HWY_RESTRICT a = from + pixel * kStemChannels;
    for (int i = 0; i < kStemRun; ++i, b += channels) {
      LoadAgain();
      const GemmVec b0 = hn::LoadU(d, b);
      sums.template AddApart<kStemChannels>(a + i, b0,
                                            kVectors == 2 ? hn::LoadU(d, b + lanes) : b0);
    }
  }
  const GemmRowStride row_of{line.out + pixel * line.out_stride + column, line.out_stride};
  if (line.epilogue.center != nullptr) {
    GemmFinishMoments(sums, row_of, column, kVectors * lanes, line.epilogue);
  } else {
    GemmFinish(sums, kVectors * lanes, /*accumulate=*/false, row_of);
  }
}

// The output is written in the order of its pixels: no lines need to be fetched for that.
void Forward(const StemForwardLine& line) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(GemmTag()));
  const int64_t pixels = line.in.pixels;
  const int64_t blocks = DivideUp(pixels, kGemmRows);
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t begin = pixels * block / blocks;
    const int64_t end = pixels * (block + 1) / blocks;
    GemmDispatchRows<kGemmRows>(end - begin, [&](auto rows) HWY_ATTR {
      constexpr int kRows = decltype(rows)::value;
      int64_t column = 0;
      for (; column + 2 * lanes <= line.in.channels; column += 2 * lanes) {
        ForwardBlock<kRows, 2>(line, begin, column);
      }
      if (column < line.in.channels) ForwardBlock<kRows, 1>(line, begin, column);
    });
  }
}

template <int kVectors>
HWY_INLINE void GradientBlock(const StemGradientLine& line, int row, int64_t column,
                              PrefetchQueue* queue) {
  const GemmTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  GemmSums<kStemRun, kVectors> sums;
  sums.Fill(hn::Zero(d), hn::Zero(d));
  const float* HWY_RESTRICT a = line.in.lines[row];
  const float* HWY_RESTRICT b = line.grad + column;
  for (int64_t p = 0; p < line.in.pixels; ++p, a += kStemChannels, b += line.grad_stride) {
    queue->Step();
    const GemmVec b0 = hn::LoadU(d, b);
    sums.AddColumn(a, b0, kVectors == 2 ? hn::LoadU(d, b + lanes) : b0);
  }
  const int64_t channels = line.in.channels;
  GemmFinish(sums, kVectors * lanes, /*accumulate=*/true,
             GemmRowStride{line.out + row * kStemRun * channels + column, channels});
}

void Gradient(const StemGradientLine& line) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(GemmTag()));
  // 9 x 2 sums need more registers than 16.
  constexpr int kVectors = 2 * kStemRun + 3 <= 2 * kGemmRows + 4 ? 2 : 1;
  // The next line in the order of the pixels, which it is not read in.
  PrefetchQueue queue;
  queue.Clear();
  for (int i = 0; i < 2 && line.next[i] != nullptr; ++i) {
    queue.Add(line.next[i], line.in.channels, line.next_stride[i], line.next_pixels);
  }
  queue.SpreadOver((line.in.channels + kVectors * lanes - 1) / (kVectors * lanes) * kStemKernel *
                   line.in.pixels);
  int64_t column = 0;
  for (; column + kVectors * lanes <= line.in.channels; column += kVectors * lanes) {
    for (int row = 0; row < kStemKernel; ++row) GradientBlock<kVectors>(line, row, column, &queue);
  }
  if (column < line.in.channels) {
    for (int row = 0; row < kStemKernel; ++row) GradientBlock<1>(line, row, column, &queue);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace classicnn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace classicnn {
namespace {
HWY_EXPORT(Forward);
HWY_EXPORT(Gradient);

constexpr int64_t kMaxPieces = 64;
constexpr int64_t kChunkLines = 8;  // of the output, whose part of the image is copied at once

// Lines of the output, of all images, in pieces; each has sums of its own.
struct Cut {
  explicit Cut(const Conv2dShape& s)
      : lines(s.n * s.out_h()),
        in_width(s.w + 2 * s.padding),
        copy_floats((kChunkLines + kStemKernel - 1) * in_width * kStemChannels),
        gradient_floats(s.out_w() * s.out_channels),
        result_floats(s.weight_count()) {
    while (2 * pieces <= std::min(lines, kMaxPieces)) pieces *= 2;
  }

  int64_t lines;
  int64_t in_width;
  int64_t copy_floats;      // a worker's part of the image
  int64_t gradient_floats;  // a worker's line of the gradient, after the prologue
  int64_t result_floats;
  int64_t pieces = 1;  // a power of two
};

bool Supports(const Conv2dShape& s, Conv2dPass pass) {
  return pass != Conv2dPass::kBackwardData && s.kernel == kStemKernel && s.stride == 1 &&
         s.in_channels == kStemChannels && s.groups == 1 && s.out_channels % kGemmMaxLanes == 0;
}

size_t WorkspaceBytes(const Conv2dShape& s, Conv2dPass pass, int num_threads,
                      const Conv2dFusion& fusion) {
  const Cut cut(s);
  size_t bytes = static_cast<size_t>(num_threads) * Workspace::BytesFor<float>(cut.copy_floats);
  if (pass == Conv2dPass::kForward) {
    if (fusion.statistics) bytes += MomentPieces::Bytes(cut.pieces, s.out_channels);
    return bytes;
  }
  bytes += Workspace::BytesFor<float>((cut.pieces - 1) * cut.result_floats);
  if (fusion.gradient) {
    bytes += static_cast<size_t>(num_threads) * Workspace::BytesFor<float>(cut.gradient_floats);
  }
  return bytes;
}

Conv2dFusion Fuses(const Conv2dShape& /*shape*/, Conv2dPass /*pass*/, const Conv2dFusion& fusion) {
  Conv2dFusion fused = fusion;
  fused.activation = false;  // images have none
  return fused;
}

// Copies what lies under lines [first, first + count) of image n's output. The padding left and
// right of a line is not written: it is zero from the beginning.
void CopyLines(const ConstTensor& x, const Conv2dShape& s, int64_t n, int64_t first, int64_t count,
               float* to) {
  const int64_t border = s.padding * kStemChannels;
  const int64_t floats = s.w * kStemChannels;
  to += border;
  const int64_t begin = first - s.padding;
  for (int64_t h = begin; h < begin + count + kStemKernel - 1; ++h, to += floats + 2 * border) {
    if (h < 0 || h >= s.h) {
      std::fill_n(to, floats, 0.0f);
      continue;
    }
    const float* from = x.Pixel(n, h, 0);
    if (x.dense()) {
      std::memcpy(to, from, static_cast<size_t>(floats) * sizeof(float));
      continue;
    }
    for (int64_t w = 0; w < s.w; ++w, from += x.pixel_stride) {
      std::copy_n(from, kStemChannels, to + w * kStemChannels);
    }
  }
}

// Calls line(n, i, pixels) for a piece's lines i of image n's output.
template <class Line>
void ForEachLine(const ConstTensor& x, const Conv2dShape& s, const Cut& cut, int64_t piece,
                 float* copy, const Line& line) {
  const int64_t end = cut.lines * (piece + 1) / cut.pieces;
  std::fill_n(copy, cut.copy_floats, 0.0f);
  for (int64_t begin = cut.lines * piece / cut.pieces; begin < end;) {
    const int64_t n = begin / s.out_h();
    const int64_t first = begin % s.out_h();
    const int64_t count = std::min({kChunkLines, s.out_h() - first, end - begin});
    CopyLines(x, s, n, first, count, copy);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t stride = cut.in_width * kStemChannels;
      const float* const top = copy + i * stride;
      line(n, first + i,
           StemPixels{{top, top + stride, top + 2 * stride}, s.out_w(), s.out_channels});
    }
    begin += count;
  }
}

void RunForward(const Conv2dForwardArgs<float>& args, Context& ctx) {
  const Conv2dShape& s = args.shape;
  const Cut cut(s);
  Workspace workspace = args.workspace;
  const bool sums = args.statistics.active();
  const MomentPieces moments(sums ? cut.pieces : 0, s.out_channels, &workspace);
  const auto copies = workspace.Take<float>(cut.copy_floats * ctx.num_threads());
  ctx.ParallelFor("conv2d.forward.stem", cut.pieces, [&](int64_t piece, int worker) {
    float* const copy = copies + worker * cut.copy_floats;
    GemmEpilogue plain;
    plain.bias = args.bias;
    GemmEpilogue epilogue = plain;
    bool begun = !sums;
    int64_t pixels = 0;
    ForEachLine(args.x, s, cut, piece, copy, [&](int64_t n, int64_t i, StemPixels in) {
      StemForwardLine line{in, args.weights, args.y.Pixel(n, i, 0), args.y.pixel_stride, plain};
      pixels += in.pixels;
      if (!begun) {
        // The piece's center is that of its first pixels.
        line.in.pixels = std::min(in.pixels, kGemmMaxRows);
        HWY_DYNAMIC_DISPATCH(Forward)(line);
        epilogue.center = moments.center(piece);
        epilogue.sum = moments.sum(piece);
        epilogue.sum_of_squares = moments.sum_of_squares(piece);
        moments.Begin(piece, 0, s.out_channels, line.out, line.out_stride, line.in.pixels);
        AddMomentRows(line.out, line.out_stride, line.in.pixels, s.out_channels, epilogue.center,
                      epilogue.sum, epilogue.sum_of_squares);
        const int64_t done = line.in.pixels;
        for (const float*& from : line.in.lines) from += done * kStemChannels;
        line.out += done * line.out_stride;
        line.in.pixels = in.pixels - done;
        begun = true;
      }
      line.epilogue = epilogue;
      HWY_DYNAMIC_DISPATCH(Forward)(line);
    });
    if (sums) moments.pixels(piece) = pixels;
  });
  if (sums) moments.Merge(args.statistics, ctx);
}

void BackwardWeights(const Conv2dBackwardWeightsArgs<float>& args, Context& ctx) {
  const Conv2dShape& s = args.shape;
  const Cut cut(s);
  Workspace workspace = args.workspace;
  const bool prologue = args.gradient.active();
  float* const partials = workspace.Take<float>((cut.pieces - 1) * cut.result_floats);
  float* const copies = workspace.Take<float>(cut.copy_floats * ctx.num_threads());
  float* const gradients =
      workspace.Take<float>(prologue ? cut.gradient_floats * ctx.num_threads() : 0);
  constexpr const char* kZone = "conv2d.backward_weights.stem";
  ctx.ParallelFor(kZone, cut.pieces, [&](int64_t piece, int worker) {
    float* const gradient = gradients + (prologue ? worker * cut.gradient_floats : 0);
    float* const out = piece == 0 ? args.dweights : partials + (piece - 1) * cut.result_floats;
    std::fill_n(out, cut.result_floats, 0.0f);
    ForEachLine(args.x, s, cut, piece, copies + worker * cut.copy_floats,
                [&](int64_t n, int64_t i, const StemPixels& in) {
                  const int64_t first = (n * args.dy.h + i) * args.dy.w;
                  const int64_t next = first + in.pixels;
                  StemGradientLine line{in,
                                        args.dy.Pixel(first),
                                        args.dy.pixel_stride,
                                        out,
                                        std::min(in.pixels, args.dy.pixels() - next),
                                        {args.dy.Pixel(next), nullptr},
                                        {args.dy.pixel_stride, 0}};
                  if (prologue) {
                    const ConstTensor& x = args.gradient.x;
                    GradientRows(args.gradient, 0, line.grad, line.grad_stride, x.Pixel(first),
                                 in.pixels, in.channels, gradient, in.channels);
                    line.grad = gradient;
                    line.grad_stride = in.channels;
                    line.next[1] = x.Pixel(next);
                    line.next_stride[1] = x.pixel_stride;
                  }
                  HWY_DYNAMIC_DISPATCH(Gradient)(line);
                });
  });
  if (cut.pieces == 1) return;
  constexpr int64_t kFloats = 1024;
  ctx.ParallelFor(kZone, DivideUp(cut.result_floats, kFloats), [&](int64_t piece, int) {
    const int64_t begin = piece * kFloats;
    SumTree(partials + begin, cut.result_floats, cut.pieces - 1,
            std::min(kFloats, cut.result_floats - begin), args.dweights + begin);
  });
}

}  // namespace

const Conv2dAlgorithmOps kConv2dStemOps = {
    Supports, nullptr, WorkspaceBytes, RunForward, nullptr, BackwardWeights, Fuses,
};

}  // namespace classicnn
#endif  // HWY_ONCE
