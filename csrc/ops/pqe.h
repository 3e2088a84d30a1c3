// PQE-LH: its kernels' arguments. Their contents: qmkernels/backends/reference/pqe.py. Null: weights if the results are
// components, partial_weights if the weights' gradient is not needed.
#pragma once

#include "../signature.h"

namespace qmk {

// rows distances of num_components components of dim_per_component values. The rows are num_weights equal runs of
// neighbouring rows, and weights (num_weights, num_components).
struct PqeShape {
    int64_t rows, num_weights, num_components, dim_per_component;
    QMK_FIELDS(rows, num_weights, num_components, dim_per_component)
};

// batch matrices of num_x by num_y distances; the batch is num_weights equal runs of matrices.
struct PqePairwiseShape {
    int64_t batch, num_x, num_y, num_weights, num_components, dim_per_component;
    QMK_FIELDS(batch, num_x, num_y, num_weights, num_components, dim_per_component)
};

template <class T>
struct PqeForward {
    const T *x, *y, *weights;
    T* out;
    PqeShape shape;
    QMK_FIELDS(x, y, weights, out, shape)
};

template <class T>
struct PqeBackward {
    const T *grad_out, *x, *y, *weights;
    T *grad_x, *grad_y;
    // (num_weights, ceil(rows of a run / rows_per_group), num_components): the weights' gradient by groups of rows
    T* partial_weights;
    int64_t rows_per_group;
    PqeShape shape;
    QMK_FIELDS(grad_out, x, y, weights, grad_x, grad_y, partial_weights, rows_per_group, shape)
};

template <class T>
struct PqePairwiseForward {
    const T *x, *y, *weights;
    T* out;
    void* scratch;
    PqePairwiseShape shape;
    QMK_FIELDS(x, y, weights, out, shape)
};

template <class T>
struct PqePairwiseBackward {
    const T *grad_out, *x, *y, *weights;
    T *grad_x, *grad_y;
    T* partial_weights;  // (batch, num_x, num_components): the weights' gradient summed over y
    void* scratch;
    PqePairwiseShape shape;
    QMK_FIELDS(grad_out, x, y, weights, grad_x, grad_y, partial_weights, shape)
};

QMK_KERNEL(pqe_forward, PqeForward)
QMK_KERNEL(pqe_backward, PqeBackward)
QMK_KERNEL(pqe_pairwise_forward, PqePairwiseForward)
QMK_KERNEL(pqe_pairwise_backward, PqePairwiseBackward)
using pqe_kernels =
    Kernels<pqe_forward_kernel, pqe_backward_kernel, pqe_pairwise_forward_kernel, pqe_pairwise_backward_kernel>;

}  // namespace qmk
