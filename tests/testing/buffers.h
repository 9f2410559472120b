// Tensors for tests: NaN everywhere until filled, guard values wherever a kernel must not write
// (before, after, and between the channels of two pixels). The guards are NaNs too, so that reading
// one shows in the results.
#ifndef CLASSICNN_TESTS_TESTING_BUFFERS_H_
#define CLASSICNN_TESTS_TESTING_BUFFERS_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/random.h"
#include "core/view.h"

namespace classicnn {

template <typename T>
class GuardedTensor {
 public:
  // Dense unless a pixel stride is given. The first element is 64-byte aligned.
  explicit GuardedTensor(const Shape4& shape, int64_t pixel_stride = 0)
      : stride_(pixel_stride == 0 ? shape.c : pixel_stride),
        total_(kGuard + (shape.pixels() - 1) * stride_ + shape.c + kTail),
        memory_(static_cast<T*>(
            ::operator new (static_cast<size_t>(total_) * sizeof(T), std::align_val_t{64}))),
        view_(memory_.get() + kGuard, shape, stride_) {
    const T guard = Guard();
    for (int64_t i = 0; i < total_; ++i) memory_.get()[i] = guard;
    FillNan();
  }

  View<T> view() const { return view_; }
  View<const T> cview() const { return view_; }
  T* data() const { return view_.data; }

  void FillNan() {
    ForEach([](int64_t) { return std::numeric_limits<T>::quiet_NaN(); });
  }
  // Standard normal values, a function of the stream alone (not of the pixel stride).
  void FillNormal(const RandomStream& random) {
    ForEach([&](int64_t i) { return static_cast<T>(random.Normal(static_cast<uint64_t>(i))); });
  }
  // Whole numbers in [-bound, bound]: sums of their products are exact in float while they stay
  // below 2^24, in any order.
  void FillIntegers(const RandomStream& random, int64_t bound = 3) {
    const auto range = static_cast<uint64_t>(2 * bound + 1);
    ForEach([&](int64_t i) {
      return static_cast<T>(static_cast<int64_t>(random.Below(static_cast<uint64_t>(i), range)) -
                            bound);
    });
  }
  // The same values, whatever the pixel strides and types.
  template <typename U>
  void CopyFrom(View<const U> other) {
    CNN_CHECK(other.shape() == view_.shape());
    ForEach([&](int64_t i) { return static_cast<T>(other.Pixel(i / other.c)[i % other.c]); });
  }
  // value(i) goes to element i in the order n, h, w, c.
  template <typename F>
  void ForEach(const F& value) {
    for (int64_t p = 0, i = 0; p < view_.pixels(); ++p) {
      for (int64_t c = 0; c < view_.c; ++c, ++i) view_.Pixel(p)[c] = value(i);
    }
  }

  // Empty where all guards are as they were, else which one is not.
  std::string BrokenGuard() const {
    const T guard = Guard();
    for (int64_t i = 0; i < total_; ++i) {
      const int64_t offset = i - kGuard;
      const bool in_view =
          offset >= 0 && offset < total_ - kGuard - kTail && offset % stride_ < view_.c;
      if (!in_view && std::memcmp(memory_.get() + i, &guard, sizeof(T)) != 0) {
        return absl::StrCat("written at offset ", offset, " of a tensor of ",
                            view_.shape().ToString(), " with pixel stride ", stride_);
      }
    }
    return "";
  }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete (p, std::align_val_t{64}); }
  };

  static constexpr int64_t kGuard = 64;
#if defined(__SANITIZE_ADDRESS__)
  static constexpr int64_t kTail = 0;  // the sanitizer sees reads past the end as well
#else
  static constexpr int64_t kTail = 64;
#endif

  // A quiet NaN that no computation makes.
  static T Guard() {
    T guard = std::numeric_limits<T>::quiet_NaN();
    unsigned char bytes[sizeof(T)];
    std::memcpy(bytes, &guard, sizeof(T));
    bytes[0] = 0xA5;
    bytes[1] = 0x5A;
    std::memcpy(&guard, bytes, sizeof(T));
    return guard;
  }

  int64_t stride_;
  int64_t total_;
  std::unique_ptr<T, Free> memory_;
  View<T> view_;
};

// A dense array, such as weights, with the same guards.
template <typename T>
class GuardedArray : public GuardedTensor<T> {
 public:
  explicit GuardedArray(int64_t count) : GuardedTensor<T>(Shape4{1, 1, 1, count}) {}
};

// Scratch of exactly `bytes`, full of NaNs, guarded at both ends.
class GuardedWorkspace {
 public:
  explicit GuardedWorkspace(size_t bytes)
      : bytes_(bytes), floats_(static_cast<int64_t>((bytes + 3) / 4 + (bytes == 0))) {}
  Workspace get() const { return {reinterpret_cast<std::byte*>(floats_.data()), bytes_}; }
  std::string BrokenGuard() const { return floats_.BrokenGuard(); }

 private:
  size_t bytes_;
  GuardedArray<float> floats_;
};

}  // namespace classicnn

#endif  // CLASSICNN_TESTS_TESTING_BUFFERS_H_
