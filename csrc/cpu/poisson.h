// Poisson comparisons on CPUs: the functions that each instruction set provides. Contract:
// backends/reference/poisson.py.
#pragma once

#include <cstdint>

#include "../math/poisson.h"
#include "isa.h"

namespace qmk {

// `count` pairs of rates.
template <class T>
struct PoissonCpu {
    void (*forward)(const T* a, const T* b, T* out, int64_t count, PoissonComparison comparison, int threads);
    void (*backward)(const T* grad_out, const T* a, const T* b, T* grad_a, T* grad_b, int64_t count,
                     PoissonComparison comparison, int threads);
};

#define X(isa)                                      \
    namespace isa {                                 \
    extern const PoissonCpu<float> poisson_float;   \
    extern const PoissonCpu<double> poisson_double; \
    }
QMK_ISAS
#undef X

}  // namespace qmk
