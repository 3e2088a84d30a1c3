// Poisson comparisons on CUDA: the launchers. T is float or double; the arithmetic is in double. form: a place in
// COMPARISONS of qmkernels/definitions/poisson.py. Errors are std::runtime_error.
#pragma once

#include <cstdint>

#include "context.h"

namespace qmk::cuda {

template <class T>
void poisson_forward(const T* a, const T* b, T* out, int64_t count, int comparison, Context context);

template <class T>
void poisson_backward(const T* grad_out, const T* a, const T* b, T* grad_a, T* grad_b, int64_t count, int comparison,
                      Context context);

}  // namespace qmk::cuda
