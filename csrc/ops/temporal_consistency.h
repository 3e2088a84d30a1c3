// iQRL's temporal consistency: its kernels' arguments. Their contents:
// qmkernels/backends/reference/temporal_consistency.py.
#pragma once

#include "../signature.h"

namespace qmk {

template <class T>
struct TemporalConsistencyForward {
    Stored<const T> predicted, target;
    const T* mask;  // null if all rows count
    T *loss, *similarity, *slopes;
    void* scratch;
    int64_t steps, batch, dim;
    double discount;
    QMK_FIELDS(predicted, target, mask, loss, similarity, slopes, steps, batch, dim, discount)
    Sizes sizes() const {
        const int64_t rows = steps * batch;
        return {rows * dim, rows * dim, or_absent(rows), 1, steps, 2 * rows};
    }
};

template <class T>
struct TemporalConsistencyBackward {
    const T *grad_loss, *slopes;
    Stored<const T> predicted, target;
    Stored<T> grad_predicted;
    int64_t rows, dim;
    QMK_FIELDS(grad_loss, slopes, predicted, target, grad_predicted, rows, dim)
    Sizes sizes() const { return {1, 2 * rows, rows * dim, rows * dim, rows * dim}; }
};

QMK_KERNEL(temporal_consistency_forward, TemporalConsistencyForward)
QMK_KERNEL(temporal_consistency_backward, TemporalConsistencyBackward)
using temporal_consistency_kernels = Kernels<temporal_consistency_forward_kernel, temporal_consistency_backward_kernel>;

}  // namespace qmk
