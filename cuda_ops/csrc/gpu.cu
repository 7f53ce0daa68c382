// Multi-scale deformable attention on NVIDIA GPUs: forward and backward, plain and fused.
//
// Compiled by NVRTC for one problem kind; the names in capitals are set by cuda_kernel.py:
//   DTYPE 0 float, 1 double, 2 half, 3 bfloat; HEADS, DIM, LEVELS, POINTS; FUSED 0 or 1;
//   WIDTH channels that a thread loads at once, LANES threads per (query, head), THREADS per block.
//
// A *pair* is one query and one head. A block first works out all samples of its pairs, one thread each,
// into shared memory, so that the places are read once and the index arithmetic is done once, and not by
// every channel's thread. Then LANES threads gather a pair's channels, 16 bytes at a time.

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
#else
typedef unsigned short Stored;
__device__ __forceinline__ Real widen(Stored x) { return __uint_as_float((unsigned)x << 16); }
__device__ __forceinline__ Stored narrow(Real x) {
    Stored y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
#endif

constexpr int kSamples = LEVELS * POINTS;
constexpr int kPairs = THREADS / LANES;
constexpr int kSteps = (DIM / WIDTH + LANES - 1) / LANES;
constexpr long long kRow = (long long)HEADS * DIM;

// WIDTH stored channels, moved as one access.
struct alignas(sizeof(Stored) * WIDTH) Channels {
    Stored at[WIDTH];
};

struct Level {
    int height, width, start;
};

struct alignas(16) ForwardSample {
    int token[4];    // -1 off the map
    Real weight[4];  // attention weight times bilinear weight
};

struct alignas(16) BackwardSample {
    int token[4];
    Real x, y;    // fractions; later the gradients of the place
    Real weight;  // attention weight
    Real result;  // the gradient of the weight
};

struct Problem {
    const Stored* value;       // (B, S, HEADS, DIM)
    const long long* shapes;   // (LEVELS, 2): height, width
    const long long* starts;   // (LEVELS,)
    const Stored* places;      // (B, Q, HEADS, LEVELS, POINTS, 2): locations, or offsets in pixels if FUSED
    const Stored* weights;     // (B, Q, HEADS, LEVELS, POINTS): attention weights, or logits if FUSED
    const Real* reference;     // FUSED: (B or 1, Q, LEVELS or 1, 2)
    const Stored* grad_output; // (B, Q, HEADS*DIM), backward
    Stored* output;            // (B, Q, HEADS*DIM), forward
    Real* grad_value;          // as value, zeroed, in the accumulation type
    Stored* grad_places;
    Stored* grad_weights;
    long long pairs, queries, tokens;
    int reference_batches, reference_levels;
};

// The largest logit and the reciprocal of the sum of exponentials, by the LANES threads of a pair.
__device__ __forceinline__ void softmax_of_pair(const Problem& p, long long pair, int lane, Real& largest,
                                                Real& scale) {
    largest = -Real(__int_as_float(0x7f800000));
    const bool real_pair = pair < p.pairs;
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
        levels[i].height = (int)p.shapes[2 * i];
        levels[i].width = (int)p.shapes[2 * i + 1];
        levels[i].start = (int)p.starts[i];
    }
}

__device__ __forceinline__ Corners<Real> corners_of(const Problem& p, const Level* levels, long long pair,
                                                    int k) {
    const int level = k / POINTS;
    const Level of = levels[level];
    const Stored* place = p.places + 2 * (pair * kSamples + k);
    const Real x = widen(place[0]), y = widen(place[1]);
#if FUSED
    const long long row = pair / HEADS;
    const long long item = p.reference_batches > 1 ? row : row % p.queries;
    const Real* at = p.reference + 2 * (item * p.reference_levels + (p.reference_levels > 1 ? level : 0));
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

__device__ __forceinline__ Channels load_or_zero(const Stored* base, int token, int channel) {
    Channels row = {};
    if (token >= 0) row = *reinterpret_cast<const Channels*>(base + token * kRow + channel);
    return row;
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) segmeter_forward(Problem p) {
    __shared__ Level levels[LEVELS];
    __shared__ ForwardSample samples[kPairs][kSamples];
    const long long first = (long long)blockIdx.x * kPairs;
    const int group = threadIdx.x / LANES, lane = threadIdx.x % LANES;
#if FUSED
    __shared__ Real largest[kPairs], scale[kPairs];
    Real my_largest, my_scale;
    softmax_of_pair(p, first + group, lane, my_largest, my_scale);
    if (lane == 0) {
        largest[group] = my_largest;
        scale[group] = my_scale;
    }
#endif
    load_levels(p, levels);
    __syncthreads();

    for (int i = threadIdx.x; i < kPairs * kSamples; i += THREADS) {
        const int of = i / kSamples, k = i % kSamples;
        const long long pair = first + of;
        ForwardSample sample = {{-1, -1, -1, -1}, {}};
        if (pair < p.pairs) {
            const Corners<Real> c = corners_of(p, levels, pair, k);
            Real weight = widen(p.weights[pair * kSamples + k]);
#if FUSED
            weight = exp(weight - largest[of]) * scale[of];
#endif
            sample.token[0] = existing(c.token0, p.tokens);
            sample.token[1] = existing(c.token1, p.tokens);
            sample.token[2] = existing(c.token2, p.tokens);
            sample.token[3] = existing(c.token3, p.tokens);
            sample.weight[0] = c.weight0 * weight;
            sample.weight[1] = c.weight1 * weight;
            sample.weight[2] = c.weight2 * weight;
            sample.weight[3] = c.weight3 * weight;
        }
        samples[of][k] = sample;
    }
    __syncthreads();

    const long long pair = first + group;
    const long long row = pair / HEADS, head = pair % HEADS;
    const Stored* base = p.value + (row / p.queries) * p.tokens * kRow + head * DIM;
    if (pair >= p.pairs) return;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
        const int channel = (step * LANES + lane) * WIDTH;
        if (channel >= DIM) break;
        Real total[WIDTH] = {};
#pragma unroll 2
        for (int k = 0; k < kSamples; ++k) {
            const ForwardSample sample = samples[group][k];
            Channels corner[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) corner[i] = load_or_zero(base, sample.token[i], channel);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                // A weight that is not finite must not meet the zeros that stand for a corner off the map.
                const Real weight = sample.token[i] < 0 ? Real(0) : sample.weight[i];
#pragma unroll
                for (int c = 0; c < WIDTH; ++c) total[c] += weight * widen(corner[i].at[c]);
            }
        }
        Channels result;
#pragma unroll
        for (int c = 0; c < WIDTH; ++c) result.at[c] = narrow(total[c]);
        *reinterpret_cast<Channels*>(p.output + pair * DIM + channel) = result;
    }
}

// Add WIDTH channels to the map's gradient; with one instruction per 4 from sm_90 on.
__device__ __forceinline__ void add_to(Real* at, const Real* grad, Real scale) {
#if DTYPE != 1 && __CUDA_ARCH__ >= 900 && WIDTH % 4 == 0
#pragma unroll
    for (int c = 0; c < WIDTH; c += 4) {
        asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};"
                     :
                     : "l"(__cvta_generic_to_global(at + c)), "f"(grad[c] * scale), "f"(grad[c + 1] * scale),
                       "f"(grad[c + 2] * scale), "f"(grad[c + 3] * scale)
                     : "memory");
    }
#else
#pragma unroll
    for (int c = 0; c < WIDTH; ++c) atomicAdd(at + c, grad[c] * scale);
#endif
}

__device__ __forceinline__ Real sum_of_lanes(Real x) {
#pragma unroll
    for (int step = LANES / 2; step; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) segmeter_backward(Problem p) {
    __shared__ Level levels[LEVELS];
    __shared__ BackwardSample samples[kPairs][kSamples];
    const long long first = (long long)blockIdx.x * kPairs;
    const int group = threadIdx.x / LANES, lane = threadIdx.x % LANES;
#if FUSED
    __shared__ Real largest[kPairs], scale[kPairs], weighted[kPairs];
    Real my_largest, my_scale;
    softmax_of_pair(p, first + group, lane, my_largest, my_scale);
    if (lane == 0) {
        largest[group] = my_largest;
        scale[group] = my_scale;
    }
#endif
    load_levels(p, levels);
    __syncthreads();

    for (int i = threadIdx.x; i < kPairs * kSamples; i += THREADS) {
        const int of = i / kSamples, k = i % kSamples;
        const long long pair = first + of;
        BackwardSample sample = {{-1, -1, -1, -1}, 0, 0, 0, 0};
        if (pair < p.pairs) {
            const Corners<Real> c = corners_of(p, levels, pair, k);
            const Real weight = widen(p.weights[pair * kSamples + k]);
#if FUSED
            // A sample off the map takes its share of the softmax all the same.
            sample.weight = exp(weight - largest[of]) * scale[of];
#else
            sample.weight = c.inside ? weight : Real(0);
#endif
            sample.token[0] = existing(c.token0, p.tokens);
            sample.token[1] = existing(c.token1, p.tokens);
            sample.token[2] = existing(c.token2, p.tokens);
            sample.token[3] = existing(c.token3, p.tokens);
            sample.x = c.fraction_x;
            sample.y = c.fraction_y;
        }
        samples[of][k] = sample;
    }
    __syncthreads();

    // Threads without a pair stay: the sums over lanes need the whole warp. Their samples have no tokens.
    const long long pair = first + group;
    const bool real_pair = pair < p.pairs;
    const long long row = pair / HEADS, head = pair % HEADS;
    const long long offset = real_pair ? (row / p.queries) * p.tokens * kRow + head * DIM : 0;
    const Stored* base = p.value + offset;
    Real* grad_base = p.grad_value + offset;

    Real grad[kSteps][WIDTH];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
        const int channel = (step * LANES + lane) * WIDTH;
        Channels given = {};
        if (real_pair && channel < DIM) {
            given = *reinterpret_cast<const Channels*>(p.grad_output + pair * DIM + channel);
        }
#pragma unroll
        for (int c = 0; c < WIDTH; ++c) grad[step][c] = widen(given.at[c]);
    }
#if FUSED
    Real my_weighted = 0;
#endif
    for (int k = 0; k < kSamples; ++k) {
        const BackwardSample sample = samples[group][k];
        Corners<Real> c;
        c.weight0 = sample.token[0] < 0 ? Real(0) : (Real(1) - sample.y) * (Real(1) - sample.x);
        c.weight1 = sample.token[1] < 0 ? Real(0) : (Real(1) - sample.y) * sample.x;
        c.weight2 = sample.token[2] < 0 ? Real(0) : sample.y * (Real(1) - sample.x);
        c.weight3 = sample.token[3] < 0 ? Real(0) : sample.y * sample.x;
        const Real corner_weight[4] = {c.weight0, c.weight1, c.weight2, c.weight3};
        Real dot[4] = {};
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            const int channel = (step * LANES + lane) * WIDTH;
            Channels corner[4];
            const bool mine = channel < DIM;
#pragma unroll
            for (int i = 0; i < 4; ++i) corner[i] = load_or_zero(base, mine ? sample.token[i] : -1, channel);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if (mine && sample.token[i] >= 0) {
                    add_to(grad_base + sample.token[i] * kRow + channel, grad[step],
                           corner_weight[i] * sample.weight);
                }
#pragma unroll
                for (int w = 0; w < WIDTH; ++w) dot[i] += grad[step][w] * widen(corner[i].at[w]);
            }
        }
        const Real to_weight = sum_of_lanes(segmeter::weight_gradient(c, dot[0], dot[1], dot[2], dot[3]));
        const Real to_x = sum_of_lanes(segmeter::x_gradient(sample.y, dot[0], dot[1], dot[2], dot[3]));
        const Real to_y = sum_of_lanes(segmeter::y_gradient(sample.x, dot[0], dot[1], dot[2], dot[3]));
        // Every lane has read this sample before its place is used for the results.
        __syncwarp();
        if (lane == 0) {
            samples[group][k].x = sample.weight * to_x;
            samples[group][k].y = sample.weight * to_y;
            samples[group][k].result = to_weight;
        }
#if FUSED
        my_weighted += sample.weight * to_weight;
#endif
    }
#if FUSED
    if (lane == 0) weighted[group] = my_weighted;
#endif
    __syncthreads();

    for (int i = threadIdx.x; i < kPairs * kSamples; i += THREADS) {
        const int of = i / kSamples, k = i % kSamples;
        const long long to = (first + of) * kSamples + k;
        if (first + of >= p.pairs) continue;
        const BackwardSample sample = samples[of][k];
#if FUSED
        // Places are offsets in pixels.
        p.grad_places[2 * to] = narrow(sample.x);
        p.grad_places[2 * to + 1] = narrow(sample.y);
        p.grad_weights[to] = narrow(sample.weight * (sample.result - weighted[of]));
#else
        const Level level = levels[k / POINTS];
        p.grad_places[2 * to] = narrow(sample.x * Real(level.width));
        p.grad_places[2 * to + 1] = narrow(sample.y * Real(level.height));
        p.grad_weights[to] = narrow(sample.result);
#endif
    }
}
