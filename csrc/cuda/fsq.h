// Finite scalar quantisation on CUDA: the launchers. T is float or double. `levels` (n) is in the memory of the CPU and
// read before a launcher returns. Errors are std::runtime_error.
#pragma once

#include <cstdint>

#include "context.h"

namespace qmk::cuda {

// `groups` groups of n values.
template <class T>
void fsq_forward(const T* z, T* codes, int64_t* indices, int64_t groups, const int64_t* levels, int n, Context context);

template <class T>
void fsq_backward(const T* grad_codes, const T* z, T* grad_z, int64_t groups, const int64_t* levels, int n,
                  Context context);

}  // namespace qmk::cuda
