// METRA's loss on CPUs: the functions that each instruction set provides. The contract: backends/reference/metra.py.
#pragma once

#include <cstdint>

#include "../math/metra.h"
#include "isa.h"

namespace qmk {

template <class T>
struct MetraCpu {
    // scratch: 3 * rows numbers.
    void (*forward)(const T* phi, const T* phi_next, const T* skill, const T* log_multiplier, T* loss, T* reward,
                    T* stats, T* slopes, double* scratch, MetraShape shape, MetraSettings settings, int threads);
    // grad_skill may be null.
    void (*backward)(const T* grad_loss, const T* phi, const T* phi_next, const T* skill, const T* stats,
                     const T* slopes, T* grad_phi, T* grad_next, T* grad_skill, T* grad_log_multiplier,
                     MetraShape shape, int threads);
};

#define X(isa)                                  \
    namespace isa {                             \
    extern const MetraCpu<float> metra_float;   \
    extern const MetraCpu<double> metra_double; \
    }
QMK_ISAS
#undef X

}  // namespace qmk
