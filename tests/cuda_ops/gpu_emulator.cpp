// Runs csrc/gpu.cu without a GPU: one block after another, one system thread for each of its threads.
// Every barrier and shuffle waits for the whole block, which is right for kernels where all threads of a
// block meet the same ones.
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)

struct Index {
    unsigned x;
};
static thread_local Index threadIdx, blockIdx;

static void wait_for_block() {
    static std::mutex mutex;
    static std::condition_variable all_here;
    static unsigned waiting = 0, round = 0;
    std::unique_lock<std::mutex> lock(mutex);
    const unsigned mine = round;
    if (++waiting == THREADS) {
        waiting = 0;
        ++round;
        all_here.notify_all();
    } else {
        all_here.wait(lock, [&] { return round != mine; });
    }
}

static void __syncthreads() { wait_for_block(); }
static void __syncwarp() { wait_for_block(); }

template <typename T>
static T __shfl_xor_sync(unsigned, T mine, int step) {
    static T all[THREADS];
    all[threadIdx.x] = mine;
    wait_for_block();
    const T other = all[threadIdx.x ^ unsigned(step)];
    wait_for_block();
    return other;
}

template <typename T>
static void atomicAdd(T* at, T more) {
    static std::mutex mutex;
    std::lock_guard<std::mutex> lock(mutex);
    *at += more;
}

static float __int_as_float(int bits) {
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

using std::exp;

#include "gpu.cu"

template <typename Kernel>
static void run(Kernel kernel, const Problem* problem) {
    const long long blocks = (problem->pairs + kPairs - 1) / kPairs;
    for (long long block = 0; block < blocks; ++block) {
        std::vector<std::thread> threads;
        for (unsigned i = 0; i < THREADS; ++i) {
            threads.emplace_back([=] {
                threadIdx.x = i;
                blockIdx.x = unsigned(block);
                kernel(*problem);
            });
        }
        for (auto& thread : threads) thread.join();
    }
}

extern "C" void emulate_forward(const Problem* problem) { run(segmeter_forward, problem); }
extern "C" void emulate_backward(const Problem* problem) { run(segmeter_backward, problem); }
