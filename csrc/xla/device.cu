#include <cuda_runtime.h>

#include <new>
#include <stdexcept>
#include <string>

#include "device.h"

namespace qmk::xla {

namespace {

constexpr size_t boundary = 64, most_alignment = 16;  // XLA promises no more

void destroy(const CallFrame& frame, Error* error) {
    DestroyError call{head_of<DestroyError>(), error};
    frame.api->destroy_error(&call);
}

}  // namespace

int current_device() {
    int device = 0;
    const cudaError_t error = cudaGetDevice(&device);
    if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA error: ") + cudaGetErrorString(error));
    return device;
}

void* stream_of(const CallFrame& frame) {
    GetStream call{head_of<GetStream>(), frame.context, nullptr};
    if (Error* error = frame.api->get_stream(&call)) {
        destroy(frame, error);
        throw std::runtime_error("XLA gives no stream");
    }
    return call.stream;
}

void* DeviceMemory::take(int64_t bytes) {
    if (bytes <= 0) return nullptr;
    size_ = size_t(bytes) + boundary - most_alignment;
    AllocateMemory call{head_of<AllocateMemory>(), frame_.context, size_, most_alignment, nullptr};
    if (Error* error = frame_.api->allocate_memory(&call)) {
        destroy(frame_, error);
        throw std::bad_alloc();
    }
    memory_ = call.data;
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory_) + boundary - 1) / boundary * boundary);
}

DeviceMemory::~DeviceMemory() {
    if (memory_ == nullptr) return;
    FreeMemory call{head_of<FreeMemory>(), frame_.context, size_, memory_};
    if (Error* error = frame_.api->free_memory(&call)) destroy(frame_, error);
}

}  // namespace qmk::xla
