// Memory on large pages, and loops over threads, for the kernels of the CPU.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace segmeter {

constexpr size_t kLargePage = size_t(2) << 20;

// Ask for large pages where memory is about to be touched for the first time: with those of 4 KiB, that
// would cost as much as the work itself.
inline void ask_for_large_pages(void* data, size_t bytes) {
#if defined(__linux__)
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kLargePage - 1) / kLargePage * kLargePage;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kLargePage * kLargePage;
    if (data && end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// A buffer that lies on large pages if it fills one.
template <typename Real>
class Buffer {
  public:
    explicit Buffer(int64_t count) : bytes_(round_up(size_t(count) * sizeof(Real))) {
        data_ = static_cast<Real*>(std::aligned_alloc(alignment(), bytes_));
        if (!data_) throw std::bad_alloc();
        ask_for_large_pages(data_, bytes_);
    }
    ~Buffer() { std::free(data_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    Real* data() { return data_; }

  private:
    size_t alignment() const { return bytes_ >= kLargePage ? kLargePage : 64; }
    static size_t round_up(size_t bytes) {
        const size_t to = bytes >= kLargePage ? kLargePage : 64;
        return std::max(to, (bytes + to - 1) / to * to);
    }
    size_t bytes_;
    Real* data_;
};

// Run body(task) for each task below count; the first failure is rethrown here.
template <typename Body>
void in_parallel(int64_t threads, int64_t count, const Body& make_body) {
    std::atomic<int64_t> next{0};
    std::exception_ptr failure;
    std::atomic<bool> failed{false};
    auto work = [&] {
        try {
            auto body = make_body();
            for (int64_t task; !failed && (task = next++) < count;) body(task);
        } catch (...) {
            if (!failed.exchange(true)) failure = std::current_exception();
        }
    };
    std::vector<std::thread> others;
    const int64_t extra = std::min(threads, count) - 1;
    try {
        for (int64_t i = 0; i < extra; ++i) others.emplace_back(work);
    } catch (const std::system_error&) {
        // The machine gives no more threads: those that started do all tasks.
    }
    work();
    for (auto& thread : others) thread.join();
    if (failure) std::rethrow_exception(failure);
}

// What the caller gets for what was thrown: 0 done, 1 out of memory, 2 any other failure.
template <typename Body>
int run(const Body& body) {
    try {
        body();
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    } catch (...) {
        return 2;
    }
}

}  // namespace segmeter
