// PQE-LH on CPUs: the functions that each instruction set provides. Shapes and layouts: backends/reference/pqe.py.
#pragma once

#include <cstdint>

#include "isa.h"

namespace qmk {

// rows distances of num_components components of dim_per_component values.
struct PqeShape {
    int64_t rows, num_components, dim_per_component;
};

// batch matrices of num_x by num_y distances.
struct PqePairwiseShape {
    int64_t batch, num_x, num_y, num_components, dim_per_component;
};

// Null pointers: weights where results are components, partial where the weights' gradient is not needed.
template <class T>
struct PqeCpu {
    void (*forward)(const T* x, const T* y, const T* weights, T* out, PqeShape shape, int threads);
    // partial (weight_groups(rows), num_components): the weights' gradient summed over groups of rows.
    void (*backward)(const T* grad_out, const T* x, const T* y, const T* weights, T* grad_x, T* grad_y, T* partial,
                     PqeShape shape, int threads);
    int64_t (*weight_groups)(int64_t rows);
    // Bytes of scratch memory that a pairwise call needs, forward and backward.
    int64_t (*pairwise_workspace)(PqePairwiseShape shape, bool backward);
    void (*pairwise_forward)(const T* x, const T* y, const T* weights, T* out, void* workspace, PqePairwiseShape shape,
                             int threads);
    // partial (batch, num_x, num_components): the weights' gradient summed over y.
    void (*pairwise_backward)(const T* grad_out, const T* x, const T* y, const T* weights, T* grad_x, T* grad_y,
                              T* partial, void* workspace, PqePairwiseShape shape, int threads);
};

#define X(isa)                              \
    namespace isa {                         \
    extern const PqeCpu<float> pqe_float;   \
    extern const PqeCpu<double> pqe_double; \
    }
QMK_ISAS
#undef X

}  // namespace qmk
