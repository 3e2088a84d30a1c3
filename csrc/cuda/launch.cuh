// Launches a kernel on the right device, with an error that names the op, without waiting for the result.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "../signature.h"

namespace qmk::cuda {

inline void check(cudaError_t error, const char* op) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // so that the next launch does not report the same error
    throw std::runtime_error(std::string(op) + ": CUDA error: " + cudaGetErrorString(error));
}

// Makes a device current for the lifetime of this object.
class DeviceGuard {
  public:
    DeviceGuard(int device, const char* op) {
        check(cudaGetDevice(&previous_), op);
        if (device != previous_) check(cudaSetDevice(device), op);
        device_ = device;
    }
    ~DeviceGuard() {
        if (device_ != previous_) cudaSetDevice(previous_);
    }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;

  private:
    int previous_ = 0, device_ = 0;
};

// Dynamic shared memory that every launch may use: 48 kB, minus 2 kB for a kernel's static arrays. More must be
// requested, and the device may refuse.
constexpr int64_t static_shared_bytes = 2 * 1024;
constexpr int64_t shared_bytes_without_asking = 48 * 1024 - static_shared_bytes;
// What every device gives at request: 99 kB, from compute capability 8.0 on.
constexpr int64_t shared_bytes_of_any_device = 99 * 1024 - static_shared_bytes;

// Kernels walk over their work in steps of the grid, so a grid may be smaller than the work; this is its limit. Tests
// lower it, so that small work takes several steps.
#ifdef QMK_MOST_BLOCKS
constexpr int64_t most_blocks = QMK_MOST_BLOCKS;
#else
constexpr int64_t most_blocks = int64_t(1) << 30;
#endif

template <class... Parameters>
void launch(const char* op, void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes,
            Context context, std::common_type_t<Parameters>... arguments) {
    if (blocks == 0) return;
    if (shared_bytes > shared_bytes_without_asking) {
        int most = 0;
        check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, context.device), op);
        if (shared_bytes + static_shared_bytes > most)
            throw std::runtime_error(std::string(op) + ": a component of this many values needs " +
                                     std::to_string(shared_bytes) + " bytes of shared memory, the device has " +
                                     std::to_string(most) + "; use another backend for it");
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)), op);
    }
    void* pointers[] = {&arguments...};
    check(cudaLaunchKernel(kernel, dim3(unsigned(std::min(blocks, most_blocks))), dim3(unsigned(threads)), pointers,
                           size_t(shared_bytes), static_cast<cudaStream_t>(context.stream)),
          op);
}

template <class T>
bool is_aligned(const T* pointer, int bytes) {
    return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}
template <class T>
bool is_aligned_to_16(const T* pointer) {
    return is_aligned(pointer, 16);
}

// Offsets within a row have 32 bits.
inline void check_row_size(const char* op, int64_t num_components, int64_t dim_per_component) {
    if (num_components * dim_per_component >= int64_t(1) << 31)
        throw std::runtime_error(std::string(op) + ": a row may have up to 2^31 - 1 values, got " +
                                 std::to_string(num_components) + " components of " +
                                 std::to_string(dim_per_component));
}

inline int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

}  // namespace qmk::cuda
