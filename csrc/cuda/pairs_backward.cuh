// All pairs of rows of x and y, backward: kernels and launchers.
//
// One side's gradient at a time: a block owns 32 rows and one component and visits the rows of the other side, 64 at a
// time. It first computes the sums of every pair, as in forward, and from them the slopes, kept in shared memory; then
// the gradient of every value as a sum over the pairs of its row. Of placed kinds (component.cuh) a pair adds to one
// value only. The other side is the same with -y for x and -x for y.
#pragma once

#include <utility>

#include "pair_gradients.cuh"

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
    int splits, others_per_split, placed_values;
    bool by_component;
};

template <class T, class Head>
int placed_values(const Packs& packs) {
    return std::min(placed_packs<Head>(packs).count(), backward_packs<T>) * Pack<T>::size;
}
template <class T, class Head>
int64_t backward_shared_bytes(const Packs& packs) {
    const int64_t numbers = TileSlopes<T, Head>::numbers * TileSlopes<T, Head>::number_stride +
                            warps_in_tile * placed_values<T, Head>(packs) * 32;
    return (tile_rows + tile_columns) * staged_row(backward_packs<T>) * int64_t(sizeof(int4)) +
           numbers * int64_t(sizeof(T));
}

// Reads the gradients of a tile's pairs in memory order, into the place of the first number of their slopes; 0 for
// pairs that do not exist.
template <class T, class Head>
__device__ __forceinline__ void load_gradients(const BackwardPairs<T, Head>& task, const TileSlopes<T, Head>& to,
                                               int sample, int component, int first_row, int first_other, int columns) {
    const bool along = task.other_stride == 1;  // else along the rows
    const int row = along ? threadIdx.x / tile_columns : threadIdx.x % tile_rows;
    const int other = along ? threadIdx.x % tile_columns : threadIdx.x / tile_rows;
    const int step = tile_threads / (along ? tile_columns : tile_rows), last_row = task.num_rows - first_row;
    const int count = along ? (other < columns ? last_row - row : 0) : (row < last_row ? columns - other : 0);
    const int64_t in_pair = task.by_component ? task.packs.num_components : 1;
    const int64_t pair = int64_t(sample) * task.num_rows * task.num_others +
                         int64_t(first_row + row) * task.row_stride + int64_t(first_other + other) * task.other_stride;
    const T* from = task.grad_out + pair * in_pair + (task.by_component ? component : 0);
    T* at = to.at(0, other, row);
    const int64_t from_step = step * int64_t(along ? task.row_stride : task.other_stride) * in_pair;
    const int at_step = along ? step : step * to.other_stride;
#pragma unroll 4
    for (int n = 0; n < step * tile_rows * tile_columns / tile_threads; n += step) {
        *at = n < count ? *from : T(0);
        from += from_step;
        at += at_step;
    }
}

// A block handles 32 rows and one component against the other rows of its split. For gradients of kinds that are not
// placed a thread has one pack of a slice and four rows; if they fill only part of a slice, `shares` groups of threads
// share the other rows.
template <class T, class Head>
__global__ void __launch_bounds__(tile_threads, sizeof(T) == 4 ? 3 : 2)
    backward_pairs_kernel(BackwardPairs<T, Head> task) {
    constexpr int R = thread_rows, C = thread_columns, V = Pack<T>::size, slice_packs = backward_packs<T>;
    constexpr int packs_per_row = staged_row(slice_packs), row_groups = tile_rows / R;
    using Slopes = typename Head::Slopes;
    extern __shared__ int4 dynamic_shared[];
    int4 *staged_rows = dynamic_shared, *staged_others = staged_rows + tile_rows * packs_per_row;
    const TileSlopes<T, Head> tile_slopes{reinterpret_cast<T*>(staged_others + tile_columns * packs_per_row)};
    const PlacedGradients<T> placed_gradients{tile_slopes.memory + tile_slopes.numbers * tile_slopes.number_stride,
                                              task.placed_values};
    const Packs& packs = task.packs;
    const PackRange placed = placed_packs<Head>(packs), summed = summed_packs<Head>(packs);
    const int tx = threadIdx.x % column_step, ty = threadIdx.x / column_step, lane = threadIdx.x % 32;
    const bool one_slice = packs.in_component <= slice_packs;
    int used_packs = 1;
    while (used_packs < summed.count() && used_packs < slice_packs) used_packs *= 2;
    const int own_rows = threadIdx.x % row_groups * R, own_pack = threadIdx.x / row_groups % used_packs;
    const int share = threadIdx.x / (row_groups * used_packs), shares = tile_threads / (row_groups * used_packs);
    const int in_share = tile_columns / shares;

    const int tiles_along = (task.num_rows + tile_rows - 1) / tile_rows;
    const int64_t tiles = int64_t(task.batch) * task.splits * packs.num_components * tiles_along;
    placed_gradients.clear();
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
        const auto slice_end = [&](int slice) {
            return packs.in_component - slice < slice_packs ? packs.in_component : slice + slice_packs;
        };
        const auto stage = [&](int slice, int j, bool with_rows) {
            const int first = component * packs.in_component + slice, count = slice_end(slice) - slice;
            if (with_rows)
                stage_rows<T, tile_rows, slice_packs, true, Copy::with_sign>(
                    task.head, packs, rows, task.sign, first_row, task.num_rows, first, count, staged_rows);
            stage_rows<T, tile_columns, slice_packs, false, Copy::with_sign>(
                task.head, packs, others, task.sign, j, task.num_others, first, count, staged_others);
        };
        // Stores the gradients of a pack of one row, or adds them to those of former tiles.
        const auto store_gradients = [&](bool is_first, int row, int pack, const T(&values)[V]) {
            const PackPlace at = pack_place<V>(packs, pack);
            if (first_row + row >= task.num_rows) return;
            T* to = task.grad + (first_out_row + row) * packs.dim() + component * packs.segments.total() + at.place;
#pragma unroll
            for (int v = 0; v < V; ++v)
                if (v < at.count) to[v] = (is_first ? T(0) : to[v]) + task.sign * values[v];
        };
        T grads[R][V], weight_sums[R];
#pragma unroll
        for (int r = 0; r < R; ++r) {
            weight_sums[r] = T(0);
#pragma unroll
            for (int v = 0; v < V; ++v) grads[r][v] = T(0);
        }

        for (int j = first_other; j < last_other; j += tile_columns) {
            const int columns = last_other - j < tile_columns ? last_other - j : tile_columns;
            typename Head::PairSums sums[R][C];
            __syncthreads();
            load_gradients(task, tile_slopes, sample, component, first_row, j, columns);
            PackInRow next{component, 0};
            for (int slice = 0; slice < packs.in_component; slice += slice_packs) {
                if (slice > 0) __syncthreads();
                stage(slice, j, !one_slice || j == first_other);
                __syncthreads();
                const int end = slice_end(slice);
                add_packs<T, slice_packs>(task.head, packs, staged_rows, staged_others, next, end - slice, sums,
                                          [](int) {});
                if constexpr (Head::placed_kind >= 0)
                    find_places<T, slice_packs>(head, packs, placed.within(slice, end), slice, staged_rows,
                                                staged_others, sums);
            }
            head.with_form([&](auto form) {
#pragma unroll
                for (int c = 0; c < C; ++c) {
                    const int other = tx + c * column_step;
                    Slopes slopes[R];
#pragma unroll
                    for (int r = 0; r < R; ++r) {
                        const T grad = *tile_slopes.at(0, other, ty * R + r);
                        slopes[r] = head.slopes(sums[r][c].placed(), form, grad, component);
                        if (Head::has_weights && task.weight_sum)
                            weight_sums[r] += grad * head.component(sums[r][c], form);
                    }
                    tile_slopes.store(other, ty * R, slopes);
                }
            });
            __syncthreads();
            for (int slice = 0; slice < packs.in_component; slice += slice_packs) {
                if (!one_slice) {
                    __syncthreads();
                    stage(slice, j, true);
                    __syncthreads();
                }
                const int end = slice_end(slice);
                const PackRange in_slice = summed.within(slice, end), placed_here = placed.within(slice, end);
                const bool exists = in_slice.begin + own_pack < in_slice.end;
                if (exists) {
                    const int pack = in_slice.begin + own_pack, begin = share * in_share;
                    add_summed<T, slice_packs>(head, tile_slopes, pack_place<V>(packs, pack),
                                               staged_rows + pack - slice, staged_others + pack - slice, own_rows,
                                               begin, columns < begin + in_share ? columns : begin + in_share, grads);
                }
                if constexpr (Head::placed_kind >= 0) {
                    if (placed_here.count()) {
                        const int place = pack_place<V>(packs, placed_here.begin).place;
                        placed_gradients.add(tile_slopes, columns, place, placed_here.count() * V);
                    }
                }
                const bool is_first = one_slice || j == first_other;
                if (one_slice && j + tile_columns < last_other) continue;
                __syncthreads();
                if (shares > 1) {
                    // The other rows of this slice are no longer needed: their memory takes all threads' sums, which
                    // the first share adds.
                    constexpr int stride = R * V + 1;
                    static_assert(tile_threads * stride * sizeof(T) <= tile_columns * packs_per_row * sizeof(int4));
                    T* shown = reinterpret_cast<T*>(staged_others) + threadIdx.x * stride;
#pragma unroll
                    for (int n = 0; n < R * V; ++n) shown[n] = grads[n / V][n % V];
                    __syncthreads();
                    for (int other = 1; share == 0 && other < shares; ++other)
#pragma unroll
                        for (int n = 0; n < R * V; ++n)
                            grads[n / V][n % V] += shown[other * used_packs * row_groups * stride + n];
                }
#pragma unroll
                for (int r = 0; r < R; ++r) {
                    if (exists && share == 0)
                        store_gradients(is_first, own_rows + r, in_slice.begin + own_pack, grads[r]);
#pragma unroll
                    for (int v = 0; v < V; ++v) grads[r][v] = T(0);
                }
                for (int p = threadIdx.x / 32; p < placed_here.count(); p += warps_in_tile) {
                    T values[V];
#pragma unroll
                    for (int v = 0; v < V; ++v) values[v] = placed_gradients.take(p * V + v);
                    store_gradients(is_first, lane, placed_here.begin + p, values);
                }
            }
        }
        if (Head::has_weights && task.weight_sum) {
#pragma unroll
            for (int r = 0; r < R; ++r) {
                const T sum = sum_of_threads(weight_sums[r], column_step);
                const int row = ty * R + r;
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
    task.placed_values = placed_values<T, Head>(task.packs);
    task.grad = splits == 1 ? grad : partial;
    task.weight_sum = splits == 1 || !weight_sum ? weight_sum : partial + splits * values;
    launch(op, backward_pairs_kernel<T, Head>, task.batch * splits * components * divide_up(task.num_rows, tile_rows),
           tile_threads, backward_shared_bytes<T, Head>(task.packs), context, task);
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
    BackwardPairs<T, Head> task{head,        packs_of(segments, num_components, x, y),
                                x,           y,
                                grad_out,    nullptr,
                                nullptr,     T(1),
                                int(batch),  int(num_x),
                                int(num_y),  int(num_y),
                                1,           1,
                                0,           0,
                                by_component};
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
