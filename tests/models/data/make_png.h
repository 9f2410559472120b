// PNG files, for tests of what reads them.
#ifndef CLASSICNN_TESTS_MODELS_DATA_MAKE_PNG_H_
#define CLASSICNN_TESTS_MODELS_DATA_MAKE_PNG_H_

#include <zlib.h>

#include <cstdint>
#include <string>

namespace classicnn {

// The parts of a file.
inline std::string Word(uint32_t v) {
  return {static_cast<char>(v >> 24), static_cast<char>(v >> 16), static_cast<char>(v >> 8),
          static_cast<char>(v)};
}

inline std::string Chunk(const std::string& type, const std::string& data) {
  const std::string body = type + data;
  const uLong crc =
      crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size()));
  return Word(static_cast<uint32_t>(data.size())) + body + Word(static_cast<uint32_t>(crc));
}

// A PNG of one colour.
inline std::string Png(uint32_t height, uint32_t width, const std::string& rgb) {
  std::string rows;
  for (uint32_t y = 0; y < height; ++y) {
    rows.push_back('\0');  // no filter
    for (uint32_t x = 0; x < width; ++x) rows += rgb;
  }
  std::string packed(compressBound(static_cast<uLong>(rows.size())), '\0');
  uLongf size = static_cast<uLongf>(packed.size());
  compress(reinterpret_cast<Bytef*>(packed.data()), &size,
           reinterpret_cast<const Bytef*>(rows.data()), static_cast<uLong>(rows.size()));
  packed.resize(size);
  const std::string header = Word(width) + Word(height) + std::string("\x08\x02\x00\x00\x00", 5);
  return "\x89PNG\r\n\x1a\n" + Chunk("IHDR", header) + Chunk("IDAT", packed) + Chunk("IEND", "");
}

}  // namespace classicnn

#endif  // CLASSICNN_TESTS_MODELS_DATA_MAKE_PNG_H_
