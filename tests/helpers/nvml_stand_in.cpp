// Stands in for libnvidia-ml.so.1 where there is no driver, so that the real pynvml calls it: a GPU at 100 W.
// The environment tells, at every call, what it denies and shows:
//   NVML_DENIED names of functions, NVML_STEP millijoules that a reading of the counter adds, NVML_PIDS.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {
// nvml.h's numbers.
enum { kSuccess = 0, kInvalidArgument = 2, kNoPermission = 4, kNotFound = 6, kInsufficientSize = 7 };
char gpu;
unsigned long long millijoules = 5000;

std::string setting(const char* name) {
    const char* value = std::getenv(name);
    return value ? value : "";
}

int answer(const char* function, void* handle) {
    if (setting("NVML_DENIED").find(function) != std::string::npos) return kNoPermission;
    return handle == &gpu ? kSuccess : kInvalidArgument;
}

template <typename T>
int give(const char* function, void* handle, T* place, T value) {
    const int outcome = answer(function, handle);
    if (outcome == kSuccess) *place = value;
    return outcome;
}
}  // namespace

#define GIVE(place, value) return give(__func__, device, place, value)

extern "C" {
struct Process {
    unsigned pid;
    unsigned long long bytes;
    unsigned gpu_instance, compute_instance;
};

int nvmlInitWithFlags(unsigned) { return answer(__func__, &gpu); }
const char* nvmlErrorString(int code) { return code == kNoPermission ? "Insufficient Permissions" : "Another Error"; }
int nvmlDeviceGetHandleByUUID(const char* uuid, void** device) {
    if (std::strcmp(uuid, "GPU-01234567-89ab-cdef-0123-456789abcdef")) return kNotFound;
    *device = &gpu;
    return kSuccess;
}
int nvmlSystemGetDriverVersion(char* text, unsigned length) {
    std::snprintf(text, length, "580.1");
    return kSuccess;
}
int nvmlDeviceGetTotalEnergyConsumption(void* device, unsigned long long* place) {
    millijoules += std::strtoull(setting("NVML_STEP").c_str(), nullptr, 10);
    GIVE(place, millijoules);
}
int nvmlDeviceGetPowerUsage(void* device, unsigned* place) { GIVE(place, 100000u); }
int nvmlDeviceGetClockInfo(void* device, int clock, unsigned* place) { GIVE(place, clock == 1 ? 1980u : 3201u); }
int nvmlDeviceGetMaxClockInfo(void* device, int, unsigned* place) { GIVE(place, 1980u); }
int nvmlDeviceGetTemperature(void* device, int, unsigned* place) { GIVE(place, 61u); }
int nvmlDeviceGetCurrentClocksThrottleReasons(void* device, unsigned long long* place) { GIVE(place, 0x1ull | 0x4ull); }
int nvmlDeviceGetComputeRunningProcesses_v3(void* device, unsigned* count, Process* found) {
    const int outcome = answer(__func__, device);
    if (outcome != kSuccess) return outcome;
    const std::string pids = setting("NVML_PIDS");
    unsigned number = 0;
    for (const char* at = pids.c_str(); *at; ++number) {
        char* end;
        const unsigned pid = unsigned(std::strtoul(at, &end, 10));
        if (found && number < *count) found[number] = {pid, 1 << 20, ~0u, ~0u};
        at = *end ? end + 1 : end;
    }
    const bool fits = found ? number <= *count : number == 0;
    *count = number;
    return fits ? kSuccess : kInsufficientSize;
}
}
