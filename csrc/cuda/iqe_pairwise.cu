// IQE between all rows of x and all rows of y: kernels and launchers.
//
// Only x decides the order of a component's intervals, so each row of x is sorted once. Then a thread scans the sorted x
// for 16 bytes of neighbouring y (4 float, 2 double), which stand side by side because y is transposed first; x and the
// place of its y are the same for the whole warp. Forward takes 4 operations an element. Backward finds left ends, and so
// the gradient of x, by the same kind of scan; the gradient of y is that of x for the mirrored points x' = -y, y' = -x.
// Every gradient is summed up by one warp in a fixed order: no atomics, the same input gives the same bits.
//
// Memory: each sorted row and its positions, and the transposed rows, of D values each; nothing of N * M * D. Few pairs of
// rows are split by components over more blocks, at three numbers a pair and split. Precision: all arithmetic in T.
#include "../math/iqe.h"
#include "iqe.h"
#include "launch.cuh"
#include "pack.cuh"
#include "sort.cuh"
#include "warp.cuh"

namespace qmk::cuda {

namespace {

using namespace QMK_TARGET;

constexpr int warps_per_block = 8, block_threads = 32 * warps_per_block;

// Columns, the rows of y, of one tile: one pack a thread of a warp.
template <class T>
constexpr int tile_columns = 32 * Pack<T>::size;

// Lines of the transposed y are as long as whole tiles of either type, so that they are read without a test.
constexpr int64_t padded(int64_t count) {
    return (count + 127) / 128 * 128;
}

// One interval of a sorted row: where it begins, and which line of the component's transposed y tells where it ends.
template <class T>
struct alignas(2 * sizeof(T)) Begin {
    T x;
    int32_t line;
};

// Both sides of the problem, prepared.
template <class T>
struct Prepared {
    const T* sorted_x;        // (batch, num_x, C, K), ascending in K
    const int32_t* position;  // (batch, num_x, C, K): where each stood
    const T* lines;           // (batch, C, K, padded_y): y, transposed
    int batch, num_x, num_y, padded_y;
    int num_components, dim_per_component;

    // Of a row past the last, that of the last.
    __device__ __forceinline__ int64_t first_in_row(int sample, int row, int component) const {
        const int clamped = row < num_x ? row : num_x - 1;
        return ((int64_t(sample) * num_x + clamped) * num_components + component) * dim_per_component;
    }
    __device__ __forceinline__ const T* component_lines(int sample, int component) const {
        return lines + (int64_t(sample) * num_components + component) * dim_per_component * padded_y;
    }
    __host__ __device__ __forceinline__ int64_t num_pairs() const { return int64_t(batch) * num_x * num_y; }
};

// One warp sorts one component at a time, in shared memory: `size` values and positions a warp.
template <class T>
__global__ void __launch_bounds__(128) sort_components_kernel(const T* rows, T sign, int64_t num_components, int size,
                                                              T* sorted, int32_t* position) {
    extern __shared__ int4 dynamic_shared[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    T* keys = reinterpret_cast<T*>(dynamic_shared) + warp * size;
    int32_t* places = reinterpret_cast<int32_t*>(reinterpret_cast<T*>(dynamic_shared) + warps * size) + warp * size;
    for (int64_t c = int64_t(blockIdx.x) * warps + warp; c < num_components; c += int64_t(gridDim.x) * warps) {
        for (int k = lane; k < size; k += 32) {
            keys[k] = finite_or_nan(sign * rows[c * size + k], Limits<T>::highest);
            places[k] = k;
        }
        __syncwarp();
        sort_by_warp(size, lane, keys, places);
        for (int k = lane; k < size; k += 32) {
            sorted[c * size + k] = keys[k];
            position[c * size + k] = places[k];
        }
        __syncwarp();
    }
}

// Rows (batch, count, dim) to lines (batch, dim, padded(count)), zero in the padding; 32 x 32 numbers a block at a time.
template <class T>
__global__ void __launch_bounds__(256) transpose_kernel(const T* rows, T sign, int64_t batch, int64_t count,
                                                        int64_t dim, T* lines) {
    __shared__ T tile[32][33];
    const int64_t line_length = padded(count), tiles_along = line_length / 32, tiles_across = (dim + 31) / 32;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int64_t t = blockIdx.x; t < batch * tiles_along * tiles_across; t += gridDim.x) {
        const int64_t first_column = t % tiles_across * 32, first_row = t / tiles_across % tiles_along * 32;
        const int64_t sample = t / (tiles_across * tiles_along);
        for (int r = warp; r < 32; r += 8) {
            const bool exists = first_row + r < count && first_column + lane < dim;
            const T value = exists ? rows[(sample * count + first_row + r) * dim + first_column + lane] : T(0);
            tile[r][lane] = finite_or_nan(sign * value, Limits<T>::highest);
        }
        __syncthreads();
        for (int c = warp; c < 32; c += 8)
            if (first_column + c < dim)
                lines[(sample * dim + first_column + c) * line_length + first_row + lane] = tile[lane][c];
        __syncthreads();
    }
}

// Copies `num_lines` lines, columns first .. first + tile_columns, to shared memory.
template <class T>
__device__ __forceinline__ void stage_lines(const T* lines, int padded_y, int first_column, int num_lines,
                                            int4* staged) {
    for (int pack = threadIdx.x; pack < 32 * num_lines; pack += block_threads)
        staged[pack] = *reinterpret_cast<const int4*>(lines + int64_t(pack / 32) * padded_y + first_column +
                                                      pack % 32 * Pack<T>::size);
}

// Copies the begins of `count` components of `num_rows` rows to shared memory, row after row. The lines of components
// past the first follow in `staged` lines.
template <class T>
__device__ __forceinline__ void stage_begins(const Prepared<T>& sides, int sample, int first_row, int num_rows,
                                             int component, int count, Begin<T>* begins) {
    const int size = sides.dim_per_component, values = count * size;
    const int exist = sides.num_components - component < count ? sides.num_components - component : count;
    for (int n = threadIdx.x; n < num_rows * values; n += block_threads) {
        const int value = n % values;
        if (value >= exist * size) continue;
        const int64_t at = sides.first_in_row(sample, first_row + n / values, component) + value;
        begins[n] = {sides.sorted_x[at], sides.position[at] + value / size * size};
    }
}

// Where the intervals of one row begin and end: in shared memory, or where a component is too large for that in global
// memory.
template <class T, bool staged>
struct Intervals;
template <class T>
struct Intervals<T, true> {
    const Begin<T>* begins;
    const int4* ends;

    __device__ __forceinline__ Begin<T> begin(int k) const { return begins[k]; }
    __device__ __forceinline__ Pack<T> end(int line) const { return load_pack<T>(ends + 32 * line); }
};
template <class T>
struct Intervals<T, false> {
    const T* sorted_x;
    const int32_t* position;
    const T* ends;
    int padded_y;

    __device__ __forceinline__ Begin<T> begin(int k) const { return {sorted_x[k], position[k]}; }
    __device__ __forceinline__ Pack<T> end(int line) const { return load_pack<T>(ends + int64_t(line) * padded_y); }
};

template <class T>
struct PairwiseForward {
    Prepared<T> sides;
    const T* max_weight;
    T* out;
    int32_t* largest;
    T *partial_sum, *partial_maximum;  // (splits, pairs), where splits > 1
    int32_t* partial_largest;
    int splits, components_per_split;
    Reduction reduction;
};

constexpr int forward_rows = 2;  // rows of x a thread

// What a forward kernel makes of the lengths: stores them, adds them up, or finds the greatest too.
enum class Wanted { lengths, sum, maximum };

template <class T>
__device__ __forceinline__ void store_reduced(const PairwiseForward<T>& task, int64_t pair, const RowSummary<T>& row) {
    task.out[pair] = reduced(task.reduction, row.sum, row.maximum, task.sides.num_components, task.max_weight);
    if (task.largest) task.largest[pair] = row.largest;
}

// A block does 16 rows of x by 32 packs of y, for the components of its split.
template <class T, int K, bool staged, Wanted wanted>
__global__ void __launch_bounds__(block_threads, 2) iqe_pairwise_forward_kernel(PairwiseForward<T> task) {
    constexpr int V = Pack<T>::size, R = forward_rows, tile_rows = R * warps_per_block;
    extern __shared__ int4 dynamic_shared[];
    const auto& sides = task.sides;
    const int size = K ? K : sides.dim_per_component, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int4* staged_ends = dynamic_shared;
    auto* staged_begins = reinterpret_cast<Begin<T>*>(dynamic_shared + 32 * size);
    const int tiles_y = (sides.num_y + tile_columns<T> - 1) / tile_columns<T>;
    const int tiles_x = (sides.num_x + tile_rows - 1) / tile_rows;
    const int64_t tiles_in_split = int64_t(tiles_x) * tiles_y, tiles = sides.batch * task.splits * tiles_in_split;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int first_column = int(tile % tiles_y) * tile_columns<T>;
        const int first_row = int(tile / tiles_y % tiles_x) * tile_rows;
        const int split = int(tile / tiles_in_split % task.splits);
        const int sample = int(tile / tiles_in_split / task.splits);
        const int first = split * task.components_per_split, past = first + task.components_per_split;
        const int last = past < sides.num_components ? past : sides.num_components;
        // Calls `pair_at(r, v, pair)` for this thread's pairs.
        const auto for_each_pair = [&](auto&& pair_at) {
            const int i = first_row + warp * R, j = first_column + lane * V;
#pragma unroll
            for (int r = 0; r < R; ++r)
#pragma unroll
                for (int v = 0; v < V; ++v)
                    if (i + r < sides.num_x && j + v < sides.num_y)
                        pair_at(r, v, (int64_t(sample) * sides.num_x + i + r) * sides.num_y + j + v);
        };
        RowSummary<T> rows[R][V];
        for (int component = first; component < last; ++component) {
            const T* lines = sides.component_lines(sample, component);
            Intervals<T, staged> intervals[R];
            if constexpr (staged) {
                __syncthreads();
                stage_lines(lines, sides.padded_y, first_column, size, staged_ends);
                stage_begins(sides, sample, first_row, tile_rows, component, 1, staged_begins);
                __syncthreads();
            }
#pragma unroll
            for (int r = 0; r < R; ++r) {
                if constexpr (staged) {
                    intervals[r] = {staged_begins + (warp * R + r) * size, staged_ends + lane};
                } else {
                    const int64_t at = sides.first_in_row(sample, first_row + warp * R + r, component);
                    intervals[r] = {sides.sorted_x + at, sides.position + at, lines + first_column + lane * V,
                                    sides.padded_y};
                }
            }
            IqeLength<T> scans[R][V];
#pragma unroll
            for (int r = 0; r < R; ++r)
#pragma unroll
                for (int v = 0; v < V; ++v) scans[r][v] = {-Limits<T>::highest, T(0)};
#pragma unroll 4
            for (int k = 0; k < size; ++k) {
#pragma unroll
                for (int r = 0; r < R; ++r) {
                    const Begin<T> begin = intervals[r].begin(k);
                    const Pack<T> ends = intervals[r].end(begin.line);
#pragma unroll
                    for (int v = 0; v < V; ++v) scans[r][v].add(begin.x, ends.values[v]);
                }
            }
            if constexpr (wanted == Wanted::lengths)
                for_each_pair([&](int r, int v, int64_t pair) {
                    task.out[pair * sides.num_components + component] = scans[r][v].length;
                });
#pragma unroll
            for (int r = 0; r < R; ++r)
#pragma unroll
                for (int v = 0; v < V; ++v) {
                    if constexpr (wanted == Wanted::maximum)
                        rows[r][v].add(scans[r][v].length, component);
                    else
                        rows[r][v].sum += scans[r][v].length;
                }
        }
        if constexpr (wanted != Wanted::lengths)
            for_each_pair([&](int r, int v, int64_t pair) {
                if (task.splits == 1) {
                    store_reduced(task, pair, rows[r][v]);
                } else {
                    const int64_t at = split * sides.num_pairs() + pair;
                    task.partial_sum[at] = rows[r][v].sum;
                    if constexpr (wanted == Wanted::maximum) {
                        task.partial_maximum[at] = rows[r][v].maximum;
                        task.partial_largest[at] = rows[r][v].largest;
                    }
                }
            });
    }
}

template <class T>
__global__ void __launch_bounds__(256) merge_splits_kernel(PairwiseForward<T> task) {
    const bool ranked = needs_largest(task.reduction);
    const int64_t pairs = task.sides.num_pairs();
    for (int64_t pair = int64_t(blockIdx.x) * 256 + threadIdx.x; pair < pairs; pair += int64_t(gridDim.x) * 256) {
        RowSummary<T> row;
        for (int64_t at = pair; at < task.splits * pairs; at += pairs)
            row.merge(task.partial_sum[at], ranked ? task.partial_maximum[at] : T(-1),
                      ranked ? task.partial_largest[at] : 0);
        store_reduced(task, pair, row);
    }
}

template <class T>
struct PairwiseBackward {
    Prepared<T> sides;
    const T* grad_out;
    const int32_t* largest;
    const T* max_weight;
    T* grad;             // (batch, num_x, C, K)
    T* grad_max_weight;  // null or (batch, C, num_x)
    T sign;
    int stride_x, stride_y;  // pairs from one row to the next in grad_out and largest
    Reduction reduction;
};

// What backward has a gradient of: every length (reduction none), or the distance of a pair; and whether the gradient by
// max_weight is wanted besides.
enum class Given { length_gradients, pair_gradients, pair_gradients_and_weight };

template <Given given>
constexpr bool with_weight = given == Given::pair_gradients_and_weight;

// The pairs of one row of x and a thread's columns: the gradient of each, and its component of greatest length.
template <class T, Given given>
struct PairGradients {
    static constexpr int V = Pack<T>::size;
    int64_t pair;
    T grad[V];
    int32_t largest[V];

    __device__ __forceinline__ void load(const PairwiseBackward<T>& task, int sample, int i, int j) {
        const auto& sides = task.sides;
        pair = int64_t(sample) * sides.num_x * sides.num_y + int64_t(i) * task.stride_x + int64_t(j) * task.stride_y;
        if constexpr (given != Given::length_gradients) {
#pragma unroll
            for (int v = 0; v < V; ++v) {
                const bool exists = i < sides.num_x && j + v < sides.num_y;
                grad[v] = exists ? task.grad_out[pair + int64_t(v) * task.stride_y] : T(0);
                largest[v] = exists && task.largest ? task.largest[pair + int64_t(v) * task.stride_y] : -1;
            }
        }
    }

    // The gradient by the length of one component.
    __device__ __forceinline__ void weigh(const PairwiseBackward<T>& task, ReductionWeights<T> weights, int i, int j,
                                          int component, T (&by_length)[V]) const {
        const auto& sides = task.sides;
        if constexpr (given == Given::length_gradients) {
#pragma unroll
            for (int v = 0; v < V; ++v)
                by_length[v] = i < sides.num_x && j + v < sides.num_y
                                   ? task.grad_out[(pair + int64_t(v) * task.stride_y) * sides.num_components + component]
                                   : T(0);
        } else {
#pragma unroll
            for (int v = 0; v < V; ++v)
                by_length[v] = grad[v] * (largest[v] == component ? weights.every + weights.largest : weights.every);
        }
    }

    // This thread's share of sum_j grad_j * d spread_j / d length_j * length_j.
    __device__ __forceinline__ T spread(const IqeLength<T> (&scans)[V], int num_components, int component,
                                        int columns) const {
        const T share = T(1) / T(num_components);
        T sum = T(0);
#pragma unroll
        for (int v = 0; v < V; ++v)
            if (v < columns) sum += grad[v] * ((largest[v] == component ? T(1) : T(0)) - share) * scans[v].length;
        return sum;
    }
};

// One interval of V pairs: the sum of the gradients where x starts a piece. With `lengths`, adds to the scan too.
template <class T, bool lengths>
__device__ __forceinline__ T add_starts(T x, const Pack<T>& ends, const T (&by_length)[Pack<T>::size], T sum,
                                        IqeLength<T> (&scans)[Pack<T>::size]) {
#pragma unroll
    for (int v = 0; v < Pack<T>::size; ++v) {
        IqeLeftEnds<T> left{scans[v].furthest};
        sum += left.add(x, ends.values[v]) ? by_length[v] : T(0);
        if constexpr (lengths)
            scans[v].add(x, ends.values[v]);
        else
            scans[v].furthest = left.furthest;
    }
    return sum;
}

constexpr int values_at_once = 32;  // coordinates whose gradients a warp sums up at once: one a thread in the end

// K = 8, 16, 32. A warp does one row of x and 32 / K components, and walks over all of y: the sums of 32 coordinates stay
// in registers until the end.
template <class T, int K, Given given>
__global__ void __launch_bounds__(block_threads, sizeof(T) == 4 ? 2 : 1)
    iqe_pairwise_backward_kernel(PairwiseBackward<T> task) {
    constexpr int V = Pack<T>::size, G = values_at_once / K;
    __shared__ int4 staged_ends[32 * values_at_once];
    __shared__ Begin<T> staged_begins[warps_per_block * values_at_once];
    const auto& sides = task.sides;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const auto weights = reduction_weights(task.reduction, sides.num_components, task.max_weight);
    const int tiles_x = (sides.num_x + warps_per_block - 1) / warps_per_block;
    const int groups = (sides.num_components + G - 1) / G;
    const Intervals<T, true> intervals{staged_begins + warp * values_at_once, staged_ends + lane};
    for (int64_t tile = blockIdx.x; tile < int64_t(sides.batch) * groups * tiles_x; tile += gridDim.x) {
        const int first_row = int(tile % tiles_x) * warps_per_block, i = first_row + warp;
        const int first = int(tile / tiles_x % groups) * G, sample = int(tile / tiles_x / groups);
        const int count = sides.num_components - first < G ? sides.num_components - first : G;
        __syncthreads();
        stage_begins(sides, sample, first_row, warps_per_block, first, G, staged_begins);
        T sums[values_at_once], spreads[G];
#pragma unroll
        for (int n = 0; n < values_at_once; ++n) sums[n] = T(0);
#pragma unroll
        for (int g = 0; g < G; ++g) spreads[g] = T(0);
        for (int first_column = 0; first_column < sides.num_y; first_column += tile_columns<T>) {
            __syncthreads();
            stage_lines(sides.component_lines(sample, first), sides.padded_y, first_column, count * K, staged_ends);
            __syncthreads();
            const int j = first_column + lane * V;
            const int columns = sides.num_y - j;  // that exist; none where below 1
            PairGradients<T, given> gradients;
            gradients.load(task, sample, i, j);
#pragma unroll
            for (int g = 0; g < G; ++g) {
                if (g >= count) continue;
                T by_length[V];
                gradients.weigh(task, weights, i, j, first + g, by_length);
                IqeLength<T> scans[V];
#pragma unroll
                for (int v = 0; v < V; ++v) scans[v] = {-Limits<T>::highest, T(0)};
#pragma unroll
                for (int k = 0; k < K; ++k) {
                    const Begin<T> begin = intervals.begin(g * K + k);
                    sums[g * K + k] = add_starts<T, with_weight<given>>(begin.x, intervals.end(begin.line), by_length,
                                                                     sums[g * K + k], scans);
                }
                if constexpr (with_weight<given>)
                    spreads[g] += gradients.spread(scans, sides.num_components, first + g, columns);
            }
        }
        T mine = T(0);  // thread n keeps the sum of coordinate n
#pragma unroll
        for (int n = 0; n < values_at_once; ++n) {
            const T sum = sum_of_threads(sums[n]);
            mine = lane == n ? sum : mine;
        }
        if (i < sides.num_x && lane < count * K)
            task.grad[sides.first_in_row(sample, i, first) + intervals.begin(lane).line] = task.sign * mine;
        if constexpr (with_weight<given>) {
#pragma unroll
            for (int g = 0; g < G; ++g) {
                const T spread = sum_of_threads(spreads[g]);
                if (lane == 0 && g < count && i < sides.num_x)
                    task.grad_max_weight[(int64_t(sample) * sides.num_components + first + g) * sides.num_x + i] = spread;
            }
        }
    }
}

// Any K: a warp does one row of x and one component, and adds up 32 coordinates at a time, over one tile of y after the
// other, in the gradient itself. The same thread always writes the same coordinate.
template <class T, bool staged, Given given>
__global__ void __launch_bounds__(block_threads, 2) iqe_pairwise_backward_any_kernel(PairwiseBackward<T> task) {
    constexpr int V = Pack<T>::size;
    extern __shared__ int4 dynamic_shared[];
    const auto& sides = task.sides;
    const int size = sides.dim_per_component, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    auto* staged_begins = reinterpret_cast<Begin<T>*>(dynamic_shared + 32 * size);
    const auto weights = reduction_weights(task.reduction, sides.num_components, task.max_weight);
    const int tiles_x = (sides.num_x + warps_per_block - 1) / warps_per_block;
    for (int64_t tile = blockIdx.x; tile < int64_t(sides.batch) * sides.num_components * tiles_x; tile += gridDim.x) {
        const int first_row = int(tile % tiles_x) * warps_per_block, i = first_row + warp;
        const int component = int(tile / tiles_x % sides.num_components);
        const int sample = int(tile / tiles_x / sides.num_components);
        const T* lines = sides.component_lines(sample, component);
        const int64_t row = sides.first_in_row(sample, i, component);
        if constexpr (staged) {
            __syncthreads();
            stage_begins(sides, sample, first_row, warps_per_block, component, 1, staged_begins);
        }
        T spread = T(0);
        for (int first_column = 0; first_column < sides.num_y; first_column += tile_columns<T>) {
            const int j = first_column + lane * V;
            Intervals<T, staged> intervals;
            if constexpr (staged) {
                __syncthreads();
                stage_lines(lines, sides.padded_y, first_column, size, dynamic_shared);
                __syncthreads();
                intervals = {staged_begins + warp * size, dynamic_shared + lane};
            } else {
                intervals = {sides.sorted_x + row, sides.position + row, lines + j, sides.padded_y};
            }
            const int columns = sides.num_y - j;  // that exist; none where below 1
            PairGradients<T, given> gradients;
            gradients.load(task, sample, i, j);
            T by_length[V];
            gradients.weigh(task, weights, i, j, component, by_length);
            IqeLength<T> scans[V];
#pragma unroll
            for (int v = 0; v < V; ++v) scans[v] = {-Limits<T>::highest, T(0)};
            for (int start = 0; start < size; start += 32) {
                const int some = size - start < 32 ? size - start : 32;
                T mine = T(0);
                for (int k = 0; k < some; ++k) {
                    const Begin<T> begin = intervals.begin(start + k);
                    const T sum = sum_of_threads(
                        add_starts<T, with_weight<given>>(begin.x, intervals.end(begin.line), by_length, T(0), scans));
                    mine = lane == k ? sum : mine;
                }
                if (i < sides.num_x && lane < some) {
                    T& grad = task.grad[row + sides.position[row + start + lane]];
                    grad = (first_column == 0 ? T(0) : grad) + task.sign * mine;
                }
            }
            if constexpr (with_weight<given>)
                spread += gradients.spread(scans, sides.num_components, component, columns);
        }
        if constexpr (with_weight<given>) {
            spread = sum_of_threads(spread);
            if (lane == 0 && i < sides.num_x)
                task.grad_max_weight[(int64_t(sample) * sides.num_components + component) * sides.num_x + i] = spread;
        }
    }
}

// Memory handed out piece by piece, each on a boundary of 16 bytes; with no memory behind it, it only counts.
struct Workspace {
    char* memory;
    int64_t used = 0;

    void* take(int64_t bytes) {
        void* piece = memory ? memory + used : nullptr;
        used += (bytes + 15) / 16 * 16;
        return piece;
    }
};

// Few tiles do not fill a device, so their components are split over more blocks. The rule knows the sizes alone, so that
// the result is the same on every device.
int64_t components_per_split(int64_t item_size, int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components) {
    const int64_t tiles = batch * divide_up(num_x, forward_rows * warps_per_block) * divide_up(num_y, 512 / item_size);
    const int64_t enough = 512;
    return tiles == 0 || 2 * tiles >= enough ? num_components : divide_up(num_components, divide_up(enough, tiles));
}

// A number of rows is of 32 bits, and a little less, for the tiles it is rounded up to. Pairs are of 64.
void check_sizes(const char* op, int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components, int64_t size) {
    check_row_size(op, num_components, size);
    if (std::max(batch, std::max(num_x, num_y)) > (int64_t(1) << 31) - 1024)
        throw std::runtime_error(std::string(op) + ": up to 2^31 - 1024 rows on a side, got " +
                                 std::to_string(num_x) + " and " + std::to_string(num_y) + " in " +
                                 std::to_string(batch) + " matrices");
}

template <class T>
Prepared<T> prepare(const char* op, Workspace& workspace, const T* x, const T* y, T sign, int64_t batch, int64_t num_x,
                    int64_t num_y, int64_t num_components, int64_t size, Context context) {
    const int64_t dim = num_components * size, components = batch * num_x * num_components;
    auto* sorted = static_cast<T*>(workspace.take(batch * num_x * dim * sizeof(T)));
    auto* position = static_cast<int32_t*>(workspace.take(batch * num_x * dim * sizeof(int32_t)));
    auto* lines = static_cast<T*>(workspace.take(batch * padded(num_y) * dim * sizeof(T)));
    const int64_t bytes = size * int64_t(sizeof(T) + sizeof(int32_t));
    int warps = 4;
    while (warps > 1 && warps * bytes > shared_bytes_without_asking) warps /= 2;
    launch(op, sort_components_kernel<T>, divide_up(components, warps), warps * 32, warps * bytes, context, x, sign,
           components, int(size), sorted, position);
    launch(op, transpose_kernel<T>, batch * (padded(num_y) / 32) * divide_up(dim, 32), 256, 0, context, y, sign, batch,
           num_y, dim, lines);
    return {sorted,     position,   lines,
            int(batch), int(num_x), int(num_y), int(padded(num_y)), int(num_components), int(size)};
}

template <class T>
int64_t staged_bytes(int64_t size, int rows) {
    return size * (tile_columns<T> * int64_t(sizeof(T)) + rows * int64_t(sizeof(Begin<T>)));
}

template <class T, int K, bool staged>
void launch_pairwise_forward(const PairwiseForward<T>& task, Context context) {
    constexpr int tile_rows = forward_rows * warps_per_block;
    const auto& sides = task.sides;
    const auto kernel = task.reduction == Reduction::none ? iqe_pairwise_forward_kernel<T, K, staged, Wanted::lengths>
                        : needs_largest(task.reduction)   ? iqe_pairwise_forward_kernel<T, K, staged, Wanted::maximum>
                                                          : iqe_pairwise_forward_kernel<T, K, staged, Wanted::sum>;
    const int64_t tiles = int64_t(sides.batch) * task.splits * divide_up(sides.num_x, tile_rows) *
                          divide_up(sides.num_y, tile_columns<T>);
    launch("iqe_pairwise_forward", kernel, tiles, block_threads,
           staged ? staged_bytes<T>(sides.dim_per_component, tile_rows) : 0, context, task);
}

template <class T, int K>
void launch_pairwise_backward(const PairwiseBackward<T>& task, Context context) {
    const auto& sides = task.sides;
    const auto kernel = task.reduction == Reduction::none
                            ? iqe_pairwise_backward_kernel<T, K, Given::length_gradients>
                        : task.grad_max_weight
                            ? iqe_pairwise_backward_kernel<T, K, Given::pair_gradients_and_weight>
                            : iqe_pairwise_backward_kernel<T, K, Given::pair_gradients>;
    const int64_t groups = divide_up(sides.num_components, values_at_once / K);
    launch("iqe_pairwise_backward", kernel, int64_t(sides.batch) * groups * divide_up(sides.num_x, warps_per_block),
           block_threads, 0, context, task);
}

template <class T, bool staged>
void launch_pairwise_backward_any(const PairwiseBackward<T>& task, Context context) {
    const auto& sides = task.sides;
    const auto kernel = task.reduction == Reduction::none
                            ? iqe_pairwise_backward_any_kernel<T, staged, Given::length_gradients>
                        : task.grad_max_weight
                            ? iqe_pairwise_backward_any_kernel<T, staged, Given::pair_gradients_and_weight>
                            : iqe_pairwise_backward_any_kernel<T, staged, Given::pair_gradients>;
    launch("iqe_pairwise_backward", kernel,
           int64_t(sides.batch) * sides.num_components * divide_up(sides.num_x, warps_per_block), block_threads,
           staged ? staged_bytes<T>(sides.dim_per_component, warps_per_block) : 0, context, task);
}

template <class T>
void launch_gradient(const PairwiseBackward<T>& task, Context context) {
    const int64_t size = task.sides.dim_per_component;
    if (size == 8) return launch_pairwise_backward<T, 8>(task, context);
    if (size == 16) return launch_pairwise_backward<T, 16>(task, context);
    if (size == 32) return launch_pairwise_backward<T, 32>(task, context);
    if (staged_bytes<T>(size, warps_per_block) <= shared_bytes_without_asking)
        return launch_pairwise_backward_any<T, true>(task, context);
    launch_pairwise_backward_any<T, false>(task, context);
}

}  // namespace

int64_t iqe_pairwise_workspace(int64_t item_size, int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components,
                               int64_t dim_per_component, bool backward) {
    const int64_t dim = num_components * dim_per_component, most = std::max(num_x, num_y);
    Workspace workspace{nullptr};
    workspace.take(batch * (backward ? most : num_x) * dim * item_size);
    workspace.take(batch * (backward ? most : num_x) * dim * int64_t(sizeof(int32_t)));
    workspace.take(batch * padded(backward ? most : num_y) * dim * item_size);
    const int64_t in_split = components_per_split(item_size, batch, num_x, num_y, num_components);
    if (!backward && in_split < num_components) {
        const int64_t partial = divide_up(num_components, in_split) * batch * num_x * num_y;
        workspace.take(partial * item_size);
        workspace.take(partial * item_size);
        workspace.take(partial * int64_t(sizeof(int32_t)));
    }
    return workspace.used;
}

template <class T>
void iqe_pairwise_forward(const T* x, const T* y, const T* max_weight, T* out, int32_t* largest, void* memory,
                          int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components, int64_t size,
                          Reduction reduction, Context context) {
    const char* op = "iqe_pairwise_forward";
    check_sizes(op, batch, num_x, num_y, num_components, size);
    if (batch * num_x * num_y * num_components == 0) return;
    const DeviceGuard guard(context.device, op);
    Workspace workspace{static_cast<char*>(memory)};
    PairwiseForward<T> task{};
    task.sides = prepare(op, workspace, x, y, T(1), batch, num_x, num_y, num_components, size, context);
    task.max_weight = max_weight;
    task.out = out;
    task.largest = largest;
    task.reduction = reduction;
    task.components_per_split = int(components_per_split(sizeof(T), batch, num_x, num_y, num_components));
    task.splits = int(divide_up(num_components, task.components_per_split));
    if (task.splits > 1) {
        const int64_t partial = task.splits * batch * num_x * num_y;
        task.partial_sum = static_cast<T*>(workspace.take(partial * sizeof(T)));
        task.partial_maximum = static_cast<T*>(workspace.take(partial * sizeof(T)));
        task.partial_largest = static_cast<int32_t*>(workspace.take(partial * sizeof(int32_t)));
    }
    if (size == 8)
        launch_pairwise_forward<T, 8, true>(task, context);
    else if (size == 16)
        launch_pairwise_forward<T, 16, true>(task, context);
    else if (size == 32)
        launch_pairwise_forward<T, 32, true>(task, context);
    else if (staged_bytes<T>(size, forward_rows * warps_per_block) <= shared_bytes_without_asking)
        launch_pairwise_forward<T, 0, true>(task, context);
    else
        launch_pairwise_forward<T, 0, false>(task, context);
    if (task.splits > 1 && reduction != Reduction::none)
        launch(op, merge_splits_kernel<T>, divide_up(batch * num_x * num_y, 256), 256, 0, context, task);
}

template <class T>
void iqe_pairwise_backward(const T* grad_out, const T* x, const T* y, const int32_t* largest, const T* max_weight,
                           T* grad_x, T* grad_y, T* grad_max_weight, void* memory, int64_t batch, int64_t num_x,
                           int64_t num_y, int64_t num_components, int64_t size, Reduction reduction, Context context) {
    const char* op = "iqe_pairwise_backward";
    check_sizes(op, batch, num_x, num_y, num_components, size);
    if (batch * num_x * num_y * num_components == 0) return;
    const DeviceGuard guard(context.device, op);
    Workspace for_x{static_cast<char*>(memory)};
    launch_gradient<T>({prepare(op, for_x, x, y, T(1), batch, num_x, num_y, num_components, size, context), grad_out,
                        largest, max_weight, grad_x, grad_max_weight, T(-1), int(num_y), 1, reduction},
                       context);
    // The mirrored problem, in the same memory: launches on a stream run one after the other.
    Workspace for_y{static_cast<char*>(memory)};
    launch_gradient<T>({prepare(op, for_y, y, x, T(-1), batch, num_y, num_x, num_components, size, context), grad_out,
                        largest, max_weight, grad_y, nullptr, T(1), 1, int(num_y), reduction},
                       context);
}

#define QMK_INSTANTIATE(T)                                                                                            \
    template void iqe_pairwise_forward<T>(const T*, const T*, const T*, T*, int32_t*, void*, int64_t, int64_t,        \
                                          int64_t, int64_t, int64_t, Reduction, Context);                             \
    template void iqe_pairwise_backward<T>(const T*, const T*, const T*, const int32_t*, const T*, T*, T*, T*, void*, \
                                           int64_t, int64_t, int64_t, int64_t, int64_t, Reduction, Context);
QMK_INSTANTIATE(float)
QMK_INSTANTIATE(double)
#undef QMK_INSTANTIATE

}  // namespace qmk::cuda
