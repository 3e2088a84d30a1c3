// QRL's critic loss with an IQE head: from embeddings to the loss, and back.
//
// Forward: a component is sorted by x once and scanned twice, with y and with the goal: one thread per component for
// K = 4, 8, 16, 32 and, in float, 64, as in iqe.cu. Any other K: one warp per component, twice. Each row's terms of the
// loss go to scratch; one block adds them up. Backward: one thread for 16 bytes of each gradient, each written once,
// from two bits per element and pair, and one slope per row and pair. Goals that are y rolled by a row are read in
// place.
//
// Precision: arithmetic in T, sums over rows in double; embeddings and their gradients may be stored in half precision.
// The order of every sum is fixed, without atomics: the same input gives the same bits.
#include "../ops/qrl_critic.h"
#include "half.cuh"
#include "two_distances.cuh"

namespace qmk::cuda {

namespace {

// The arguments of a forward launch; embeddings are stored as numbers of type S. Pair 0 is to the goals, pair 1 to y.
template <class T, class S>
struct QrlCriticForwardTask {
    const S *x, *y, *goal;
    const T *raw, *cost;
    MaxWeight<T> max;
    int64_t goals_back;  // how many components before that of x its goal's is; before the first comes the last
    int64_t num_costs;
    TwoKept<T> kept;
    T* scratch;  // (4, rows): push, violation, distance to the goal, to y
    RowTiles tiles;
    QrlCriticSettings settings;

    __device__ __forceinline__ int64_t total() const { return tiles.rows * tiles.num_components; }
    __device__ __forceinline__ int64_t goal_of(int64_t component) const {
        return component - goals_back + (component < goals_back ? total() : 0);
    }
};

// Measures all components by `measure`, and turns their distances into terms of the loss.
template <class T, class S, class Measure>
__device__ __forceinline__ void reduce_all(const QrlCriticForwardTask<T, S>& task, const T (*lengths)[block_threads],
                                           Measure&& measure) {
    const int64_t rows = task.tiles.rows;
    const QrlCriticSettings& settings = task.settings;
    reduce_two(task.tiles, settings.reduction, task.max, task.kept, lengths, measure,
               [&](int pair, int64_t i, T distance) {
                   const int64_t at = pair * rows + i;
                   const auto term = pair == 0 ? qrl_critic_push(distance, settings)
                                               : qrl_critic_violation(distance, task.cost[task.num_costs == 1 ? 0 : i]);
                   const T scale = pair == 0 ? T(1) : qrl_critic_multiplier(*task.raw, settings).value;
                   task.kept.slopes[at] = term.slope / T(rows) * scale;
                   task.scratch[at] = term.value;
                   task.scratch[2 * rows + at] = distance;
               });
}

template <class T, class S, int K>
__global__ void __launch_bounds__(block_threads, register_blocks(K * sizeof(T)))
    qrl_critic_forward_kernel(QrlCriticForwardTask<T, S> task) {
    using Packs = ComponentPacks<S, K>;
    using Bits = typename Packs::Bits;
    __shared__ Bits staged[Packs::template staged_or<T>(sorts_places<K> ? K : 0)];
    __shared__ T lengths[2][block_threads];
    constexpr int at_once = 8;  // of 64 floats more packs would take the registers of x and its places
    reduce_all(task, lengths, [&](int64_t component, int count) {
        T x[K], y[K], goal[K];
        const auto load_y = [&] { load_components<at_once>(task.y + component * K, count, staged, y); };
        load_components<at_once>(task.x + component * K, count, staged, x);
        if constexpr (!sorts_places<K>) load_y();
        const Bits* goals = reinterpret_cast<const Bits*>(task.goal);
        load_packs<S, at_once>(
            [&](int pack) {
                return goals + task.goal_of(component + pack / Packs::count) * Packs::count + pack % Packs::count;
            },
            count, staged, goal);
        const bool has_component = threadIdx.x < count;
        const int64_t own = component + threadIdx.x;
        T &to_goal = lengths[0][threadIdx.x], &to_y = lengths[1][threadIdx.x];
        if constexpr (sorts_places<K>) {
            // The columns hold the goal first, then y.
            T* columns = reinterpret_cast<T*>(staged);
            uint32_t places[K];
            if (has_component) {
                store_column(goal, columns);
                find_places(places);
                sort_in_registers<K>(x, places);
                to_goal = scan_by_places(x, columns, places, task.kept.ends, own);
            }
            __syncthreads();
            load_y();
            if (!has_component) return;
            store_column(y, columns);
            to_y = scan_by_places(x, columns, places, task.kept.ends, task.total() + own);
        } else if (has_component) {
            uint32_t marks[K];
            mark_intervals(marks);
            sort_in_registers<K>(x, y, goal, marks);
            to_goal = scan_in_registers(x, goal, marks, task.kept.ends, own);
            to_y = scan_in_registers(x, y, marks, task.kept.ends, task.total() + own);
        }
    });
}

template <class T, class S>
__global__ void __launch_bounds__(block_threads, 8) qrl_critic_forward_any_kernel(QrlCriticForwardTask<T, S> task) {
    extern __shared__ int4 dynamic_shared[];
    __shared__ T lengths[2][block_threads];
    const int size = int(task.settings.dim_per_component), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int num_bytes = (2 * size + 7) / 8;
    const WarpIntervals<T> intervals(
        reinterpret_cast<unsigned char*>(dynamic_shared) + warp * WarpIntervals<T>::bytes(size), size);
    reduce_all(task, lengths, [&](int64_t first_component, int count) {
        for (int c = warp; c < count; c += blockDim.x / 32) {
            const int64_t component = first_component + c;
            for (int pair = 0; pair < 2; ++pair) {
                const S* to = pair == 0 ? task.goal + task.goal_of(component) * size : task.y + component * size;
                const T length =
                    measure_by_warp<T, true>(intervals, task.x + component * size, to, size, lane,
                                             task.kept.ends + (pair * task.total() + component) * num_bytes);
                if (lane == 0) lengths[pair][c] = length;
            }
        }
    });
}

template <class T>
struct QrlCriticSums {
    const T *terms, *raw;
    T *loss, *stats;
    int64_t rows;
    QrlCriticSettings settings;
};

// One block: computes the loss and the statistics from all rows' terms.
template <class T>
__global__ void __launch_bounds__(sum_threads) qrl_critic_sums_kernel(QrlCriticSums<T> task) {
    double means[4] = {};
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < task.rows; i += blockDim.x)
#pragma unroll
        for (int term = 0; term < 4; ++term) means[term] += double(task.terms[term * task.rows + i]);
    sum_over_block(means);
    if (threadIdx.x != 0) return;
    for (double& mean : means) mean /= double(task.rows);
    finish_qrl_critic(means, qrl_critic_multiplier(*task.raw, task.settings), task.settings, task.loss, task.stats);
}

template <class T, class S>
struct QrlCriticBackwardTask {
    const T *grad_loss, *slopes;
    const uint8_t* ends;
    const int32_t* largest;
    MaxWeight<T> max;
    S *grad_x, *grad_y, *grad_goal;
    const T* stats;
    T* grad_raw;
    RowTiles tiles;
    int dim_per_component;
    Reduction reduction;
};

// `width` neighbouring coordinates per thread: 16 bytes, or one coordinate if K or a pointer does not allow more. Four
// blocks at once leave the registers that it needs; with more, ptxas spills one.
template <class T, class S, int width>
__global__ void __launch_bounds__(256, 4) qrl_critic_backward_kernel(QrlCriticBackwardTask<T, S> task) {
    if (blockIdx.x == 0 && threadIdx.x == 0) *task.grad_raw = *task.grad_loss * task.stats[qrl_critic_slope_of_raw];
    const int64_t rows = task.tiles.rows;
    const unsigned num_components = task.tiles.num_components, size = task.dim_per_component;
    const auto weights = reduction_weights(task.reduction, num_components, WeightAt<T>(task.max, 0).value);
    const KeptEnds<T> kept{*task.grad_loss, task.slopes, task.ends, task.largest, rows, num_components, size, weights};
    for_each_coordinate<width>(task.tiles, size, [&](int64_t i, unsigned c, unsigned k) {
        const auto of_goal = kept.template at<width>(0, i, c, k), of_y = kept.template at<width>(1, i, c, k);
        // Without a tensor of goals, row i of y is the goal of the next row.
        const int64_t from = task.grad_goal ? i : i + 1 < rows ? i + 1 : 0;
        const auto to_goal = task.grad_goal ? of_goal : kept.template at<width>(0, from, c, k);
        T grad_x[width], grad_y[width], grad_goal[width];
#pragma unroll
        for (int v = 0; v < width; ++v) {
            grad_x[v] = -((of_y.left >> v & 1 ? of_y.worth : T(0)) + (of_goal.left >> v & 1 ? of_goal.worth : T(0)));
            grad_y[v] = of_y.right >> v & 1 ? of_y.worth : T(0);
            grad_goal[v] = to_goal.right >> v & 1 ? to_goal.worth : T(0);
            if (!task.grad_goal) grad_y[v] += grad_goal[v];
        }
        const int64_t at = (i * num_components + c) * size + k;
        store_values(task.grad_x + at, grad_x);
        store_values(task.grad_y + at, grad_y);
        if (task.grad_goal) store_values(task.grad_goal + at, grad_goal);
    });
}

template <class S, class T>
void forward(const QrlCriticForward<T>& call, Context context) {
    const int64_t rows = call.shape.rows, num_components = call.shape.num_components;
    const S *x = numbers_of<S>(call.x), *y = numbers_of<S>(call.y), *goal = numbers_of<S>(call.goal);
    const QrlCriticSettings& settings = call.settings;
    const int64_t size = settings.dim_per_component;
    const S* goals = goal ? goal : y;
    const auto kernel = register_kernel<T, QrlCriticForwardTask<T, S>>(
        size, [](auto K) { return qrl_critic_forward_kernel<T, S, K.value>; });
    const bool in_registers =
        kernel && is_aligned_to_16(x) && is_aligned_to_16(y) && is_aligned_to_16(goals) && is_aligned_to_16(call.ends);
    const QrlCriticForwardTask<T, S> task{x,
                                          y,
                                          goals,
                                          call.raw,
                                          call.cost,
                                          {call.max_weight, 1, settings.weight_link},
                                          goal ? 0 : num_components,
                                          call.num_costs,
                                          {call.slopes, call.ends, call.largest, call.spread},
                                          static_cast<T*>(call.scratch),
                                          forward_tiles(rows, num_components, in_registers),
                                          settings};
    if (in_registers)
        launch("qrl_critic_forward", kernel, task.tiles.tiles, block_threads, 0, context, task);
    else
        launch_by_warp<T>("qrl_critic_forward", qrl_critic_forward_any_kernel<T, S>, task.tiles.tiles, size, context,
                          task);
    const QrlCriticSums<T> sums{task.scratch, call.raw, call.loss, call.stats, rows, settings};
    launch("qrl_critic_forward", qrl_critic_sums_kernel<T>, 1, sum_threads, 0, context, sums);
}

template <class S, class T>
void backward(const QrlCriticBackward<T>& call, Context context) {
    const int64_t rows = call.shape.rows, num_components = call.shape.num_components,
                  dim_per_component = call.dim_per_component;
    S *grad_x = numbers_of<S>(call.grad_x), *grad_y = numbers_of<S>(call.grad_y),
      *grad_goal = numbers_of<S>(call.grad_goal);
    const MaxWeight<T> max{call.max_weight, 1, call.weight_link};
    constexpr int pack = Pack<S>::size;
    const bool by_pack = dim_per_component % pack == 0 && is_aligned_to_16(grad_x) && is_aligned_to_16(grad_y) &&
                         is_aligned_to_16(grad_goal);
    const int64_t groups = dim_per_component / (by_pack ? pack : 1);
    const QrlCriticBackwardTask<T, S> task{call.grad_loss,
                                           call.slopes,
                                           call.ends,
                                           call.largest,
                                           max,
                                           grad_x,
                                           grad_y,
                                           grad_goal,
                                           call.stats,
                                           call.grad_raw,
                                           row_tiles(rows, num_components, 1024 / groups),
                                           int(dim_per_component),
                                           call.reduction};
    launch("qrl_critic_backward",
           by_pack ? qrl_critic_backward_kernel<T, S, pack> : qrl_critic_backward_kernel<T, S, 1>, task.tiles.tiles,
           256, 0, context, task);
    launch_weight_gradient<T>("qrl_critic_backward",
                              {max, call.grad_loss, call.slopes, call.spread, call.grad_max_weight, 2 * rows}, context);
}

}  // namespace

template <class T>
int64_t qrl_critic_forward_scratch(const QrlCriticForward<T>& call) {
    return 4 * call.shape.rows * int64_t(sizeof(T));
}

template <class T>
void qrl_critic_forward(const QrlCriticForward<T>& call, Context context) {
    check_row_size("qrl_critic_forward", call.shape.num_components, call.settings.dim_per_component);
    if (call.shape.num_components == 0) return;
    const DeviceGuard guard(context.device, "qrl_critic_forward");
    with_storage<T>(call.x.storage, [&](auto number) { forward<decltype(number)>(call, context); });
}

template <class T>
void qrl_critic_backward(const QrlCriticBackward<T>& call, Context context) {
    check_row_size("qrl_critic_backward", call.shape.num_components, call.dim_per_component);
    if (call.shape.num_components == 0) return;
    const DeviceGuard guard(context.device, "qrl_critic_backward");
    with_storage<T>(call.grad_x.storage, [&](auto number) { backward<decltype(number)>(call, context); });
}

QMK_INSTANTIATE(qrl_critic_forward, QrlCriticForward, Context)
QMK_INSTANTIATE_SCRATCH(qrl_critic_forward, QrlCriticForward)
QMK_INSTANTIATE(qrl_critic_backward, QrlCriticBackward, Context)

}  // namespace qmk::cuda
