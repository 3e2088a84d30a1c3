// Losses over a matrix of distances, the forward pass and what combines its parts; included by pair_loss.cu.
//
// It writes the sums over a tile's pairs and, if the form has softmaxes over them, the largest logit and the sum of
// exponentials of each row and column: 2/128 of the matrix for softmaxes over rows, 2/32 for those over columns.
#pragma once

#include "../math/iqe.h"
#include "block_sum.cuh"
#include "pair_loss_tiles.cuh"
#include "warp.cuh"

namespace qmk::cuda {

namespace {

// The largest of some logits, and the sum of their exponentials relative to it.
template <class T>
struct PartialSoftmax {
    T most = T(-INFINITY), sum = T(0);

    // NaN is only in the sum. Infinities are shifted by finite numbers: exp(inf - highest) is inf.
    __device__ __forceinline__ static T shift_of(T most) { return finite_or_nan(most, Limits<T>::highest); }
    __device__ __forceinline__ void see(T logit) { most = logit > most ? logit : most; }
    __device__ __forceinline__ void add(T logit) { sum += T(exp(logit - shift_of(most))); }
    // Needs `most` to be that of all parts already.
    __device__ __forceinline__ void add(const PartialSoftmax& part) {
        sum += part.sum * T(exp(shift_of(part.most) - shift_of(most)));
    }
};

template <class T>
__device__ __forceinline__ T max_of_threads(T value) {
    for (int distance = 16; distance > 0; distance /= 2) {
        const T other = __shfl_xor_sync(whole_warp, value, distance);
        value = other > value ? other : value;
    }
    return value;
}

// The output of a forward pass: the largest logit and the sum, for each row and tile across it and for each column and
// tile down it, with tiles outermost; then sums over pairs, and over softmaxes.
template <class T>
struct Parts {
    T *of_rows, *of_columns;
    PairSums<T>*sums, *of_softmaxes;
    int64_t num_tiles, num_chunks, bytes;

    Parts(void* memory, const PairLossShape& shape, PairKind kind) {
        const Tiles tiles(shape);
        const bool with_rows = over_rows(kind) || kind == PairKind::sigmoid;
        num_tiles = shape.batch * tiles.down * tiles.across;
        const int64_t per_side = divide_up(shape.batch * shape.rows, block_threads);
        num_chunks = per_side * (int(with_rows) + int(over_columns(kind)));
        T* next = static_cast<T*>(memory);
        const auto take = [&](int64_t count) {
            T* piece = next;
            next += count;
            return piece;
        };
        of_rows = take(with_rows ? 2 * tiles.across * shape.batch * shape.rows : 0);
        of_columns = take(over_columns(kind) ? 2 * tiles.down * shape.batch * shape.columns : 0);
        sums = reinterpret_cast<PairSums<T>*>(take(num_tiles * num_pair_sums<T>));
        of_softmaxes = reinterpret_cast<PairSums<T>*>(take(num_chunks * num_pair_sums<T>));
        bytes = (next - static_cast<T*>(memory)) * int64_t(sizeof(T));
    }
};

template <class T>
struct PairForwardTask {
    Problem<T> problem;
    Parts<T> parts;
};

template <class T, PairKind kind>
__global__ void __launch_bounds__(block_threads, 2) pair_loss_forward_kernel(PairForwardTask<T> task) {
    constexpr bool has_logits = is_softmax(kind) || kind == PairKind::sigmoid;
    constexpr int column_warps = over_columns(kind) ? warps_per_block : 1;
    __shared__ T most_of_warps[column_warps][tile_columns], sum_of_warps[column_warps][tile_columns];
    const Problem<T>& problem = task.problem;
    const PairLossShape& shape = problem.shape;
    const Tiles tiles(shape);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const T scale = T(-problem.settings.scale);
    for (int64_t tile = blockIdx.x; tile < task.parts.num_tiles; tile += gridDim.x) {
        const Place place(tile, tiles);
        T logits[rows_per_warp][columns_per_thread];
        PairSums<T> sums{};
#pragma unroll
        for (int r = 0; r < rows_per_warp; ++r) {
            const int64_t i = place.first_row + r, row = place.sample * shape.rows + i;
#pragma unroll
            for (int c = 0; c < columns_per_thread; ++c) {
                const int64_t j = place.first_column + 32 * c, at = row * shape.columns + j;
                const bool exists = i < shape.rows && j < shape.columns;
                logits[r][c] = T(-INFINITY);
                if (!exists) continue;
                const bool is_match = j == i + problem.settings.offset;
                const int64_t match = j - problem.settings.offset;
                const bool is_outside = match < 0 || match >= shape.rows;
                if constexpr (is_softmax(kind)) {
                    if (problem.leaves_out(place.sample, i, j)) {
                        sums.left_out += T(1);
                        if (is_outside) sums.left_out_outside += T(1);
                        continue;
                    }
                }
                const T distance = problem.distance[at];
                if (kind != PairKind::coulomb || !is_match) sums.distance += distance;
                if (is_match) sums.match_distance += distance;
                if constexpr (has_logits) logits[r][c] = product(scale, distance);
                if constexpr (over_columns(kind))
                    if (is_outside) sums.outside += distance;
                if constexpr (kind == PairKind::sigmoid) {
                    const T logit = logits[r][c];
                    sums.terms += (logit < T(0) ? T(0) : logit) + T(log1p(exp(logit < T(0) ? logit : -logit)));
                }
                if constexpr (kind == PairKind::repulsion) {
                    const T value = T(log(distance + T(pair_eps)));
                    sums.terms += value;
                    const T beyond = distance - T(problem.settings.step);
                    if (is_match) sums.match_terms += value, sums.match_steps += beyond * beyond;
                }
                if constexpr (kind == PairKind::coulomb)
                    if (!is_match) sums.terms += T(1) / (distance + T(problem.settings.eps));
                if (problem.after) {
                    const T after = problem.after[at];
                    const T divergence = problem.linex(distance, after, problem.log_discount(row)).value;
                    sums.divergence += divergence;
                    sums.difference += distance - after;
                    if (is_match) sums.match_divergence += divergence;
                }
            }
        }
        if constexpr (over_rows(kind) || kind == PairKind::sigmoid) {
            T* most = task.parts.of_rows + 2 * place.tile_across * shape.batch * shape.rows;
            T* sum = most + shape.batch * shape.rows;
#pragma unroll
            for (int r = 0; r < rows_per_warp; ++r) {
                PartialSoftmax<T> row;
#pragma unroll
                for (int c = 0; c < columns_per_thread; ++c) row.see(logits[r][c]);
                row.most = max_of_threads(row.most);
                if constexpr (over_rows(kind)) {
#pragma unroll
                    for (int c = 0; c < columns_per_thread; ++c) row.add(logits[r][c]);
                    row.sum = sum_of_threads(row.sum);
                }
                const int64_t i = place.first_row + r, at = place.sample * shape.rows + i;
                if (lane == 0 && i < shape.rows) most[at] = row.most, sum[at] = row.sum;
            }
        }
        if constexpr (over_columns(kind)) {
#pragma unroll
            for (int c = 0; c < columns_per_thread; ++c) {
                PartialSoftmax<T> column;
#pragma unroll
                for (int r = 0; r < rows_per_warp; ++r) column.see(logits[r][c]);
#pragma unroll
                for (int r = 0; r < rows_per_warp; ++r) column.add(logits[r][c]);
                most_of_warps[warp][lane + 32 * c] = column.most;
                sum_of_warps[warp][lane + 32 * c] = column.sum;
            }
            __syncthreads();
            const int64_t j = place.tile_across * tile_columns + threadIdx.x;
            if (threadIdx.x < tile_columns && j < shape.columns) {
                PartialSoftmax<T> column;
                for (int w = 0; w < warps_per_block; ++w) column.see(most_of_warps[w][threadIdx.x]);
                for (int w = 0; w < warps_per_block; ++w)
                    column.add(PartialSoftmax<T>{most_of_warps[w][threadIdx.x], sum_of_warps[w][threadIdx.x]});
                T* most = task.parts.of_columns + 2 * place.tile_down * shape.batch * shape.columns;
                T* sum = most + shape.batch * shape.columns;
                const int64_t at = place.sample * shape.columns + j;
                most[at] = column.most, sum[at] = column.sum;
            }
        }
        constexpr int over_pairs = 11;  // from `distance` to `match_divergence`
        sum_over_block<over_pairs>(&sums.distance);
        if (threadIdx.x == 0) task.parts.sums[tile] = sums;
    }
}

template <class T>
struct PairMerge {
    const T* distance;
    const T* of_tiles;
    T *largest, *log_sum;  // null for sigmoids
    PairSums<T>* sums;
    int side;  // 0: of rows, 1: of columns
    int64_t num_tiles;
    PairLossShape shape;
    PairLossSettings settings;
};

// One thread per softmax: combines the tiles' parts.
template <class T>
__global__ void __launch_bounds__(block_threads) pair_loss_merge_kernel(PairMerge<T> task) {
    const PairLossShape& shape = task.shape;
    const int64_t all_rows = shape.batch * shape.rows, all = task.side == 0 ? all_rows : shape.batch * shape.columns;
    for (int64_t chunk = blockIdx.x; chunk * block_threads < all_rows; chunk += gridDim.x) {
        const int64_t row = chunk * block_threads + threadIdx.x;
        T found[4] = {};  // log-sum-exp, its square, whether the match is the largest, excess over the match
        if (row < all_rows) {
            const int64_t sample = unsigned(row) / unsigned(shape.rows);
            const int64_t match = task.settings.offset + row - sample * shape.rows;
            const int64_t at = task.side == 0 ? row : sample * shape.columns + match;
            PartialSoftmax<T> whole;
            for (int64_t tile = 0; tile < task.num_tiles; ++tile) whole.see(task.of_tiles[2 * tile * all + at]);
            for (int64_t tile = 0; tile < task.num_tiles; ++tile) {
                PartialSoftmax<T> part;
                part.most = task.of_tiles[2 * tile * all + at];
                part.sum = task.of_tiles[(2 * tile + 1) * all + at];
                whole.add(part);
            }
            const T logit = product(T(-task.settings.scale), task.distance[row * shape.columns + match]);
            const Softmax<T> softmax(whole.most, T(log(whole.sum)));
            found[2] = logit >= softmax.largest ? T(1) : T(0);
            if (task.largest) {
                task.largest[row] = softmax.largest;
                task.log_sum[row] = softmax.log_sum;
                found[0] = softmax.logsumexp();
                found[1] = found[0] * found[0];
                found[3] = softmax.excess(logit);
            }
        }
        sum_over_block(found);
        if (threadIdx.x != 0) continue;
        PairSums<T> sums{};
#pragma unroll
        for (int side = 0; side < 2; ++side) {
            sums.logsumexp[side] = side == task.side ? found[0] : T(0);
            sums.squares[side] = side == task.side ? found[1] : T(0);
            sums.hits[side] = side == task.side ? found[2] : T(0);
            sums.excess[side] = side == task.side ? found[3] : T(0);
        }
        task.sums[chunk] = sums;
    }
}

template <class T>
struct PairFinish {
    const PairSums<T>* sums;
    T *loss, *stats;
    int64_t count;
    bool has_after;
    PairLossShape shape;
    PairLossSettings settings;
};

// One block.
template <class T>
__global__ void __launch_bounds__(block_threads) pair_loss_finish_kernel(PairFinish<T> task) {
    PairSums<double> all{};
    const auto add = [](double& to, T value) { to += double(value); };
    for (int64_t n = threadIdx.x; n < task.count; n += blockDim.x) {
        const PairSums<T>& part = task.sums[n];
        add(all.distance, part.distance);
        add(all.outside, part.outside);
        add(all.left_out, part.left_out);
        add(all.left_out_outside, part.left_out_outside);
        add(all.terms, part.terms);
        add(all.divergence, part.divergence);
        add(all.difference, part.difference);
        add(all.match_distance, part.match_distance);
        add(all.match_steps, part.match_steps);
        add(all.match_terms, part.match_terms);
        add(all.match_divergence, part.match_divergence);
#pragma unroll
        for (int side = 0; side < 2; ++side) {
            add(all.logsumexp[side], part.logsumexp[side]);
            add(all.squares[side], part.squares[side]);
            add(all.hits[side], part.hits[side]);
            add(all.excess[side], part.excess[side]);
        }
    }
    sum_over_block<num_pair_sums<double>>(&all.distance);
    if (threadIdx.x == 0) finish_pair_loss(all, task.settings, task.shape, task.has_after, task.loss, task.stats);
}

}  // namespace

}  // namespace qmk::cuda
