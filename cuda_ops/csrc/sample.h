// The arithmetic of one sample, shared word for word by the CPU and the CUDA kernels.
//
// A sample addresses the point (x, y) of one level, in pixels whose centres are whole numbers. It reads up
// to four corners, always in this order: 0 top left, 1 top right, 2 bottom left, 3 bottom right.
// `Real` is float or double or, on the CPU, a vector of either that holds as many samples. Conditions are joined
// by & and told apart by `choose`, which vectors have too. No header is included, so that NVRTC compiles this with nothing installed beside it.
#pragma once

#ifdef __CUDACC__
#define SEGMETER_INLINE __device__ __forceinline__
#else
#define SEGMETER_INLINE static inline __attribute__((always_inline))
#endif

namespace segmeter {

// A product that the compiler may not merge with the addition after it: `exact_product_rest` below is its
// rounding error, and would be wrong of a merged one. The CPU file is compiled with -ffp-contract=off.
#ifdef __CUDACC__
SEGMETER_INLINE float product(float a, float b) { return __fmul_rn(a, b); }
SEGMETER_INLINE double product(double a, double b) { return __dmul_rn(a, b); }
SEGMETER_INLINE float sum(float a, float b) { return __fadd_rn(a, b); }
SEGMETER_INLINE double sum(double a, double b) { return __dadd_rn(a, b); }
SEGMETER_INLINE float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
SEGMETER_INLINE double multiply_add(double a, double b, double c) { return __fma_rn(a, b, c); }
SEGMETER_INLINE float round_down(float a) { return floorf(a); }
SEGMETER_INLINE double round_down(double a) { return floor(a); }
#else
SEGMETER_INLINE float product(float a, float b) { return a * b; }
SEGMETER_INLINE double product(double a, double b) { return a * b; }
SEGMETER_INLINE float sum(float a, float b) { return a + b; }
SEGMETER_INLINE double sum(double a, double b) { return a + b; }
SEGMETER_INLINE float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
SEGMETER_INLINE double multiply_add(double a, double b, double c) { return __builtin_fma(a, b, c); }
SEGMETER_INLINE float round_down(float a) { return __builtin_floorf(a); }
SEGMETER_INLINE double round_down(double a) { return __builtin_floor(a); }
#endif
SEGMETER_INLINE int to_whole(float a) { return int(a); }
SEGMETER_INLINE int to_whole(double a) { return int(a); }
template <typename T>
SEGMETER_INLINE T choose(bool condition, T yes, T no) {
    return condition ? yes : no;
}

// What goes with a type of numbers: that of whole numbers, and that of conditions.
template <typename Real>
struct With {
    using Whole = int;
    using Truth = bool;
};

// Where a sample lies along one axis: between pixel `low` and `low + 1`, `fraction` of the way.
template <typename Real>
struct Along {
    typename With<Real>::Whole low;
    Real fraction;
    typename With<Real>::Truth inside;  // touches at least one pixel; false for NaN and infinities
};

// Pixel coordinate place * size + shift - 1/2. The fraction keeps the rounding errors of the product and
// of the sum, so it is as exact on a map 4096 wide as on one of 16: without them float32 locations on a
// 256-wide map would be wrong by up to 2^-17 of a pixel.
template <typename Real>
SEGMETER_INLINE Along<Real> along_axis(Real place, Real size, Real shift) {
    const Real scaled = product(place, size);
    const Real product_rest = multiply_add(place, size, -scaled);
    const Real moved = sum(scaled, shift);
    const Real shift_part = sum(moved, -scaled);
    const Real sum_rest = sum(sum(scaled, -sum(moved, -shift_part)), sum(shift, -shift_part));
    const Real pixel = sum(moved, Real(-0.5));
    Along<Real> along;
    along.inside = (pixel > Real(-1)) & (pixel < size);
    const Real floor_of_pixel = round_down(choose(along.inside, pixel, Real(0)));
    along.low = to_whole(floor_of_pixel);
    const Real fraction = sum(sum(pixel, -floor_of_pixel), sum(product_rest, sum_rest));
    along.fraction = choose(along.inside, fraction, Real(0));
    return along;
}

// The four corners of one sample: their tokens in the level-after-level order, `outside` for those off the
// map, and their bilinear weights, 0 for those off the map.
template <typename Real>
struct Corners {
    typename With<Real>::Whole token0, token1, token2, token3;
    Real weight0, weight1, weight2, weight3;
    Real fraction_x, fraction_y;
    typename With<Real>::Truth inside;
};

template <typename Real, typename Whole = typename With<Real>::Whole>
SEGMETER_INLINE Corners<Real> find_corners(Along<Real> x, Along<Real> y, Whole height, Whole width, Whole start,
                                           Whole outside) {
    using Truth = typename With<Real>::Truth;
    const Whole one = Whole(1);
    Corners<Real> c;
    c.inside = x.inside & y.inside;
    const Truth left = c.inside & (x.low >= Whole(0)), right = c.inside & (x.low + one < width);
    const Truth top = y.low >= Whole(0), bottom = y.low + one < height;
    const Truth top_left = top & left, top_right = top & right;
    const Truth bottom_left = bottom & left, bottom_right = bottom & right;
    const Whole token = start + y.low * width + x.low;
    const Real from_left = Real(1) - x.fraction, from_top = Real(1) - y.fraction;
    c.fraction_x = x.fraction;
    c.fraction_y = y.fraction;
    c.token0 = choose(top_left, token, outside);
    c.token1 = choose(top_right, token + one, outside);
    c.token2 = choose(bottom_left, token + width, outside);
    c.token3 = choose(bottom_right, token + width + one, outside);
    c.weight0 = choose(top_left, from_top * from_left, Real(0));
    c.weight1 = choose(top_right, from_top * x.fraction, Real(0));
    c.weight2 = choose(bottom_left, y.fraction * from_left, Real(0));
    c.weight3 = choose(bottom_right, y.fraction * x.fraction, Real(0));
    return c;
}

// Given dot_i, the output gradient times corner i's values (0 for a corner off the map): the gradient of
// the attention weight, and those of the pixel coordinates before they are scaled by the weight.
template <typename Real>
SEGMETER_INLINE Real weight_gradient(const Corners<Real>& c, Real dot0, Real dot1, Real dot2, Real dot3) {
    return c.weight0 * dot0 + c.weight1 * dot1 + c.weight2 * dot2 + c.weight3 * dot3;
}

template <typename Real>
SEGMETER_INLINE Real x_gradient(Real fraction_y, Real dot0, Real dot1, Real dot2, Real dot3) {
    return (Real(1) - fraction_y) * (dot1 - dot0) + fraction_y * (dot3 - dot2);
}

template <typename Real>
SEGMETER_INLINE Real y_gradient(Real fraction_x, Real dot0, Real dot1, Real dot2, Real dot3) {
    return (Real(1) - fraction_x) * (dot2 - dot0) + fraction_x * (dot3 - dot1);
}

}  // namespace segmeter
