// iQRL's temporal consistency: up to 32 neighbouring threads per row, which read packs of 16 bytes, and one block for
// the sums over rows. Bound by memory: forward reads predicted and target once and keeps two numbers per row; backward
// reads both again and writes the gradient.
//
// Precision: arithmetic in T, sums over rows in double; latents and their gradients may be stored in half precision.
// The order of every sum is fixed, without atomics: the same input gives the same bits.
#include "../math/temporal_consistency.h"
#include "../ops/temporal_consistency.h"
#include "block_sum.cuh"
#include "half.cuh"
#include "launch.cuh"
#include "rows.cuh"

namespace qmk::cuda {

namespace {

// The threads of a row: `width`, a power of two, read its values.
struct RowThreads {
    int64_t rows;
    int size, width;

    __device__ __forceinline__ int member() const { return threadIdx.x % width; }
};

// Calls run(row, exists) for all rows, by all threads of a warp at once.
template <class Run>
__device__ __forceinline__ void for_each_row(const RowThreads& threads, Run&& run) {
    const int at_once = rows_threads / threads.width;
    for (int64_t first = int64_t(blockIdx.x) * at_once; first < threads.rows; first += int64_t(gridDim.x) * at_once) {
        const int64_t row = first + threadIdx.x / threads.width;
        run(row, row < threads.rows);
    }
}

// Latents are stored as numbers of type S.
template <class T, class S>
struct TemporalForwardTask {
    const S *predicted, *target;
    const T* mask;
    T *slopes, *cosines;
    int64_t batch;
    T discount;
    RowThreads threads;
};

template <class T, class S, int V>
__global__ void __launch_bounds__(rows_threads) temporal_consistency_forward_kernel(TemporalForwardTask<T, S> task) {
    const int size = task.threads.size, step = task.threads.width * V;
    for_each_row(task.threads, [&](int64_t row, bool exists) {
        QMK_TARGET::CosineSums<T> sums;
        if (exists)
#pragma unroll 4
            for (int k = task.threads.member() * V; k < size; k += step) {
                T p[V], t[V];
                load_values<T, V>(task.predicted + row * size + k, p);
                load_values<T, V>(task.target + row * size + k, t);
#pragma unroll
                for (int v = 0; v < V; ++v) sums.add(p[v], t[v]);
            }
        sums.dot = sum_of_threads(sums.dot, task.threads.width);
        sums.predicted = sum_of_threads(sums.predicted, task.threads.width);
        sums.target = sum_of_threads(sums.target, task.threads.width);
        if (!exists || task.threads.member() != 0) return;
        T weight = T(pow(task.discount, T(row / task.batch))) / T(task.batch);
        if (task.mask) weight *= task.mask[row];
        const auto slopes = QMK_TARGET::cosine_slopes(sums, weight);
        task.cosines[row] = slopes.cosine;
        task.slopes[row] = slopes.by_target;
        task.slopes[task.threads.rows + row] = slopes.by_predicted;
    });
}

template <class T>
struct TemporalSums {
    const T *cosines, *mask;
    T *loss, *similarity;
    int64_t steps, batch;
    T discount;
};

// One block: computes the similarity of every step and the loss.
template <class T>
__global__ void __launch_bounds__(sum_threads) temporal_consistency_sums_kernel(TemporalSums<T> task) {
    double loss = 0;
    for (int64_t h = 0; h < task.steps; ++h) {
        double sums[2] = {};  // of cosines and of losses
#pragma unroll 4
        for (int64_t b = threadIdx.x; b < task.batch; b += sum_threads) {
            const double cosine = double(task.cosines[h * task.batch + b]);
            sums[0] += cosine;
            sums[1] += (1 - cosine) * (task.mask ? double(task.mask[h * task.batch + b]) : 1.0);
        }
        sum_over_block(sums);
        if (threadIdx.x != 0) continue;
        task.similarity[h] = T(sums[0] / double(task.batch));
        loss += pow(double(task.discount), double(h)) * (sums[1] / double(task.batch));
    }
    if (threadIdx.x == 0) *task.loss = T(loss);
}

template <class T, class S>
struct TemporalBackwardTask {
    const T *grad_loss, *slopes;
    const S *predicted, *target;
    S* grad_predicted;
    RowThreads threads;
};

template <class T, class S, int V>
__global__ void __launch_bounds__(rows_threads) temporal_consistency_backward_kernel(TemporalBackwardTask<T, S> task) {
    const int size = task.threads.size, step = task.threads.width * V;
    const T grad_loss = *task.grad_loss;
    for_each_row(task.threads, [&](int64_t row, bool exists) {
        if (!exists) return;
        const T by_target = grad_loss * task.slopes[row];
        const T by_predicted = grad_loss * task.slopes[task.threads.rows + row];
#pragma unroll 4
        for (int k = task.threads.member() * V; k < size; k += step) {
            T p[V], t[V];
            load_values<T, V>(task.predicted + row * size + k, p);
            load_values<T, V>(task.target + row * size + k, t);
#pragma unroll
            for (int v = 0; v < V; ++v) p[v] = by_target * t[v] + by_predicted * p[v];
            store_values<T, V>(task.grad_predicted + row * size + k, p);
        }
    });
}

// Calls run(whether a thread reads packs of Pack<T>::size values, threads of a row, blocks).
template <class T, class S, class Run>
void with_threads(int64_t rows, int64_t size, std::initializer_list<const S*> tensors, Run&& run) {
    constexpr int pack = Pack<T>::size;
    bool by_pack = size % pack == 0;
    for (const S* tensor : tensors) by_pack = by_pack && is_aligned(tensor, pack * sizeof(S));
    const int width = power_of_two_up_to_32(divide_up(size, by_pack ? pack : 1));
    run(by_pack, RowThreads{rows, int(size), width}, divide_up(rows, rows_threads / width));
}

template <class S, class T>
void forward(const TemporalConsistencyForward<T>& call, Context context) {
    const S *predicted = numbers_of<S>(call.predicted), *target = numbers_of<S>(call.target);
    const auto run = [&](bool by_pack, RowThreads threads, int64_t blocks) {
        const TemporalForwardTask<T, S> task{
            predicted,  target,           call.mask, call.slopes, static_cast<T*>(call.scratch),
            call.batch, T(call.discount), threads};
        launch("temporal_consistency_forward",
               by_pack ? temporal_consistency_forward_kernel<T, S, Pack<T>::size>
                       : temporal_consistency_forward_kernel<T, S, 1>,
               blocks, rows_threads, 0, context, task);
    };
    with_threads<T, S>(call.steps * call.batch, call.dim, {predicted, target}, run);
}

template <class S, class T>
void backward(const TemporalConsistencyBackward<T>& call, Context context) {
    const S *predicted = numbers_of<S>(call.predicted), *target = numbers_of<S>(call.target);
    S* grad_predicted = numbers_of<S>(call.grad_predicted);
    const auto run = [&](bool by_pack, RowThreads threads, int64_t blocks) {
        const TemporalBackwardTask<T, S> task{call.grad_loss, call.slopes, predicted, target, grad_predicted, threads};
        launch("temporal_consistency_backward",
               by_pack ? temporal_consistency_backward_kernel<T, S, Pack<T>::size>
                       : temporal_consistency_backward_kernel<T, S, 1>,
               blocks, rows_threads, 0, context, task);
    };
    with_threads<T, S>(call.rows, call.dim, {predicted, target, grad_predicted}, run);
}

}  // namespace

template <class T>
int64_t temporal_consistency_forward_scratch(const TemporalConsistencyForward<T>& call) {
    return call.steps * call.batch * int64_t(sizeof(T));
}

template <class T>
void temporal_consistency_forward(const TemporalConsistencyForward<T>& call, Context context) {
    const char* op = "temporal_consistency_forward";
    check_row_size(op, 1, call.dim);
    const DeviceGuard guard(context.device, op);
    with_storage<T>(call.predicted.storage, [&](auto number) { forward<decltype(number)>(call, context); });
    const TemporalSums<T> sums{
        static_cast<T*>(call.scratch), call.mask, call.loss, call.similarity, call.steps, call.batch, T(call.discount)};
    launch(op, temporal_consistency_sums_kernel<T>, 1, sum_threads, 0, context, sums);
}

template <class T>
void temporal_consistency_backward(const TemporalConsistencyBackward<T>& call, Context context) {
    const char* op = "temporal_consistency_backward";
    check_row_size(op, 1, call.dim);
    const DeviceGuard guard(context.device, op);
    with_storage<T>(call.predicted.storage, [&](auto number) { backward<decltype(number)>(call, context); });
}

QMK_INSTANTIATE(temporal_consistency_forward, TemporalConsistencyForward, Context)
QMK_INSTANTIATE_SCRATCH(temporal_consistency_forward, TemporalConsistencyForward)
QMK_INSTANTIATE(temporal_consistency_backward, TemporalConsistencyBackward, Context)

}  // namespace qmk::cuda
