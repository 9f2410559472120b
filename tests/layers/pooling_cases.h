// Pooling problems for the tests of the pooling layers.
#ifndef CLASSICNN_TESTS_LAYERS_POOLING_CASES_H_
#define CLASSICNN_TESTS_LAYERS_POOLING_CASES_H_

#include <vector>

#include "layers/pool_shape.h"

namespace classicnn {

// The models' windows and odd ones (overlap, strides that skip inputs, padding, a window as large
// as the image), channels around the lengths of vectors, one piece and several.
inline std::vector<Pool2dShape> PoolingCases() {
  std::vector<Pool2dShape> cases;
  for (const Pool2dParams& params :
       {Pool2dParams{2, 2, 0}, Pool2dParams{3, 1, 1}, Pool2dParams{3, 2, 1}, Pool2dParams{3, 2, 0},
        Pool2dParams{2, 3, 1}, Pool2dParams{1, 2, 0}, Pool2dParams{5, 1, 2}, Pool2dParams{7, 3, 3},
        Pool2dParams{4, 2, 2}, Pool2dParams{5, 1, 0}, Pool2dParams{6, 1, 2}}) {
    for (const Shape4& input : {Shape4{1, 7, 7, 1}, Shape4{2, 8, 9, 5}, Shape4{2, 9, 7, 33},
                                Shape4{1, 8, 8, 16}, Shape4{2, 7, 11, 24}}) {
      cases.push_back({input, params});
    }
  }
  cases.push_back({{1, 1, 1, 19}, {3, 1, 1}});
  cases.push_back({{2, 3, 3, 70}, {3, 1, 0}});
  cases.push_back({{2, 15, 15, 4}, {15, 1, 7}});
  // Many windows over a pixel in one direction, few in the other.
  cases.push_back({{2, 8, 12, 16}, {5, 1, 0}});
  cases.push_back({{2, 1, 12, 16}, {5, 1, 2}});
  cases.push_back({{2, 12, 1, 16}, {5, 1, 2}});
  cases.push_back({{2, 11, 20, 16}, {11, 1, 0}});
  cases.push_back({{4, 32, 32, 64}, {2, 2, 0}});
  cases.push_back({{4, 16, 16, 80}, {3, 1, 1}});
  cases.push_back({{4, 32, 31, 48}, {3, 2, 1}});
  return cases;
}

}  // namespace classicnn

#endif  // CLASSICNN_TESTS_LAYERS_POOLING_CASES_H_
