// Losses over rows, from embeddings: their kernels' arguments. Their contents:
// qmkernels/backends/reference/row_loss.py. Null if absent: weight, mask, max_weight, spread and grad_max_weight unless
// the reduction is maxmean, largest for reductions without a maximum.
#pragma once

#include "../math/row_loss.h"
#include "../signature.h"
#include "iqe.h"
#include "mrn.h"

namespace qmk {

// The part that is the same for every head: what the rows are held to, and the results.
template <class T>
struct RowLossTerms {
    const T* target;
    int64_t num_targets;  // one per row, or 1 for all rows
    const T *weight, *mask;
    T *loss, *stats, *slopes;
    RowLossSettings settings;
    QMK_FIELDS(target, num_targets, weight, mask, loss, stats, slopes, settings)

    // After those of the head's addresses.
    Sizes sizes(int64_t rows, Sizes head) const {
        if (num_targets != 1 && num_targets != rows) return {};
        for (const Items& items : {Items(num_targets), or_absent(rows), or_absent(rows), Items(1),
                                   Items(QMK_TARGET::num_row_loss_sums - 1), Items(rows)})
            head.push_back(items);
        return head;
    }
};

template <class T>
struct RowLossIqeForward {
    Stored<const T> x, y;
    MaxWeight<T> max;
    uint8_t* ends;
    int32_t* largest;
    T* spread;
    RowLossTerms<T> terms;
    void* scratch;
    IqeShape shape;
    Reduction reduction;
    QMK_FIELDS(x, y, max, ends, largest, spread, terms, shape, reduction)
    Sizes sizes() const {
        if (!max.fits(reduction, shape.rows) || reduction == Reduction::none) return {};
        return terms.sizes(shape.rows,
                           {shape.values(), shape.values(), max.count(reduction), shape.ends(),
                            count_of_largest(reduction, shape.rows), count_of_spread(reduction, shape.rows)});
    }
};

template <class T>
struct RowLossIqeBackward {
    const T *grad_loss, *slopes;
    const uint8_t* ends;
    const int32_t* largest;
    const T* spread;
    MaxWeight<T> max;
    Stored<T> grad_x, grad_y;
    T* grad_max_weight;
    void* scratch;
    IqeShape shape;
    Reduction reduction;
    QMK_FIELDS(grad_loss, slopes, ends, largest, spread, max, grad_x, grad_y, grad_max_weight, shape, reduction)
    Sizes sizes() const {
        if (!max.fits(reduction, shape.rows) || reduction == Reduction::none) return {};
        return {1,
                shape.rows,
                shape.ends(),
                count_of_largest(reduction, shape.rows),
                count_of_spread(reduction, shape.rows),
                max.count(reduction),
                shape.values(),
                shape.values(),
                or_absent(max.count(reduction))};
    }
};

template <class T>
struct RowLossMrnForward {
    Stored<const T> x, y;
    RowLossTerms<T> terms;
    void* scratch;
    int64_t rows, dim;
    MrnSettings mrn;
    QMK_FIELDS(x, y, terms, rows, dim, mrn)
    Sizes sizes() const {
        if (!fits(mrn, dim) || mrn.reduction == MrnReduction::none) return {};
        return terms.sizes(rows, {rows * dim, rows * dim});
    }
};

template <class T>
struct RowLossMrnBackward {
    const T *grad_loss, *slopes;
    Stored<const T> x, y;
    Stored<T> grad_x, grad_y;
    void* scratch;
    int64_t rows, dim;
    MrnSettings mrn;
    QMK_FIELDS(grad_loss, slopes, x, y, grad_x, grad_y, rows, dim, mrn)
    Sizes sizes() const {
        if (!fits(mrn, dim) || mrn.reduction == MrnReduction::none) return {};
        return {1, rows, rows * dim, rows * dim, rows * dim, rows * dim};
    }
};

QMK_KERNEL(row_loss_iqe_forward, RowLossIqeForward)
QMK_KERNEL(row_loss_iqe_backward, RowLossIqeBackward)
QMK_KERNEL(row_loss_mrn_forward, RowLossMrnForward)
QMK_KERNEL(row_loss_mrn_backward, RowLossMrnBackward)
using row_loss_kernels = Kernels<row_loss_iqe_forward_kernel, row_loss_iqe_backward_kernel, row_loss_mrn_forward_kernel,
                                 row_loss_mrn_backward_kernel>;

}  // namespace qmk

namespace qmk::QMK_TARGET {

// The head's kernels, on which these build; a row's distance, or its gradient, is in scratch memory. A row has one
// number there: next to the D values of its embeddings it costs nothing.
template <class T>
QMK_INLINE IqeForward<T> head_of(const RowLossIqeForward<T>& call) {
    return {call.x,      call.y,     call.max,      static_cast<T*>(call.scratch), call.ends, call.largest,
            call.spread, call.shape, call.reduction};
}

template <class T>
QMK_INLINE IqeBackward<T> head_of(const RowLossIqeBackward<T>& call) {
    return {static_cast<const T*>(call.scratch),
            call.ends,
            call.largest,
            call.spread,
            call.max,
            call.grad_x,
            call.grad_y,
            call.grad_max_weight,
            call.shape,
            call.reduction};
}

template <class T>
QMK_INLINE MrnForward<T> head_of(const RowLossMrnForward<T>& call) {
    return {call.x, call.y, static_cast<T*>(call.scratch), call.rows, call.dim, call.mrn};
}

template <class T>
QMK_INLINE MrnBackward<T> head_of(const RowLossMrnBackward<T>& call) {
    return {
        static_cast<const T*>(call.scratch), call.x, call.y, call.grad_x, call.grad_y, call.rows, call.dim, call.mrn};
}

}  // namespace qmk::QMK_TARGET
