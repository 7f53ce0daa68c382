// Runs csrc/gpu.cu without a GPU: one block after another, one system thread for each thread of a block.
//
// Barriers hold up a whole block or one warp, as on a GPU, and atomic additions order nothing else; so that,
// built under ThreadSanitizer, this finds the races that a GPU would have in shared and global memory, and
// under AddressSanitizer every access beyond a tensor. Needs THREADS to be a multiple of 32.
//
// Usage: emulator FOLDER PASS TILES BATCH HEADS QUERIES TOKENS REFERENCE_BATCHES REFERENCE_LEVELS. FOLDER
// holds each tensor as raw bytes, NAME.bin; those that the pass fills are written back. layout.bin is the
// layout.
#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__

struct Index {
    unsigned x, y, z;
};
static thread_local Index threadIdx, blockIdx;

class Barrier {
  public:
    explicit Barrier(unsigned size) : size_(size) {}
    void wait() {
        std::unique_lock<std::mutex> lock(mutex_);
        const unsigned mine = round_;
        if (++waiting_ == size_) {
            waiting_ = 0;
            ++round_;
            all_here_.notify_all();
        } else {
            all_here_.wait(lock, [&] { return round_ != mine; });
        }
    }

  private:
    std::mutex mutex_;
    std::condition_variable all_here_;
    unsigned size_, waiting_ = 0, round_ = 0;
};

constexpr int kWarps = THREADS / 32;
static Barrier block_barrier(THREADS);
static std::vector<std::unique_ptr<Barrier>> warp_barriers;

static void __syncthreads() { block_barrier.wait(); }
static void __syncwarp() { warp_barriers[threadIdx.x / 32]->wait(); }

template <typename T>
static T __shfl_xor_sync(unsigned, T mine, int step) {
    static T all[THREADS];
    all[threadIdx.x] = mine;
    __syncwarp();
    const T other = all[threadIdx.x ^ unsigned(step)];
    __syncwarp();
    return other;
}

template <typename To, typename From>
static To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

template <typename Bits, typename T>
static void add_by_bits(T* at, T more) {
    Bits* bits = reinterpret_cast<Bits*>(at);
    Bits old = __atomic_load_n(bits, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(bits, &old, same_bits<Bits>(same_bits<T>(old) + more), false,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}
static void atomicAdd(float* at, float more) { add_by_bits<unsigned>(at, more); }
static void atomicAdd(double* at, double more) { add_by_bits<unsigned long long>(at, more); }

static int atomicExch(int* at, int next) { return __atomic_exchange_n(at, next, __ATOMIC_RELAXED); }

static float __int_as_float(int bits) { return same_bits<float>(bits); }
static float __uint_as_float(unsigned bits) { return same_bits<float>(bits); }
[[maybe_unused]] static unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }

using std::exp;

// The conversions of half precisions are single instructions; here they are what these are said to do.
static void convert(unsigned short x, float& y) {
    const int exponent = x >> 10 & 31, fraction = x & 1023;
    float size = exponent ? std::ldexp(1024.0f + fraction, exponent - 25) : std::ldexp(float(fraction), -24);
    if (exponent == 31) size = fraction ? NAN : INFINITY;
    y = x & 0x8000 ? -size : size;
}
static void convert(float x, unsigned short& y) {
#if DTYPE == 3
    const unsigned bits = same_bits<unsigned>(x);
    y = x != x ? 0x7fff : (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
#else
    const unsigned short sign = std::signbit(x) ? 0x8000 : 0;
    if (x != x) {
        y = 0x7fff;
    } else if (x == 0 || std::isinf(x)) {
        y = sign | (x == 0 ? 0 : 0x7c00);
    } else {
        const int exponent = std::max(std::ilogb(x), -14);
        // To nearest, ties to even; 2048 carries into the exponent.
        const int fraction = int(std::nearbyint(std::ldexp(std::fabs(x), 10 - exponent)));
        const int bits = fraction < 1024 ? fraction : (exponent + 15) * 1024 + fraction - 1024;
        y = sign | (exponent > 15 ? 0x7c00 : std::min(bits, 0x7c00));
    }
#endif
}
// Each instruction written in assembly converts `x` to `y`.
#define asm(...) convert(x, y)

#include "gpu.cu"

#undef asm

// A tensor in memory of exactly its size, so that one element too far is found.
struct Tensor {
    std::string path;
    size_t bytes;
    std::unique_ptr<char, void (*)(void*)> data;

    Tensor(const std::string& folder, const char* name)
        : path(folder + "/" + name + ".bin"), bytes(0), data(nullptr, std::free) {
        std::FILE* file = std::fopen(path.c_str(), "rb");
        if (!file) return;  // a tensor that this pass has not
        std::fseek(file, 0, SEEK_END);
        bytes = size_t(std::ftell(file));
        std::rewind(file);
        void* memory = nullptr;
        if (posix_memalign(&memory, 16, bytes)) std::exit(3);
        data.reset(static_cast<char*>(memory));
        if (std::fread(data.get(), 1, bytes, file) != bytes) std::exit(3);
        std::fclose(file);
    }
    void write() const {
        std::FILE* file = data ? std::fopen(path.c_str(), "wb") : nullptr;
        if (!file) return;
        if (std::fwrite(data.get(), 1, bytes, file) != bytes) std::exit(3);
        std::fclose(file);
    }
    template <typename T>
    void point(T*& at) const {
        at = reinterpret_cast<T*>(data.get());
    }
};

static void run(bool forward, Index grid, const Problem& problem) {
    if (warp_barriers.empty()) {
        for (int i = 0; i < kWarps; ++i) warp_barriers.push_back(std::make_unique<Barrier>(32));
    }
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < THREADS; ++i) {
        threads.emplace_back([&problem, forward, grid, i] {
            threadIdx = {i, 0, 0};
            for (unsigned block = 0; block < grid.x * grid.y * grid.z; ++block) {
                blockIdx = {block % grid.x, block / grid.x % grid.y, block / grid.x / grid.y};
                forward ? segmeter_forward(problem) : segmeter_backward(problem);
                // The next block finds shared memory as this one left it.
                __syncthreads();
            }
        });
    }
    for (auto& thread : threads) thread.join();
}

#ifndef DRIVER_STAND_IN
int main(int count, char** words) {
    if (count != 10) return 2;
    const std::string folder = words[1], pass = words[2];
    const long long blocks = std::atoll(words[3]);
    Tensor value(folder, "value"), shapes(folder, "shapes"), starts(folder, "starts"), places(folder, "places"),
        weights(folder, "weights"), reference(folder, "reference"), grad_output(folder, "grad_output"),
        output(folder, "output"), grad_value(folder, "grad_value"), grad_places(folder, "grad_places"),
        grad_weights(folder, "grad_weights"), layout(folder, "layout");
    Problem problem = {};
    value.point(problem.value);
    shapes.point(problem.shapes);
    starts.point(problem.starts);
    places.point(problem.places);
    weights.point(problem.weights);
    reference.point(problem.reference);
    grad_output.point(problem.grad_output);
    output.point(problem.output);
    grad_value.point(problem.grad_value);
    grad_places.point(problem.grad_places);
    grad_weights.point(problem.grad_weights);
    if (layout.bytes != sizeof(Layout)) return 4;
    std::memcpy(&problem.layout, layout.data.get(), sizeof(Layout));
    problem.queries = std::atoll(words[6]);
    problem.tokens = std::atoll(words[7]);
    problem.reference_batches = std::atoi(words[8]);
    problem.reference_levels = std::atoi(words[9]);

    const auto number = [&](int at) { return (unsigned)std::atoi(words[at]); };
    const Index grid = {number(3), number(4), number(5)};
    run(pass == "forward", grid, problem);
    for (const Tensor* tensor : {&output, &grad_value, &grad_places, &grad_weights}) tensor->write();
    std::printf("%zu\n", sizeof(Problem));  // to be compared with the structure that Python fills
    return 0;
}
#endif
