// METRA's loss: `width` neighbouring threads share a row, so that a warp reads neighbouring packs of 16 bytes. Forward
// reads three tensors and writes two numbers per row, plus two to scratch, which one block adds up; backward reads
// three tensors and writes two, or three if the skills need a gradient.
//
// Precision: arithmetic in T, sums over rows in double; embeddings, skills and their gradients may be stored in half
// precision. The order of every sum is fixed, without atomics: the same input gives the same bits.
#include "../ops/metra.h"
#include "block_sum.cuh"
#include "half.cuh"
#include "rows.cuh"

namespace qmk::cuda {

namespace {

// Calls run(row, first coordinate of the thread) for a thread's row in every round. All threads of a block take part in
// all of its rounds, so a row may lie past the end.
template <class Run>
__device__ __forceinline__ void for_each_row(int64_t rows, int width, Run&& run) {
    const int at_once = rows_threads / width;
    for (int64_t first = int64_t(blockIdx.x) * at_once; first < rows; first += int64_t(gridDim.x) * at_once)
        run(first + threadIdx.x / width, int(threadIdx.x) % width);
}

// Embeddings and skills are stored as numbers of type S.
template <class T, class S>
struct MetraForwardTask {
    const S *phi, *phi_next, *skill;
    const T* log_multiplier;
    T *reward, *slopes;
    T* scratch;  // (2, rows): constraint, squared distance
    MetraShape shape;
    MetraSettings settings;
    int width;  // threads per row, a power of two up to 32
};

template <class T, class S, int V>
__global__ void __launch_bounds__(rows_threads, 8) metra_forward_kernel(MetraForwardTask<T, S> task) {
    const int64_t rows = task.shape.rows, dim = task.shape.dim;
    const MetraConstraint<T> constraint(*task.log_multiplier, task.shape, task.settings);
    for_each_row(rows, task.width, [&](int64_t row, int member) {
        T squares = T(0), reward = T(0);
        for (int64_t k = member * V; row < rows && k < dim; k += task.width * V) {
            T phi[V], next[V], skill[V];
            load_values(task.phi + row * dim + k, phi);
            load_values(task.phi_next + row * dim + k, next);
            load_values(task.skill + row * dim + k, skill);
#pragma unroll
            for (int v = 0; v < V; ++v) {
                const T step = next[v] - phi[v];
                squares += step * step;
                reward += step * skill[v];
            }
        }
        squares = sum_of_threads(squares, task.width);
        reward = sum_of_threads(reward, task.width);
        if (row >= rows || member != 0) return;
        const auto term = constraint(squares);
        task.reward[row] = reward;
        task.slopes[row] = term.slope;
        task.scratch[row] = term.constraint;
        task.scratch[rows + row] = term.squared;
    });
}

template <class T>
struct MetraSums {
    const T *reward, *scratch, *log_multiplier;
    T *loss, *stats;
    MetraShape shape;
    MetraSettings settings;
};

// One block.
template <class T>
__global__ void __launch_bounds__(sum_threads) metra_sums_kernel(MetraSums<T> task) {
    const int64_t rows = task.shape.rows;
    double means[3] = {};  // reward, constraint, squared distance
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < rows; i += blockDim.x) {
        means[0] += double(task.reward[i]);
        means[1] += double(task.scratch[i]);
        means[2] += double(task.scratch[rows + i]);
    }
    sum_over_block(means);
    if (threadIdx.x != 0) return;
    for (double& mean : means) mean /= double(rows);
    const MetraConstraint<T> constraint(*task.log_multiplier, task.shape, task.settings);
    *task.loss = constraint.loss(means[0], means[1], *task.log_multiplier);
    task.stats[0] = T(means[1]);
    task.stats[1] = constraint.multiplier;
    task.stats[2] = T(means[2]);
}

template <class T, class S>
struct MetraBackwardTask {
    const T* grad_loss;
    const S *phi, *phi_next, *skill;
    const T *stats, *slopes;
    S *grad_phi, *grad_next, *grad_skill;
    T* grad_log_multiplier;
    MetraShape shape;
    int width;
};

template <class T, class S, int V>
__global__ void __launch_bounds__(rows_threads, 8) metra_backward_kernel(MetraBackwardTask<T, S> task) {
    const int64_t rows = task.shape.rows, dim = task.shape.dim;
    const T grad_loss = *task.grad_loss, share = grad_loss / T(rows);
    if (blockIdx.x == 0 && threadIdx.x == 0) *task.grad_log_multiplier = grad_loss * task.stats[0];
    for_each_row(rows, task.width, [&](int64_t row, int member) {
        if (row >= rows) return;
        const T slope = grad_loss * task.slopes[row];
        for (int64_t k = member * V; k < dim; k += task.width * V) {
            const int64_t at = row * dim + k;
            T phi[V], next[V], skill[V];
            load_values(task.phi + at, phi);
            load_values(task.phi_next + at, next);
            load_values(task.skill + at, skill);
#pragma unroll
            for (int v = 0; v < V; ++v) {
                const auto of = metra_gradient(phi[v], next[v], skill[v], slope, share);
                phi[v] = -of.next;
                next[v] = of.next;
                skill[v] = of.skill;
            }
            store_values(task.grad_phi + at, phi);
            store_values(task.grad_next + at, next);
            if (task.grad_skill) store_values(task.grad_skill + at, skill);
        }
    });
}

// The values that a thread loads at once: a pack, or one value if the size of a row or a pointer does not allow more.
template <class T, class S>
int values_at_once(int64_t dim, std::initializer_list<const S*> tensors) {
    constexpr int pack = Pack<T>::size;
    bool by_pack = dim % pack == 0;
    for (const S* tensor : tensors) by_pack = by_pack && is_aligned(tensor, pack * sizeof(S));
    return by_pack ? pack : 1;
}

template <class S, class T>
void forward(const MetraForward<T>& call, Context context) {
    const S *phi = numbers_of<S>(call.phi), *phi_next = numbers_of<S>(call.phi_next),
            *skill = numbers_of<S>(call.skill);
    const int values = values_at_once<T, S>(call.shape.dim, {phi, phi_next, skill});
    const int width = power_of_two_up_to_32(divide_up(call.shape.dim, values));
    const MetraForwardTask<T, S> task{
        phi,        phi_next,      skill, call.log_multiplier, call.reward, call.slopes, static_cast<T*>(call.scratch),
        call.shape, call.settings, width};
    launch("metra_forward", values == 1 ? metra_forward_kernel<T, S, 1> : metra_forward_kernel<T, S, Pack<T>::size>,
           divide_up(call.shape.rows, rows_threads / width), rows_threads, 0, context, task);
}

template <class S, class T>
void backward(const MetraBackward<T>& call, Context context) {
    const S *phi = numbers_of<S>(call.phi), *phi_next = numbers_of<S>(call.phi_next),
            *skill = numbers_of<S>(call.skill);
    S *grad_phi = numbers_of<S>(call.grad_phi), *grad_next = numbers_of<S>(call.grad_phi_next),
      *grad_skill = numbers_of<S>(call.grad_skill);
    const int values = values_at_once<T, S>(call.shape.dim, {phi, phi_next, skill, grad_phi, grad_next, grad_skill});
    const int width = power_of_two_up_to_32(divide_up(call.shape.dim, values));
    const MetraBackwardTask<T, S> task{call.grad_loss, phi,      phi_next,  skill,      call.stats,
                                       call.slopes,    grad_phi, grad_next, grad_skill, call.grad_log_multiplier,
                                       call.shape,     width};
    launch("metra_backward", values == 1 ? metra_backward_kernel<T, S, 1> : metra_backward_kernel<T, S, Pack<T>::size>,
           divide_up(call.shape.rows, rows_threads / width), rows_threads, 0, context, task);
}

}  // namespace

template <class T>
int64_t metra_forward_scratch(const MetraForward<T>& call) {
    return 2 * call.shape.rows * int64_t(sizeof(T));
}

template <class T>
void metra_forward(const MetraForward<T>& call, Context context) {
    const DeviceGuard guard(context.device, "metra_forward");
    with_storage<T>(call.phi.storage, [&](auto number) { forward<decltype(number)>(call, context); });
    const MetraSums<T> sums{
        call.reward,  static_cast<T*>(call.scratch), call.log_multiplier, call.loss, call.stats, call.shape,
        call.settings};
    launch("metra_forward", metra_sums_kernel<T>, 1, sum_threads, 0, context, sums);
}

template <class T>
void metra_backward(const MetraBackward<T>& call, Context context) {
    const DeviceGuard guard(context.device, "metra_backward");
    with_storage<T>(call.phi.storage, [&](auto number) { backward<decltype(number)>(call, context); });
}

QMK_INSTANTIATE(metra_forward, MetraForward, Context)
QMK_INSTANTIATE_SCRATCH(metra_forward, MetraForward)
QMK_INSTANTIATE(metra_backward, MetraBackward, Context)

}  // namespace qmk::cuda
