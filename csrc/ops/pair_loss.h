// Losses over a matrix of distances: their kernels' arguments. Their contents:
// qmkernels/backends/reference/pair_loss.py. Null if absent: after, log_discounts, places, and the sums of softmaxes
// that the settings' kind does not have.
#pragma once

#include "../math/pair_loss.h"
#include "../signature.h"

namespace qmk {

template <class T>
struct PairLossForward {
    const T *distance, *after, *log_discounts;
    const int32_t* places;
    T *loss, *stats, *row_sums, *column_sums;
    void* scratch;
    PairLossShape shape;
    PairLossSettings settings;
    QMK_FIELDS(distance, after, log_discounts, places, loss, stats, row_sums, column_sums, shape, settings)
};

template <class T>
struct PairLossBackward {
    const T *grad_loss, *distance, *after, *log_discounts;
    const int32_t* places;
    const T *row_sums, *column_sums;
    T* grad_distance;
    void* scratch;
    PairLossShape shape;
    PairLossSettings settings;
    QMK_FIELDS(grad_loss, distance, after, log_discounts, places, row_sums, column_sums, grad_distance, shape, settings)
};

QMK_KERNEL(pair_loss_forward, PairLossForward)
QMK_KERNEL(pair_loss_backward, PairLossBackward)
using pair_loss_kernels = Kernels<pair_loss_forward_kernel, pair_loss_backward_kernel>;

}  // namespace qmk
