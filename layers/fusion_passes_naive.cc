// The naive references: the formulas of layers/fusion.h as plain loops.
#include "core/check.h"
#include "layers/fusion_passes.h"

namespace classicnn {

template <typename T>
void ActivationPassNaive(const ActivationPrologue<T>& activation, const View<const T>& x,
                         const View<T>& y) {
  for (int64_t p = 0; p < x.pixels(); ++p) {
    for (int64_t c = 0; c < x.c; ++c) y.Pixel(p)[c] = activation(x.Pixel(p)[c], c);
  }
}

template <typename T>
void GradientPassNaive(const GradientPrologue<T>& gradient, const View<const T>& dy,
                       const View<T>& to) {
  for (int64_t p = 0; p < dy.pixels(); ++p) {
    for (int64_t c = 0; c < dy.c; ++c) {
      to.Pixel(p)[c] = gradient.gain[c] * dy.Pixel(p)[c] +
                       gradient.slope[c] * gradient.x.Pixel(p)[c] + gradient.offset[c];
    }
  }
}

template <typename T>
void StatisticsPassNaive(const StatisticsEpilogue<T>& statistics, const View<const T>& y) {
  const auto m = static_cast<double>(y.pixels());
  for (int64_t c = 0; c < y.c; ++c) {
    double mean = 0;
    for (int64_t p = 0; p < y.pixels(); ++p) mean += static_cast<double>(y.Pixel(p)[c]);
    mean /= m;
    double var = 0;
    for (int64_t p = 0; p < y.pixels(); ++p) {
      const double d = static_cast<double>(y.Pixel(p)[c]) - mean;
      var += d * d;
    }
    statistics.mean[c] = static_cast<T>(mean);
    statistics.var[c] = static_cast<T>(var / m);
  }
}

template <typename T>
void GradientEpiloguePassNaive(const GradientEpilogue<T>& e, const View<const T>& da,
                               const View<T>& dx) {
  CNN_CHECK(!e.add || e.gain != nullptr, "add needs a gain");
  for (int64_t c = 0; c < da.c; ++c) {
    double sum_g = 0;
    double sum_gx = 0;
    for (int64_t p = 0; p < da.pixels(); ++p) {
      const T x = e.x.Pixel(p)[c];
      const bool passes = !e.relu || x * e.scale[c] + e.shift[c] > T(0);
      const T g = passes ? da.Pixel(p)[c] : T(0);
      sum_g += static_cast<double>(g);
      sum_gx += static_cast<double>(g) * static_cast<double>(x - e.mean[c]);
      T& to = dx.Pixel(p)[c];
      if (e.gain == nullptr) {
        to = g;
      } else {
        to = (e.add ? to : T(0)) + e.gain[c] * g;
      }
    }
    e.sum_g[c] = static_cast<T>(sum_g);
    e.sum_gx[c] = static_cast<T>(sum_gx);
  }
}

#define CLASSICNN_INSTANTIATE(T)                                                            \
  template void ActivationPassNaive(const ActivationPrologue<T>&, const View<const T>&,     \
                                    const View<T>&);                                        \
  template void GradientPassNaive(const GradientPrologue<T>&, const View<const T>&,         \
                                  const View<T>&);                                          \
  template void StatisticsPassNaive(const StatisticsEpilogue<T>&, const View<const T>&);    \
  template void GradientEpiloguePassNaive(const GradientEpilogue<T>&, const View<const T>&, \
                                          const View<T>&);
CLASSICNN_INSTANTIATE(float)
CLASSICNN_INSTANTIATE(double)
#undef CLASSICNN_INSTANTIATE

}  // namespace classicnn
