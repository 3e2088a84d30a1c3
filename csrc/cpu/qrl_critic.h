// QRL's critic with an IQE head on CPUs: the functions that each instruction set provides. The contract:
// backends/reference/qrl_critic.py.
#pragma once

#include <cstdint>

#include "../math/qrl_critic.h"
#include "isa.h"

namespace qmk {

struct QrlCriticShape {
    int64_t rows, num_components;
};

// A pointer to what is not there is null: goal where goals are y rolled by a row, max_weight unless the reduction is
// maxmean, largest for reductions without a maximum, spread but for maxmean.
template <class T>
struct QrlCriticCpu {
    // scratch: 4 * rows values.
    void (*forward)(const T* x, const T* y, const T* goal, const T* max_weight, const T* raw, const T* cost,
                    int64_t num_costs, T* loss, T* stats, T* slopes, uint8_t* ends, int32_t* largest, T* spread,
                    T* scratch, QrlCriticShape shape, QrlCriticSettings settings, int threads);
    void (*backward)(const T* grad_loss, const T* slopes, const uint8_t* ends, const int32_t* largest, const T* spread,
                     const T* max_weight, T* grad_x, T* grad_y, T* grad_goal, T* grad_max_weight, QrlCriticShape shape,
                     int64_t dim_per_component, Reduction reduction, int threads);
};

#define X(isa)                                           \
    namespace isa {                                      \
    extern const QrlCriticCpu<float> qrl_critic_float;   \
    extern const QrlCriticCpu<double> qrl_critic_double; \
    }
QMK_ISAS
#undef X

}  // namespace qmk
