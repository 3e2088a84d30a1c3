// Losses over rows on CPUs, for one instruction set: the head's kernel, and a pass over one number per row, which is
// still in the first-level cache. Bound by the head: forward reads x and y once; backward writes both gradients once,
// of MRN after it has read x and y again.
//
// Precision: a term in T, sums over rows in double, in the order of the rows.
#include "../ops/row_loss.h"

namespace qmk::QMK_TARGET {

namespace {

// Writes the slopes, the loss and the statistics of rows whose distances are known.
template <class T>
void write_loss(const RowLossTerms<T>& terms, const void* scratch, int64_t rows) {
    const T* distances = static_cast<const T*>(scratch);
    int64_t kept = terms.mask ? 0 : rows;
    for (int64_t i = 0; terms.mask && i < rows; ++i) kept += terms.mask[i] != T(0);
    const double count = kept ? double(kept) : 1.0;
    double sums[num_row_loss_sums] = {};
    for (int64_t i = 0; i < rows; ++i) {
        if (terms.mask && terms.mask[i] == T(0)) {
            terms.slopes[i] = T(0);
            continue;
        }
        terms.slopes[i] = add_row(distances[i], terms.target[terms.num_targets == 1 ? 0 : i],
                                  terms.weight ? terms.weight[i] : T(1), count, terms.settings, sums);
    }
    finish_row_loss(sums, count, terms.loss, terms.stats);
}

// Writes the gradients of the distances to scratch memory, from which the head's kernel goes on.
template <class T>
void write_distance_grads(const T* grad_loss, const T* slopes, int64_t rows, void* scratch) {
    T* grads = static_cast<T*>(scratch);
    for (int64_t i = 0; i < rows; ++i) grads[i] = *grad_loss * slopes[i];
}

}  // namespace

template <class T>
int64_t row_loss_iqe_forward_scratch(const RowLossIqeForward<T>& call) {
    return call.shape.rows * int64_t(sizeof(T));
}

template <class T>
void row_loss_iqe_forward(const RowLossIqeForward<T>& call, int threads) {
    iqe_forward(head_of(call), threads);
    write_loss(call.terms, call.scratch, call.shape.rows);
}

template <class T>
int64_t row_loss_iqe_backward_scratch(const RowLossIqeBackward<T>& call) {
    return call.shape.rows * int64_t(sizeof(T));
}

template <class T>
void row_loss_iqe_backward(const RowLossIqeBackward<T>& call, int threads) {
    write_distance_grads(call.grad_loss, call.slopes, call.shape.rows, call.scratch);
    iqe_backward(head_of(call), threads);
}

template <class T>
int64_t row_loss_mrn_forward_scratch(const RowLossMrnForward<T>& call) {
    return call.rows * int64_t(sizeof(T));
}

template <class T>
void row_loss_mrn_forward(const RowLossMrnForward<T>& call, int threads) {
    mrn_forward(head_of(call), threads);
    write_loss(call.terms, call.scratch, call.rows);
}

template <class T>
int64_t row_loss_mrn_backward_scratch(const RowLossMrnBackward<T>& call) {
    return call.rows * int64_t(sizeof(T));
}

template <class T>
void row_loss_mrn_backward(const RowLossMrnBackward<T>& call, int threads) {
    write_distance_grads(call.grad_loss, call.slopes, call.rows, call.scratch);
    mrn_backward(head_of(call), threads);
}

QMK_INSTANTIATE(row_loss_iqe_forward, RowLossIqeForward, int)
QMK_INSTANTIATE_SCRATCH(row_loss_iqe_forward, RowLossIqeForward)
QMK_INSTANTIATE(row_loss_iqe_backward, RowLossIqeBackward, int)
QMK_INSTANTIATE_SCRATCH(row_loss_iqe_backward, RowLossIqeBackward)
QMK_INSTANTIATE(row_loss_mrn_forward, RowLossMrnForward, int)
QMK_INSTANTIATE_SCRATCH(row_loss_mrn_forward, RowLossMrnForward)
QMK_INSTANTIATE(row_loss_mrn_backward, RowLossMrnBackward, int)
QMK_INSTANTIATE_SCRATCH(row_loss_mrn_backward, RowLossMrnBackward)

}  // namespace qmk::QMK_TARGET
