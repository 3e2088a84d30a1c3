// The memory of one kernel call, which the caller allocates.
#pragma once

#include <cstdint>

#include "../math/target.h"

namespace qmk::QMK_TARGET {

namespace {

// Memory handed out piece by piece, each on a boundary of 64 bytes; with no memory behind it, it only counts.
struct Workspace {
    char* memory;
    int64_t used = 0;

    template <class T>
    T* take(int64_t count) {
        char* piece = memory ? memory + used : nullptr;
        used += (count * int64_t(sizeof(T)) + 63) / 64 * 64;
        return reinterpret_cast<T*>(piece);
    }
};

}  // namespace

}  // namespace qmk::QMK_TARGET
