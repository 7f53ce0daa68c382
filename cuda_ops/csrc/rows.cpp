// What a layer does to each token, or a map to its pixels, between two matrix products: float32, on the CPU.
//
// A row is a token or a pixel, its channels side by side. Each function reads and writes a row once, where a
// chain of torch's operators goes through memory for every one of them.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "parallel.h"

namespace {

using segmeter::in_parallel;
using segmeter::run;

// Numbers that are worth starting a thread for.
constexpr int64_t kNumbersPerThread = int64_t(1) << 17;
// Rows of one task.
constexpr int64_t kRows = 256;
// Rows whose sums are float; larger sums are double.
constexpr int64_t kSummed = 32;
// Channels of a map that are pooled together, so that three of its lines stay in the cache.
constexpr int64_t kPooled = 32;
// Sums side by side, as many as the widest vector has lanes.
constexpr int kLanes = 16;

int64_t threads_for(int64_t threads, int64_t numbers) {
    return std::min(threads, 1 + numbers / kNumbersPerThread);
}

// body(from, to) for parts of [0, count), a part being `size` long.
template <typename Body>
void in_parts(int64_t threads, int64_t count, int64_t size, const Body& body) {
    in_parallel(threads, (count + size - 1) / size, [&] {
        return [&](int64_t task) { body(task * size, std::min(task * size + size, count)); };
    });
}

template <typename Term>
inline float sum_of(int64_t count, const Term& term) {
    float lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
    }
    float total = 0;
    for (; i < count; ++i) total += term(i);
    for (int width = kLanes / 2; width; width /= 2) {
        for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
    }
    return total + lanes[0];
}

// Zero stands for what is below it; what is not a number stays.
inline float rectified(float x) { return 0.0f > x ? 0.0f : x; }

// ---- Matrix products ------------------------------------------------------------------------------------

// Columns of a panel: of the weights, 32 rows lie side by side, channel after channel, filled up with zeros.
constexpr int64_t kPanel = 32;

void pack(const float* weight, int64_t columns, int64_t depth, float* packed) {
    for (int64_t first = 0; first < columns; first += kPanel) {
        float* panel = packed + first * depth;
        for (int64_t from = 0; from < depth; from += kLanes) {
            const int64_t to = std::min(from + kLanes, depth);
            for (int64_t column = 0; column < kPanel; ++column) {
                const float* row = weight + (first + column) * depth;
                const bool is_there = first + column < columns;
                for (int64_t k = from; k < to; ++k) panel[k * kPanel + column] = is_there ? row[k] : 0.0f;
            }
        }
    }
}

#if defined(__AVX512F__)
// Rows of a tile. Its sums take 24 of the 32 registers, so that each number that is loaded is used often.
constexpr int kTile = 12;
// Of rows whose channels lie far apart, tiles are copied next to each other first: so many that whole cache lines
// are read, and few that the copy stays in the cache.
constexpr int64_t kLineTiles = 4, kCopiedNumbers = 1 << 16;
constexpr int64_t kChannelsAhead = 4;

// Where the numbers of the left matrix lie.
struct Left {
    const float* data;
    int64_t row, channel;  // distances
};

// Rows of one panel's columns. `Apart` is the distance between two channels, 1 or a tile's rows.
template <int Rows, int Apart>
inline __attribute__((always_inline)) void tile(const float* __restrict left, int64_t row_distance,
                                                const float* __restrict panel, const float* bias, float* out,
                                                int64_t depth, int64_t columns, int64_t left_over, bool relu) {
    // Of the panel's columns those that there are; none beyond them is read or written.
    const int64_t here = std::min(left_over, kPanel);
    const __mmask16 low = __mmask16((1u << std::min<int64_t>(here, 16)) - 1);
    const __mmask16 high = __mmask16((1u << std::max<int64_t>(here - 16, 0)) - 1);
    __m512 sums[Rows][2];
    const __m512 zero = _mm512_setzero_ps();
    const __m512 from_low = bias ? _mm512_maskz_loadu_ps(low, bias) : zero;
    const __m512 from_high = bias ? _mm512_maskz_loadu_ps(high, bias + 16) : zero;
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) {
        sums[r][0] = from_low;
        sums[r][1] = from_high;
    }
#pragma GCC unroll 4
    for (int64_t k = 0; k < depth; ++k) {
        const __m512 first = _mm512_loadu_ps(panel + kPanel * k), second = _mm512_loadu_ps(panel + kPanel * k + 16);
        // The next panel's numbers, when this one's are used up; an address beyond the end does no harm.
        _mm_prefetch(reinterpret_cast<const char*>(panel + kPanel * (k + 16)), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(panel + kPanel * (k + 16) + 16), _MM_HINT_T0);
#pragma GCC unroll 12
        for (int r = 0; r < Rows; ++r) {
            const __m512 each = _mm512_set1_ps(left[r * row_distance + k * Apart]);
            sums[r][0] = _mm512_fmadd_ps(each, first, sums[r][0]);
            sums[r][1] = _mm512_fmadd_ps(each, second, sums[r][1]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) {
        // The second operand is given back where either is not a number.
        if (relu) {
            sums[r][0] = _mm512_max_ps(zero, sums[r][0]);
            sums[r][1] = _mm512_max_ps(zero, sums[r][1]);
        }
        _mm512_mask_storeu_ps(out + r * columns, low, sums[r][0]);
        _mm512_mask_storeu_ps(out + r * columns + 16, high, sums[r][1]);
    }
}

template <int Rows, int Apart>
void tiles(const float* left, int64_t row_distance, const float* packed, const float* bias, float* out,
           int64_t depth, int64_t columns, bool relu) {
    for (int64_t first = 0; first < columns; first += kPanel) {
        tile<Rows, Apart>(left, row_distance, packed + first * depth, bias ? bias + first : nullptr, out + first,
                          depth, columns, columns - first, relu);
    }
}

// Rows whose channels lie side by side.
void some_rows(const float* left, int64_t row_distance, int64_t rows, const float* packed, const float* bias,
               float* out, int64_t depth, int64_t columns, bool relu) {
    int64_t row = 0;
    for (; row + kTile <= rows; row += kTile) {
        // The next tile's rows come from memory while this one's are worked on.
        for (int64_t next = row + kTile; next < std::min(row + 2 * kTile, rows); ++next) {
            const char* from = reinterpret_cast<const char*>(left + next * row_distance);
            for (int64_t at = 0; at < depth * 4; at += 64) _mm_prefetch(from + at, _MM_HINT_T1);
        }
        tiles<kTile, 1>(left + row * row_distance, row_distance, packed, bias, out + row * columns, depth, columns,
                        relu);
    }
    for (; row + 4 <= rows; row += 4) {
        tiles<4, 1>(left + row * row_distance, row_distance, packed, bias, out + row * columns, depth, columns, relu);
    }
    for (; row < rows; ++row) {
        tiles<1, 1>(left + row * row_distance, row_distance, packed, bias, out + row * columns, depth, columns, relu);
    }
}

// left * weight^T + bias: (rows, depth) and packed weights -> (rows, columns).
void product(const Left left, const float* packed, const float* bias, float* out, int64_t rows, int64_t columns,
             int64_t depth, bool relu, int64_t threads) {
    threads = threads_for(threads, rows * columns * depth / 64);
    if (left.channel == 1) {
        in_parts(threads, rows, 8 * kTile, [=](int64_t from, int64_t to) {
            some_rows(left.data + from * left.row, left.row, to - from, packed, bias, out + from * columns, depth,
                      columns, relu);
        });
        return;
    }
    const int64_t groups = std::max<int64_t>(kCopiedNumbers / (depth * kTile * kLineTiles), 1);
    in_parts(threads, rows, groups * kLineTiles * kTile, [=](int64_t from, int64_t to) {
        const int64_t whole = (to - from) / kTile;
        std::vector<float> copied((whole + 1) * kTile * depth);
        for (int64_t k = 0; k < depth; ++k) {
            const float* source = left.data + from * left.row + k * left.channel;
            float* target = copied.data() + k * kTile;
            // Channels lie pages apart, which the processor does not see coming.
            const char* later = reinterpret_cast<const char*>(source + kChannelsAhead * left.channel);
            for (int64_t at = 0; at < (to - from) * int64_t(sizeof(float)); at += 64) {
                _mm_prefetch(later + at, _MM_HINT_T0);
            }
            if (left.row == 1) {
                for (int64_t i = 0; i < whole; ++i) {
                    std::memcpy(target + i * kTile * depth, source + i * kTile, kTile * sizeof(float));
                }
            }
            for (int64_t row = left.row == 1 ? whole * kTile : 0; row < to - from; ++row) {
                target[row / kTile * kTile * depth + row % kTile] = source[row * left.row];
            }
        }
        for (int64_t at = 0; at < to - from; at += kTile) {
            const float* some = copied.data() + at * depth;
            float* to_here = out + (from + at) * columns;
            if (to - from - at >= kTile) {
                tiles<kTile, kTile>(some, 1, packed, bias, to_here, depth, columns, relu);
            } else {
                for (int64_t row = 0; row < to - from - at; ++row) {
                    tiles<1, kTile>(some + row, 1, packed, bias, to_here + row * columns, depth, columns, relu);
                }
            }
        }
    });
}
#endif

void add_bias(float* __restrict data, const float* __restrict bias, int64_t rows, int64_t channels, bool relu,
              int64_t threads) {
    in_parts(threads_for(threads, rows * channels), rows, kRows, [=](int64_t from, int64_t to) {
        for (int64_t row = from; row < to; ++row) {
            float* __restrict x = data + row * channels;
            if (relu) {
                for (int64_t c = 0; c < channels; ++c) x[c] = rectified(x[c] + bias[c]);
            } else {
                for (int64_t c = 0; c < channels; ++c) x[c] += bias[c];
            }
        }
    });
}

// The layer norm of the sum of two rows.
void add_norm(const float* data, const float* other, const float* __restrict weight,
              const float* __restrict bias, float* out, int64_t rows, int64_t channels, float eps,
              int64_t threads) {
    in_parts(threads_for(threads, rows * channels), rows, kRows, [=](int64_t from, int64_t to) {
        std::vector<float> storage(channels);
        float* __restrict sum = storage.data();
        for (int64_t row = from; row < to; ++row) {
            const float *a = data + row * channels, *b = other + row * channels;
            float* x = out + row * channels;
            for (int64_t c = 0; c < channels; ++c) sum[c] = a[c] + b[c];
            const float mean = sum_of(channels, [=](int64_t c) { return sum[c]; }) / float(channels);
            const float squares = sum_of(channels, [=](int64_t c) { return (sum[c] - mean) * (sum[c] - mean); });
            const float scale = 1.0f / std::sqrt(squares / float(channels) + eps);
            for (int64_t c = 0; c < channels; ++c) x[c] = (sum[c] - mean) * scale * weight[c] + bias[c];
        }
    });
}

// How many numbers, their mean and the sum of the squares of their distances from it.
struct Moments {
    double count = 0, mean = 0, squares = 0;

    void join(double more, double its_mean, double its_squares) {
        const double together = count + more, apart = its_mean - mean;
        squares += its_squares + apart * apart * count * more / together;
        mean += apart * more / together;
        count = together;
    }
};

// Of each channel over some rows.
void channel_moments(const float* data, int64_t rows, int64_t channels, std::vector<Moments>& found) {
    std::vector<float> storage(2 * channels);
    float *__restrict mean = storage.data(), *__restrict squares = mean + channels;
    for (int64_t from = 0; from < rows; from += kSummed) {
        const int64_t to = std::min(from + kSummed, rows);
        std::fill_n(mean, 2 * channels, 0.0f);
        for (int64_t row = from; row < to; ++row) {
            const float* __restrict x = data + row * channels;
            for (int64_t c = 0; c < channels; ++c) mean[c] += x[c];
        }
        const float share = 1.0f / float(to - from);
        for (int64_t c = 0; c < channels; ++c) mean[c] *= share;
        for (int64_t row = from; row < to; ++row) {
            const float* __restrict x = data + row * channels;
            for (int64_t c = 0; c < channels; ++c) squares[c] += (x[c] - mean[c]) * (x[c] - mean[c]);
        }
        for (int64_t c = 0; c < channels; ++c) found[c].join(double(to - from), mean[c], squares[c]);
    }
}

void group_norm(float* data, const float* weight, const float* bias, int64_t rows, int64_t channels,
                int64_t groups, float eps, bool relu, int64_t threads) {
    threads = threads_for(threads, rows * channels);
    const int64_t parts = (rows + kRows - 1) / kRows, each = channels / groups;
    std::vector<Moments> of_part(parts * groups);
    in_parts(threads, rows, kRows, [&](int64_t from, int64_t to) {
        std::vector<Moments> of_channel(channels);
        channel_moments(data + from * channels, to - from, channels, of_channel);
        for (int64_t c = 0; c < channels; ++c) {
            const Moments& m = of_channel[c];
            of_part[from / kRows * groups + c / each].join(m.count, m.mean, m.squares);
        }
    });
    std::vector<float> storage(2 * channels);
    float *scale = storage.data(), *shift = scale + channels;
    for (int64_t group = 0; group < groups; ++group) {
        Moments all;
        for (int64_t part = 0; part < parts; ++part) {
            const Moments& m = of_part[part * groups + group];
            all.join(m.count, m.mean, m.squares);
        }
        const double inverse = 1.0 / std::sqrt(all.squares / all.count + double(eps));
        for (int64_t c = group * each; c < (group + 1) * each; ++c) {
            scale[c] = float(inverse * double(weight[c]));
            shift[c] = float(double(bias[c]) - all.mean * inverse * double(weight[c]));
        }
    }
    in_parts(threads, rows, kRows, [=](int64_t from, int64_t to) {
        const float *__restrict by = scale, *__restrict plus = shift;
        for (int64_t row = from; row < to; ++row) {
            float* __restrict x = data + row * channels;
            if (relu) {
                for (int64_t c = 0; c < channels; ++c) x[c] = rectified(x[c] * by[c] + plus[c]);
            } else {
                for (int64_t c = 0; c < channels; ++c) x[c] = x[c] * by[c] + plus[c];
            }
        }
    });
}

// Whichever is larger, or not a number.
inline float larger(float a, float b) { return (b > a) | (b != b) ? b : a; }

// Of each pixel's 3x3 neighbourhood the largest, channel by channel, in place; what is off the map does not count.
void pool(float* data, int64_t height, int64_t width, int64_t channels, int64_t threads) {
    in_parts(threads_for(threads, height * width * channels), channels, kPooled, [=](int64_t begin, int64_t end) {
        const int64_t size = end - begin;
        std::vector<float> storage(3 * width * size);
        // Each pixel with its neighbours to the left and to the right, for three lines: by then the map's own line
        // is no longer needed.
        auto line = [&](int64_t y) { return storage.data() + (y + 3) % 3 * width * size; };
        auto widen = [&](int64_t y) {
            float* __restrict to = line(y);
            if (y < 0 || y >= height) {
                std::fill_n(to, width * size, -std::numeric_limits<float>::infinity());
                return;
            }
            for (int64_t x = 0; x < width; ++x) {
                const float* here = data + (y * width + x) * channels + begin;
                const float *left = x ? here - channels : here, *right = x + 1 < width ? here + channels : here;
                for (int64_t c = 0; c < size; ++c) to[x * size + c] = larger(larger(left[c], here[c]), right[c]);
            }
        };
        widen(-1);
        widen(0);
        for (int64_t y = 0; y < height; ++y) {
            widen(y + 1);
            const float *above = line(y - 1), *here = line(y), *below = line(y + 1);
            for (int64_t x = 0; x < width; ++x) {
                float* __restrict to = data + (y * width + x) * channels + begin;
                for (int64_t c = 0; c < size; ++c) {
                    to[c] = larger(larger(above[x * size + c], here[x * size + c]), below[x * size + c]);
                }
            }
        }
    });
}

// Where a pixel of an enlarged line lies on the line: two pixels, and the second one's share.
struct Between {
    int64_t first, second;
    float share;

    Between(int64_t index, int64_t size, int64_t enlarged) {
        const float at = (float(index) + 0.5f) * (float(size) / float(enlarged)) - 0.5f;
        const float from = at > 0.0f ? at : 0.0f;
        first = std::min(int64_t(from), size - 1);
        second = std::min(first + 1, size - 1);
        share = std::min(from - float(first), 1.0f);
    }
};

// Add a map, bilinearly enlarged (pixels' corners aligned, not their centres).
void add_enlarged(float* data, const float* other, int64_t height, int64_t width, int64_t other_height,
                  int64_t other_width, int64_t channels, int64_t threads) {
    std::vector<Between> columns;
    for (int64_t x = 0; x < width; ++x) columns.emplace_back(x, other_width, width);
    in_parts(threads_for(threads, height * width * channels), height, 1, [&](int64_t y, int64_t) {
        const Between row(y, other_height, height);
        const float* above = other + row.first * other_width * channels;
        const float* below = other + row.second * other_width * channels;
        for (int64_t x = 0; x < width; ++x) {
            const Between& column = columns[x];
            const float *a = above + column.first * channels, *b = above + column.second * channels;
            const float *c = below + column.first * channels, *d = below + column.second * channels;
            const float right = column.share, left = 1.0f - right, lower = row.share, upper = 1.0f - lower;
            float* __restrict to = data + (y * width + x) * channels;
            for (int64_t i = 0; i < channels; ++i) {
                to[i] += upper * (left * a[i] + right * b[i]) + lower * (left * c[i] + right * d[i]);
            }
        }
    });
}

}  // namespace

// All of them: 0 done, 1 out of memory, 2 any other failure.
extern "C" {

void segmeter_large_pages(void* data, int64_t bytes) { segmeter::ask_for_large_pages(data, size_t(bytes)); }

// Floats that `segmeter_pack` writes; 0 where this processor has no product of its own.
int64_t segmeter_packed_size(int64_t columns, int64_t depth) {
#if defined(__AVX512F__)
    return (columns + kPanel - 1) / kPanel * kPanel * depth;
#else
    return 0 * columns * depth;
#endif
}

int segmeter_pack(const float* weight, int64_t columns, int64_t depth, float* packed, int64_t threads) {
    return run([&] { pack(weight, columns, depth, packed); });
}

int segmeter_product(const float* left, int64_t row_distance, int64_t channel_distance, const float* packed,
                     const float* bias, float* out, int64_t rows, int64_t columns, int64_t depth, int64_t relu,
                     int64_t threads) {
#if defined(__AVX512F__)
    return run([&] {
        product({left, row_distance, channel_distance}, packed, bias, out, rows, columns, depth, relu != 0, threads);
    });
#else
    return 2;
#endif
}

int segmeter_add_bias(float* data, const float* bias, int64_t rows, int64_t channels, int64_t relu,
                      int64_t threads) {
    return run([&] { add_bias(data, bias, rows, channels, relu != 0, threads); });
}

int segmeter_add_norm(const float* data, const float* other, const float* weight, const float* bias, float* out,
                      int64_t rows, int64_t channels, double eps, int64_t threads) {
    return run([&] { add_norm(data, other, weight, bias, out, rows, channels, float(eps), threads); });
}

int segmeter_group_norm(float* data, const float* weight, const float* bias, int64_t rows, int64_t channels,
                        int64_t groups, double eps, int64_t relu, int64_t threads) {
    return run([&] { group_norm(data, weight, bias, rows, channels, groups, float(eps), relu != 0, threads); });
}

int segmeter_pool(float* data, int64_t height, int64_t width, int64_t channels, int64_t threads) {
    return run([&] { pool(data, height, width, channels, threads); });
}

int segmeter_add_enlarged(float* data, const float* other, int64_t height, int64_t width, int64_t other_height,
                          int64_t other_width, int64_t channels, int64_t threads) {
    return run([&] {
        add_enlarged(data, other, height, width, other_height, other_width, channels, threads);
    });
}
}
