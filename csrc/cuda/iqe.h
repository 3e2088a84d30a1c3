// IQE on CUDA: the launchers. T is float or double; tensors are contiguous; a pointer to what is not wanted is null.
// What the arguments hold is written down in qmkernels/backends/reference/iqe.py. Errors are std::runtime_error.
#pragma once

#include <cstdint>

#include "../math/reduction.h"
#include "context.h"

namespace qmk::cuda {

template <class T>
void iqe_forward(const T* x, const T* y, const T* max_weight, T* out, uint8_t* ends, int32_t* largest, T* spread,
                 int64_t rows, int64_t num_components, int64_t dim_per_component, Reduction reduction, Context context);

template <class T>
void iqe_backward(const T* grad_out, const uint8_t* ends, const int32_t* largest, const T* max_weight, T* grad_x,
                  T* grad_y, int64_t rows, int64_t num_components, int64_t dim_per_component, Reduction reduction,
                  Context context);

// Bytes of workspace, on a boundary of 16 bytes, for the pairwise functions.
int64_t iqe_pairwise_workspace(int64_t item_size, int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components,
                               int64_t dim_per_component, bool backward);

template <class T>
void iqe_pairwise_forward(const T* x, const T* y, const T* max_weight, T* out, int32_t* largest, void* workspace,
                          int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components,
                          int64_t dim_per_component, Reduction reduction, Context context);

// grad_max_weight: null, or partial sums (batch, num_components, num_x) that the caller adds up.
template <class T>
void iqe_pairwise_backward(const T* grad_out, const T* x, const T* y, const int32_t* largest, const T* max_weight,
                           T* grad_x, T* grad_y, T* grad_max_weight, void* workspace, int64_t batch, int64_t num_x,
                           int64_t num_y, int64_t num_components, int64_t dim_per_component, Reduction reduction,
                           Context context);

}  // namespace qmk::cuda
