#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "layers/cross_entropy/cross_entropy.h"

namespace classicnn {

template <typename T>
void CrossEntropyNaive(const CrossEntropyArgs<T>& args) {
  const int64_t classes = args.classes;
  CNN_CHECK(args.n >= 1 && classes >= 1, args.n, " rows of ", classes);
  const double batch = static_cast<double>(args.n);
  double loss = 0;
  for (int64_t n = 0; n < args.n; ++n) {
    const T* z = args.logits + n * args.logits_stride;
    const int64_t label = args.labels[n];
    CNN_CHECK(label >= 0 && label < classes, "label ", label, " of ", classes, " classes");
    const double max = *std::max_element(z, z + classes);
    double sum = 0;
    for (int64_t k = 0; k < classes; ++k) sum += std::exp(z[k] - max);
    for (int64_t k = 0; k < classes; ++k) {
      const double log_p = z[k] - max - std::log(sum);
      const double target = (1 - args.label_smoothing) * (k == label ? 1 : 0) +
                            args.label_smoothing / static_cast<double>(classes);
      loss -= target * log_p / batch;
      if (args.dlogits != nullptr) {
        // z[k] is not read again for this row's later classes, so dz may be z.
        args.dlogits[n * args.dlogits_stride + k] =
            static_cast<T>((std::exp(log_p) - target) / batch);
      }
    }
  }
  *args.loss = static_cast<T>(loss);
}

template void CrossEntropyNaive(const CrossEntropyArgs<float>&);
template void CrossEntropyNaive(const CrossEntropyArgs<double>&);

}  // namespace classicnn
