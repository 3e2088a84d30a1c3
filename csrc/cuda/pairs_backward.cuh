// All pairs of rows of x and y, backward: kernels and launchers.
//
// One side's gradient at a time: a block owns 32 rows and one component and visits the rows of the other side, 64 at a
// time. It first computes the sums of every pair, as in forward, and from them the slopes, kept in shared memory; then
// the gradient of every value as a sum over the pairs of its row. The other side is the same with -y for x and -x for
// y.
#pragma once

#include <utility>

#include "pair_tiles.cuh"

namespace qmk::cuda {

namespace {

template <class T, class Head>
struct BackwardPairs {
    Head head;
    Packs packs;
    const T *rows, *others, *grad_out;
    T* grad;        // (splits, batch, num_rows, dim)
    T* weight_sum;  // null or (splits, batch, num_rows, num_components): sums of grad_out times the component
    T sign;
    int batch, num_rows, num_others;
    int row_stride, other_stride;  // pairs from one row to the next in grad_out
    int splits, others_per_split;
    bool by_component;
};

constexpr int slope_row = tile_columns + 1;

template <class T, class Head>
constexpr int64_t backward_shared_bytes = ((tile_rows + tile_columns) * staged_row<T> +
                                           int(sizeof(typename Head::Slopes) / sizeof(T)) * tile_rows * slope_row) *
                                          int64_t(sizeof(T));

// The slopes of a tile of pairs, number by number.
template <class T, class Head>
struct TileSlopes {
    using Slopes = typename Head::Slopes;
    static constexpr int numbers = sizeof(Slopes) / sizeof(T), stride = tile_rows * slope_row;
    T* memory;

    __device__ __forceinline__ void store(int i, int j, const Slopes& slopes) const {
        T values[numbers];
        __builtin_memcpy(values, &slopes, sizeof(Slopes));
#pragma unroll
        for (int n = 0; n < numbers; ++n) memory[n * stride + i * slope_row + j] = values[n];
    }
    __device__ __forceinline__ Slopes load(int i, int j) const {
        T values[numbers];
#pragma unroll
        for (int n = 0; n < numbers; ++n) values[n] = memory[n * stride + i * slope_row + j];
        Slopes slopes;
        __builtin_memcpy(&slopes, values, sizeof(Slopes));
        return slopes;
    }
};

// A block handles 32 rows and one component against the other rows of its split. For the gradients a thread has one
// pack of a slice and every n-th row; if a component fills only part of a slice, `shares` groups of threads share the
// other rows.
template <class T, class Head>
__global__ void __launch_bounds__(tile_threads, sizeof(T) == 4 ? 3 : 2)
    backward_pairs_kernel(BackwardPairs<T, Head> task) {
    constexpr int R = thread_rows, C = thread_columns, V = Pack<T>::size;
    constexpr int row_groups = tile_threads / slice_packs<T>, grad_rows = tile_rows / row_groups;
    extern __shared__ int4 dynamic_shared[];
    T *staged_rows = reinterpret_cast<T*>(dynamic_shared), *staged_others = staged_rows + tile_rows * staged_row<T>;
    const TileSlopes<T, Head> tile_slopes{staged_others + tile_columns * staged_row<T>};
    const Packs& packs = task.packs;
    const int tx = threadIdx.x % column_step, ty = threadIdx.x / column_step;
    const bool one_slice = packs.in_component <= slice_packs<T>;
    int used_packs = 1;
    while (used_packs < packs.in_component && used_packs < slice_packs<T>) used_packs *= 2;
    const int share = threadIdx.x / (used_packs * row_groups), shares = slice_packs<T> / used_packs;
    const int own_pack = threadIdx.x / row_groups % used_packs, own_row = threadIdx.x % row_groups;

    const int tiles_along = (task.num_rows + tile_rows - 1) / tile_rows;
    const int64_t tiles = int64_t(task.batch) * task.splits * packs.num_components * tiles_along;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int first_row = int(tile % tiles_along) * tile_rows;
        const int component = int(tile / tiles_along % packs.num_components);
        const int64_t rest = tile / tiles_along / packs.num_components;
        const int split = int(rest % task.splits), sample = int(rest / task.splits);
        const T* rows = task.rows + int64_t(sample) * task.num_rows * packs.dim();
        const T* others = task.others + int64_t(sample) * task.num_others * packs.dim();
        const auto& head = task.head.of(sample);
        const int64_t first_out_row = (int64_t(split) * task.batch + sample) * task.num_rows + first_row;
        const int first_other = split * task.others_per_split;
        const int last_other = task.num_others - first_other < task.others_per_split
                                   ? task.num_others
                                   : first_other + task.others_per_split;
        const auto stage = [&](int slice, int j, bool with_rows) {
            const int first = component * packs.in_component + slice, left = packs.in_component - slice;
            const int count = left < slice_packs<T> ? left : slice_packs<T>;
            if (with_rows)
                stage_rows<T, tile_rows, true>(task.head, packs, rows, task.sign, first_row, task.num_rows, first,
                                               count, staged_rows);
            stage_rows<T, tile_columns, false>(task.head, packs, others, task.sign, j, task.num_others, first, count,
                                               staged_others);
        };
        T grads[grad_rows][V], weight_sums[R];
#pragma unroll
        for (int r = 0; r < grad_rows; ++r)
#pragma unroll
            for (int v = 0; v < V; ++v) grads[r][v] = T(0);
#pragma unroll
        for (int r = 0; r < R; ++r) weight_sums[r] = T(0);

        for (int j = first_other; j < last_other; j += tile_columns) {
            const int columns = last_other - j < tile_columns ? last_other - j : tile_columns;
            typename Head::PlacedSums sums[R][C];
            __syncthreads();
            // The pairs' gradients are read in memory order, into the place of their slopes.
            for (int n = threadIdx.x; n < tile_rows * tile_columns; n += tile_threads) {
                const bool along = task.other_stride == 1;
                const int row = along ? n / tile_columns : n % tile_rows;
                const int other = along ? n % tile_columns : n / tile_rows;
                const int64_t pair = int64_t(sample) * task.num_rows * task.num_others +
                                     int64_t(first_row + row) * task.row_stride +
                                     int64_t(j + other) * task.other_stride;
                const bool exists = first_row + row < task.num_rows && other < columns;
                tile_slopes.memory[row * slope_row + other] =
                    exists ? task.grad_out[task.by_component ? pair * packs.num_components + component : pair] : T(0);
            }
            for (int slice = 0; slice < packs.in_component; slice += slice_packs<T>) {
                if (slice > 0) __syncthreads();
                stage(slice, j, !one_slice || j == first_other);
                __syncthreads();
                const int left = packs.in_component - slice;
                add_packs(task.head, packs, staged_rows, staged_others, component * packs.in_component + slice,
                          left < slice_packs<T> ? left : slice_packs<T>, sums, [](int) {});
            }
#pragma unroll
            for (int r = 0; r < R; ++r)
#pragma unroll
                for (int c = 0; c < C; ++c) {
                    const int row = ty + r * row_step, other = tx + c * column_step;
                    const T grad = tile_slopes.memory[row * slope_row + other];
                    tile_slopes.store(row, other, head.slopes(sums[r][c], grad, component));
                    if (task.weight_sum) weight_sums[r] += grad * task.head.component(sums[r][c]);
                }
            __syncthreads();
            for (int slice = 0; slice < packs.in_component; slice += slice_packs<T>) {
                if (!one_slice) {
                    __syncthreads();
                    stage(slice, j, true);
                    __syncthreads();
                }
                const bool exists = slice + own_pack < packs.in_component;
                const PackPlace at = pack_place<V>(packs, exists ? slice + own_pack : 0);
                if (exists)
                    with_kind<Head::kinds>(at.kind, [&](auto kind) {
                        Pack<T> x[grad_rows];
#pragma unroll
                        for (int r = 0; r < grad_rows; ++r)
                            x[r] =
                                load_pack<T>(staged_rows + (own_row + r * row_groups) * staged_row<T> + own_pack * V);
#pragma unroll 4
                        for (int other = share; other < columns; other += shares) {
                            const Pack<T> y = load_pack<T>(staged_others + other * staged_row<T> + own_pack * V);
#pragma unroll
                            for (int r = 0; r < grad_rows; ++r) {
                                const auto slopes = tile_slopes.load(own_row + r * row_groups, other);
#pragma unroll
                                for (int v = 0; v < V; ++v)
                                    grads[r][v] += task.head.template gradient<decltype(kind)::value>(
                                        slopes, x[r].values[v], y.values[v], T(at.place + v));
                            }
                        }
                    });
                if (one_slice && j + tile_columns < last_other) continue;
                if (shares > 1) {
                    // The slopes are no longer needed: their memory takes all threads' sums, which the first share
                    // adds.
                    constexpr int stride = grad_rows * V + 1;
                    __syncthreads();
                    T* shown = tile_slopes.memory + threadIdx.x * stride;
#pragma unroll
                    for (int n = 0; n < grad_rows * V; ++n) shown[n] = grads[n / V][n % V];
                    __syncthreads();
                    for (int other = 1; share == 0 && other < shares; ++other)
#pragma unroll
                        for (int n = 0; n < grad_rows * V; ++n)
                            grads[n / V][n % V] += shown[other * used_packs * row_groups * stride + n];
                }
#pragma unroll
                for (int r = 0; r < grad_rows; ++r) {
                    const int row = own_row + r * row_groups;
                    T* to =
                        task.grad + (first_out_row + row) * packs.dim() + component * packs.segments.total() + at.place;
#pragma unroll
                    for (int v = 0; v < V; ++v) {
                        if (exists && share == 0 && first_row + row < task.num_rows && v < at.count)
                            to[v] = (one_slice || j == first_other ? T(0) : to[v]) + task.sign * grads[r][v];
                        grads[r][v] = T(0);
                    }
                }
            }
        }
        if (task.weight_sum) {
#pragma unroll
            for (int r = 0; r < R; ++r) {
                const T sum = sum_of_threads(weight_sums[r], column_step);
                const int row = ty + r * row_step;
                if (tx == 0 && first_row + row < task.num_rows)
                    task.weight_sum[(first_out_row + row) * packs.num_components + component] = sum;
            }
        }
    }
}

// Rows of the other side per split of backward.
inline int64_t others_per_split(int64_t batch, int64_t num_rows, int64_t num_others, int64_t num_components) {
    const int64_t blocks = batch * divide_up(num_rows, tile_rows) * num_components;
    const int64_t tiles = divide_up(num_others, tile_columns);
    if (blocks == 0 || 2 * blocks >= enough_blocks) return tiles * tile_columns;
    return divide_up(tiles, std::min(tiles, divide_up(enough_blocks, blocks))) * tile_columns;
}

template <class T>
int64_t backward_pairs_workspace(int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components, int64_t dim) {
    const auto one_side = [&](int64_t num_rows, int64_t num_others) {
        const int64_t splits = divide_up(num_others, others_per_split(batch, num_rows, num_others, num_components));
        return splits == 1 ? 0 : splits * batch * num_rows * (dim + num_components) * int64_t(sizeof(T));
    };
    return num_x * num_y == 0 ? 0 : std::max(one_side(num_x, num_y), one_side(num_y, num_x));
}

// The gradient of one side, and the sums for the weights' gradient unless weight_sum is null.
template <class T, class Head>
void launch_backward_side(const char* op, BackwardPairs<T, Head> task, T* grad, T* weight_sum, void* workspace,
                          Context context) {
    const int64_t components = task.packs.num_components;
    const int64_t in_split = others_per_split(task.batch, task.num_rows, task.num_others, components);
    const int64_t splits = divide_up(task.num_others, in_split), rows = int64_t(task.batch) * task.num_rows;
    const int64_t values = rows * task.packs.dim(), sums = rows * components;
    auto* partial = static_cast<T*>(workspace);
    task.others_per_split = int(in_split);
    task.splits = int(splits);
    task.grad = splits == 1 ? grad : partial;
    task.weight_sum = splits == 1 || !weight_sum ? weight_sum : partial + splits * values;
    launch(op, backward_pairs_kernel<T, Head>, task.batch * splits * components * divide_up(task.num_rows, tile_rows),
           tile_threads, backward_shared_bytes<T, Head>, context, task);
    if (splits == 1) return;
    launch(op, add_splits_kernel<T>, divide_up(values, 256), 256, 0, context, task.grad, splits, values, grad);
    if (weight_sum)
        launch(op, add_splits_kernel<T>, divide_up(sums, 256), 256, 0, context, task.weight_sum, splits, sums,
               weight_sum);
}

template <class T, class Head>
void launch_backward_pairs(const char* op, Head head, Segments segments, const T* grad_out, const T* x, const T* y,
                           T* grad_x, T* grad_y, T* weight_sum, void* workspace, int64_t batch, int64_t num_x,
                           int64_t num_y, int64_t num_components, bool by_component, Context context) {
    BackwardPairs<T, Head> task{head,       packs_of(segments, num_components, x, y),
                                x,          y,
                                grad_out,   nullptr,
                                nullptr,    T(1),
                                int(batch), int(num_x),
                                int(num_y), int(num_y),
                                1,          1,
                                0,          by_component};
    launch_backward_side(op, task, grad_x, weight_sum, workspace, context);
    // The other side, in the same memory: launches on a stream run one after another.
    std::swap(task.rows, task.others);
    std::swap(task.num_rows, task.num_others);
    std::swap(task.row_stride, task.other_stride);
    task.sign = T(-1);
    launch_backward_side(op, task, grad_y, static_cast<T*>(nullptr), workspace, context);
}

}  // namespace

}  // namespace qmk::cuda
