#include "models/data/resize.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace classicnn {

Resizer::Axis Resizer::MakeAxis(int64_t from, int64_t to) {
  Axis axis;
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double reach = std::max(scale, 1.0);
  for (int64_t i = 0; i < to; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * scale - 0.5;
    const auto first = std::max<int64_t>(0, static_cast<int64_t>(std::ceil(centre - reach)));
    const auto last = std::min<int64_t>(from - 1, static_cast<int64_t>(std::floor(centre + reach)));
    std::vector<double> weights;
    double sum = 0;
    for (int64_t s = first; s <= last; ++s) {
      weights.push_back(std::max(0.0, 1 - std::abs(static_cast<double>(s) - centre) / reach));
      sum += weights.back();
    }
    axis.first.push_back(first);
    axis.weights.emplace_back();
    for (const double w : weights) axis.weights.back().push_back(static_cast<float>(w / sum));
  }
  return axis;
}

Resizer::Resizer(int64_t from_height, int64_t from_width, int64_t to_height, int64_t to_width)
    : from_width_(from_width),
      to_height_(to_height),
      to_width_(to_width),
      rows_(MakeAxis(from_height, to_height)),
      columns_(MakeAxis(from_width, to_width)) {}

void Resizer::Run(const uint8_t* from, int64_t channels, uint8_t* to,
                  std::vector<float>* scratch) const {
  // Rows first: the sums over rows run along memory.
  const int64_t row_elements = from_width_ * channels;
  scratch->resize(static_cast<size_t>(row_elements));
  float* const row = scratch->data();
  for (int64_t y = 0; y < to_height_; ++y) {
    std::fill_n(row, row_elements, 0.0f);
    const auto& vertical = rows_.weights[static_cast<size_t>(y)];
    for (size_t k = 0; k < vertical.size(); ++k) {
      const int64_t source = rows_.first[static_cast<size_t>(y)] + static_cast<int64_t>(k);
      const uint8_t* source_row = from + source * row_elements;
      for (int64_t e = 0; e < row_elements; ++e) {
        row[e] += vertical[k] * static_cast<float>(source_row[e]);
      }
    }
    for (int64_t x = 0; x < to_width_; ++x) {
      const auto& horizontal = columns_.weights[static_cast<size_t>(x)];
      const float* first = row + columns_.first[static_cast<size_t>(x)] * channels;
      for (int64_t c = 0; c < channels; ++c) {
        float sum = 0;
        for (size_t k = 0; k < horizontal.size(); ++k) {
          sum += horizontal[k] * first[static_cast<int64_t>(k) * channels + c];
        }
        *to++ = static_cast<uint8_t>(std::clamp(sum + 0.5f, 0.0f, 255.0f));
      }
    }
  }
}

}  // namespace classicnn
