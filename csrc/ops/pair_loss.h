// Losses over a matrix of distances: their kernels' arguments. Their contents:
// qmkernels/backends/reference/pair_loss.py. Null if absent: after, log_discounts, places, and the sums of softmaxes
// that the settings' kind does not have.
#pragma once

#include "../math/pair_loss.h"
#include "../signature.h"

namespace qmk {

// Rows are matched to columns offset, offset + 1, ...
inline bool fits(const PairLossSettings& settings, const PairLossShape& shape) {
    return settings.offset >= 0 && settings.offset + shape.rows <= shape.columns;
}
inline int64_t count_of_row_sums(const PairLossSettings& settings, const PairLossShape& shape) {
    const bool has = settings.kind == PairKind::forward || settings.kind == PairKind::symmetric;
    return has ? 2 * shape.batch * shape.rows : 0;
}
inline int64_t count_of_column_sums(const PairLossSettings& settings, const PairLossShape& shape) {
    const bool has = settings.kind == PairKind::backward || settings.kind == PairKind::symmetric;
    return has ? 2 * shape.batch * shape.rows : 0;
}

template <class T>
struct PairLossForward {
    const T *distance, *after, *log_discounts;
    const int32_t* places;
    T *loss, *stats, *row_sums, *column_sums;
    void* scratch;
    PairLossShape shape;
    PairLossSettings settings;
    QMK_FIELDS(distance, after, log_discounts, places, loss, stats, row_sums, column_sums, shape, settings)
    Sizes sizes() const {
        if (!fits(settings, shape)) return {};
        return {shape.pairs(),
                or_absent(shape.pairs()),
                or_absent(shape.batch * shape.rows),
                or_absent(shape.batch * shape.columns),
                1,
                num_pair_stats,
                count_of_row_sums(settings, shape),
                count_of_column_sums(settings, shape)};
    }
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
    Sizes sizes() const {
        if (!fits(settings, shape)) return {};
        return {1,
                shape.pairs(),
                or_absent(shape.pairs()),
                or_absent(shape.batch * shape.rows),
                or_absent(shape.batch * shape.columns),
                count_of_row_sums(settings, shape),
                count_of_column_sums(settings, shape),
                shape.pairs()};
    }
};

QMK_KERNEL(pair_loss_forward, PairLossForward)
QMK_KERNEL(pair_loss_backward, PairLossBackward)
using pair_loss_kernels = Kernels<pair_loss_forward_kernel, pair_loss_backward_kernel>;

}  // namespace qmk
