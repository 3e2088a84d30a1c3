// QRL's latent dynamics with an IQE head on CUDA: the launchers. T is float or double; tensors are contiguous. A
// pointer to what is not there is null: max_weight unless the reduction is maxmean, largest for reductions without a
// maximum, spread but for maxmean. What the arguments hold is written down in
// qmkernels/backends/reference/latent_dynamics.py. Errors are std::runtime_error.
#pragma once

#include <cstdint>

#include "../math/latent_dynamics.h"
#include "context.h"

namespace qmk::cuda {

// scratch: 2 * rows values.
template <class T>
void latent_dynamics_forward(const T* predicted, const T* target, const T* max_weight, T* loss, T* stats, T* slopes,
                             uint8_t* ends, int32_t* largest, T* spread, T* scratch, int64_t rows,
                             int64_t num_components, LatentDynamicsSettings settings, Context context);

template <class T>
void latent_dynamics_backward(const T* grad_loss, const T* slopes, const uint8_t* ends, const int32_t* largest,
                              const T* spread, const T* max_weight, T* grad_predicted, T* grad_target,
                              T* grad_max_weight, int64_t rows, int64_t num_components, int64_t dim_per_component,
                              Reduction reduction, Context context);

}  // namespace qmk::cuda
