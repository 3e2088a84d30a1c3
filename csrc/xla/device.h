// What a launch on a GPU needs from XLA.
#pragma once

#include "c_api.h"

namespace qmk::xla {

// The calling thread's device, which XLA has made that of the call.
int current_device();
// The stream of the call.
void* stream_of(const CallFrame& frame);

// Scratch memory of one call, from XLA's allocator. It is XLA's again when the call has been launched, which is safe
// because XLA hands it out in the order of the stream.
class DeviceMemory {
  public:
    explicit DeviceMemory(const CallFrame& frame) : frame_(frame) {}
    ~DeviceMemory();
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;

    // Takes bytes, aligned to 64; once.
    void* take(int64_t bytes);

  private:
    const CallFrame& frame_;
    size_t size_ = 0;
    void* memory_ = nullptr;
};

}  // namespace qmk::xla
