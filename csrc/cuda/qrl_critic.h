// QRL's critic with an IQE head on CUDA: the launchers. T is float or double; tensors are contiguous. A pointer to what
// is not there is null: goal where goals are y rolled by a row, max_weight unless the reduction is maxmean, largest for
// reductions without a maximum, spread but for maxmean. What the arguments hold is written down in
// qmkernels/backends/reference/qrl_critic.py. Errors are std::runtime_error.
#pragma once

#include <cstdint>

#include "../math/qrl_critic.h"
#include "context.h"

namespace qmk::cuda {

// scratch: 4 * rows values.
template <class T>
void qrl_critic_forward(const T* x, const T* y, const T* goal, const T* max_weight, const T* raw, const T* cost,
                        int64_t num_costs, T* loss, T* stats, T* slopes, uint8_t* ends, int32_t* largest, T* spread,
                        T* scratch, int64_t rows, int64_t num_components, QrlCriticSettings settings, Context context);

template <class T>
void qrl_critic_backward(const T* grad_loss, const T* slopes, const uint8_t* ends, const int32_t* largest,
                         const T* spread, const T* max_weight, T* grad_x, T* grad_y, T* grad_goal, T* grad_max_weight,
                         int64_t rows, int64_t num_components, int64_t dim_per_component, Reduction reduction,
                         Context context);

}  // namespace qmk::cuda
