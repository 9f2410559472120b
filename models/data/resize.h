// Resampling of images to another size.
#ifndef CLASSICNN_MODELS_DATA_RESIZE_H_
#define CLASSICNN_MODELS_DATA_RESIZE_H_

#include <cstdint>
#include <vector>

namespace classicnn {

// A fixed change of size, its filter prepared once: a triangle as wide as two source pixels when
// enlarging (bilinear), as wide as two target pixels when shrinking (so that every source pixel
// counts and fine patterns do not alias). Edges are not padded: weights are renormalized.
class Resizer {
 public:
  Resizer(int64_t from_height, int64_t from_width, int64_t to_height, int64_t to_width);

  // from [from_height, from_width, channels], to [to_height, to_width, channels], 8 bits, dense,
  // rounded to nearest. `scratch` is resized as needed. No overlap.
  void Run(const uint8_t* from, int64_t channels, uint8_t* to, std::vector<float>* scratch) const;

 private:
  // For each target position its first source position and weights that sum to 1.
  struct Axis {
    std::vector<int64_t> first;
    std::vector<std::vector<float>> weights;
  };
  static Axis MakeAxis(int64_t from, int64_t to);

  int64_t from_width_, to_height_, to_width_;
  Axis rows_, columns_;
};

}  // namespace classicnn

#endif  // CLASSICNN_MODELS_DATA_RESIZE_H_
