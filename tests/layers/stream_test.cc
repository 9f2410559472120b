// Layers whose outputs are large enough to be written past the caches.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/context.h"
#include "core/isa.h"
#include "core/view.h"
#include "gtest/gtest.h"
#include "layers/add/add.h"
#include "layers/avg_pool2d/avg_pool2d.h"
#include "layers/batch_norm2d/batch_norm2d.h"
#include "layers/concat/concat.h"
#include "layers/global_avg_pool2d/global_avg_pool2d.h"
#include "layers/max_pool2d/max_pool2d.h"
#include "layers/relu/relu.h"
#include "layers/stream.h"

namespace classicnn {
namespace {

class StreamTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(SetTarget(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(SetTarget("best").ok()); }
};
INSTANTIATE_TEST_SUITE_P(Targets, StreamTest, ::testing::ValuesIn(UsableTargets()),
                         [](const auto& target) { return target.param; });

constexpr float kUntouched = 77;

// Integers between -8 and 7, different for each seed.
float At(int64_t i, uint32_t seed) {
  const auto hash = (static_cast<uint32_t>(i) + seed) * 2654435761u;
  return static_cast<float>(hash >> 28) - 8;
}

// A tensor in memory of its own that starts at the start of a cache line.
class Owned {
 public:
  Owned(const Shape4& shape, int64_t stride, uint32_t seed)
      : data_(static_cast<size_t>(shape.pixels() * stride + 16), kUntouched) {
    const auto address = reinterpret_cast<uintptr_t>(data_.data());
    float* const first = data_.data() + (64 - address % 64) % 64 / sizeof(float);
    view_ = Tensor(first, shape, stride);
    if (seed == 0) return;
    for (int64_t p = 0; p < shape.pixels(); ++p) {
      for (int64_t c = 0; c < shape.c; ++c) view_.Pixel(p)[c] = At(p * shape.c + c, seed);
    }
  }
  const Tensor& view() const { return view_; }

 private:
  std::vector<float> data_;
  Tensor view_;
};

// Whether each element is expected(its number), and what is between the pixels is untouched.
template <class Expected>
::testing::AssertionResult Is(const Tensor& y, const Expected& expected) {
  for (int64_t p = 0; p < y.pixels(); ++p) {
    const float* const pixel = y.Pixel(p);
    for (int64_t c = 0; c < y.pixel_stride; ++c) {
      const float value = c < y.c ? expected(p * y.c + c) : kUntouched;
      if (pixel[c] != value) {
        return ::testing::AssertionFailure()
               << "pixel " << p << " channel " << c << " is " << pixel[c] << ", not " << value;
      }
    }
  }
  return ::testing::AssertionSuccess();
}

// Channels that are whole pairs of cache lines, and others; dense and not.
TEST_P(StreamTest, LargeOutputsAreRight) {
  Context ctx(2);
  for (const int64_t channels : {64, 41}) {
    for (const int64_t gap : {0, 32}) {
      SCOPED_TRACE(std::to_string(channels) + " channels, gap " + std::to_string(gap));
      const Shape4 shape{16, 96, 96, channels};
      ASSERT_TRUE(BeyondCaches(8 * Shape4{16, 96, 96, 64}.size()));
      const Owned a(shape, channels + gap, 1), b(shape, channels + gap, 2);
      const auto x = [](int64_t i) { return At(i, 1); };
      const auto z = [](int64_t i) { return At(i, 2); };
      const auto relu = [](float v) { return std::max(v, 0.0f); };
      {
        const Owned y(shape, channels + gap, 0);
        ReluForward(a.view(), y.view(), ctx);
        EXPECT_TRUE(Is(y.view(), [&](int64_t i) { return relu(x(i)); }));
      }
      {
        const Owned dx(shape, channels + gap, 0);
        ReluBackward(a.view(), b.view(), dx.view(), false, ctx);
        EXPECT_TRUE(Is(dx.view(), [&](int64_t i) { return x(i) > 0 ? z(i) : 0.0f; }));
      }
      {
        const Owned y(shape, channels + gap, 0);
        const ConstTensor inputs[] = {a.view(), b.view()};
        AddForward(inputs, y.view(), true, ctx);
        EXPECT_TRUE(Is(y.view(), [&](int64_t i) { return relu(x(i) + z(i)); }));
      }
      {
        const Shape4 both{shape.n, shape.h, shape.w, 2 * channels};
        const Owned y(both, 2 * channels + gap, 0);
        const ConstTensor inputs[] = {a.view(), b.view()};
        ConcatForward(inputs, y.view(), ctx);
        EXPECT_TRUE(Is(y.view(), [&](int64_t i) {
          const int64_t pixel = i / both.c, c = i % both.c;
          return c < channels ? x(pixel * channels + c) : z(pixel * channels + c - channels);
        }));
      }
    }
  }
}

// Against the same pool of one image, whose output stays in the caches.
TEST_P(StreamTest, LargePoolsAreRight) {
  Context ctx(2);
  const Pool2dParams params{3, 1, 1};
  for (const int64_t channels : {64, 41}) {
    SCOPED_TRACE(std::to_string(channels) + " channels");
    const Shape4 shape{16, 96, 96, channels}, one{1, 96, 96, channels};
    const Owned x(shape, channels, 1), y(shape, channels, 0), dx(shape, channels, 0);
    const Owned y_one(one, channels, 0), dx_one(one, channels, 0);
    std::vector<uint8_t> argmax(static_cast<size_t>(shape.size())), argmax_one(argmax.size() / 16);
    MaxPool2dForward(params, x.view(), y.view(), argmax.data(), ctx);
    MaxPool2dBackward(params, x.view(), argmax.data(), dx.view(), false, ctx);
    for (int64_t n = 0; n < shape.n; ++n) {
      SCOPED_TRACE("image " + std::to_string(n));
      const auto image = [&](const Owned& t) {
        return Tensor(t.view().Pixel(n * one.pixels()), one, channels);
      };
      MaxPool2dForward(params, image(x), y_one.view(), argmax_one.data(), ctx);
      MaxPool2dBackward(params, image(x), argmax_one.data(), dx_one.view(), false, ctx);
      ASSERT_TRUE(
          std::equal(argmax_one.begin(), argmax_one.end(), argmax.begin() + n * one.size()));
      ASSERT_TRUE(Is(image(y), [&](int64_t i) { return y_one.view().data[i]; }));
      ASSERT_TRUE(Is(image(dx), [&](int64_t i) { return dx_one.view().data[i]; }));
      // Without winners.
      MaxPool2dForward(params, image(x), y_one.view(), nullptr, ctx);
      ASSERT_TRUE(Is(image(y), [&](int64_t i) { return y_one.view().data[i]; }));
    }
  }
}

// Gradients that only spread what they are given: each image against itself alone.
TEST_P(StreamTest, LargePoolGradientsAreRight) {
  Context ctx(2);
  const Pool2dParams params{2, 2, 0};
  for (const int64_t channels : {64, 41}) {
    for (const int64_t gap : {0, 32}) {
      SCOPED_TRACE(std::to_string(channels) + " channels, gap " + std::to_string(gap));
      const Shape4 shape{16, 128, 128, channels}, one{1, 128, 128, channels};
      ASSERT_TRUE(BeyondCaches(4 * Shape4{16, 128, 128, 64}.size()));
      const Shape4 half{16, 64, 64, channels}, half_one{1, 64, 64, channels};
      const Shape4 mean{16, 1, 1, channels}, mean_one{1, 1, 1, channels};
      const Owned dx(shape, channels + gap, 0), dx_one(one, channels + gap, 0);
      const Owned dy(half, channels, 1), dmean(mean, channels, 2);
      std::vector<uint8_t> argmax(static_cast<size_t>(half.size()));
      for (size_t i = 0; i < argmax.size(); ++i) argmax[i] = static_cast<uint8_t>(i * 7 / 5 % 4);
      const auto check = [&](const auto& backward) {
        backward(dy.view(), dmean.view(), argmax.data(), dx.view());
        for (int64_t n = 0; n < shape.n; ++n) {
          SCOPED_TRACE("image " + std::to_string(n));
          backward(Tensor(dy.view().Pixel(n * half_one.pixels()), half_one, channels),
                   Tensor(dmean.view().Pixel(n), mean_one, channels),
                   argmax.data() + n * half_one.size(), dx_one.view());
          ASSERT_TRUE(
              Is(Tensor(dx.view().Pixel(n * one.pixels()), one, channels + gap),
                 [&](int64_t i) { return dx_one.view().Pixel(i / channels)[i % channels]; }));
        }
      };
      check([&](const Tensor& g, const Tensor&, const uint8_t*, const Tensor& to) {
        AvgPool2dBackward(params, g, to, false, ctx);
      });
      check([&](const Tensor& g, const Tensor&, const uint8_t* winners, const Tensor& to) {
        MaxPool2dBackward(params, g, winners, to, false, ctx);
      });
      check([&](const Tensor&, const Tensor& g, const uint8_t*, const Tensor& to) {
        GlobalAvgPool2dBackward(g, to, false, ctx);
      });
    }
  }
}

// Images of one column, each pixel's row on its own: nothing but the pixels' distance says that
// most begin inside a cache line.
TEST_P(StreamTest, LargePoolsOfNarrowImagesAreRight) {
  Context ctx(2);
  const Shape4 shape{1 << 18, 1, 1, 41};
  ASSERT_TRUE(BeyondCaches(8 * shape.size()));
  const Owned dy(shape, 41, 1), dx(shape, 41, 0);
  AvgPool2dBackward({1, 1, 0}, dy.view(), dx.view(), false, ctx);
  EXPECT_TRUE(Is(dx.view(), [](int64_t i) { return At(i, 1); }));

  // Columns of four: with all values the same, a maximum is that value, from the first tap inside.
  const Shape4 columns{1 << 16, 4, 1, 48};
  ASSERT_TRUE(BeyondCaches(8 * columns.size()));
  const Owned x(columns, 56, 0), y(columns, 56, 0), dy_ones(columns, 56, 0), dx_max(columns, 56, 0);
  for (int64_t p = 0; p < columns.pixels(); ++p) {
    std::fill_n(x.view().Pixel(p), columns.c, 3.0f);
    std::fill_n(dy_ones.view().Pixel(p), columns.c, 1.0f);
  }
  std::vector<uint8_t> argmax(static_cast<size_t>(columns.size()));
  MaxPool2dForward({3, 1, 1}, x.view(), y.view(), argmax.data(), ctx);
  EXPECT_TRUE(Is(y.view(), [](int64_t) { return 3.0f; }));
  MaxPool2dBackward({3, 1, 1}, dy_ones.view(), argmax.data(), dx_max.view(), false, ctx);
  // Of four windows row 0 wins the first two, rows 1 and 2 those below them.
  EXPECT_TRUE(Is(dx_max.view(), [&](int64_t i) {
    const int64_t row = i / columns.c % columns.h;
    return row == 0 ? 2.0f : row == 3 ? 0.0f : 1.0f;
  }));
}

// With pixels a whole number of line pairs apart against pixels that are not.
TEST_P(StreamTest, LargeBatchNormsAreRight) {
  Context ctx(2);
  const Shape4 shape{16, 96, 96, 64};
  const Owned x(shape, 96, 1), y(shape, 96, 0), dx(shape, 96, 0);
  const Owned x_odd(shape, 69, 1), y_odd(shape, 69, 0), dx_odd(shape, 69, 0);
  std::vector<float> gamma(64), beta(64), dgamma(64), dbeta(64);
  for (size_t c = 0; c < 64; ++c) {
    gamma[c] = At(static_cast<int64_t>(c), 3);
    beta[c] = At(static_cast<int64_t>(c), 4);
  }
  std::vector<std::byte> scratch(BatchNorm2dWorkspaceBytes(shape, 2) + 64);
  const auto address = reinterpret_cast<uintptr_t>(scratch.data());
  const Workspace workspace{scratch.data() + (64 - address % 64) % 64, scratch.size() - 64};
  for (const bool relu : {false, true}) {
    SCOPED_TRACE(relu ? "relu" : "linear");
    const auto run = [&](const Owned& in, const Owned& out, const Owned& gradient) {
      std::vector<float> running_mean(64), running_var(64), mean(64), inv_std(64);
      BatchNorm2dForwardArgs<float> forward;
      forward.x = in.view();
      forward.gamma = gamma.data();
      forward.beta = beta.data();
      forward.y = out.view();
      forward.training = true;
      forward.relu = relu;
      forward.running_mean = running_mean.data();
      forward.running_var = running_var.data();
      forward.mean = mean.data();
      forward.inv_std = inv_std.data();
      forward.workspace = workspace;
      BatchNorm2dForward(forward, ctx);
      BatchNorm2dBackwardArgs<float> backward;
      backward.dy = in.view();
      backward.x = in.view();
      backward.gamma = gamma.data();
      backward.beta = beta.data();
      backward.mean = mean.data();
      backward.inv_std = inv_std.data();
      backward.training = true;
      backward.relu = relu;
      backward.dx = gradient.view();
      backward.dgamma = dgamma.data();
      backward.dbeta = dbeta.data();
      backward.workspace = workspace;
      BatchNorm2dBackward(backward, ctx);
    };
    run(x, y, dx);
    run(x_odd, y_odd, dx_odd);
    const auto other = [&](const Owned& t) {
      return [&t, &shape](int64_t i) { return t.view().Pixel(i / shape.c)[i % shape.c]; };
    };
    EXPECT_TRUE(Is(y.view(), other(y_odd)));
    EXPECT_TRUE(Is(dx.view(), other(dx_odd)));
  }
}

}  // namespace
}  // namespace classicnn
