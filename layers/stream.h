// When outputs are written past the caches.
#ifndef CLASSICNN_LAYERS_STREAM_H_
#define CLASSICNN_LAYERS_STREAM_H_

#include <cstdint>

namespace classicnn {

// Whether so many bytes, read and written in one pass, go through the caches without staying there
// for whoever reads the result: then stores past them (layers/stream-inl.h) spare reading the lines
// that are overwritten.
inline bool BeyondCaches(int64_t bytes) { return bytes >= int64_t{64} << 20; }

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_STREAM_H_
