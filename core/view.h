// NHWC tensor views.
//
// A view is a pointer and a shape; it owns nothing and is passed by value. Element (n, h, w, c) is
//   data[((n*H + h)*W + w) * pixel_stride + c],   pixel_stride >= C, in elements.
// Channels are contiguous, so kernels vectorize over channels whatever the vector length. A slice
// of the channels of a larger buffer is itself a view (same pixel_stride), which makes
// concatenation free. Kernels never read or write the pixel_stride - C elements between two pixels.
#ifndef CLASSICNN_CORE_VIEW_H_
#define CLASSICNN_CORE_VIEW_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "core/check.h"

namespace classicnn {

// Logical shape of an activation tensor: images, rows, columns, channels.
struct Shape4 {
  int64_t n = 0;
  int64_t h = 0;
  int64_t w = 0;
  int64_t c = 0;

  int64_t pixels() const { return n * h * w; }
  int64_t size() const { return n * h * w * c; }
  bool operator==(const Shape4& o) const { return n == o.n && h == o.h && w == o.w && c == o.c; }
  bool operator!=(const Shape4& o) const { return !(*this == o); }
  // "n64c128h16w16", the spelling of benchmark names.
  std::string ToString() const { return absl::StrCat("n", n, "c", c, "h", h, "w", w); }
};

template <typename T>
struct View {
  T* data = nullptr;
  int64_t n = 0;
  int64_t h = 0;
  int64_t w = 0;
  int64_t c = 0;
  int64_t pixel_stride = 0;  // elements from one pixel to the next, >= c

  View() = default;
  View(T* data_, int64_t n_, int64_t h_, int64_t w_, int64_t c_, int64_t pixel_stride_)
      : data(data_), n(n_), h(h_), w(w_), c(c_), pixel_stride(pixel_stride_) {
    CNN_DCHECK(pixel_stride >= c);
  }
  // Dense: pixel_stride == C.
  View(T* data_, const Shape4& s) : View(data_, s.n, s.h, s.w, s.c, s.c) {}
  View(T* data_, const Shape4& s, int64_t stride) : View(data_, s.n, s.h, s.w, s.c, stride) {}

  // View<float> converts to View<const float>.
  template <typename U, typename = std::enable_if_t<std::is_same_v<const U, T>>>
  View(const View<U>& o)  // NOLINT(google-explicit-constructor)
      : data(o.data), n(o.n), h(o.h), w(o.w), c(o.c), pixel_stride(o.pixel_stride) {}

  Shape4 shape() const { return {n, h, w, c}; }
  int64_t pixels() const { return n * h * w; }
  int64_t size() const { return n * h * w * c; }
  bool dense() const { return pixel_stride == c; }

  T* Pixel(int64_t in, int64_t ih, int64_t iw) const {
    CNN_DCHECK(in >= 0 && in < n && ih >= 0 && ih < h && iw >= 0 && iw < w);
    return data + ((in * h + ih) * w + iw) * pixel_stride;
  }
  // Pixel `index` in the order n, h, w.
  T* Pixel(int64_t index) const { return data + index * pixel_stride; }
  T& At(int64_t in, int64_t ih, int64_t iw, int64_t ic) const {
    CNN_DCHECK(ic >= 0 && ic < c);
    return Pixel(in, ih, iw)[ic];
  }

  // Channels [begin, begin + count) of every pixel.
  View Channels(int64_t begin, int64_t count) const {
    CNN_DCHECK(begin >= 0 && begin + count <= c);
    return View(data + begin, n, h, w, count, pixel_stride);
  }
  // Images [begin, begin + count).
  View Images(int64_t begin, int64_t count) const {
    CNN_DCHECK(begin >= 0 && begin + count <= n);
    return View(data + begin * h * w * pixel_stride, count, h, w, c, pixel_stride);
  }
};

using Tensor = View<float>;
using ConstTensor = View<const float>;

// Scratch memory handed to a kernel by whoever planned it: 64-byte aligned, contents undefined
// before and after. `size` is at least what the layer's ...WorkspaceBytes() asked for.
struct Workspace {
  std::byte* data = nullptr;
  size_t size = 0;

  // Takes the next `count` elements, 64-byte aligned. A check fails where the workspace is too
  // small.
  template <typename T>
  T* Take(int64_t count) {
    const size_t bytes = BytesFor<T>(count);
    CNN_CHECK(bytes <= size, "workspace of ", size, " bytes left, ", bytes, " needed");
    T* result = reinterpret_cast<T*>(data);
    data += bytes;
    size -= bytes;
    return result;
  }
  // What Take<T>(count) uses up.
  template <typename T>
  static size_t BytesFor(int64_t count) {
    return (static_cast<size_t>(count) * sizeof(T) + 63) & ~size_t{63};
  }
};

}  // namespace classicnn

#endif  // CLASSICNN_CORE_VIEW_H_
