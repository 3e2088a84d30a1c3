// METRA's loss on CUDA: the launchers. T is float or double; tensors are contiguous. What the arguments hold is written
// down in qmkernels/backends/reference/metra.py. Errors are std::runtime_error.
#pragma once

#include <cstdint>

#include "../math/metra.h"
#include "context.h"

namespace qmk::cuda {

// scratch: 2 * rows values.
template <class T>
void metra_forward(const T* phi, const T* phi_next, const T* skill, const T* log_multiplier, T* loss, T* reward,
                   T* stats, T* slopes, T* scratch, MetraShape shape, MetraSettings settings, Context context);

// grad_skill may be null.
template <class T>
void metra_backward(const T* grad_loss, const T* phi, const T* phi_next, const T* skill, const T* stats,
                    const T* slopes, T* grad_phi, T* grad_next, T* grad_skill, T* grad_log_multiplier, MetraShape shape,
                    Context context);

}  // namespace qmk::cuda
