#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "layers/batch_norm2d/batch_norm2d.h"

namespace classicnn {

template <typename T>
void BatchNorm2dForwardNaive(const BatchNorm2dForwardArgs<T>& args) {
  const View<const T>& x = args.x;
  CNN_CHECK(x.shape() == args.y.shape());
  const double m = static_cast<double>(x.pixels());
  for (int64_t c = 0; c < x.c; ++c) {
    double mean = 0;
    double var = 0;
    if (args.training) {
      for (int64_t n = 0; n < x.n; ++n)
        for (int64_t h = 0; h < x.h; ++h)
          for (int64_t w = 0; w < x.w; ++w) mean += x.At(n, h, w, c);
      mean /= m;
      for (int64_t n = 0; n < x.n; ++n)
        for (int64_t h = 0; h < x.h; ++h)
          for (int64_t w = 0; w < x.w; ++w) {
            const double d = x.At(n, h, w, c) - mean;
            var += d * d;
          }
      var /= m;
      const double unbiased = var * m / std::max(m - 1, 1.0);  // one value has no spread
      args.running_mean[c] =
          static_cast<T>((1 - args.momentum) * args.running_mean[c] + args.momentum * mean);
      args.running_var[c] =
          static_cast<T>((1 - args.momentum) * args.running_var[c] + args.momentum * unbiased);
    } else {
      mean = args.running_mean[c];
      var = args.running_var[c];
    }
    args.mean[c] = static_cast<T>(mean);
    args.inv_std[c] = static_cast<T>(1 / std::sqrt(var + args.eps));
    // From the rounded statistics, as backward has them: both see the same y > 0.
    const double center = args.mean[c];
    const double scale = args.inv_std[c];
    const double gamma = args.gamma[c];
    const double beta = args.beta[c];
    for (int64_t n = 0; n < x.n; ++n)
      for (int64_t h = 0; h < x.h; ++h)
        for (int64_t w = 0; w < x.w; ++w) {
          const double v = gamma * (x.At(n, h, w, c) - center) * scale + beta;
          args.y.At(n, h, w, c) = static_cast<T>(args.relu && v < 0 ? 0 : v);
        }
  }
}

template <typename T>
void BatchNorm2dBackwardNaive(const BatchNorm2dBackwardArgs<T>& args) {
  const View<const T>& x = args.x;
  CNN_CHECK(x.shape() == args.dy.shape() && x.shape() == args.dx.shape());
  const double m = static_cast<double>(x.pixels());
  for (int64_t c = 0; c < x.c; ++c) {
    const double mean = args.mean[c];
    const double inv_std = args.inv_std[c];
    const double gamma = args.gamma[c];
    const double beta = args.relu ? args.beta[c] : 0;
    const auto passed = [&](int64_t n, int64_t h, int64_t w) -> double {
      const double y = gamma * (x.At(n, h, w, c) - mean) * inv_std + beta;
      return !args.relu || y > 0 ? args.dy.At(n, h, w, c) : 0;
    };
    double dbeta = 0;
    double dgamma = 0;
    for (int64_t n = 0; n < x.n; ++n)
      for (int64_t h = 0; h < x.h; ++h)
        for (int64_t w = 0; w < x.w; ++w) {
          const double g = passed(n, h, w);
          dbeta += g;
          dgamma += g * (x.At(n, h, w, c) - mean) * inv_std;
        }
    args.dbeta[c] = static_cast<T>(dbeta);
    args.dgamma[c] = static_cast<T>(dgamma);
    for (int64_t n = 0; n < x.n; ++n)
      for (int64_t h = 0; h < x.h; ++h)
        for (int64_t w = 0; w < x.w; ++w) {
          double d = passed(n, h, w);
          if (args.training) {
            const double xhat = (x.At(n, h, w, c) - mean) * inv_std;
            d -= dbeta / m + xhat * dgamma / m;
          }
          d *= gamma * inv_std;
          T& dx = args.dx.At(n, h, w, c);
          dx = static_cast<T>(args.accumulate ? dx + d : d);
        }
  }
}

template void BatchNorm2dForwardNaive(const BatchNorm2dForwardArgs<float>&);
template void BatchNorm2dForwardNaive(const BatchNorm2dForwardArgs<double>&);
template void BatchNorm2dBackwardNaive(const BatchNorm2dBackwardArgs<float>&);
template void BatchNorm2dBackwardNaive(const BatchNorm2dBackwardArgs<double>&);

}  // namespace classicnn
