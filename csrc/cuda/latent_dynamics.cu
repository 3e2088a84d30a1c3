// QRL's latent dynamics loss with an IQE head: from embeddings to the loss, and back.
//
// Forward: a component is sorted once, by where its intervals begin in either direction, and scanned twice: one thread
// a component for K = 4, 8, 16, 32 and, in float, 64, as in iqe.cu. Any other K: one warp per component, twice. The
// distances go to scratch; one block adds them up. Backward: one thread for 16 bytes of each gradient, each written
// once, from two bits per element and direction, and one slope per row and direction.
//
// Precision: arithmetic in T, sums over rows in double; latents and their gradients may be stored in half precision.
// The order of every sum is fixed, without atomics: the same input gives the same bits.
#include "../ops/latent_dynamics.h"
#include "half.cuh"
#include "two_distances.cuh"

namespace qmk::cuda {

namespace {

// The arguments of a forward launch; latents are stored as numbers of type S. Pair 0 is from predicted to target, pair
// 1 is back.
template <class T, class S>
struct LatentDynamicsForwardTask {
    const S *predicted, *target;
    MaxWeight<T> max;
    TwoKept<T> kept;
    T* distances;  // (2, rows)
    RowTiles tiles;
    LatentDynamicsSettings settings;

    __device__ __forceinline__ int64_t total() const { return tiles.rows * tiles.num_components; }
};

// Measures all components by `measure`, and turns their distances into terms of the loss.
template <class T, class S, class Measure>
__device__ __forceinline__ void reduce_all(const LatentDynamicsForwardTask<T, S>& task,
                                           const T (*lengths)[block_threads], Measure&& measure) {
    const int64_t rows = task.tiles.rows;
    reduce_two(task.tiles, task.settings.reduction, task.max, task.kept, lengths, measure,
               [&](int pair, int64_t i, T distance) {
                   task.kept.slopes[pair * rows + i] = LatentDynamicsTerm<T>(distance, task.settings).slope / T(rows);
                   task.distances[pair * rows + i] = distance;
               });
}

template <class T, class S, int K>
__global__ void __launch_bounds__(block_threads, register_blocks(K * sizeof(T)))
    latent_dynamics_forward_kernel(LatentDynamicsForwardTask<T, S> task) {
    using Packs = ComponentPacks<S, K>;
    __shared__ typename Packs::Bits staged[Packs::template staged_or<T>(sorts_places<K> ? K : 0)];
    __shared__ T lengths[2][block_threads];
    reduce_all(task, lengths, [&](int64_t component, int count) {
        T begins[K], ends[K];
        load_components(task.predicted + component * K, count, staged, begins);
        load_components(task.target + component * K, count, staged, ends);
        if (threadIdx.x >= count) return;
        using Mark = decltype(mark_of<K>(0));
        Mark marks[K], forward = 0;
        mark_intervals(marks);
#pragma unroll
        for (int k = 0; k < K; ++k) order_ends(begins[k], ends[k], marks[k], forward);
        EndsBothWays<T, Mark> scan(-Limits<T>::highest);
        if constexpr (sorts_places<K>) {
            T* columns = reinterpret_cast<T*>(staged);
            store_column(ends, columns);
            uint32_t places[K];
            find_places(places);
            sort_in_registers<K>(begins, places);
#pragma unroll
            for (int k = 0; k < K; ++k) scan.add(begins[k], columns[places[k]], mark_of<K>(places[k]), forward);
        } else {
            sort_in_registers<K>(begins, ends, marks);
#pragma unroll
            for (int k = 0; k < K; ++k) scan.add(begins[k], ends[k], marks[k], forward);
        }
        const int64_t own = component + threadIdx.x;
        store_scan<K>(scan.there, task.kept.ends, own);
        store_scan<K>(scan.back, task.kept.ends, task.total() + own);
        lengths[0][threadIdx.x] = scan.there.length;
        lengths[1][threadIdx.x] = scan.back.length;
    });
}

template <class T, class S>
__global__ void __launch_bounds__(block_threads, 8)
    latent_dynamics_forward_any_kernel(LatentDynamicsForwardTask<T, S> task) {
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
                const S* from = (pair == 0 ? task.predicted : task.target) + component * size;
                const S* to = (pair == 0 ? task.target : task.predicted) + component * size;
                const T length = measure_by_warp<T, true>(
                    intervals, from, to, size, lane, task.kept.ends + (pair * task.total() + component) * num_bytes);
                if (lane == 0) lengths[pair][c] = length;
            }
        }
    });
}

template <class T>
struct LatentDynamicsSums {
    const T* distances;
    T *loss, *stats;
    int64_t rows;
    LatentDynamicsSettings settings;
};

// One block: computes the loss and the statistics from all rows' distances.
template <class T>
__global__ void __launch_bounds__(sum_threads) latent_dynamics_sums_kernel(LatentDynamicsSums<T> task) {
    double sums[3] = {};  // the loss, there, back
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < task.rows; i += blockDim.x)
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
            const T distance = task.distances[pair * task.rows + i];
            sums[0] += double(LatentDynamicsTerm<T>(distance, task.settings).value);
            sums[1 + pair] += double(distance);
        }
    sum_over_block(sums);
    if (threadIdx.x != 0) return;
    const double rows = double(task.rows);
    *task.loss = T(sums[0] / rows);
    task.stats[0] = T(sums[1] / rows);
    task.stats[1] = T(sums[2] / rows);
}

template <class T, class S>
struct LatentDynamicsBackwardTask {
    const T *grad_loss, *slopes;
    const uint8_t* ends;
    const int32_t* largest;
    MaxWeight<T> max;
    S *grad_predicted, *grad_target;
    RowTiles tiles;
    int dim_per_component;
    Reduction reduction;
};

// `width` neighbouring coordinates per thread: 16 bytes, or one coordinate if K or a pointer does not allow more. Four
// blocks at once leave the registers that it needs; with more, ptxas spills one.
template <class T, class S, int width>
__global__ void __launch_bounds__(256, 4) latent_dynamics_backward_kernel(LatentDynamicsBackwardTask<T, S> task) {
    const unsigned num_components = task.tiles.num_components, size = task.dim_per_component;
    const auto weights = reduction_weights(task.reduction, num_components, WeightAt<T>(task.max, 0).value);
    const KeptEnds<T> kept{*task.grad_loss, task.slopes,    task.ends, task.largest,
                           task.tiles.rows, num_components, size,      weights};
    for_each_coordinate<width>(task.tiles, size, [&](int64_t i, unsigned c, unsigned k) {
        // A left end belongs to the start of its direction, a right end to its target.
        const auto there = kept.template at<width>(0, i, c, k), back = kept.template at<width>(1, i, c, k);
        T grad_predicted[width], grad_target[width];
#pragma unroll
        for (int v = 0; v < width; ++v) {
            grad_predicted[v] = (back.right >> v & 1 ? back.worth : T(0)) - (there.left >> v & 1 ? there.worth : T(0));
            grad_target[v] = (there.right >> v & 1 ? there.worth : T(0)) - (back.left >> v & 1 ? back.worth : T(0));
        }
        const int64_t at = (i * num_components + c) * size + k;
        store_values(task.grad_predicted + at, grad_predicted);
        store_values(task.grad_target + at, grad_target);
    });
}

template <class S, class T>
void forward(const LatentDynamicsForward<T>& call, Context context) {
    const int64_t rows = call.shape.rows, num_components = call.shape.num_components;
    const S *predicted = numbers_of<S>(call.predicted), *target = numbers_of<S>(call.target);
    const LatentDynamicsSettings& settings = call.settings;
    const int64_t size = settings.dim_per_component;
    const auto kernel = register_kernel<T, LatentDynamicsForwardTask<T, S>>(
        size, [](auto K) { return latent_dynamics_forward_kernel<T, S, K.value>; });
    const bool in_registers =
        kernel && is_aligned_to_16(predicted) && is_aligned_to_16(target) && is_aligned_to_16(call.ends);
    const LatentDynamicsForwardTask<T, S> task{predicted,
                                               target,
                                               {call.max_weight, 1, settings.weight_link},
                                               {call.slopes, call.ends, call.largest, call.spread},
                                               static_cast<T*>(call.scratch),
                                               forward_tiles(rows, num_components, in_registers),
                                               settings};
    if (in_registers)
        launch("latent_dynamics_forward", kernel, task.tiles.tiles, block_threads, 0, context, task);
    else
        launch_by_warp<T>("latent_dynamics_forward", latent_dynamics_forward_any_kernel<T, S>, task.tiles.tiles, size,
                          context, task);
    const LatentDynamicsSums<T> sums{task.distances, call.loss, call.stats, rows, settings};
    launch("latent_dynamics_forward", latent_dynamics_sums_kernel<T>, 1, sum_threads, 0, context, sums);
}

template <class S, class T>
void backward(const LatentDynamicsBackward<T>& call, Context context) {
    const int64_t rows = call.shape.rows, num_components = call.shape.num_components,
                  dim_per_component = call.dim_per_component;
    S *grad_predicted = numbers_of<S>(call.grad_predicted), *grad_target = numbers_of<S>(call.grad_target);
    const MaxWeight<T> max{call.max_weight, 1, call.weight_link};
    constexpr int pack = Pack<S>::size;
    const bool by_pack =
        dim_per_component % pack == 0 && is_aligned_to_16(grad_predicted) && is_aligned_to_16(grad_target);
    const int64_t groups = dim_per_component / (by_pack ? pack : 1);
    const LatentDynamicsBackwardTask<T, S> task{call.grad_loss,
                                                call.slopes,
                                                call.ends,
                                                call.largest,
                                                max,
                                                grad_predicted,
                                                grad_target,
                                                row_tiles(rows, num_components, 1024 / groups),
                                                int(dim_per_component),
                                                call.reduction};
    launch("latent_dynamics_backward",
           by_pack ? latent_dynamics_backward_kernel<T, S, pack> : latent_dynamics_backward_kernel<T, S, 1>,
           task.tiles.tiles, 256, 0, context, task);
    launch_weight_gradient<T>("latent_dynamics_backward",
                              {max, call.grad_loss, call.slopes, call.spread, call.grad_max_weight, 2 * rows}, context);
}

}  // namespace

template <class T>
int64_t latent_dynamics_forward_scratch(const LatentDynamicsForward<T>& call) {
    return 2 * call.shape.rows * int64_t(sizeof(T));
}

template <class T>
void latent_dynamics_forward(const LatentDynamicsForward<T>& call, Context context) {
    check_row_size("latent_dynamics_forward", call.shape.num_components, call.settings.dim_per_component);
    if (call.shape.num_components == 0) return;
    const DeviceGuard guard(context.device, "latent_dynamics_forward");
    with_storage<T>(call.predicted.storage, [&](auto number) { forward<decltype(number)>(call, context); });
}

template <class T>
void latent_dynamics_backward(const LatentDynamicsBackward<T>& call, Context context) {
    check_row_size("latent_dynamics_backward", call.shape.num_components, call.dim_per_component);
    if (call.shape.num_components == 0) return;
    const DeviceGuard guard(context.device, "latent_dynamics_backward");
    with_storage<T>(call.grad_predicted.storage, [&](auto number) { backward<decltype(number)>(call, context); });
}

QMK_INSTANTIATE(latent_dynamics_forward, LatentDynamicsForward, Context)
QMK_INSTANTIATE_SCRATCH(latent_dynamics_forward, LatentDynamicsForward)
QMK_INSTANTIATE(latent_dynamics_backward, LatentDynamicsBackward, Context)

}  // namespace qmk::cuda
