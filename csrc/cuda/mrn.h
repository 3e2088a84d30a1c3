// MRN on CUDA: the launchers. T is float or double; tensors are contiguous. What the arguments hold is written down in
// qmkernels/backends/reference/mrn.py. Errors are std::runtime_error.
#pragma once

#include <cstdint>

#include "../math/mrn.h"
#include "context.h"

namespace qmk::cuda {

template <class T>
void mrn_forward(const T* x, const T* y, T* out, int64_t rows, int64_t dim, MrnSettings settings, Context context);

template <class T>
void mrn_backward(const T* grad_out, const T* x, const T* y, T* grad_x, T* grad_y, int64_t rows, int64_t dim,
                  MrnSettings settings, Context context);

// Bytes of workspace, on a boundary of 16 bytes, for the pairwise functions.
int64_t mrn_pairwise_workspace(int64_t item_size, int64_t batch, int64_t num_x, int64_t num_y, int64_t dim,
                               int64_t num_components, bool backward);

template <class T>
void mrn_pairwise_forward(const T* x, const T* y, T* out, void* workspace, int64_t batch, int64_t num_x, int64_t num_y,
                          int64_t dim, MrnSettings settings, Context context);

template <class T>
void mrn_pairwise_backward(const T* grad_out, const T* x, const T* y, T* grad_x, T* grad_y, void* workspace,
                           int64_t batch, int64_t num_x, int64_t num_y, int64_t dim, MrnSettings settings,
                           Context context);

}  // namespace qmk::cuda
