// Multi-scale deformable attention on NVIDIA GPUs: forward and backward, plain and fused.
//
// Compiled by NVRTC for one problem kind; the names in capitals are set by cuda_kernel.py:
//   DTYPE 0 float, 1 double, 2 half, 3 bfloat; HEADS, DIM, LEVELS, POINTS; FUSED 0 or 1;
//   WIDTH channels that a thread loads at once, LANES threads per (query, head), THREADS per block;
//   REDUCE 0 or 1: whether a block adds up gradients of value before it adds them to memory.
//
// A *pair* is one query and one head. A block works on one head and on a tile of neighbouring queries, whose
// samples of a map are neighbours too: most of what one pair loads, the next finds in the L1 cache. Heads
// are the outermost dimension of the grid, so that the L2 cache holds what one head needs of the maps.
//
// A block first works out all samples of its pairs, one thread each, into shared memory, so that the places
// are read once and the index arithmetic is done once, and not by every channel's thread. Then LANES threads
// gather a pair's channels, 16 bytes at a time.

#include "sample.h"

using segmeter::Along;
using segmeter::along_axis;
using segmeter::Corners;
using segmeter::find_corners;

#if DTYPE == 1
typedef double Real;
#else
typedef float Real;
#endif

#if DTYPE == 0
typedef float Stored;
__device__ __forceinline__ Real widen(Stored x) { return x; }
__device__ __forceinline__ Stored narrow(Real x) { return x; }
#elif DTYPE == 1
typedef double Stored;
__device__ __forceinline__ Real widen(Stored x) { return x; }
__device__ __forceinline__ Stored narrow(Real x) { return x; }
#elif DTYPE == 2
typedef unsigned short Stored;
__device__ __forceinline__ Real widen(Stored x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}
__device__ __forceinline__ Stored narrow(Real x) {
    Stored y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ void widen_two(unsigned word, Real& low, Real& high) {
#ifdef __CUDACC__
    asm("{\n.reg .b16 a, b;\nmov.b32 {a, b}, %2;\ncvt.f32.f16 %0, a;\ncvt.f32.f16 %1, b;\n}"
        : "=f"(low), "=f"(high)
        : "r"(word));
#else
    low = widen((Stored)(word & 0xffff));
    high = widen((Stored)(word >> 16));
#endif
}
#else
typedef unsigned short Stored;
__device__ __forceinline__ Real widen(Stored x) { return __uint_as_float((unsigned)x << 16); }
__device__ __forceinline__ Stored narrow(Real x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    // The instruction came with sm_80. To the nearest, of two alike near the even one; NaN stays NaN.
    const unsigned bits = __float_as_uint(x);
    if ((bits << 1) > 0xff000000u) return 0x7fff;
    return (Stored)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
#else
    Stored y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
#endif
}
__device__ __forceinline__ void widen_two(unsigned word, Real& low, Real& high) {
    low = __uint_as_float(word << 16);
    high = __uint_as_float(word & 0xffff0000u);
}
#endif

constexpr int kSamples = LEVELS * POINTS;
constexpr int kPairs = THREADS / LANES;
constexpr int kSteps = (DIM / WIDTH + LANES - 1) / LANES;
constexpr unsigned long long kRow = (unsigned long long)HEADS * DIM;
constexpr int kTileWidth = kPairs < 8 ? kPairs : 8;
constexpr int kTileHeight = kPairs / kTileWidth;
// As many levels are passed by value; the sizes of more are read from memory.
constexpr int kByValue = 16;

// WIDTH stored channels, moved as one access; halves in words of two, from which they are widened best.
#if DTYPE >= 2 && WIDTH % 2 == 0
typedef unsigned Word;
constexpr int kPerWord = 2;
#else
typedef Stored Word;
constexpr int kPerWord = 1;
#endif
struct alignas(sizeof(Stored) * WIDTH) Channels {
    Word at[WIDTH / kPerWord];
};

__device__ __forceinline__ void widen_all(const Channels& row, Real* wide) {
#pragma unroll
    for (int i = 0; i < WIDTH / kPerWord; ++i) {
#if DTYPE >= 2 && WIDTH % 2 == 0
        widen_two(row.at[i], wide[2 * i], wide[2 * i + 1]);
#else
        wide[i] = widen(row.at[i]);
#endif
    }
}

__device__ __forceinline__ Channels narrow_all(const Real* wide) {
    Channels row;
#pragma unroll
    for (int i = 0; i < WIDTH / kPerWord; ++i) {
#if DTYPE >= 2 && WIDTH % 2 == 0
        row.at[i] = (unsigned)narrow(wide[2 * i]) | (unsigned)narrow(wide[2 * i + 1]) << 16;
#else
        row.at[i] = narrow(wide[i]);
#endif
    }
    return row;
}

struct Level {
    int height, width, start;
};

// Queries that lie row by row on a map, cut into tiles; tiles of all maps are counted on.
struct QueryMap {
    int height, width, first_query, first_tile, tiles_across;
    int tokens;  // of the level whose tokens the queries are; 0 if they are in no such order
};

struct alignas(16) ForwardSample {
    int token[4];    // -1 off the map
    Real weight[4];  // attention weight times bilinear weight; 0 off the map
};

struct alignas(16) BackwardSample {
    int token[4];
    // The fractions, the attention weight, and 1 if the level is reduced, else 0. The last is then the gradient
    // of the weight; and all four become the weights of the corners.
    Real part[4];
};
enum Part { kX, kY, kWeight, kResult };

// One pair's samples. The lengths of rows are odd multiples of 16 bytes: pairs of a warp read the same sample
// of their rows at once, and then from different banks.
template <typename Sample>
struct Row {
    Sample at[kSamples];
    struct alignas(16) {
        int unused[sizeof(Sample) * kSamples / 16 % 2 ? 8 : 4];
    } padding;
};

struct Layout {
    int maps;  // of queries
    Level levels[kByValue];
    QueryMap map[kByValue];
};

struct Problem {
    const Stored* value;       // (B, S, HEADS, DIM)
    const long long* shapes;   // (LEVELS, 2): height, width; null if the layout has them
    const long long* starts;   // (LEVELS,); null likewise
    const Stored* places;      // (B, Q, HEADS, LEVELS, POINTS, 2): locations, or offsets in pixels if FUSED
    const Stored* weights;     // (B, Q, HEADS, LEVELS, POINTS): attention weights, or logits if FUSED
    const Real* reference;     // FUSED: (B or 1, Q, LEVELS or 1, 2)
    const Stored* grad_output; // (B, Q, HEADS*DIM), backward
    Stored* output;            // (B, Q, HEADS*DIM), forward
    Real* grad_value;          // as value, zeroed, in the accumulation type
    Stored* grad_places;
    Stored* grad_weights;
    long long queries, tokens;
    int reference_batches, reference_levels;
    Layout layout;
};

// Which query of its item a pair of this block is; -1 for one beyond the map's edge.
__device__ __forceinline__ int query_of(const Problem& p, int of, int& tokens_of_map) {
    const int tile = blockIdx.x;
    int m = 0;
    while (m + 1 < p.layout.maps && tile >= p.layout.map[m + 1].first_tile) ++m;
    const QueryMap& map = p.layout.map[m];
    const int down = (tile - map.first_tile) / map.tiles_across;
    const int across = tile - map.first_tile - down * map.tiles_across;
    const int x = across * kTileWidth + of % kTileWidth, y = down * kTileHeight + of / kTileWidth;
    const int query = map.first_query + y * map.width + x;
    tokens_of_map = map.tokens;
    return x < map.width && y < map.height && query < p.queries ? query : -1;
}

// A query's pair with this block's head, counted over the whole batch.
__device__ __forceinline__ long long pair_of(const Problem& p, int query) {
    return ((long long)blockIdx.y * p.queries + query) * HEADS + blockIdx.z;
}

// The largest logit and the reciprocal of the sum of exponentials, by the LANES threads of a pair.
__device__ __forceinline__ void softmax_of_pair(const Problem& p, int query, int lane, Real& largest,
                                                Real& scale) {
    largest = -Real(__int_as_float(0x7f800000));
    const bool real_pair = query >= 0;
    const long long pair = pair_of(p, query);
    for (int k = lane; real_pair && k < kSamples; k += LANES) {
        const Real logit = widen(p.weights[pair * kSamples + k]);
        largest = logit > largest ? logit : largest;
    }
    for (int step = LANES / 2; step; step /= 2) {
        const Real other = __shfl_xor_sync(0xffffffffu, largest, step);
        largest = other > largest ? other : largest;
    }
    Real total = 0;
    for (int k = lane; real_pair && k < kSamples; k += LANES) {
        total += exp(widen(p.weights[pair * kSamples + k]) - largest);
    }
    for (int step = LANES / 2; step; step /= 2) total += __shfl_xor_sync(0xffffffffu, total, step);
    scale = Real(1) / total;
}

__device__ __forceinline__ void load_levels(const Problem& p, Level* levels) {
    for (int i = threadIdx.x; i < LEVELS; i += THREADS) {
        if (p.shapes) {
            levels[i] = {(int)p.shapes[2 * i], (int)p.shapes[2 * i + 1], (int)p.starts[i]};
        } else if (i < kByValue) {
            levels[i] = p.layout.levels[i];
        }
    }
}

__device__ __forceinline__ Corners<Real> corners_of(const Problem& p, const Level* levels, int query, int k) {
    const int level = k / POINTS;
    const Level of = levels[level];
    const Stored* place = p.places + 2 * (pair_of(p, query) * kSamples + k);
    const Real x = widen(place[0]), y = widen(place[1]);
#if FUSED
    const long long row = (p.reference_batches > 1 ? blockIdx.y * p.queries : 0) + query;
    const Real* at = p.reference + 2 * (row * p.reference_levels + (p.reference_levels > 1 ? level : 0));
    const Along<Real> along_x = along_axis(at[0], Real(of.width), x);
    const Along<Real> along_y = along_axis(at[1], Real(of.height), y);
#else
    const Along<Real> along_x = along_axis(x, Real(of.width), Real(0));
    const Along<Real> along_y = along_axis(y, Real(of.height), Real(0));
#endif
    return find_corners(along_x, along_y, of.height, of.width, of.start, -1);
}

// Inside a captured CUDA graph the sizes cannot be checked beforehand: a token that the map does not have
// is off the map, whatever the sizes say.
__device__ __forceinline__ int existing(int token, long long tokens) {
    return (unsigned)token < (unsigned long long)tokens ? token : -1;
}

// Where this thread's first channel of token 0 lies, in value and in its gradient.
__device__ __forceinline__ unsigned long long offset_of_map(const Problem& p, int lane) {
    return ((unsigned long long)blockIdx.y * p.tokens * HEADS + blockIdx.z) * DIM + lane * WIDTH;
}

// An address that the compiler knows nothing more of, so that it stays in two registers: each load would work
// it out anew from the kernel's arguments.
template <typename Number>
__device__ __forceinline__ Number* kept(Number* at) {
#ifdef __CUDACC__
    asm volatile("" : "+l"(at));
#endif
    return at;
}

__device__ __forceinline__ Channels load_or_zero(const Stored* base, int token) {
#ifdef __CUDACC__
    if constexpr (sizeof(Channels) == 16) {
        // As below; said so because the compiler makes two shifts and two additions of the multiplication,
        // and a generic load of an address that it knows nothing of.
        union {
            unsigned words[4];
            Channels row;
        } read = {};
        asm("{\n.reg .pred there;\n.reg .u64 at;\n"
            "setp.ge.s32 there, %4, 0;\n"
            "mul.wide.u32 at, %4, %6;\nadd.u64 at, at, %5;\n"
            "@there ld.global.nc.v4.b32 {%0, %1, %2, %3}, [at];\n}"
            : "+r"(read.words[0]), "+r"(read.words[1]), "+r"(read.words[2]), "+r"(read.words[3])
            : "r"(token), "l"(__cvta_generic_to_global(base)), "n"((int)(kRow * sizeof(Stored))));
        return read.row;
    }
#endif
    Channels row = {};
    if (token >= 0) row = *reinterpret_cast<const Channels*>(base + (unsigned)token * kRow);
    return row;
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    segmeter_forward(const __grid_constant__ Problem p) {
    __shared__ Level levels[LEVELS];
    __shared__ int queries[kPairs];
    __shared__ Row<ForwardSample> samples[kPairs];
    const int group = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    int tokens_of_map;
    const int query = query_of(p, group, tokens_of_map);
    if (lane == 0) queries[group] = query;
#if FUSED
    __shared__ Real largest[kPairs], scale[kPairs];
    Real my_largest, my_scale;
    softmax_of_pair(p, query, lane, my_largest, my_scale);
    if (lane == 0) {
        largest[group] = my_largest;
        scale[group] = my_scale;
    }
#endif
    load_levels(p, levels);
    __syncthreads();

    for (int i = threadIdx.x; i < kPairs * kSamples; i += THREADS) {
        const int of = i / kSamples, k = i % kSamples;
        if (queries[of] < 0) continue;
        const Corners<Real> c = corners_of(p, levels, queries[of], k);
        Real weight = widen(p.weights[pair_of(p, queries[of]) * kSamples + k]);
#if FUSED
        weight = exp(weight - largest[of]) * scale[of];
#endif
        ForwardSample sample;
        sample.token[0] = existing(c.token0, p.tokens);
        sample.token[1] = existing(c.token1, p.tokens);
        sample.token[2] = existing(c.token2, p.tokens);
        sample.token[3] = existing(c.token3, p.tokens);
        // A weight that is not finite must not meet the zeros that stand for a corner off the map.
        sample.weight[0] = sample.token[0] < 0 ? Real(0) : c.weight0 * weight;
        sample.weight[1] = sample.token[1] < 0 ? Real(0) : c.weight1 * weight;
        sample.weight[2] = sample.token[2] < 0 ? Real(0) : c.weight2 * weight;
        sample.weight[3] = sample.token[3] < 0 ? Real(0) : c.weight3 * weight;
        samples[of].at[k] = sample;
    }
    __syncthreads();

    if (query < 0) return;
    const Stored* base = kept(p.value + offset_of_map(p, lane));
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
        const int channel = step * LANES * WIDTH;
        if (channel + lane * WIDTH >= DIM) break;
        Real total[WIDTH] = {};
#pragma unroll 2
        for (int k = 0; k < kSamples; ++k) {
            const ForwardSample sample = samples[group].at[k];
            Channels corner[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) corner[i] = load_or_zero(base + channel, sample.token[i]);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                Real wide[WIDTH];
                widen_all(corner[i], wide);
#pragma unroll
                for (int c = 0; c < WIDTH; ++c) total[c] += sample.weight[i] * wide[c];
            }
        }
        Stored* output = p.output + pair_of(p, query) * DIM + channel + lane * WIDTH;
        *reinterpret_cast<Channels*>(output) = narrow_all(total);
    }
}

// Add WIDTH channels to a token's gradient, if it is on the map; from sm_90 on, 4 with one instruction.
__device__ __forceinline__ void add_to(Real* base, int token, const Real* grad, Real scale) {
    if (token < 0) return;
#if defined(__CUDACC__) && DTYPE != 1 && WIDTH % 4 == 0
    // No memory is said to change: nothing in this kernel reads these sums, and the next samples' loads need
    // not wait.
    unsigned long long at;
    asm("mul.wide.u32 %0, %1, %2;\nadd.u64 %0, %0, %3;"
        : "=&l"(at)
        : "r"(token), "n"((int)(kRow * sizeof(Real))), "l"(__cvta_generic_to_global(base)));
#pragma unroll
    for (int c = 0; c < WIDTH; c += 4) {
        asm volatile(
#if __CUDA_ARCH__ >= 900
            "red.global.add.v4.f32 [%0], {%1, %2, %3, %4};"
#else
            "red.global.add.f32 [%0], %1;\nred.global.add.f32 [%0 + 4], %2;\n"
            "red.global.add.f32 [%0 + 8], %3;\nred.global.add.f32 [%0 + 12], %4;"
#endif
            :
            : "l"(at + c * sizeof(Real)), "f"(grad[c] * scale), "f"(grad[c + 1] * scale),
              "f"(grad[c + 2] * scale), "f"(grad[c + 3] * scale));
    }
#else
#pragma unroll
    for (int c = 0; c < WIDTH; ++c) atomicAdd(base + (unsigned)token * kRow + c, grad[c] * scale);
#endif
}

__device__ __forceinline__ Real sum_of_lanes(Real x) {
#pragma unroll
    for (int step = LANES / 2; step; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

// Neighbouring queries sample the same tokens, of levels no finer than their own map several times each.
// Their gradients are added up by token before they go to memory, so that fewer additions do. An entry is one corner
// of one sample; entries of a bucket are chained, and those of a token are all in one bucket.
constexpr int kEntries = kPairs * kSamples * 4;
__device__ constexpr int buckets_of(int entries) {
    int buckets = 32;
    while (buckets < 1024 && 2 * buckets < entries) buckets *= 2;
    return buckets;
}
constexpr int kBuckets = buckets_of(kEntries);
static_assert(kBuckets >= kPairs && (!REDUCE || kEntries < 32768), "entries are numbered in 16 bits");

__device__ __forceinline__ unsigned bucket_of(int token) {
    // Knuth's multiplicative hashing: neighbours of a row and of a column fall apart.
    return ((unsigned)token * 2654435761u) / (0xffffffffu / kBuckets + 1u);
}

struct Reduction {
    int head[kBuckets];                  // a bucket's last entry, or -1
    short next[kEntries];                // the entry before it, or -1
    Channels grad[kPairs][DIM / WIDTH];  // of the outputs
};

__device__ __forceinline__ void chain(Reduction& r, const BackwardSample& sample, int number) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (sample.token[i] < 0) continue;
        r.next[4 * number + i] = (short)atomicExch(&r.head[bucket_of(sample.token[i])], 4 * number + i);
    }
}

// Each group of LANES threads takes whole buckets. `base` is where this thread's channels of token 0 lie.
__device__ __forceinline__ void add_reduced(const Reduction& r, const Row<BackwardSample>* samples, int group,
                                            int lane, Real* base) {
    for (int step = 0; step < kSteps; ++step) {
        const int channels = step * LANES + lane;
        if (channels * WIDTH >= DIM) break;
        Real total[WIDTH] = {};
        int token = -1, bucket = group, entry = r.head[group];
        for (;;) {
            while (entry < 0 && (bucket += kPairs) < kBuckets) entry = r.head[bucket];
            if (entry < 0) break;
            const unsigned number = entry, corner = number % 4, k = number / 4 % kSamples;
            const unsigned of = number / (4 * kSamples);
            const BackwardSample& sample = samples[of].at[k];
            if (sample.token[corner] != token) {
                add_to(base + step * LANES * WIDTH, token, total, Real(1));
                token = sample.token[corner];
#pragma unroll
                for (int c = 0; c < WIDTH; ++c) total[c] = 0;
            }
            const Real weight = sample.part[corner];
            Real grad[WIDTH];
            widen_all(r.grad[of][channels], grad);
#pragma unroll
            for (int c = 0; c < WIDTH; ++c) total[c] += weight * grad[c];
            entry = r.next[entry];
        }
        add_to(base + step * LANES * WIDTH, token, total, Real(1));
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    segmeter_backward(const __grid_constant__ Problem p) {
    __shared__ Level levels[LEVELS];
    __shared__ int queries[kPairs];
    __shared__ Row<BackwardSample> samples[kPairs];
    const int group = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    int tokens_of_map;
    const int query = query_of(p, group, tokens_of_map);
    if (lane == 0) queries[group] = query;
    // Threads without a pair stay: the sums over lanes need the whole warp. Their samples have no tokens.
    const bool real_pair = query >= 0;
    const long long pair = pair_of(p, query);
#if FUSED
    __shared__ Real largest[kPairs], scale[kPairs];
    Real my_largest, my_scale;
    softmax_of_pair(p, query, lane, my_largest, my_scale);
    if (lane == 0) {
        largest[group] = my_largest;
        scale[group] = my_scale;
    }
#endif
#if REDUCE
    __shared__ Reduction reduction;
    for (int i = threadIdx.x; i < kBuckets; i += THREADS) reduction.head[i] = -1;
#endif
    Real grad[kSteps][WIDTH];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
        const int channel = (step * LANES + lane) * WIDTH;
        Channels given = {};
        if (real_pair && channel < DIM) {
            given = *reinterpret_cast<const Channels*>(p.grad_output + pair * DIM + channel);
        }
#if REDUCE
        if (channel < DIM) reduction.grad[group][step * LANES + lane] = given;
#endif
        widen_all(given, grad[step]);
    }
    load_levels(p, levels);
    __syncthreads();

    for (int i = threadIdx.x; i < kPairs * kSamples; i += THREADS) {
        const int of = i / kSamples, k = i % kSamples;
        BackwardSample sample = {{-1, -1, -1, -1}, {}};
        if (queries[of] >= 0) {
            const Corners<Real> c = corners_of(p, levels, queries[of], k);
            const Real weight = widen(p.weights[pair_of(p, queries[of]) * kSamples + k]);
#if FUSED
            // A sample off the map takes its share of the softmax all the same.
            sample.part[kWeight] = exp(weight - largest[of]) * scale[of];
#else
            sample.part[kWeight] = c.inside ? weight : Real(0);
#endif
            sample.token[0] = existing(c.token0, p.tokens);
            sample.token[1] = existing(c.token1, p.tokens);
            sample.token[2] = existing(c.token2, p.tokens);
            sample.token[3] = existing(c.token3, p.tokens);
            sample.part[kX] = c.fraction_x;
            sample.part[kY] = c.fraction_y;
#if REDUCE
            const Level level = levels[k / POINTS];
            if ((long long)level.height * level.width <= tokens_of_map) {
                chain(reduction, sample, i);
                sample.part[kResult] = 1;
            }
#endif
        }
        samples[of].at[k] = sample;
    }
    __syncthreads();

    const Stored* base = kept(p.value + offset_of_map(p, lane));
    Real* grad_base = kept(p.grad_value + offset_of_map(p, lane));
#if FUSED
    Real weighted = 0;
#endif
    // Of each LANES samples a thread keeps the gradients of one, and writes them.
    for (int first = 0; first < kSamples; first += LANES) {
        Real mine_x = 0, mine_y = 0, mine = 0;
        const int last = first + LANES < kSamples ? first + LANES : kSamples;
        for (int k = first; k < last; ++k) {
            const BackwardSample sample = samples[group].at[k];
            const Real x = sample.part[kX], y = sample.part[kY], weight = sample.part[kWeight];
            const Real rest_x = Real(1) - x, rest_y = Real(1) - y;
            Real dot[4] = {};
#pragma unroll
            for (int step = 0; step < kSteps; ++step) {
                const int channel = step * LANES * WIDTH;
                Channels corner[4];
                int token[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    token[i] = channel + lane * WIDTH < DIM ? sample.token[i] : -1;
                    corner[i] = load_or_zero(base + channel, token[i]);
                }
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    Real wide[WIDTH];
                    widen_all(corner[i], wide);
#pragma unroll
                    for (int w = 0; w < WIDTH; ++w) dot[i] += grad[step][w] * wide[w];
                }
                if (!REDUCE || sample.part[kResult] == Real(0)) {
                    const Real above = rest_y * weight, below = y * weight;
                    add_to(grad_base + channel, token[0], grad[step], above * rest_x);
                    add_to(grad_base + channel, token[1], grad[step], above * x);
                    add_to(grad_base + channel, token[2], grad[step], below * rest_x);
                    add_to(grad_base + channel, token[3], grad[step], below * x);
                }
            }
            const Real top = rest_x * dot[0] + x * dot[1];
            const Real bottom = rest_x * dot[2] + x * dot[3];
            const Real to_weight = sum_of_lanes(rest_y * top + y * bottom);
            const Real to_x = sum_of_lanes(segmeter::x_gradient(y, dot[0], dot[1], dot[2], dot[3]));
            const Real to_y = sum_of_lanes(bottom - top);
            if (k - first == lane) {
                mine = to_weight;
                mine_x = weight * to_x;
                mine_y = weight * to_y;
            }
#if FUSED
            weighted += weight * to_weight;
#endif
        }
        const int k = first + lane;
        if (!real_pair || k >= kSamples) continue;
        const long long to = pair * kSamples + k;
#if FUSED
        // Places are offsets in pixels. The weights' gradients need the sum over all samples first.
        samples[group].at[k].part[kResult] = mine;
#else
        const Level level = levels[k / POINTS];
        mine_x *= Real(level.width);
        mine_y *= Real(level.height);
        p.grad_weights[to] = narrow(mine);
#endif
        p.grad_places[2 * to] = narrow(mine_x);
        p.grad_places[2 * to + 1] = narrow(mine_y);
    }

#if FUSED || REDUCE
    // All threads of the pair have read its samples.
    __syncwarp();
    for (int k = lane; real_pair && k < kSamples; k += LANES) {
        BackwardSample& sample = samples[group].at[k];
        const Real weight = sample.part[kWeight];
#if FUSED
        p.grad_weights[pair * kSamples + k] = narrow(weight * (sample.part[kResult] - weighted));
#endif
#if REDUCE
        const Real x = sample.part[kX], y = sample.part[kY];
        const Real above = (Real(1) - y) * weight, below = y * weight;
        sample.part[kX] = above * (Real(1) - x);
        sample.part[kY] = above * x;
        sample.part[kWeight] = below * (Real(1) - x);
        sample.part[kResult] = below * x;
#endif
    }
#endif
#if REDUCE
    // All pairs' samples hold their corners' weights.
    __syncthreads();
    add_reduced(reduction, samples, group, lane, grad_base);
#endif
}
