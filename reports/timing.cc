#include "reports/timing.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "nlohmann/json.hpp"

namespace classicnn {

double Quantile(std::vector<double> values, double fraction) {
  CNN_CHECK(!values.empty() && fraction >= 0 && fraction <= 1, fraction);
  std::sort(values.begin(), values.end());
  const double position = fraction * static_cast<double>(values.size() - 1);
  const size_t below = static_cast<size_t>(position);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (position - static_cast<double>(below)) * (values[above] - values[below]);
}

double Timing::median() const { return samples.empty() ? 0 : Quantile(samples, 0.5); }

double Timing::spread() const {
  return samples.size() < 2 ? 0 : (Quantile(samples, 0.9) - Quantile(samples, 0.1)) / 2;
}

double Timing::relative_spread() const {
  const double m = median();
  return m > 0 ? spread() / m : 0;
}

void to_json(nlohmann::json& j, const Timing& timing) {
  j = {{"samples", timing.samples}, {"median", timing.median()}, {"spread", timing.spread()}};
}

void from_json(const nlohmann::json& j, Timing& timing) {
  timing.samples = j.at("samples").get<std::vector<double>>();
  for (const double sample : timing.samples) {
    if (!std::isfinite(sample) || sample < 0) {
      throw nlohmann::json::other_error::create(
          501, "a sample of a timing is not a finite number of seconds", &j);
    }
  }
}

double RelativeNoise(const Timing& timing) {
  return timing.samples.size() < 2 ? 0.1 : std::max(0.01, timing.relative_spread());
}

double GeometricMean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) {
    CNN_CHECK(value > 0, value);
    sum += std::log(value);
  }
  return values.empty() ? 0 : std::exp(sum / static_cast<double>(values.size()));
}

}  // namespace classicnn
