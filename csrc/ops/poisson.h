// Poisson comparisons: their kernels' arguments. Their contents: qmkernels/backends/reference/poisson.py.
#pragma once

#include "../math/poisson.h"
#include "../signature.h"

namespace qmk {

// `count` pairs of rates.
template <class T>
struct PoissonForward {
    const T *a, *b;
    T* out;
    int64_t count;
    PoissonComparison comparison;
    QMK_FIELDS(a, b, out, count, comparison)
    Sizes sizes() const { return {count, count, count}; }
};

template <class T>
struct PoissonBackward {
    const T *grad_out, *a, *b;
    T *grad_a, *grad_b;
    int64_t count;
    PoissonComparison comparison;
    QMK_FIELDS(grad_out, a, b, grad_a, grad_b, count, comparison)
    Sizes sizes() const { return {count, count, count, count, count}; }
};

QMK_KERNEL(poisson_forward, PoissonForward)
QMK_KERNEL(poisson_backward, PoissonBackward)
using poisson_kernels = Kernels<poisson_forward_kernel, poisson_backward_kernel>;

}  // namespace qmk
