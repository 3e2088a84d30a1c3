// Losses over a matrix of distances, the backward pass; included by pair_loss.cu. Every pair is on its own.
#pragma once

#include "pair_loss_tiles.cuh"

namespace qmk::cuda {

namespace {

template <class T>
struct PairBackwardTask {
    Problem<T> problem;
    const T *grad_loss, *row_sums, *column_sums;
    T* grad_distance;
    int64_t num_tiles;
};

template <class T, PairKind kind>
__global__ void __launch_bounds__(block_threads, 2) pair_loss_backward_kernel(PairBackwardTask<T> task) {
    const Problem<T>& problem = task.problem;
    const PairLossShape& shape = problem.shape;
    const Tiles tiles(shape);
    const PairWeights<T> weights(problem.settings, shape, *task.grad_loss);
    const T scale = T(-problem.settings.scale);
    const int64_t all_rows = shape.batch * shape.rows;
    const auto slope_of = [&](const Softmax<T>& softmax) {
        return weights.softmax * (T(1) + weights.squares * softmax.logsumexp()) * T(exp(-softmax.log_sum));
    };
    for (int64_t tile = blockIdx.x; tile < task.num_tiles; tile += gridDim.x) {
        const Place place(tile, tiles);
        T column_largest[columns_per_thread], column_slope[columns_per_thread];
#pragma unroll
        for (int c = 0; c < columns_per_thread; ++c) {
            column_largest[c] = T(INFINITY);
            column_slope[c] = T(0);
            const int64_t match = place.first_column + 32 * c - problem.settings.offset;
            if (!over_columns(kind) || match < 0 || match >= shape.rows) continue;
            const T* largest = task.column_sums + place.sample * shape.rows + match;
            column_largest[c] = *largest;
            column_slope[c] = slope_of(Softmax<T>(*largest, largest[all_rows]));
        }
#pragma unroll 1
        for (int r = 0; r < rows_per_warp; ++r) {
            const int64_t i = place.first_row + r, row = place.sample * shape.rows + i;
            if (i >= shape.rows) break;
            const T row_largest = over_rows(kind) ? task.row_sums[row] : T(0);
            const T row_slope =
                over_rows(kind) ? slope_of(Softmax<T>(row_largest, task.row_sums[all_rows + row])) : T(0);
            const T log_discount = problem.after ? problem.log_discount(row) : T(0);
#pragma unroll
            for (int c = 0; c < columns_per_thread; ++c) {
                const int64_t j = place.first_column + 32 * c, at = row * shape.columns + j;
                if (j >= shape.columns) break;
                if constexpr (is_softmax(kind)) {
                    if (problem.leaves_out(place.sample, i, j)) {
                        task.grad_distance[at] = T(0);
                        continue;
                    }
                }
                const bool is_match = j == i + problem.settings.offset;
                const T distance = problem.distance[at], logit = product(scale, distance);
                T grad = is_match ? weights.match : T(0);
                if constexpr (over_rows(kind)) grad += row_slope * T(exp(logit - row_largest));
                if constexpr (over_columns(kind)) grad += column_slope[c] * T(exp(logit - column_largest[c]));
                if constexpr (kind == PairKind::sigmoid) {
                    const T e = T(exp(logit < T(0) ? logit : -logit));
                    grad += weights.sigmoid * (logit < T(0) ? e : T(1)) / (T(1) + e);
                }
                if constexpr (kind == PairKind::repulsion)
                    grad = is_match ? weights.steps * (distance - T(problem.settings.step))
                                    : weights.repulsion / (distance + T(pair_eps));
                if constexpr (kind == PairKind::coulomb) {
                    const T inverse = T(1) / (distance + T(problem.settings.eps));
                    grad = is_match ? T(0) : weights.repulsion * inverse * inverse;
                }
                if (problem.after) {
                    const T slope = problem.linex(distance, problem.after[at], log_discount).slope;
                    grad += (weights.everywhere + (is_match ? weights.diagonal : T(0))) * slope;
                }
                task.grad_distance[at] = grad;
            }
        }
    }
}

}  // namespace

}  // namespace qmk::cuda
