#include "call_memory.h"

#include <cstdlib>
#include <memory>
#include <new>

namespace qmk {

namespace {

constexpr int64_t boundary = 64;

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};

void* allocated(int64_t bytes) {
    void* memory = std::aligned_alloc(boundary, (bytes + boundary - 1) / boundary * boundary);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}

}  // namespace

void* kept_memory(int64_t bytes) {
    thread_local std::unique_ptr<void, Free> kept;
    thread_local int64_t size = 0;
#if defined(__SANITIZE_ADDRESS__)
    size = 0;
#endif
    if (size < bytes) {
        kept.reset();
        size = 0;
        kept.reset(allocated(bytes));
        size = bytes;
    }
    return kept.get();
}

void* CallMemory::take(int64_t bytes) {
    if (bytes <= 0) return nullptr;
    if (bytes <= most_kept_bytes) return kept_memory(bytes);
    return own_ = allocated(bytes);
}

CallMemory::~CallMemory() {
    std::free(own_);
}

}  // namespace qmk
