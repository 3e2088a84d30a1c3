// IQE on CPUs: the functions that each instruction set provides. Shapes and layouts: backends/reference/iqe.py.
#pragma once

#include <cstdint>

#include "../math/reduction.h"
#include "isa.h"

namespace qmk {

// rows distances of num_components components of dim_per_component values.
struct IqeShape {
    int64_t rows, num_components, dim_per_component;
};

// batch matrices of num_x by num_y distances.
struct IqePairwiseShape {
    int64_t batch, num_x, num_y, num_components, dim_per_component;
};

// Pointers that are not needed are null: ends, largest and spread where nothing is kept, max_weight unless the
// reduction is maxmean, largest for reductions without a maximum.
template <class T>
struct IqeCpu {
    void (*forward)(const T* x, const T* y, const T* max_weight, T* out, uint8_t* ends, int32_t* largest, T* spread,
                    IqeShape shape, Reduction reduction, int threads);
    void (*backward)(const T* grad_out, const uint8_t* ends, const int32_t* largest, const T* max_weight, T* grad_x,
                     T* grad_y, IqeShape shape, Reduction reduction, int threads);
    // Bytes of scratch memory that a pairwise call needs, forward and backward.
    int64_t (*pairwise_workspace)(IqePairwiseShape shape, Reduction reduction, bool backward);
    void (*pairwise_forward)(const T* x, const T* y, const T* max_weight, T* out, int32_t* largest, void* workspace,
                             IqePairwiseShape shape, Reduction reduction, int threads);
    // grad_max_weight, if not null, receives partial sums (batch, num_components, num_x).
    void (*pairwise_backward)(const T* grad_out, const T* x, const T* y, const int32_t* largest, const T* max_weight,
                              T* grad_x, T* grad_y, T* grad_max_weight, void* workspace, IqePairwiseShape shape,
                              Reduction reduction, int threads);
};

#define X(isa)                              \
    namespace isa {                         \
    extern const IqeCpu<float> iqe_float;   \
    extern const IqeCpu<double> iqe_double; \
    }
QMK_ISAS
#undef X

}  // namespace qmk
