// Multi-scale deformable attention on the CPU: forward and backward, plain and fused.
//
// Legend: B batch, S tokens of all levels, M heads, D channels per head, Q queries, K = levels * points.
// Half precisions are widened to float on the way in and rounded once on the way out.
//
// Both directions first copy one head's maps next to each other, (S, D) with a row of zeros after them.
// In the caller's (S, M, D) layout a head's rows are M*D apart, which uses only a few sets of each cache;
// and a row is read about 4*K times, so that widening it once is cheap. Corners off the map read the zeros.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "parallel.h"
#include "sample.h"

#define SEGMETER_INLINE_MEMBER inline __attribute__((always_inline))

namespace {

using segmeter::along_axis;
using segmeter::ask_for_large_pages;
using segmeter::Buffer;
using segmeter::Corners;
using segmeter::find_corners;
using segmeter::in_parallel;
using segmeter::run;

// ---- Number formats ---------------------------------------------------------------------------------

struct Half {
    uint16_t bits;
};
struct Bfloat {
    uint16_t bits;
};

template <typename To, typename From>
SEGMETER_INLINE To bit_cast(From from) {
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

SEGMETER_INLINE float widen(float x) { return x; }
SEGMETER_INLINE double widen(double x) { return x; }
SEGMETER_INLINE float widen(Bfloat x) { return bit_cast<float>(uint32_t(x.bits) << 16); }
SEGMETER_INLINE float widen(Half x) {
    const uint32_t magnitude = uint32_t(x.bits & 0x7fffu) << 13;
    // 2^112 moves the exponent's bias from 15 to 127, and normalises what is subnormal in half.
    const float finite = bit_cast<float>(magnitude) * bit_cast<float>(0x77800000u);
    const uint32_t special = (x.bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
    return bit_cast<float>(bit_cast<uint32_t>(finite) | special | uint32_t(x.bits & 0x8000u) << 16);
}

SEGMETER_INLINE void narrow(float x, float& to) { to = x; }
SEGMETER_INLINE void narrow(double x, double& to) { to = x; }
SEGMETER_INLINE void narrow(float x, Bfloat& to) {
    const uint32_t bits = bit_cast<uint32_t>(x);
    const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;  // to nearest, ties to even
    to.bits = uint16_t(x != x ? 0x7fc0u : rounded);
}
SEGMETER_INLINE void narrow(float x, Half& to) {
    const uint32_t bits = bit_cast<uint32_t>(x);
    const uint32_t magnitude = bits & 0x7fffffffu;
    // Below 2^-14 the sum with 0.5 leaves the rounded subnormal in the low bits.
    const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
    const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    const uint32_t large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    const uint32_t result = magnitude >= 0x47800000u ? large : magnitude < 0x38800000u ? subnormal : normal;
    to.bits = uint16_t(result | (bits >> 16 & 0x8000u));
}

template <typename T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

// ---- Vectors ----------------------------------------------------------------------------------------

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename Real, int Lanes>
struct Vector {
    typedef Real type __attribute__((vector_size(Lanes * sizeof(Real))));
    typedef Real unaligned __attribute__((vector_size(Lanes * sizeof(Real)), aligned(sizeof(Real)), may_alias));
};

// Count adjacent channels held in registers; one scalar where the machine's vectors do not fit them.
template <typename Real, int Count>
struct Channels {
    static constexpr int lanes = Count * int(sizeof(Real)) < kVectorBytes ? Count : kVectorBytes / int(sizeof(Real));
    static constexpr int parts = Count / lanes;
    using Part = typename Vector<Real, lanes>::type;
    using Unaligned = typename Vector<Real, lanes>::unaligned;
    Part part[parts];

    SEGMETER_INLINE Part load(const Real* at, int i) {
        return *reinterpret_cast<const Unaligned*>(at + i * lanes);
    }
    SEGMETER_INLINE void store(Real* at, int i, Part value) {
        *reinterpret_cast<Unaligned*>(at + i * lanes) = value;
    }
};

// a * b + c, rounded once where the machine can do so in one instruction. The compiler is told by name: left to
// itself GCC takes the lanes of a vector apart.
template <typename Part>
SEGMETER_INLINE Part fused(Part a, Part b, Part c) {
    Part result;
    for (size_t i = 0; i < sizeof(Part) / sizeof(a[0]); ++i) result[i] = segmeter::multiply_add(a[i], b[i], c[i]);
    return result;
}
#define SEGMETER_FUSED(Real, lanes, call) \
    SEGMETER_INLINE Vector<Real, lanes>::type fused(Vector<Real, lanes>::type a, Vector<Real, lanes>::type b, \
                                                    Vector<Real, lanes>::type c) { \
        return (Vector<Real, lanes>::type)call; \
    }
#if defined(__AVX512F__)
SEGMETER_FUSED(float, 16, _mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c))
SEGMETER_FUSED(double, 8, _mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c))
#endif
#if defined(__FMA__) && defined(__AVX__)
SEGMETER_FUSED(float, 8, _mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c))
SEGMETER_FUSED(double, 4, _mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c))
SEGMETER_FUSED(float, 4, _mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c))
SEGMETER_FUSED(double, 2, _mm_fmadd_pd((__m128d)a, (__m128d)b, (__m128d)c))
#endif

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__aarch64__)
#define SEGMETER_FAST_FMA 1
#endif

// A list of equal numbers is one broadcast; lanes set one by one are as many instructions.
template <typename Part, typename Real, size_t... Lane>
SEGMETER_INLINE Part in_all_lanes(Real from, std::index_sequence<Lane...>) {
    return Part{((void)Lane, from)...};
}

// For sums over samples, where either rounding will do.
template <typename Part, typename Real>
SEGMETER_INLINE Part add_scaled(Real scale, Part row, Part total) {
    const Part scales = in_all_lanes<Part>(scale, std::make_index_sequence<sizeof(Part) / sizeof(Real)>());
#ifdef SEGMETER_FAST_FMA
    return fused(scales, row, total);
#else
    return total + row * scales;
#endif
}

// Numbers of several samples at once, one in each lane, in the place of one number in sample.h.
template <typename Real, int Lanes>
struct Pack {
    using Lane = Real;
    using Type = typename Vector<Real, Lanes>::type;
    Type v;
    Pack() = default;
    SEGMETER_INLINE_MEMBER Pack(Type from) : v(from) {}
    SEGMETER_INLINE_MEMBER explicit Pack(Real from)
        : v(in_all_lanes<Type>(from, std::make_index_sequence<Lanes>())) {}
    SEGMETER_INLINE_MEMBER static Pack load(const Real* at) {
        return *reinterpret_cast<const typename Vector<Real, Lanes>::unaligned*>(at);
    }
    SEGMETER_INLINE_MEMBER void store(Real* at) const {
        *reinterpret_cast<typename Vector<Real, Lanes>::unaligned*>(at) = v;
    }
};

// The whole numbers, and the conditions (all bits of a lane set or none), of a size with the numbers.
template <typename Real>
using WholeOf = std::conditional_t<sizeof(Real) == 4, int32_t, int64_t>;

#define SEGMETER_PACK(returned, op) \
    template <typename Real, int Lanes> \
    SEGMETER_INLINE Pack<returned, Lanes> operator op(Pack<Real, Lanes> a, Pack<Real, Lanes> b) { \
        return Pack<returned, Lanes>((typename Vector<returned, Lanes>::type)(a.v op b.v)); \
    }
SEGMETER_PACK(Real, +)
SEGMETER_PACK(Real, -)
SEGMETER_PACK(Real, *)
SEGMETER_PACK(Real, &)
SEGMETER_PACK(WholeOf<Real>, <)
SEGMETER_PACK(WholeOf<Real>, >)
SEGMETER_PACK(WholeOf<Real>, >=)
template <typename Real, int Lanes>
SEGMETER_INLINE Pack<Real, Lanes> operator-(Pack<Real, Lanes> a) { return Pack<Real, Lanes>(-a.v); }

// What sample.h asks of its numbers; it finds these by the type of their arguments.
template <typename Real, int Lanes>
SEGMETER_INLINE Pack<Real, Lanes> product(Pack<Real, Lanes> a, Pack<Real, Lanes> b) { return a * b; }
template <typename Real, int Lanes>
SEGMETER_INLINE Pack<Real, Lanes> sum(Pack<Real, Lanes> a, Pack<Real, Lanes> b) { return a + b; }
template <typename Real, int Lanes>
SEGMETER_INLINE Pack<Real, Lanes> multiply_add(Pack<Real, Lanes> a, Pack<Real, Lanes> b, Pack<Real, Lanes> c) {
    return Pack<Real, Lanes>(fused(a.v, b.v, c.v));
}
template <typename Real, int Lanes>
SEGMETER_INLINE Pack<WholeOf<Real>, Lanes> to_whole(Pack<Real, Lanes> a) {
    return Pack<WholeOf<Real>, Lanes>(
        __builtin_convertvector(a.v, typename Vector<WholeOf<Real>, Lanes>::type));
}
// Of numbers that fit an int: pixels of a map.
template <typename Real, int Lanes>
SEGMETER_INLINE Pack<Real, Lanes> round_down(Pack<Real, Lanes> a) {
    const Pack<Real, Lanes> cut(__builtin_convertvector(to_whole(a).v, typename Vector<Real, Lanes>::type));
    return cut - choose(cut > a, Pack<Real, Lanes>(Real(1)), Pack<Real, Lanes>(Real(0)));
}
template <typename T, typename Truth, int Lanes>
SEGMETER_INLINE Pack<T, Lanes> choose(Pack<Truth, Lanes> condition, Pack<T, Lanes> yes, Pack<T, Lanes> no) {
    return Pack<T, Lanes>(condition.v ? yes.v : no.v);
}

// The even (0) or the odd (1) lanes of two packs one after another.
template <int Odd, typename Real, int Lanes, size_t... Lane>
SEGMETER_INLINE Pack<Real, Lanes> every_other(Pack<Real, Lanes> a, Pack<Real, Lanes> b,
                                              std::index_sequence<Lane...>) {
#ifdef __clang__
    return Pack<Real, Lanes>(__builtin_shufflevector(a.v, b.v, int(2 * Lane + Odd)...));
#else
    using From = typename Vector<WholeOf<Real>, Lanes>::type;
    return Pack<Real, Lanes>(__builtin_shuffle(a.v, b.v, From{WholeOf<Real>(2 * Lane + Odd)...}));
#endif
}
template <int Odd, typename Real, int Lanes>
SEGMETER_INLINE Pack<Real, Lanes> every_other(Pack<Real, Lanes> a, Pack<Real, Lanes> b) {
    return every_other<Odd>(a, b, std::make_index_sequence<Lanes>());
}

// The lanes folded into one number, halves onto halves.
template <int Lanes, typename Real, typename Fold>
SEGMETER_INLINE Real fold_lanes(typename Vector<Real, Lanes>::type v, const Fold& fold) {
    if constexpr (Lanes == 1) {
        return v[0];
    } else {
        typedef typename Vector<Real, Lanes / 2>::type HalfPart;
        HalfPart low, high;
        std::memcpy(&low, &v, sizeof low);
        std::memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof low, sizeof high);
        return fold_lanes<Lanes / 2, Real>(fold(low, high), fold);
    }
}

// e^x of x <= 0 within 2 units in the last place; 0 below the smallest normal number.
template <int Lanes>
SEGMETER_INLINE Pack<float, Lanes> exponential(Pack<float, Lanes> x) {
    using P = Pack<float, Lanes>;
    using Ints = typename Vector<int32_t, Lanes>::type;
    // 1.5 * 2^23: a sum with it is rounded to a whole number, which its lowest bits then hold.
    const P magic(12582912.0f);
    const P small(-87.0f);
    const P kept = choose(x < small, small, x);
    const P shifted = multiply_add(kept, P(1.44269504f), magic);
    const P power = shifted - magic;
    // ln 2 in two parts, so that power times the first has no rounding error.
    P rest = multiply_add(power, P(-0.693359375f), kept);
    rest = multiply_add(power, P(2.12194440e-4f), rest);
    // Cephes' polynomial for e^r on [-ln 2 / 2, ln 2 / 2].
    P series(1.9875691500e-4f);
    for (const float term : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) {
        series = multiply_add(series, rest, P(term));
    }
    const P near_one = multiply_add(series, rest * rest, rest) + P(1.0f);
    const Ints exponent = bit_cast<Ints>(shifted.v) << 23;
    const P result(bit_cast<typename P::Type>(bit_cast<Ints>(near_one.v) + exponent));
    return choose(x < small, P(0.0f), result);
}
template <int Lanes>
SEGMETER_INLINE Pack<double, Lanes> exponential(Pack<double, Lanes> x) {
    for (int i = 0; i < Lanes; ++i) x.v[i] = std::exp(x.v[i]);
    return x;
}

}  // namespace

template <typename Real, int Lanes>
struct segmeter::With<Pack<Real, Lanes>> {
    using Whole = Pack<WholeOf<Real>, Lanes>;
    using Truth = Pack<WholeOf<Real>, Lanes>;
};

namespace {

// ---- The call ---------------------------------------------------------------------------------------

extern "C" struct SegmeterCall {
    const void* value;        // (B, S, M, D)
    const void* places;       // (B, Q, M, K, 2): locations, or offsets in pixels if fused
    const void* weights;      // (B, Q, M, K): attention weights, or logits if fused
    const void* reference;    // null, or fused: (B or 1, Q, L or 1, 2) in the accumulation type
    const void* grad_output;  // (B, Q, M*D), backward only
    void* output;             // (B, Q, M*D), forward only
    void* grad_value;
    void* grad_places;
    void* grad_weights;
    const int64_t* shapes;    // (L, 2): height, width
    const int64_t* starts;    // (L,)
    int64_t batch, tokens, heads, dim, levels, points, queries;
    int64_t reference_batches, reference_levels;
    int64_t threads;
    int64_t dtype;            // 0 float, 1 double, 2 half, 3 bfloat
};

using Call = SegmeterCall;

// ---- Samples of a block of queries -------------------------------------------------------------------

template <typename Real>
constexpr int kLanes = kVectorBytes / int(sizeof(Real));

// Samples of one query rounded up to whole vectors.
template <typename Real>
inline int padded(int per_query) {
    return (per_query + kLanes<Real> - 1) / kLanes<Real> * kLanes<Real>;
}

// Everything about the samples of `queries` queries that does not depend on the channels, one array for each
// quantity; a query's samples begin at a multiple of `padded`. What lies between two queries means nothing.
template <typename Real>
struct Samples {
    Samples(int queries, int per_query)
        : storage(size_t(queries) * padded<Real>(per_query) * kReals + 3 * padded<Real>(per_query)),
          tokens(size_t(queries) * padded<Real>(per_query) * 4) {
        const int64_t capacity = int64_t(queries) * padded<Real>(per_query);
        Real** reals[] = {&weight, &corner[0], &corner[1], &corner[2], &corner[3], &fraction_x, &fraction_y,
                          &dot[0], &dot[1], &dot[2], &dot[3], &given_weight, &to_weight};
        static_assert(sizeof reals / sizeof *reals == kReals);
        for (int i = 0; i < kReals; ++i) *reals[i] = storage.data() + i * capacity;
        copied_places = storage.data() + kReals * capacity;
        copied_weights = copied_places + 2 * padded<Real>(per_query);
        for (int i = 0; i < 4; ++i) token[i] = tokens.data() + i * capacity;
    }
    static constexpr int kReals = 13;
    std::vector<Real> storage;
    std::vector<WholeOf<Real>> tokens;
    // Of a corner: its token and its bilinear weight, which for the forward pass is scaled by the sample's.
    WholeOf<Real>* token[4];
    Real *corner[4], *weight, *fraction_x, *fraction_y, *dot[4];
    Real* given_weight;  // as `weight`, also of samples off the map
    Real* to_weight;     // the gradient of the weight
    Real *copied_places, *copied_weights;
};

// One entry per sample of a query: the level it belongs to.
template <typename Real>
struct LevelOfSample {
    explicit LevelOfSample(const Call& call) {
        const int count = padded<Real>(int(call.levels * call.points));
        for (int k = 0; k < count; ++k) {
            const int64_t level = std::min<int64_t>(k / call.points, call.levels - 1);
            height.push_back(WholeOf<Real>(call.shapes[2 * level]));
            width.push_back(WholeOf<Real>(call.shapes[2 * level + 1]));
            start.push_back(WholeOf<Real>(call.starts[level]));
            real_height.push_back(Real(height.back()));
            real_width.push_back(Real(width.back()));
            reference.push_back(call.reference_levels > 1 ? int(level) : 0);
            number.push_back(k);
        }
    }
    std::vector<WholeOf<Real>> height, width, start, number;
    std::vector<Real> real_height, real_width;
    std::vector<int> reference;
};

// A row of `count` numbers, of which up to `wanted` may be read. Vectors read beyond a row's end: what follows is
// the next row, but for the tensor's last ones, which are copied, as are half precisions.
template <typename T, typename Real>
SEGMETER_INLINE const Real* readable(const T* row, int64_t count, int64_t wanted, const T* end, Real* copy) {
    if constexpr (std::is_same_v<T, Real>) {
        if (end - row >= wanted) return row;
    }
    for (int64_t k = 0; k < count; ++k) copy[k] = widen(row[k]);
    return copy;
}

// The softmax of a row of `count` numbers.
template <typename Real>
SEGMETER_INLINE void softmax(const Real* row, const LevelOfSample<Real>& of, int count, Real* out) {
    constexpr int lanes = kLanes<Real>;
    using P = Pack<Real, lanes>;
    const P nothing(-std::numeric_limits<Real>::infinity());
    const Pack<WholeOf<Real>, lanes> end{WholeOf<Real>(count)};
    P most = nothing;
    for (int k = 0; k < count; k += lanes) {
        const P x = choose(Pack<WholeOf<Real>, lanes>::load(of.number.data() + k) < end, P::load(row + k), nothing);
        x.store(out + k);
        most = choose(x > most, x, most);
    }
    const P largest(fold_lanes<lanes, Real>(most.v, [](auto a, auto b) { return a > b ? a : b; }));
    P total(Real(0));
    for (int k = 0; k < count; k += lanes) {
        const P x = exponential(P::load(out + k) - largest);
        x.store(out + k);
        total = total + x;
    }
    const P scale(Real(1) / fold_lanes<lanes, Real>(total.v, [](auto a, auto b) { return a + b; }));
    for (int k = 0; k < count; k += lanes) (P::load(out + k) * scale).store(out + k);
}

// Ask for the cache lines of what may be read soon; an address beyond the tensor's end does no harm.
SEGMETER_INLINE void prefetch(const void* data, int64_t bytes) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(data) / 64 * 64;
    const uintptr_t end = reinterpret_cast<uintptr_t>(data) + uintptr_t(bytes);
    for (uintptr_t at = begin; at < end; at += 64) __builtin_prefetch(reinterpret_cast<const void*>(at));
}

// Queries between asking for their places and weights and reading them.
constexpr int64_t kRowsAhead = 8;

// Fill `samples` for one head's queries [first, first + count) of batch item b, for the backward pass in full.
template <typename T, bool Backward, typename Real = Wide<T>>
void find_samples(const Call& call, const LevelOfSample<Real>& of, int64_t b, int64_t first, int count,
                  int64_t head, Samples<Real>& samples) {
    constexpr int lanes = kLanes<Real>;
    using P = Pack<Real, lanes>;
    using W = Pack<WholeOf<Real>, lanes>;
    const int per_query = int(call.levels * call.points), step = padded<Real>(per_query);
    const int64_t all = call.batch * call.queries * call.heads * per_query;
    const T* end_of_places = static_cast<const T*>(call.places) + 2 * all;
    const T* end_of_weights = static_cast<const T*>(call.weights) + all;
    const W outside{WholeOf<Real>(call.tokens)};
    for (int q = 0; q < count; ++q) {
        const int64_t row = ((b * call.queries + first + q) * call.heads + head) * per_query;
        const int64_t base = int64_t(q) * step;
        // The next row of this head lies `heads` rows on, too far for the processor to see it coming.
        const int64_t later = row + kRowsAhead * call.heads * per_query;
        prefetch(static_cast<const T*>(call.places) + 2 * later, 2 * per_query * int64_t(sizeof(T)));
        prefetch(static_cast<const T*>(call.weights) + later, per_query * int64_t(sizeof(T)));
        const Real* place = readable(static_cast<const T*>(call.places) + 2 * row, 2 * per_query, 2 * step,
                                     end_of_places, samples.copied_places);
        const Real* weight = readable(static_cast<const T*>(call.weights) + row, per_query, step,
                                      end_of_weights, samples.copied_weights);
        const Real* reference = nullptr;
        if (call.reference) {
            softmax(weight, of, per_query, samples.weight + base);
            weight = samples.weight + base;
            const int64_t item = call.reference_batches > 1 ? b : 0;
            reference = static_cast<const Real*>(call.reference) +
                        (item * call.queries + first + q) * call.reference_levels * 2;
        }
        for (int k = 0; k < step; k += lanes) {
            const P low = P::load(place + 2 * k), high = P::load(place + 2 * k + lanes);
            P x = every_other<0>(low, high), y = every_other<1>(low, high);
            P shift_x(Real(0)), shift_y(Real(0));
            if (reference) {
                shift_x = x;
                shift_y = y;
                x = P(reference[0]);
                y = P(reference[1]);
                if (call.reference_levels > 1) {
                    for (int i = 0; i < lanes; ++i) {
                        x.v[i] = reference[2 * of.reference[k + i]];
                        y.v[i] = reference[2 * of.reference[k + i] + 1];
                    }
                }
            }
            const auto c = find_corners(along_axis(x, P::load(of.real_width.data() + k), shift_x),
                                        along_axis(y, P::load(of.real_height.data() + k), shift_y),
                                        W::load(of.height.data() + k), W::load(of.width.data() + k),
                                        W::load(of.start.data() + k), outside);
            const int64_t at = base + k;
            c.token0.store(samples.token[0] + at);
            c.token1.store(samples.token[1] + at);
            c.token2.store(samples.token[2] + at);
            c.token3.store(samples.token[3] + at);
            // The weight of a sample that touches nothing must not matter, not even if it is infinite.
            const P given = P::load(weight + k), used = choose(c.inside, given, P(Real(0)));
            const P factor = Backward ? P(Real(1)) : used;
            (c.weight0 * factor).store(samples.corner[0] + at);
            (c.weight1 * factor).store(samples.corner[1] + at);
            (c.weight2 * factor).store(samples.corner[2] + at);
            (c.weight3 * factor).store(samples.corner[3] + at);
            if (Backward) {
                c.fraction_x.store(samples.fraction_x + at);
                c.fraction_y.store(samples.fraction_y + at);
                given.store(samples.given_weight + at);
                used.store(samples.weight + at);
            }
        }
    }
}

// ---- Forward ----------------------------------------------------------------------------------------

// Copy one head's maps, (S, D) and a row of zeros; rows [from, to) only.
template <typename T, typename Real = Wide<T>>
void copy_head(const Call& call, int64_t b, int64_t head, int64_t from, int64_t to, Real* maps) {
    const int64_t dim = call.dim;
    const T* value = static_cast<const T*>(call.value) + (b * call.tokens * call.heads + head) * dim;
    for (int64_t row = from; row < to; ++row) {
        const T* source = value + row * call.heads * dim;
        for (int64_t c = 0; c < dim; ++c) maps[row * dim + c] = widen(source[c]);
    }
    if (to == call.tokens) std::fill_n(maps + call.tokens * dim, dim, Real(0));
}

// Sum Count channels over the samples [begin, end).
template <int Count, typename Real>
SEGMETER_INLINE void sum_samples(const Samples<Real>& s, int begin, int end, const Real* maps, int64_t dim,
                                 Real* total) {
    using C = Channels<Real, Count>;
    // One sum for each corner: a sum waits for its last addition, and four of them wait side by side.
    typename C::Part sums[4][C::parts] = {};
    for (int k = begin; k < end; ++k) {
        for (int corner = 0; corner < 4; ++corner) {
            const Real* row = maps + int64_t(s.token[corner][k]) * dim;
            const Real scale = s.corner[corner][k];
            for (int i = 0; i < C::parts; ++i) {
                sums[corner][i] = add_scaled(scale, C::load(row, i), sums[corner][i]);
            }
        }
    }
    for (int i = 0; i < C::parts; ++i) {
        C::store(total, i, (sums[0][i] + sums[1][i]) + (sums[2][i] + sums[3][i]));
    }
}

// All channels of one query, the widest blocks first.
template <typename Real>
void sum_all_channels(const Samples<Real>& s, int begin, int end, const Real* maps, int64_t dim, Real* total) {
    int64_t c = 0;
    for (; c + 32 <= dim; c += 32) sum_samples<32>(s, begin, end, maps + c, dim, total + c);
    for (; c + 16 <= dim; c += 16) sum_samples<16>(s, begin, end, maps + c, dim, total + c);
    for (; c + 8 <= dim; c += 8) sum_samples<8>(s, begin, end, maps + c, dim, total + c);
    for (; c + 4 <= dim; c += 4) sum_samples<4>(s, begin, end, maps + c, dim, total + c);
    for (; c < dim; ++c) sum_samples<1>(s, begin, end, maps + c, dim, total + c);
}

// As above, straight from the caller's tensor: for so few queries that copying the maps would cost more.
template <typename T, typename Real = Wide<T>>
void sum_in_place(const Call& call, const Samples<Real>& s, int begin, int end, const T* value,
                  Real* total) {
    const int64_t dim = call.dim;
    std::fill_n(total, dim, Real(0));
    for (int k = begin; k < end; ++k) {
        for (int corner = 0; corner < 4; ++corner) {
            if (s.token[corner][k] == call.tokens) continue;
            const T* row = value + int64_t(s.token[corner][k]) * call.heads * dim;
            const Real scale = s.corner[corner][k];
            for (int64_t c = 0; c < dim; ++c) total[c] += scale * widen(row[c]);
        }
    }
}

// Ask for the rows that the samples of some queries will read; `stride` and `size` of a row are in bytes.
template <typename Real>
SEGMETER_INLINE void prefetch_rows(const Samples<Real>& s, int queries, int per_query, const void* maps,
                                   int64_t stride, int64_t size) {
    for (int q = 0; q < queries; ++q) {
        const int begin = q * padded<Real>(per_query);
        for (int k = begin; k < begin + per_query; ++k) {
            for (int corner = 0; corner < 4; ++corner) {
                const char* row = static_cast<const char*>(maps) + int64_t(s.token[corner][k]) * stride;
                for (int64_t at = 0; at < size; at += 64) __builtin_prefetch(row + at);
            }
        }
    }
}

constexpr int kQueriesAtOnce = 2;
constexpr int64_t kQueriesPerTask = 1024;
constexpr int64_t kRowsPerTask = 4096;
// Multiplications that are worth starting a thread for: about a millisecond's.
constexpr int64_t kWorkPerThread = int64_t(1) << 22;

template <typename T, typename Real = Wide<T>>
void forward(const Call& call) {
    ask_for_large_pages(call.output, sizeof(T) * size_t(call.batch * call.queries * call.heads * call.dim));
    const LevelOfSample<Real> of(call);
    const int per_query = int(call.levels * call.points), step = padded<Real>(per_query);
    const int64_t head_size = (call.tokens + 1) * call.dim;
    const bool copied = call.queries * per_query * 4 >= call.tokens;
    std::unique_ptr<Buffer<Real>> maps;
    if (copied) maps = std::make_unique<Buffer<Real>>(call.heads * head_size);
    const int64_t work = call.queries * call.heads * per_query * 4 * call.dim;
    const int64_t threads = std::min(call.threads, 1 + work / kWorkPerThread);
    const int64_t blocks = (call.queries + kQueriesPerTask - 1) / kQueriesPerTask;
    const int64_t copies = (call.tokens + kRowsPerTask - 1) / kRowsPerTask;

    for (int64_t b = 0; b < call.batch; ++b) {
        if (copied) {
            in_parallel(threads, call.heads * copies, [&] {
                return [&](int64_t task) {
                    const int64_t head = task / copies, from = task % copies * kRowsPerTask;
                    copy_head<T>(call, b, head, from, std::min(from + kRowsPerTask, call.tokens),
                                 maps->data() + head * head_size);
                };
            });
        }
        // Head after head, so that all threads share one head's maps in the last-level cache.
        in_parallel(threads, call.heads * blocks, [&] {
            auto samples = std::make_shared<Samples<Real>>(kQueriesAtOnce, per_query);
            auto total = std::make_shared<std::vector<Real>>(call.dim);
            return [&, samples, total](int64_t task) {
                const int64_t head = task / blocks, begin = task % blocks * kQueriesPerTask;
                const int64_t end = std::min(begin + kQueriesPerTask, call.queries);
                const Real* head_maps = copied ? maps->data() + head * head_size : nullptr;
                const T* in_place =
                    static_cast<const T*>(call.value) + (b * call.tokens * call.heads + head) * call.dim;
                for (int64_t q = begin; q < end; q += kQueriesAtOnce) {
                    const int size = int(std::min<int64_t>(kQueriesAtOnce, end - q));
                    find_samples<T, false>(call, of, b, q, size, head, *samples);
                    for (int i = 0; i < size; ++i) {
                        const int from = i * step, to = from + per_query;
                        if (copied) {
                            sum_all_channels(*samples, from, to, head_maps, call.dim, total->data());
                        } else {
                            sum_in_place(call, *samples, from, to, in_place, total->data());
                        }
                        T* output = static_cast<T*>(call.output) +
                                    ((b * call.queries + q + i) * call.heads + head) * call.dim;
                        for (int64_t c = 0; c < call.dim; ++c) narrow((*total)[c], output[c]);
                    }
                }
            };
        });
    }
}

// ---- Backward ---------------------------------------------------------------------------------------

// For Count channels: add to each corner's dot product with the output gradient, and to its map gradient.
template <int Count, typename Real>
SEGMETER_INLINE void scatter_samples(const Samples<Real>& s, int begin, int end, const Real* maps,
                                     Real* grad_maps, int64_t dim, const Real* grad_output) {
    using C = Channels<Real, Count>;
    typename C::Part grad[C::parts];
    for (int i = 0; i < C::parts; ++i) grad[i] = C::load(grad_output, i);
    for (int k = begin; k < end; ++k) {
        for (int corner = 0; corner < 4; ++corner) {
            const int64_t at = int64_t(s.token[corner][k]) * dim;
            const Real scale = s.weight[k] * s.corner[corner][k];
            typename C::Part products = {};
            for (int i = 0; i < C::parts; ++i) {
                products += grad[i] * C::load(maps + at, i);
                const auto old = C::load(grad_maps + at, i);
                C::store(grad_maps + at, i, add_scaled(scale, grad[i], old));
            }
            s.dot[corner][k] += fold_lanes<C::lanes, Real>(products, [](auto a, auto b) { return a + b; });
        }
    }
}

template <typename Real>
void scatter_all_channels(const Samples<Real>& s, int begin, int end, const Real* maps, Real* grad_maps,
                          int64_t dim, const Real* grad) {
    int64_t c = 0;
    for (; c + 32 <= dim; c += 32) scatter_samples<32>(s, begin, end, maps + c, grad_maps + c, dim, grad + c);
    for (; c + 16 <= dim; c += 16) scatter_samples<16>(s, begin, end, maps + c, grad_maps + c, dim, grad + c);
    for (; c + 8 <= dim; c += 8) scatter_samples<8>(s, begin, end, maps + c, grad_maps + c, dim, grad + c);
    for (; c + 4 <= dim; c += 4) scatter_samples<4>(s, begin, end, maps + c, grad_maps + c, dim, grad + c);
    for (; c < dim; ++c) scatter_samples<1>(s, begin, end, maps + c, grad_maps + c, dim, grad + c);
}

// The gradients of one query's places and weights, from the corners' dot products.
template <typename T, typename Real = Wide<T>>
void store_sample_gradients(const Call& call, const LevelOfSample<Real>& of, const Samples<Real>& s,
                            int begin, int64_t row) {
    const int per_query = int(call.levels * call.points);
    T* grad_places = static_cast<T*>(call.grad_places) + 2 * row;
    T* grad_weights = static_cast<T*>(call.grad_weights) + row;
    Real weighted = 0;
    for (int k = 0; k < per_query; ++k) {
        const int at = begin + k;
        Corners<Real> c;
        c.weight0 = s.corner[0][at];
        c.weight1 = s.corner[1][at];
        c.weight2 = s.corner[2][at];
        c.weight3 = s.corner[3][at];
        const Real d0 = s.dot[0][at], d1 = s.dot[1][at], d2 = s.dot[2][at], d3 = s.dot[3][at];
        const Real to_x = s.weight[at] * segmeter::x_gradient(s.fraction_y[at], d0, d1, d2, d3);
        const Real to_y = s.weight[at] * segmeter::y_gradient(s.fraction_x[at], d0, d1, d2, d3);
        // Fused places are offsets in pixels already; locations are fractions of the map.
        narrow(call.reference ? to_x : to_x * Real(of.width[k]), grad_places[2 * k]);
        narrow(call.reference ? to_y : to_y * Real(of.height[k]), grad_places[2 * k + 1]);
        s.to_weight[at] = segmeter::weight_gradient(c, d0, d1, d2, d3);
        weighted += s.weight[at] * s.to_weight[at];
    }
    for (int k = 0; k < per_query; ++k) {
        const Real to_weight = s.to_weight[begin + k];
        // A sample off the map takes its share of the softmax all the same.
        narrow(call.reference ? s.given_weight[begin + k] * (to_weight - weighted) : to_weight,
               grad_weights[k]);
    }
}

template <typename T, typename Real = Wide<T>>
void backward(const Call& call) {
    const LevelOfSample<Real> of(call);
    const int per_query = int(call.levels * call.points), step = padded<Real>(per_query);
    const int64_t dim = call.dim, head_size = (call.tokens + 1) * dim;
    const size_t samples = size_t(call.batch * call.queries * call.heads * per_query);
    ask_for_large_pages(call.grad_value, sizeof(T) * size_t(call.batch * call.tokens * call.heads * dim));
    ask_for_large_pages(call.grad_places, sizeof(T) * 2 * samples);
    ask_for_large_pages(call.grad_weights, sizeof(T) * samples);
    // One thread owns all queries of a head, so nothing is added by two threads at once, and the order of
    // additions is the same for any number of threads.
    in_parallel(call.threads, call.batch * call.heads, [&] {
        auto maps = std::make_shared<Buffer<Real>>(head_size);
        auto grad_maps = std::make_shared<Buffer<Real>>(head_size);
        auto now = std::make_shared<Samples<Real>>(kQueriesAtOnce, per_query);
        auto next = std::make_shared<Samples<Real>>(kQueriesAtOnce, per_query);
        auto grad = std::make_shared<std::vector<Real>>(dim);
        return [&, maps, grad_maps, now, next, grad](int64_t task) mutable {
            const int64_t b = task / call.heads, head = task % call.heads;
            copy_head<T>(call, b, head, 0, call.tokens, maps->data());
            std::fill_n(grad_maps->data(), head_size, Real(0));
            auto prepare = [&](int64_t q, Samples<Real>& samples) {
                const int size = int(std::min<int64_t>(kQueriesAtOnce, call.queries - q));
                find_samples<T, true>(call, of, b, q, size, head, samples);
                const int64_t bytes = dim * int64_t(sizeof(Real));
                prefetch_rows(samples, size, per_query, maps->data(), bytes, bytes);
                prefetch_rows(samples, size, per_query, grad_maps->data(), bytes, bytes);
                for (int corner = 0; corner < 4; ++corner) {
                    std::fill_n(samples.dot[corner], size * step, Real(0));
                }
            };
            if (call.queries) prepare(0, *now);
            for (int64_t q = 0; q < call.queries; q += kQueriesAtOnce) {
                const int size = int(std::min<int64_t>(kQueriesAtOnce, call.queries - q));
                if (q + size < call.queries) prepare(q + size, *next);
                for (int i = 0; i < size; ++i) {
                    const int64_t row = (b * call.queries + q + i) * call.heads + head;
                    const T* grad_output = static_cast<const T*>(call.grad_output) + row * dim;
                    for (int64_t c = 0; c < dim; ++c) (*grad)[c] = widen(grad_output[c]);
                    const int begin = i * step;
                    scatter_all_channels(*now, begin, begin + per_query, maps->data(), grad_maps->data(), dim,
                                         grad->data());
                    store_sample_gradients<T>(call, of, *now, begin, row * per_query);
                }
                std::swap(now, next);
            }
            T* grad_value = static_cast<T*>(call.grad_value) + (b * call.tokens * call.heads + head) * dim;
            for (int64_t token = 0; token < call.tokens; ++token) {
                const Real* source = grad_maps->data() + token * dim;
                T* to = grad_value + token * call.heads * dim;
                for (int64_t c = 0; c < dim; ++c) narrow(source[c], to[c]);
            }
        };
    });
}

}  // namespace

// 0 done, 1 out of memory, 2 any other failure, 3 unknown dtype.
extern "C" int segmeter_forward(const SegmeterCall* call) {
    return run([&] {
        switch (call->dtype) {
            case 0: return forward<float>(*call);
            case 1: return forward<double>(*call);
            case 2: return forward<Half>(*call);
            default: return forward<Bfloat>(*call);
        }
    });
}

extern "C" int segmeter_backward(const SegmeterCall* call) {
    return run([&] {
        switch (call->dtype) {
            case 0: return backward<float>(*call);
            case 1: return backward<double>(*call);
            case 2: return backward<Half>(*call);
            default: return backward<Bfloat>(*call);
        }
    });
}
