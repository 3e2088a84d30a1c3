// Scratch memory of one call on a CPU. A small call uses its thread's, which is kept for the next call, because fresh
// memory costs a page fault every 4 KiB, which can take as long as the kernel.
#pragma once

#include <cstdint>

namespace qmk {

constexpr int64_t most_kept_bytes = int64_t(4) << 20;

// This thread's memory, of at least this many bytes, aligned to 64. Under AddressSanitizer exactly this many, so that
// it catches writes past the end.
void* kept_memory(int64_t bytes);

// Memory of any size: this thread's, or for a larger call its own.
class CallMemory {
  public:
    CallMemory() = default;
    ~CallMemory();
    CallMemory(const CallMemory&) = delete;
    CallMemory& operator=(const CallMemory&) = delete;

    void* take(int64_t bytes);  // once

  private:
    void* own_ = nullptr;
};

}  // namespace qmk
