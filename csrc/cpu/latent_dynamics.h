// QRL's latent dynamics with an IQE head on CPUs: the functions that each instruction set provides. The contract:
// backends/reference/latent_dynamics.py.
#pragma once

#include <cstdint>

#include "../math/latent_dynamics.h"
#include "isa.h"

namespace qmk {

struct LatentDynamicsShape {
    int64_t rows, num_components;
};

// A pointer to what is not there is null: max_weight unless the reduction is maxmean, largest for reductions without a
// maximum, spread but for maxmean.
template <class T>
struct LatentDynamicsCpu {
    // scratch: 2 * rows values.
    void (*forward)(const T* predicted, const T* target, const T* max_weight, T* loss, T* stats, T* slopes,
                    uint8_t* ends, int32_t* largest, T* spread, T* scratch, LatentDynamicsShape shape,
                    LatentDynamicsSettings settings, int threads);
    void (*backward)(const T* grad_loss, const T* slopes, const uint8_t* ends, const int32_t* largest, const T* spread,
                     const T* max_weight, T* grad_predicted, T* grad_target, T* grad_max_weight,
                     LatentDynamicsShape shape, int64_t dim_per_component, Reduction reduction, int threads);
};

#define X(isa)                                                     \
    namespace isa {                                                \
    extern const LatentDynamicsCpu<float> latent_dynamics_float;   \
    extern const LatentDynamicsCpu<double> latent_dynamics_double; \
    }
QMK_ISAS
#undef X

}  // namespace qmk
