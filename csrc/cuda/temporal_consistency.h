// iQRL's temporal consistency on CUDA: the launchers. T is float or double; tensors are contiguous, mask is null where
// all rows count. What the arguments hold is written down in qmkernels/backends/reference/temporal_consistency.py.
// Errors are std::runtime_error.
#pragma once

#include <cstdint>

#include "context.h"

namespace qmk::cuda {

// scratch: steps * batch values.
template <class T>
void temporal_consistency_forward(const T* predicted, const T* target, const T* mask, T* loss, T* similarity, T* slopes,
                                  T* scratch, int64_t steps, int64_t batch, int64_t size, double discount,
                                  Context context);

template <class T>
void temporal_consistency_backward(const T* grad_loss, const T* slopes, const T* predicted, const T* target,
                                   T* grad_predicted, int64_t rows, int64_t size, Context context);

}  // namespace qmk::cuda
