// Stands in for the NVIDIA driver (libcuda.so.1) where there is none: what cuda_kernel.py calls through
// cuda-bindings arrives here as it would at the driver, is checked, written to stderr, and a launch is run
// thread by thread on the CPU. Built for one kind, like gpu_emulator.cpp.
#define DRIVER_STAND_IN
#include "gpu_emulator.cpp"

// cuda.h's numbers.
constexpr int kSuccess = 0, kInvalidValue = 1, kOutOfMemory = 2, kInvalidImage = 200, kNoContext = 201;
constexpr int kNotFound = 500;
static char a_context, a_library, a_kernel[2], a_function[2];
static void* current;

#define SAY(...) (std::fprintf(stderr, __VA_ARGS__), std::fputc('\n', stderr))

static int get_current(void** context) {
    *context = current;
    return kSuccess;
}
static int get_device(int* device, int index) {
    SAY("device %d", index);
    *device = index;
    return kSuccess;
}
static int retain(void** context, int device) {
    *context = &a_context;
    return kSuccess;
}
static int set_current(void* context) {
    if (context != &a_context) return kInvalidValue;
    SAY("context");
    current = context;
    return kSuccess;
}
static int load(void** library, const void* code, void*, void*, unsigned options, void*, void*, unsigned more) {
    if (options || more) return kInvalidValue;
    if (std::memcmp(code, "\x7f" "ELF", 4)) {
        SAY("not code");
        return kInvalidImage;
    }
    static bool full = std::getenv("FULL_AT_FIRST") != nullptr;
    if (full) {
        full = false;
        SAY("full");
        return kOutOfMemory;
    }
    SAY("library");
    *library = &a_library;
    return kSuccess;
}
static int get_kernel(void** kernel, void* library, const char* name) {
    if (library != &a_library) return kInvalidValue;
    const bool backward = !std::strcmp(name, "segmeter_backward");
    if (!backward && std::strcmp(name, "segmeter_forward")) return kNotFound;
    *kernel = &a_kernel[backward];
    return kSuccess;
}
static int get_function(void** function, void* kernel) {
    if (!current) return kNoContext;
    if (kernel != &a_kernel[0] && kernel != &a_kernel[1]) return kInvalidValue;
    *function = &a_function[kernel == &a_kernel[1]];
    return kSuccess;
}
static int launch(void* function, unsigned blocks, unsigned blocks_y, unsigned blocks_z, unsigned threads,
                  unsigned threads_y, unsigned threads_z, unsigned shared, void* stream, void** arguments,
                  void** extra) {
    if (!current) return kNoContext;
    const bool forward = function == &a_function[0];
    if (!forward && function != &a_function[1]) return kInvalidValue;
    if (threads_y * threads_z != 1 || shared || extra || threads != THREADS) {
        return kInvalidValue;
    }
    SAY("%s %u x %u x %u blocks on stream %zu", forward ? "forward" : "backward", blocks, blocks_y, blocks_z,
        (size_t)stream);
    run(forward, {blocks, blocks_y, blocks_z}, *static_cast<const Problem*>(arguments[0]));
    return kSuccess;
}
static int name_of(int error, const char** name) {
    *name = error == kInvalidImage ? "CUDA_ERROR_INVALID_IMAGE" : "CUDA_ERROR_OF_THE_STAND_IN";
    return kSuccess;
}

extern "C" int cuGetProcAddress_v2(const char* name, void** place, int, unsigned long long, int* status) {
    static const struct {
        const char* name;
        void* place;
    } known[] = {
        {"cuCtxGetCurrent", (void*)get_current},       {"cuDeviceGet", (void*)get_device},
        {"cuDevicePrimaryCtxRetain", (void*)retain},   {"cuCtxSetCurrent", (void*)set_current},
        {"cuLibraryLoadData", (void*)load},            {"cuLibraryGetKernel", (void*)get_kernel},
        {"cuKernelGetFunction", (void*)get_function},  {"cuLaunchKernel", (void*)launch},
        {"cuGetErrorName", (void*)name_of},
    };
    *place = nullptr;
    for (const auto& one : known) {
        if (!std::strcmp(name, one.name)) *place = one.place;
    }
    if (status) *status = *place ? 0 : 1;
    return *place ? kSuccess : kNotFound;
}
extern "C" int cuGetProcAddress(const char* name, void** place, int version, unsigned long long flags) {
    return cuGetProcAddress_v2(name, place, version, flags, nullptr);
}
