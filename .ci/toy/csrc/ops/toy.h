// The toy op: its kernels' arguments. What they hold: qmkernels/backends/reference/toy.py.
#pragma once

#include "../math/toy.h"
#include "../signature.h"

namespace qmk {

template <class T>
struct ToyForward {
    const T *x, *y;
    T* out;
    int64_t rows, dim;
    ToySettings settings;
    QMK_FIELDS(x, y, out, rows, dim, settings)
    Sizes sizes() const { return {rows * dim, rows * dim, rows}; }
};

template <class T>
struct ToyBackward {
    const T *grad_out, *x, *y;
    T *grad_x, *grad_y;
    int64_t rows, dim;
    ToySettings settings;
    QMK_FIELDS(grad_out, x, y, grad_x, grad_y, rows, dim, settings)
    Sizes sizes() const { return {rows, rows * dim, rows * dim, rows * dim, rows * dim}; }
};

QMK_KERNEL(toy_forward, ToyForward)
QMK_KERNEL(toy_backward, ToyBackward)
using toy_kernels = Kernels<toy_forward_kernel, toy_backward_kernel>;

}  // namespace qmk
