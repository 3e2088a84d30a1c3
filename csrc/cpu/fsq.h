// Finite scalar quantisation on CPUs: the functions that each instruction set provides. The contract:
// backends/reference/fsq.py.
#pragma once

#include <cstdint>

#include "isa.h"

namespace qmk {

// `groups` groups of n values; `levels` (n).
template <class T>
struct FsqCpu {
    void (*forward)(const T* z, T* codes, int64_t* indices, int64_t groups, const int64_t* levels, int n, int threads);
    void (*backward)(const T* grad_codes, const T* z, T* grad_z, int64_t groups, const int64_t* levels, int n,
                     int threads);
};

#define X(isa)                              \
    namespace isa {                         \
    extern const FsqCpu<float> fsq_float;   \
    extern const FsqCpu<double> fsq_double; \
    }
QMK_ISAS
#undef X

}  // namespace qmk
