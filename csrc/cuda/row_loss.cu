// Losses over rows: the launches of the head's kernel, and one block for the rows' terms and their sums. Backward
// first multiplies the slopes with the upstream gradient. The head is bound by memory; next to the D values of a row's
// embeddings the few numbers per row cost nothing but their launch.
//
// Precision: a term in T, sums over rows in double. The order of every sum is fixed, without atomics: the same input
// gives the same bits.
#include "../ops/row_loss.h"
#include "block_sum.cuh"
#include "launch.cuh"

namespace qmk::cuda {

namespace {

using namespace QMK_TARGET;

constexpr int grads_threads = 256;

template <class T>
struct RowLossTask {
    RowLossTerms<T> terms;
    const T* distances;
    int64_t rows;
};

// One block: writes the slopes, the loss and the statistics of rows whose distances are known.
template <class T>
__global__ void __launch_bounds__(sum_threads) row_loss_terms_kernel(RowLossTask<T> task) {
    const RowLossTerms<T>& terms = task.terms;
    __shared__ double num_kept;
    double kept[1] = {};
    if (terms.mask)
        for (int64_t i = threadIdx.x; i < task.rows; i += blockDim.x) kept[0] += terms.mask[i] != T(0) ? 1 : 0;
    sum_over_block(kept);
    if (threadIdx.x == 0) num_kept = terms.mask ? kept[0] : double(task.rows);
    __syncthreads();
    const double count = num_kept > 0 ? num_kept : 1.0;
    double sums[num_row_loss_sums] = {};
    for (int64_t i = threadIdx.x; i < task.rows; i += blockDim.x) {
        T slope = T(0);
        if (!terms.mask || terms.mask[i] != T(0))
            slope = add_row(task.distances[i], terms.target[terms.num_targets == 1 ? 0 : i],
                            terms.weight ? terms.weight[i] : T(1), count, terms.settings, sums);
        terms.slopes[i] = slope;
    }
    sum_over_block(sums);
    if (threadIdx.x == 0) finish_row_loss(sums, count, terms.loss, terms.stats);
}

template <class T>
struct RowGradsTask {
    const T *grad_loss, *slopes;
    T* grads;
    int64_t rows;
};

template <class T>
__global__ void __launch_bounds__(grads_threads) row_loss_grads_kernel(RowGradsTask<T> task) {
    const int64_t step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < task.rows; i += step)
        task.grads[i] = *task.grad_loss * task.slopes[i];
}

template <class T>
void write_loss(const char* op, const RowLossTerms<T>& terms, const void* scratch, int64_t rows, Context context) {
    const DeviceGuard guard(context.device, op);
    const RowLossTask<T> task{terms, static_cast<const T*>(scratch), rows};
    launch(op, row_loss_terms_kernel<T>, 1, sum_threads, 0, context, task);
}

// Writes the gradients of the distances to scratch memory, from which the head's kernel goes on.
template <class T>
void write_distance_grads(const char* op, const T* grad_loss, const T* slopes, int64_t rows, void* scratch,
                          Context context) {
    const DeviceGuard guard(context.device, op);
    const RowGradsTask<T> task{grad_loss, slopes, static_cast<T*>(scratch), rows};
    launch(op, row_loss_grads_kernel<T>, divide_up(rows, grads_threads), grads_threads, 0, context, task);
}

}  // namespace

template <class T>
int64_t row_loss_iqe_forward_scratch(const RowLossIqeForward<T>& call) {
    return call.shape.rows * int64_t(sizeof(T));
}

template <class T>
void row_loss_iqe_forward(const RowLossIqeForward<T>& call, Context context) {
    iqe_forward(head_of(call), context);
    write_loss("row_loss_iqe_forward", call.terms, call.scratch, call.shape.rows, context);
}

template <class T>
int64_t row_loss_iqe_backward_scratch(const RowLossIqeBackward<T>& call) {
    return call.shape.rows * int64_t(sizeof(T));
}

template <class T>
void row_loss_iqe_backward(const RowLossIqeBackward<T>& call, Context context) {
    write_distance_grads("row_loss_iqe_backward", call.grad_loss, call.slopes, call.shape.rows, call.scratch, context);
    iqe_backward(head_of(call), context);
}

template <class T>
int64_t row_loss_mrn_forward_scratch(const RowLossMrnForward<T>& call) {
    return call.rows * int64_t(sizeof(T));
}

template <class T>
void row_loss_mrn_forward(const RowLossMrnForward<T>& call, Context context) {
    mrn_forward(head_of(call), context);
    write_loss("row_loss_mrn_forward", call.terms, call.scratch, call.rows, context);
}

template <class T>
int64_t row_loss_mrn_backward_scratch(const RowLossMrnBackward<T>& call) {
    return call.rows * int64_t(sizeof(T));
}

template <class T>
void row_loss_mrn_backward(const RowLossMrnBackward<T>& call, Context context) {
    write_distance_grads("row_loss_mrn_backward", call.grad_loss, call.slopes, call.rows, call.scratch, context);
    mrn_backward(head_of(call), context);
}

QMK_INSTANTIATE(row_loss_iqe_forward, RowLossIqeForward, Context)
QMK_INSTANTIATE_SCRATCH(row_loss_iqe_forward, RowLossIqeForward)
QMK_INSTANTIATE(row_loss_iqe_backward, RowLossIqeBackward, Context)
QMK_INSTANTIATE_SCRATCH(row_loss_iqe_backward, RowLossIqeBackward)
QMK_INSTANTIATE(row_loss_mrn_forward, RowLossMrnForward, Context)
QMK_INSTANTIATE_SCRATCH(row_loss_mrn_forward, RowLossMrnForward)
QMK_INSTANTIATE(row_loss_mrn_backward, RowLossMrnBackward, Context)
QMK_INSTANTIATE_SCRATCH(row_loss_mrn_backward, RowLossMrnBackward)

}  // namespace qmk::cuda
