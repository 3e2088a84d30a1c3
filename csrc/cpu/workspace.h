// The memory of kernels: that of a whole call, which the caller allocates, and that of one task, a `Scratch`.
//
// The code that takes the pieces also counts them, when run on a Workspace without memory, so no size is written twice.
// A task that finds no memory throws std::bad_alloc, which parallel_for carries out of its threads and which Python
// receives as MemoryError.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>
#include <type_traits>

#include "../math/target.h"

namespace qmk::QMK_TARGET {

namespace {

constexpr int64_t workspace_alignment = 64;

// Hands out memory piece by piece, each aligned to 64 bytes; without memory behind it, it only counts.
struct Workspace {
    char* memory;
    int64_t used = 0;

    template <class T>
    T* take(int64_t count) {
        char* piece = memory ? memory + used : nullptr;
        used += (count * int64_t(sizeof(T)) + workspace_alignment - 1) / workspace_alignment * workspace_alignment;
        return reinterpret_cast<T*>(piece);
    }
};

// The pieces that `take(workspace)` takes and returns, for the lifetime of this object: up to `on_stack` bytes are
// stored here, more come from the heap.
template <int64_t on_stack, class Take>
class Scratch {
    alignas(workspace_alignment) char small[on_stack ? on_stack : 1];
    char* const memory;

    char* allocate(const Take& take) {
        Workspace counted{nullptr};
        take(counted);
        if (counted.used <= on_stack) return small;
        if (void* heap = std::aligned_alloc(workspace_alignment, counted.used)) return static_cast<char*>(heap);
        throw std::bad_alloc();
    }

    auto handed_out(const Take& take) const {
        Workspace workspace{memory};
        return take(workspace);
    }

  public:
    const std::invoke_result_t<const Take&, Workspace&> pieces;

    explicit Scratch(const Take& take) : memory(allocate(take)), pieces(handed_out(take)) {}
    ~Scratch() {
        if (memory != small) std::free(memory);
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
};

template <int64_t on_stack = 0, class Take>
QMK_INLINE Scratch<on_stack, Take> scratch(const Take& take) {
    return Scratch<on_stack, Take>(take);
}

}  // namespace

}  // namespace qmk::QMK_TARGET
