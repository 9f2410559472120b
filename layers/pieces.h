// Work cut into pieces by its shape alone, so that results do not depend on the threads.
#ifndef CLASSICNN_LAYERS_PIECES_H_
#define CLASSICNN_LAYERS_PIECES_H_

#include <algorithm>
#include <cstdint>

namespace classicnn {

// `units` (pixels, rows, elements, ...) in runs of nearly equal length.
class Pieces {
 public:
  // A piece is worth about kBytes of memory traffic: a few microseconds, ten times what handing it
  // to a thread costs. 16 MB are then 128 pieces, two for each of 64 threads.
  static constexpr int64_t kBytes = int64_t{128} << 10;
  static constexpr int64_t kMaxPieces = 1024;

  Pieces(int64_t units, int64_t bytes_per_unit, int64_t max_pieces = kMaxPieces)
      : units_(units),
        count_(std::min({units, max_pieces,
                         std::max<int64_t>(1, (units * bytes_per_unit + kBytes / 2) / kBytes)})) {}

  int64_t count() const { return count_; }  // 0 where there are no units
  int64_t Begin(int64_t piece) const { return piece * units_ / count_; }
  int64_t End(int64_t piece) const { return Begin(piece + 1); }
  int64_t Size(int64_t piece) const { return End(piece) - Begin(piece); }

 private:
  int64_t units_;
  int64_t count_;
};

}  // namespace classicnn

#endif  // CLASSICNN_LAYERS_PIECES_H_
