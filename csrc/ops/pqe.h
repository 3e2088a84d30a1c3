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
    bool fits() const { return num_weights > 0 && rows % num_weights == 0; }
    int64_t values() const { return rows * num_components * dim_per_component; }
    int64_t weights() const { return num_weights * num_components; }
};

// batch matrices of num_x by num_y distances; the batch is num_weights equal runs of matrices.
struct PqePairwiseShape {
    int64_t batch, num_x, num_y, num_weights, num_components, dim_per_component;
    QMK_FIELDS(batch, num_x, num_y, num_weights, num_components, dim_per_component)
    bool fits() const { return num_weights > 0 && batch % num_weights == 0; }
    int64_t x_values() const { return batch * num_x * num_components * dim_per_component; }
    int64_t y_values() const { return batch * num_y * num_components * dim_per_component; }
    int64_t pairs() const { return batch * num_x * num_y; }
    int64_t weights() const { return num_weights * num_components; }
};

template <class T>
struct PqeForward {
    Stored<const T> x, y;
    const T* weights;
    T* out;
    PqeShape shape;
    QMK_FIELDS(x, y, weights, out, shape)
    Sizes sizes() const {
        if (!shape.fits()) return {};
        return {shape.values(), shape.values(), or_absent(shape.weights()),
                weights ? shape.rows : shape.rows * shape.num_components};
    }
};

template <class T>
struct PqeBackward {
    const T* grad_out;
    Stored<const T> x, y;
    const T* weights;
    Stored<T> grad_x, grad_y;
    // (num_weights, ceil(rows of a run / rows_per_group), num_components): the weights' gradient by groups of rows
    T* partial_weights;
    int64_t rows_per_group;
    PqeShape shape;
    QMK_FIELDS(grad_out, x, y, weights, grad_x, grad_y, partial_weights, rows_per_group, shape)
    Sizes sizes() const {
        if (!shape.fits() || rows_per_group <= 0) return {};
        const int64_t groups = (shape.rows / shape.num_weights + rows_per_group - 1) / rows_per_group;
        return {weights ? shape.rows : shape.rows * shape.num_components,
                shape.values(),
                shape.values(),
                or_absent(shape.weights()),
                shape.values(),
                shape.values(),
                or_absent(groups * shape.weights())};
    }
};

template <class T>
struct PqePairwiseForward {
    const T *x, *y, *weights;
    T* out;
    void* scratch;
    PqePairwiseShape shape;
    QMK_FIELDS(x, y, weights, out, shape)
    Sizes sizes() const {
        if (!shape.fits()) return {};
        return {shape.x_values(), shape.y_values(), or_absent(shape.weights()),
                weights ? shape.pairs() : shape.pairs() * shape.num_components};
    }
};

template <class T>
struct PqePairwiseBackward {
    const T *grad_out, *x, *y, *weights;
    T *grad_x, *grad_y;
    T* partial_weights;  // (batch, num_x, num_components): the weights' gradient summed over y
    void* scratch;
    PqePairwiseShape shape;
    QMK_FIELDS(grad_out, x, y, weights, grad_x, grad_y, partial_weights, shape)
    Sizes sizes() const {
        if (!shape.fits()) return {};
        return {weights ? shape.pairs() : shape.pairs() * shape.num_components,
                shape.x_values(),
                shape.y_values(),
                or_absent(shape.weights()),
                shape.x_values(),
                shape.y_values(),
                or_absent(shape.batch * shape.num_x * shape.num_components)};
    }
};

QMK_KERNEL(pqe_forward, PqeForward)
QMK_KERNEL(pqe_backward, PqeBackward)
QMK_KERNEL(pqe_pairwise_forward, PqePairwiseForward)
QMK_KERNEL(pqe_pairwise_backward, PqePairwiseBackward)
using pqe_kernels =
    Kernels<pqe_forward_kernel, pqe_backward_kernel, pqe_pairwise_forward_kernel, pqe_pairwise_backward_kernel>;

}  // namespace qmk
