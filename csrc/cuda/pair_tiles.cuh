// All rows of x against all rows of y for heads of component.cuh: kernels and launchers.
//
// A block does 32 x 64 pairs, 4 x 4 a thread, over slices of 32 values that it stages in shared memory, a row 16 bytes
// longer than its slice, so that neighbouring threads read neighbouring rows from all banks. A component's segments are
// filled up to whole packs there, so a pack is of one component and one kind.
//
// Backward does one side's gradient: a block owns 32 rows and one component and goes over the rows of the other side,
// 64 at a time: first the sums of every pair, as in forward, from which follow the slopes, kept in shared memory; then
// the gradient of every value as a sum over the pairs of its row. The other side is the same with -y for x and -x for
// y.
//
// Little work is split over more blocks, forward by values, backward by rows of the other side, at one or two numbers a
// result and split of workspace. The rule knows the sizes alone, so that the result is the same on every device.
//
// Memory: nothing of N * M * D. Precision: all arithmetic in T; the order of every sum is fixed, without atomics.
#pragma once

#include <type_traits>

#include "component.cuh"

namespace qmk::cuda {

namespace {

constexpr int tile_rows = 32, tile_columns = 64, tile_threads = 128, slice_size = 32;
constexpr int thread_rows = 4, thread_columns = 4;  // a thread's pairs: every 8th row, every 16th column
constexpr int row_step = tile_rows / thread_rows, column_step = tile_columns / thread_columns;
constexpr int64_t enough_blocks = 512;

template <class T>
constexpr int slice_packs = slice_size / Pack<T>::size;
template <class T>
constexpr int staged_row = slice_size + Pack<T>::size;

// Where the packs of a row are. A component's first pack of its second segment is `second`.
struct Packs {
    Segments segments;
    int num_components;
    int second, in_component;
    bool whole;  // every pack has 16 bytes of values, on a boundary of 16 bytes

    __host__ __device__ __forceinline__ int dim() const { return num_components * segments.total(); }
};

// One pack: its kind, its first value's place in the component, and how many values it has.
struct PackPlace {
    int kind, place, count;
};
template <int V>
__device__ __forceinline__ PackPlace pack_place(const Packs& packs, int in_component) {
    const bool is_second = in_component >= packs.second;
    const int first = packs.segments.size[0], before = (in_component - (is_second ? packs.second : 0)) * V;
    const int left = (is_second ? packs.segments.size[1] : first) - before;
    return {is_second ? packs.segments.kind[1] : packs.segments.kind[0], is_second ? first + before : before,
            left < V ? left : V};
}

// Calls `body(kind)` with the kind as a type.
template <int kinds, class Body>
__device__ __forceinline__ void with_kind(int kind, Body&& body) {
    if constexpr (kinds == 1) {
        body(std::integral_constant<int, 0>{});
    } else {
        if (kind == kinds - 1)
            body(std::integral_constant<int, kinds - 1>{});
        else
            with_kind<kinds - 1>(kind, body);
    }
}

// Copies `num_packs` packs of `num_rows` rows, times sign, to shared memory; of a row past the last, those of the last.
// Values that fill up a pack are 0, or on the side of x the head's padding.
template <class T, int num_rows, bool is_x, class Head>
__device__ __forceinline__ void stage_rows(const Head& head, const Packs& packs, const T* rows, T sign, int first_row,
                                           int count, int first_pack, int num_packs, T* staged) {
    constexpr int V = Pack<T>::size;
    const int p = threadIdx.x % slice_packs<T>;
    if (p >= num_packs) return;
    const int component = (first_pack + p) / packs.in_component;
    const auto [kind, place, values] = pack_place<V>(packs, first_pack + p - component * packs.in_component);
    const T padding = is_x ? head.padding(kind) : T(0);
    rows += component * packs.segments.total() + place;
    constexpr int step = tile_threads / slice_packs<T>;
    const auto row_at = [&](int r) {
        const int row = first_row + r < count ? first_row + r : count - 1;
        return rows + int64_t(row) * packs.dim();
    };
    int r = threadIdx.x / slice_packs<T>;
    T* to = staged + r * staged_row<T> + p * V;
    if (packs.whole) {
#pragma unroll
        for (int n = 0; n < num_rows / step; ++n) {
            Pack<T> pack = load_pack<T>(row_at(r + n * step));
#pragma unroll
            for (int v = 0; v < V; ++v) pack.values[v] *= sign;
            store_pack(to + n * step * staged_row<T>, pack);
        }
    } else {
#pragma unroll 1
        for (int n = 0; n < num_rows / step; ++n) {
            const T* from = row_at(r + n * step);
            Pack<T> pack;
#pragma unroll
            for (int v = 0; v < V; ++v) pack.values[v] = v < values ? sign * from[v] : padding;
            store_pack(to + n * step * staged_row<T>, pack);
        }
    }
}

// Adds `num_packs` staged packs, the first being `first_pack` of its row, to the sums of this thread's pairs, and calls
// `finish(component)` after the last pack of a component.
template <class T, class Head, class Sums, class Finish>
__device__ __forceinline__ void add_packs(const Head& head, const Packs& packs, const T* staged_x, const T* staged_y,
                                          int first_pack, int num_packs, Sums (&sums)[thread_rows][thread_columns],
                                          Finish&& finish) {
    constexpr int V = Pack<T>::size;
    const T* own_x = staged_x + threadIdx.x / column_step * staged_row<T>;
    const T* own_y = staged_y + threadIdx.x % column_step * staged_row<T>;
    int component = first_pack / packs.in_component, in_component = first_pack - component * packs.in_component;
    for (int p = 0; p < num_packs;) {
        const PackPlace at = pack_place<V>(packs, in_component);
        const int left = (in_component < packs.second ? packs.second : packs.in_component) - in_component;
        const int count = left < num_packs - p ? left : num_packs - p;
        with_kind<Head::kinds>(at.kind, [&](auto kind) {
            T place = T(at.place);
#pragma unroll 1  // more would not fit into registers
            for (int end = p + count; p < end; ++p) {
                Pack<T> y[thread_columns];
#pragma unroll
                for (int c = 0; c < thread_columns; ++c)
                    y[c] = load_pack<T>(own_y + c * column_step * staged_row<T> + p * V);
#pragma unroll
                for (int r = 0; r < thread_rows; ++r) {
                    const Pack<T> x = load_pack<T>(own_x + r * row_step * staged_row<T> + p * V);
#pragma unroll
                    for (int v = 0; v < V; ++v)
#pragma unroll
                        for (int c = 0; c < thread_columns; ++c)
                            head.template add<decltype(kind)::value>(sums[r][c], x.values[v], y[c].values[v],
                                                                     place + T(v));
                }
                place += T(V);
            }
        });
        in_component += count;
        if (in_component == packs.in_component) {
            finish(component++);
            in_component = 0;
        }
    }
}

template <class T, class Head>
struct ForwardPairs {
    Head head;
    Packs packs;
    const T *x, *y;
    T* out;
    T* partial;  // (splits, pairs): of whole components their sum; of a part of one its Sums, (splits, numbers, pairs)
    int batch, num_x, num_y;
    int splits, splits_a_component, packs_per_split;  // splits_a_component > 1: a split is of one component
    bool by_component;

    __host__ __device__ __forceinline__ int64_t num_pairs() const { return int64_t(batch) * num_x * num_y; }
};

// A block does a tile of pairs for the packs of its split.
template <class T, class Head>
__global__ void __launch_bounds__(tile_threads, sizeof(T) == 4 ? 3 : 2)
    forward_pairs_kernel(ForwardPairs<T, Head> task) {
    constexpr int R = thread_rows, C = thread_columns;
    using Sums = typename Head::Sums;
    constexpr int numbers = sizeof(Sums) / sizeof(T);
    __shared__ int4 staged[(tile_rows + tile_columns) * staged_row<T> * sizeof(T) / sizeof(int4)];
    T *staged_x = reinterpret_cast<T*>(staged), *staged_y = staged_x + tile_rows * staged_row<T>;
    const Packs& packs = task.packs;
    const int tx = threadIdx.x % column_step, ty = threadIdx.x / column_step;
    const int tiles_y = (task.num_y + tile_columns - 1) / tile_columns;
    const int tiles_x = (task.num_x + tile_rows - 1) / tile_rows;
    const int64_t tiles_in_split = int64_t(tiles_x) * tiles_y, tiles = task.batch * task.splits * tiles_in_split;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int first_column = int(tile % tiles_y) * tile_columns;
        const int first_row = int(tile / tiles_y % tiles_x) * tile_rows;
        const int split = int(tile / tiles_in_split % task.splits);
        const int sample = int(tile / tiles_in_split / task.splits);
        const bool parts = task.splits_a_component > 1;
        const int split_component = split / task.splits_a_component * (parts ? packs.in_component : 0);
        const int first_pack =
            split_component + split % (parts ? task.splits_a_component : task.splits) * task.packs_per_split;
        const int limit = parts ? split_component + packs.in_component : packs.num_components * packs.in_component;
        const int last_pack = limit - first_pack < task.packs_per_split ? limit : first_pack + task.packs_per_split;
        const T* x = task.x + int64_t(sample) * task.num_x * packs.dim();
        const T* y = task.y + int64_t(sample) * task.num_y * packs.dim();
        Sums sums[R][C];
        T totals[R][C];
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
            for (int c = 0; c < C; ++c) totals[r][c] = T(0);
        // Calls `store_at(pair, r, c)` for this thread's pairs.
        const auto for_each_pair = [&](auto&& store_at) {
            const int i = first_row + ty, j = first_column + tx;
#pragma unroll
            for (int r = 0; r < R; ++r)
#pragma unroll
                for (int c = 0; c < C; ++c)
                    if (i + r * row_step < task.num_x && j + c * column_step < task.num_y)
                        store_at((int64_t(sample) * task.num_x + i + r * row_step) * task.num_y + j + c * column_step,
                                 r, c);
        };
        for (int slice = first_pack; slice < last_pack; slice += slice_packs<T>) {
            const int count = last_pack - slice < slice_packs<T> ? last_pack - slice : slice_packs<T>;
            __syncthreads();
            stage_rows<T, tile_rows, true>(task.head, packs, x, T(1), first_row, task.num_x, slice, count, staged_x);
            stage_rows<T, tile_columns, false>(task.head, packs, y, T(1), first_column, task.num_y, slice, count,
                                               staged_y);
            __syncthreads();
            add_packs(task.head, packs, staged_x, staged_y, slice, count, sums, [&](int component) {
                if (parts) return;
#pragma unroll
                for (int r = 0; r < R; ++r)
#pragma unroll
                    for (int c = 0; c < C; ++c) {
                        const T value = task.head.weighted(sums[r][c], component);
                        totals[r][c] = task.by_component ? value : totals[r][c] + value;
                        sums[r][c] = {};
                    }
                if (task.by_component)
                    for_each_pair([&](int64_t pair, int r, int c) {
                        task.out[pair * packs.num_components + component] = totals[r][c];
                    });
            });
        }
        if (parts)
            for_each_pair([&](int64_t pair, int r, int c) {
                T values[numbers];
                __builtin_memcpy(values, &sums[r][c], sizeof(Sums));
#pragma unroll
                for (int n = 0; n < numbers; ++n)
                    task.partial[(int64_t(split) * numbers + n) * task.num_pairs() + pair] = values[n];
            });
        else if (!task.by_component)
            for_each_pair([&](int64_t pair, int r, int c) {
                T* to = task.splits == 1 ? task.out : task.partial + split * task.num_pairs();
                to[pair] = totals[r][c];
            });
    }
}

template <class T, class Head>
__global__ void __launch_bounds__(256) merge_parts_kernel(ForwardPairs<T, Head> task) {
    constexpr int numbers = sizeof(typename Head::Sums) / sizeof(T);
    const int64_t pairs = task.num_pairs();
    for (int64_t pair = int64_t(blockIdx.x) * 256 + threadIdx.x; pair < pairs; pair += int64_t(gridDim.x) * 256) {
        T total = T(0);
        int64_t at = pair;
        for (int component = 0; component < task.packs.num_components; ++component) {
            typename Head::Sums sums;
            for (int part = 0; part < task.splits_a_component; ++part) {
                T values[numbers];
#pragma unroll
                for (int n = 0; n < numbers; ++n, at += pairs) values[n] = task.partial[at];
                typename Head::Sums more;
                __builtin_memcpy(&more, values, sizeof(more));
                sums.merge(more);
            }
            const T value = task.head.weighted(sums, component);
            if (task.by_component) task.out[pair * task.packs.num_components + component] = value;
            total += value;
        }
        if (!task.by_component) task.out[pair] = total;
    }
}

// out[n] = the sum over splits of partial[split][n].
template <class T>
__global__ void __launch_bounds__(256) add_splits_kernel(const T* partial, int64_t splits, int64_t count, T* out) {
    for (int64_t n = int64_t(blockIdx.x) * 256 + threadIdx.x; n < count; n += int64_t(gridDim.x) * 256) {
        T sum = T(0);
        for (int64_t at = n; at < splits * count; at += count) sum += partial[at];
        out[n] = sum;
    }
}

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

// A block does 32 rows and one component against the other rows of its split. For the gradients a thread has one pack
// of a slice and every n-th of the rows; where a component fills only a part of a slice, the other rows are shared out
// among `shares` groups of threads.
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
            // The gradients of the pairs come to where their slopes will be, read along the direction of memory.
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
                    tile_slopes.store(row, other, task.head.slopes(sums[r][c], grad, component));
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
                    // The slopes have been used: their memory takes every thread's sums, which the first share adds.
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

template <class T>
Packs packs_of(Segments segments, int64_t num_components, const T* x, const T* y) {
    constexpr int V = Pack<T>::size;
    const int second = int(divide_up(segments.size[0], V));
    const bool whole =
        segments.size[0] % V == 0 && segments.size[1] % V == 0 && is_aligned_to_16(x) && is_aligned_to_16(y);
    return {segments, int(num_components), second, second + int(divide_up(segments.size[1], V)), whole};
}

// How forward's work is split over blocks: by components, or where those are too few by parts of components.
struct ForwardSplits {
    int64_t splits, splits_a_component, packs_per_split;
};
template <class T>
ForwardSplits forward_splits(const Packs& packs, int64_t batch, int64_t num_x, int64_t num_y) {
    const int64_t tiles = batch * divide_up(num_x, tile_rows) * divide_up(num_y, tile_columns);
    const int64_t components = packs.num_components, all_packs = components * packs.in_component;
    if (tiles == 0 || 2 * tiles >= enough_blocks) return {1, 1, all_packs};
    const int64_t wanted = divide_up(enough_blocks, tiles);
    if (components >= wanted || packs.in_component <= slice_packs<T>) {
        const int64_t in_split = divide_up(components, std::min(components, wanted));
        return {divide_up(components, in_split), 1, in_split * packs.in_component};
    }
    const int64_t slices = divide_up(packs.in_component, slice_packs<T>);
    const int64_t slices_per_split = divide_up(slices, std::min(slices, divide_up(wanted, components)));
    const int64_t parts = divide_up(slices, slices_per_split);
    return {components * parts, parts, parts == 1 ? packs.in_component : slices_per_split * slice_packs<T>};
}

// Others of one split of backward.
inline int64_t others_per_split(int64_t batch, int64_t num_rows, int64_t num_others, int64_t num_components) {
    const int64_t blocks = batch * divide_up(num_rows, tile_rows) * num_components;
    const int64_t tiles = divide_up(num_others, tile_columns);
    if (blocks == 0 || 2 * blocks >= enough_blocks) return tiles * tile_columns;
    return divide_up(tiles, std::min(tiles, divide_up(enough_blocks, blocks))) * tile_columns;
}

template <class T, class Head>
int64_t forward_pairs_workspace(const Packs& packs, int64_t batch, int64_t num_x, int64_t num_y) {
    const auto [splits, parts, packs_per_split] = forward_splits<T>(packs, batch, num_x, num_y);
    if (splits == 1) return 0;
    return splits * batch * num_x * num_y * int64_t(parts > 1 ? sizeof(typename Head::Sums) : sizeof(T));
}

template <class T>
int64_t backward_pairs_workspace(int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components, int64_t dim) {
    const auto one_side = [&](int64_t num_rows, int64_t num_others) {
        const int64_t splits = divide_up(num_others, others_per_split(batch, num_rows, num_others, num_components));
        return splits == 1 ? 0 : splits * batch * num_rows * (dim + num_components) * int64_t(sizeof(T));
    };
    return num_x * num_y == 0 ? 0 : std::max(one_side(num_x, num_y), one_side(num_y, num_x));
}

// A number of rows is of 32 bits, and a little less, for the tiles it is rounded up to. Pairs are of 64.
inline void check_pairs(const char* op, int64_t batch, int64_t num_x, int64_t num_y) {
    if (std::max(batch, std::max(num_x, num_y)) > (int64_t(1) << 31) - 1024)
        throw std::runtime_error(std::string(op) + ": up to 2^31 - 1024 rows on a side, got " + std::to_string(num_x) +
                                 " and " + std::to_string(num_y) + " in " + std::to_string(batch) + " matrices");
}

template <class T, class Head>
void launch_forward_pairs(const char* op, Head head, Segments segments, const T* x, const T* y, T* out, void* workspace,
                          int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components, bool by_component,
                          Context context) {
    const Packs packs = packs_of(segments, num_components, x, y);
    const auto [splits, parts, packs_per_split] = forward_splits<T>(packs, batch, num_x, num_y);
    auto* partial = static_cast<T*>(workspace);
    const ForwardPairs<T, Head> task{head,        packs,      x,          y,           out,        partial,
                                     int(batch),  int(num_x), int(num_y), int(splits), int(parts), int(packs_per_split),
                                     by_component};
    launch(op, forward_pairs_kernel<T, Head>,
           batch * splits * divide_up(num_x, tile_rows) * divide_up(num_y, tile_columns), tile_threads, 0, context,
           task);
    const int64_t pairs = batch * num_x * num_y;
    if (parts > 1)
        launch(op, merge_parts_kernel<T, Head>, divide_up(pairs, 256), 256, 0, context, task);
    else if (splits > 1 && !by_component)
        launch(op, add_splits_kernel<T>, divide_up(pairs, 256), 256, 0, context, partial, splits, pairs, out);
}

// The gradient of one side, and the sums for the gradient of weights where weight_sum is not null.
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
    // The other side, in the same memory: launches on a stream run one after the other.
    std::swap(task.rows, task.others);
    std::swap(task.num_rows, task.num_others);
    std::swap(task.row_stride, task.other_stride);
    task.sign = T(-1);
    launch_backward_side(op, task, grad_y, static_cast<T*>(nullptr), workspace, context);
}

}  // namespace

}  // namespace qmk::cuda
