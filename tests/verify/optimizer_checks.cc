#include "absl/strings/str_cat.h"
#include "core/random.h"
#include "layers/optimizer/optimizer.h"
#include "tests/testing/buffers.h"
#include "tests/verify/layer_checks.h"

namespace classicnn::verify {
namespace {

constexpr int64_t kUpdates = 5;

// Weights and the optimizer's tensors after some updates, in float (optimized) or double.
template <typename T>
class Updates {
 public:
  Updates(int64_t count, uint64_t seed) : w_(count), g_(count), m_(count), v_(count), seed_(seed) {
    w_.FillNormal({seed, "optimizer weights"});
    m_.ForEach([](int64_t) { return T{0}; });
    v_.ForEach([](int64_t) { return T{0}; });
  }
  // update(step, w, g, m, v), step counted from 1.
  template <typename F>
  void Run(const F& update) {
    for (int64_t step = 1; step <= kUpdates; ++step) {
      g_.FillNormal({seed_, "optimizer gradient", static_cast<uint64_t>(step)});
      update(step, w_.data(), g_.data(), m_.data(), v_.data());
    }
  }
  Arrays Results(bool second_moment, std::string* violation) const {
    for (const auto* buffer : {&w_, &g_, &m_, &v_}) {
      const std::string broken = buffer->BrokenGuard();
      if (!broken.empty()) *violation = broken;
    }
    Arrays arrays = {{"weight", ToArray(w_.cview())}, {"momentum", ToArray(m_.cview())}};
    if (second_moment) arrays["second_moment"] = ToArray(v_.cview());
    return arrays;
  }

 private:
  GuardedArray<T> w_, g_, m_, v_;
  uint64_t seed_;
};

template <typename Optimized, typename Naive>
Row CheckUpdates(const std::string& name, bool second_moment, int64_t count, uint64_t seed,
                 Bounds bounds, OptimizedThreads& threads, const Optimized& optimized,
                 const Naive& naive) {
  Row row;
  row.what = absl::StrCat(name, " c", count);
  row.impl = "optimized";
  row.bound = bounds(kLayerBound);
  row.command =
      absl::StrCat("cnn-verify --layers=", kOptimizerLayer, " --shapes=c", count, " --seed=", seed);
  std::string violation;
  Updates<double> expected(count, seed);
  expected.Run(naive);
  Updates<float> actual(count, seed);
  threads.Run([&](Context& ctx) {
    actual.Run([&](int64_t step, float* w, const float* g, float* m, float* v) {
      optimized(step, w, g, m, v, ctx);
    });
  });
  const Arrays ours = actual.Results(second_moment, &violation);
  if (!violation.empty()) Fail("memory", violation, &row);
  for (const auto& [tensor, array] : expected.Results(second_moment, &violation)) {
    Judge(tensor, ours.at(tensor), array, row.bound, &row);
  }
  return row;
}

}  // namespace

std::vector<Row> CheckOptimizers(int64_t count, uint64_t seed, Bounds bounds,
                                 OptimizedThreads& optimized) {
  std::vector<Row> rows;
  for (const bool nesterov : {false, true}) {
    const SgdParams params{0.1, 0.9, 5e-4, nesterov};
    rows.push_back(CheckUpdates(
        nesterov ? "sgd_nesterov" : "sgd", false, count, seed, bounds, optimized,
        [&](int64_t, float* w, const float* g, float* m, float*, Context& ctx) {
          SgdUpdate(params, count, w, g, m, ctx);
        },
        [&](int64_t, double* w, const double* g, double* m, double*) {
          SgdUpdateNaive(params, count, w, g, m);
        }));
  }
  const auto at = [](int64_t step) {
    AdamWParams params;
    params.step = step;
    return params;
  };
  rows.push_back(CheckUpdates(
      "adamw", true, count, seed, bounds, optimized,
      [&](int64_t step, float* w, const float* g, float* m, float* v, Context& ctx) {
        AdamWUpdate(at(step), count, w, g, m, v, ctx);
      },
      [&](int64_t step, double* w, const double* g, double* m, double* v) {
        AdamWUpdateNaive(at(step), count, w, g, m, v);
      }));
  return rows;
}

}  // namespace classicnn::verify
