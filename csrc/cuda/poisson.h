// Poisson comparisons on CUDA: the launchers. T is float or double; the arithmetic is in double. form: a place in
// FORMS of qmkernels/reference/poisson.py. Errors are std::runtime_error.
#pragma once

#include <cstdint>

#include "context.h"

namespace qmk::cuda {

template <class T>
void poisson_forward(const T* a, const T* b, T* out, int64_t count, int form, Context context);

template <class T>
void poisson_backward(const T* grad_out, const T* a, const T* b, T* grad_a, T* grad_b, int64_t count, int form,
                      Context context);

}  // namespace qmk::cuda
