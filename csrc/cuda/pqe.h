// PQE-LH on CUDA: the launchers. T is float or double; tensors are contiguous; weights may be null, the result is then
// the components. What the arguments hold is written down in qmkernels/backends/reference/pqe.py. Errors are
// std::runtime_error.
#pragma once

#include <cstdint>

#include "context.h"

namespace qmk::cuda {

template <class T>
void pqe_forward(const T* x, const T* y, const T* weights, T* out, int64_t rows, int64_t num_components,
                 int64_t dim_per_component, Context context);

// How many partial sums of the gradient of weights the backward of so many rows writes.
int64_t pqe_weight_groups(int64_t rows);

// partial: null, or (pqe_weight_groups(rows), num_components) partial sums of the gradient of weights, which the caller
// adds up.
template <class T>
void pqe_backward(const T* grad_out, const T* x, const T* y, const T* weights, T* grad_x, T* grad_y, T* partial,
                  int64_t rows, int64_t num_components, int64_t dim_per_component, Context context);

// Bytes of workspace, on a boundary of 16 bytes, for the pairwise functions.
int64_t pqe_pairwise_workspace(int64_t item_size, int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components,
                               int64_t dim_per_component, bool backward);

template <class T>
void pqe_pairwise_forward(const T* x, const T* y, const T* weights, T* out, void* workspace, int64_t batch,
                          int64_t num_x, int64_t num_y, int64_t num_components, int64_t dim_per_component,
                          Context context);

// partial: null, or (batch, num_x, num_components) partial sums of the gradient of weights.
template <class T>
void pqe_pairwise_backward(const T* grad_out, const T* x, const T* y, const T* weights, T* grad_x, T* grad_y,
                           T* partial, void* workspace, int64_t batch, int64_t num_x, int64_t num_y,
                           int64_t num_components, int64_t dim_per_component, Context context);

}  // namespace qmk::cuda
