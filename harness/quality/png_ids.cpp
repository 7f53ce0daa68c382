// Undoes a PNG's row filters and packs each pixel's first three bytes into one number, R + 256 G + 65536 B.
//
// Filters work byte by byte, so an alpha byte does not touch the other three and is left out. Rows are kept
// packed: most pixels of a map of segments repeat their left neighbour, and that is seen with one comparison.

#include <cstdint>
#include <cstring>

namespace {

constexpr uint32_t kBytes = 0xffffff, kLow = 0x7f7f7f, kHigh = 0x808080;

// Byte by byte, modulo 256.
inline uint32_t add(uint32_t a, uint32_t b) { return ((a & kLow) + (b & kLow)) ^ ((a ^ b) & kHigh); }

// Byte by byte, rounded down.
inline uint32_t mean(uint32_t a, uint32_t b) { return (a & b) + (((a ^ b) & 0xfefefe) >> 1); }

inline uint32_t load(const uint8_t *at) { return at[0] | uint32_t(at[1]) << 8 | uint32_t(at[2]) << 16; }

inline int distance(int a, int b) { return a < b ? b - a : a - b; }

uint32_t paeth(uint32_t left, uint32_t up, uint32_t corner) {
  uint32_t chosen = 0;
  for (int shift = 0; shift < 24; shift += 8) {
    const int a = left >> shift & 255, b = up >> shift & 255, c = corner >> shift & 255;
    const int to_a = distance(b, c), to_b = distance(a, c), to_c = distance(a + b, 2 * c);
    const int best = to_a <= to_b && to_a <= to_c ? a : to_b <= to_c ? b : c;
    chosen |= uint32_t(best) << shift;
  }
  return chosen;
}

template <int kChannels>
int64_t unfilter(const uint8_t *raw, int64_t height, int64_t width, uint32_t *out, const uint32_t *zeros) {
  const uint32_t *above = zeros;
  for (int64_t row = 0; row < height; ++row, above = out, out += width) {
    const int kind = *raw++;
    uint32_t left = 0, corner = 0;
    switch (kind) {
    case 0:
      for (int64_t i = 0; i < width; ++i, raw += kChannels) out[i] = load(raw);
      break;
    case 1:
      for (int64_t i = 0; i < width; ++i, raw += kChannels) {
        const uint32_t rest = load(raw);
        if (rest) left = add(left, rest);
        out[i] = left;
      }
      break;
    case 2:
      for (int64_t i = 0; i < width; ++i, raw += kChannels) out[i] = add(above[i], load(raw));
      break;
    case 3:
      for (int64_t i = 0; i < width; ++i, raw += kChannels)
        out[i] = left = add(mean(left, above[i]), load(raw));
      break;
    case 4:
      for (int64_t i = 0; i < width; ++i, raw += kChannels) {
        const uint32_t rest = load(raw), up = above[i];
        // Where the row above does not change, the prediction is the left neighbour.
        if (up != corner) left = paeth(left, up, corner);
        if (rest) left = add(left, rest);
        out[i] = left;
        corner = up;
      }
      break;
    default:
      return row + 1;
    }
  }
  return 0;
}

} // namespace

// raw: height rows of one filter byte and width * channels bytes; zeros: width numbers, all 0.
// Returns 0, or 1 + the first row whose filter PNG does not have.
extern "C" int64_t segmeter_png_ids(const uint8_t *raw, int64_t height, int64_t width, int64_t channels,
                                    uint32_t *out, const uint32_t *zeros) {
  return channels == 3 ? unfilter<3>(raw, height, width, out, zeros)
                       : unfilter<4>(raw, height, width, out, zeros);
}
