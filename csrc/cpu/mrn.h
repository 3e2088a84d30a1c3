// MRN on CPUs: the functions that each instruction set provides. Shapes and layouts: backends/reference/mrn.py.
#pragma once

#include <cstdint>

#include "../math/mrn.h"
#include "isa.h"

namespace qmk {

// batch matrices of num_x by num_y distances between rows of dim values.
struct MrnPairwiseShape {
    int64_t batch, num_x, num_y, dim;
};

template <class T>
struct MrnCpu {
    void (*forward)(const T* x, const T* y, T* out, int64_t rows, int64_t dim, MrnSettings settings, int threads);
    void (*backward)(const T* grad_out, const T* x, const T* y, T* grad_x, T* grad_y, int64_t rows, int64_t dim,
                     MrnSettings settings, int threads);
    // Bytes of scratch memory that a pairwise call needs.
    int64_t (*pairwise_workspace)(MrnPairwiseShape shape, bool backward);
    void (*pairwise_forward)(const T* x, const T* y, T* out, void* workspace, MrnPairwiseShape shape,
                             MrnSettings settings, int threads);
    void (*pairwise_backward)(const T* grad_out, const T* x, const T* y, T* grad_x, T* grad_y, void* workspace,
                              MrnPairwiseShape shape, MrnSettings settings, int threads);
};

#define X(isa)                              \
    namespace isa {                         \
    extern const MrnCpu<float> mrn_float;   \
    extern const MrnCpu<double> mrn_double; \
    }
QMK_ISAS
#undef X

}  // namespace qmk
