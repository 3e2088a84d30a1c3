// METRA's loss: its kernels' arguments. Their contents: qmkernels/backends/reference/metra.py.
#pragma once

#include "../math/metra.h"
#include "../signature.h"

namespace qmk {

template <class T>
struct MetraForward {
    Stored<const T> phi, phi_next, skill;
    const T* log_multiplier;
    T *loss, *reward, *stats, *slopes;
    void* scratch;
    MetraShape shape;
    MetraSettings settings;
    QMK_FIELDS(phi, phi_next, skill, log_multiplier, loss, reward, stats, slopes, shape, settings)
    Sizes sizes() const {
        const int64_t values = shape.rows * shape.dim;
        return {values, values, values, 1, 1, shape.rows, 3, shape.rows};
    }
};

template <class T>
struct MetraBackward {
    const T* grad_loss;
    Stored<const T> phi, phi_next, skill;
    const T *stats, *slopes;
    Stored<T> grad_phi, grad_phi_next;
    Stored<T> grad_skill;  // null if not needed
    T* grad_log_multiplier;
    MetraShape shape;
    QMK_FIELDS(grad_loss, phi, phi_next, skill, stats, slopes, grad_phi, grad_phi_next, grad_skill, grad_log_multiplier,
               shape)
    Sizes sizes() const {
        const int64_t values = shape.rows * shape.dim;
        return {1, values, values, values, 3, shape.rows, values, values, or_absent(values), 1};
    }
};

QMK_KERNEL(metra_forward, MetraForward)
QMK_KERNEL(metra_backward, MetraBackward)
using metra_kernels = Kernels<metra_forward_kernel, metra_backward_kernel>;

}  // namespace qmk
