// Losses over a matrix of distances, the backward pass; included by pair_loss.cpp.
//
// One exponential per pair, shared by both directions if their largest logits are near, and one for LINEX.
#pragma once

#include "../ops/pair_loss.h"
#include "pair_loss_lanes.h"
#include "parallel.h"
#include "workspace.h"

namespace qmk::QMK_TARGET {

namespace {

// The columns of a matrix, as its gradient needs them.
template <class T>
struct Columns {
    const T *largest, *slope;
    const T* weight;  // slope * exp(middle - largest)
    T middle;
    bool are_near;  // whether their largest logits are near the middle
};

// The factor of exp(logit - largest) in the derivative by the logit.
template <class T>
T slope_of(const Softmax<T>& softmax, const PairWeights<T>& weights) {
    return weights.softmax * (T(1) + weights.squares * softmax.logsumexp()) * exp_of(-softmax.log_sum);
}

// Within this distance, at most e^40 apart, one exponential is as good as the other.
constexpr double nearness = 20;

template <class T, PairKind kind, bool has_after, bool has_places>
struct Backward {
    using V = Lanes<T>;

    const PairLossSettings& settings;
    const PairWeights<T> weights;
    int64_t num_columns;

    // One row: everything except its match, then the match.
    void run(const T* distance, const T* after, T log_discount, const int32_t* places, const Softmax<T>& row,
             const Columns<T>& columns, int64_t match, T* grad) const {
        LeftOut<T> left_out{};
        if constexpr (has_places) left_out = {places, places[match], int32_t(settings.window), match};
        const T apart = row.largest - columns.middle;
        if (kind == PairKind::symmetric && columns.are_near && apart >= T(-nearness) && apart <= T(nearness))
            run_columns<true>(distance, after, log_discount, left_out, row, columns, grad);
        else
            run_columns<false>(distance, after, log_discount, left_out, row, columns, grad);
        if constexpr (kind == PairKind::repulsion || kind == PairKind::coulomb) {
            grad[match] = kind == PairKind::coulomb ? T(0) : weights.steps * (distance[match] - T(settings.step));
            if constexpr (has_after)
                grad[match] += weights.everywhere * slope(distance[match], after[match], log_discount);
        } else {
            grad[match] += weights.match;
        }
        if constexpr (has_after) grad[match] += weights.diagonal * slope(distance[match], after[match], log_discount);
    }

    // With `shares`, the column's exponential is the row's times exp(row's largest - column's largest).
    template <bool shares>
    void run_columns(const T* distance, const T* after, T log_discount, const LeftOut<T>& left_out,
                     const Softmax<T>& row, const Columns<T>& columns, T* grad) const {
        constexpr int n = num_lanes<T>;
        const T row_slope = slope_of(row, weights);
        const T ratio = shares ? exp_of(row.largest - columns.middle) : T(0);
        const auto derivative = [&](int64_t j, V d, V a) {
            const V logit = rounded(T(-settings.scale) * d);
            V sum{};
            if constexpr (shares) {
                sum += share_of<T>(logit - row.largest) * (row_slope + ratio * load<V>(columns.weight + j));
            } else {
                if constexpr (over_rows(kind)) sum += row_slope * share_of<T>(logit - row.largest);
                if constexpr (over_columns(kind))
                    sum += load<V>(columns.slope + j) * share_of<T>(logit - load<V>(columns.largest + j));
            }
            if constexpr (kind == PairKind::sigmoid) {
                const V e = share_of<T>(logit < 0 ? logit : -logit);
                sum += weights.sigmoid * (logit < 0 ? e : T(1) - V{}) / (1 + e);
            }
            if constexpr (kind == PairKind::repulsion) sum += weights.repulsion / (d + T(pair_eps));
            if constexpr (kind == PairKind::coulomb) {
                const V inverse = 1 / (d + T(settings.eps));
                sum += weights.repulsion * inverse * inverse;
            }
            if constexpr (has_after) sum += weights.everywhere * slope(d, a, log_discount);
            return sum;
        };
        int64_t j = 0;
        for (; j + n <= num_columns; j += n) {
            V slope = derivative(j, load<V>(distance + j), has_after ? load<V>(after + j) : V{});
            if constexpr (has_places) slope = left_out.at(j) ? V{} : slope;
            store(grad + j, slope);
        }
        if (j == num_columns) return;
        const int64_t rest = num_columns - j;
        V last = derivative(j, load_some(distance + j, rest), has_after ? load_some(after + j, rest) : V{});
        if constexpr (has_places) last = left_out.at_some(j, rest) ? V{} : last;
        __builtin_memcpy(grad + j, &last, rest * sizeof(T));
    }

    template <class W>
    QMK_INLINE W slope(W distance, W after, T log_discount) const {
        const W delta = distance - after, clip = W{} + T(settings.clip);
        return Linex<W>(distance, delta, exp_of<T>(W((delta > clip ? clip : delta) + log_discount)), clip).slope;
    }
};

// The columns of each matrix, and three lines per matrix.
template <class T>
struct BackwardMemory {
    int64_t line;
    Columns<T>* columns;
    T* lines;
    int64_t bytes;

    BackwardMemory(void* memory, const PairLossShape& shape, PairKind kind) {
        Workspace workspace{static_cast<char*>(memory)};
        const int64_t matrices = over_columns(kind) ? shape.batch : 0;
        line = padded(shape.columns);
        columns = workspace.take<Columns<T>>(matrices);
        lines = workspace.take<T>(matrices * 3 * line);
        bytes = workspace.used;
    }
};

// Columns without a match: exponentials of -infinity, times 0.
template <class T>
Columns<T> prepare_columns(const T* of_matches, const T* log_sums, T* lines, int64_t line, int64_t rows,
                           const PairLossSettings& settings, const PairWeights<T>& weights) {
    T lowest = of_matches[0], highest = of_matches[0];
    for (int64_t row = 0; row < rows; ++row) {
        lowest = of_matches[row] < lowest ? of_matches[row] : lowest;
        highest = of_matches[row] > highest ? of_matches[row] : highest;
    }
    const T middle = (lowest + highest) / 2;
    T *largest = lines, *slope = lines + line, *weight = lines + 2 * line;
    for (int64_t j = 0; j < line; ++j) {
        largest[j] = T(INFINITY);
        slope[j] = weight[j] = T(0);
    }
    for (int64_t row = 0, j = settings.offset; row < rows; ++row, ++j) {
        largest[j] = of_matches[row];
        slope[j] = slope_of(Softmax<T>(of_matches[row], log_sums[row]), weights);
        if (settings.kind == PairKind::symmetric) weight[j] = slope[j] * exp_of(middle - of_matches[row]);
    }
    return {largest, slope, weight, middle, highest - lowest <= T(2 * nearness)};
}

template <class T, PairKind kind, bool has_after, bool has_places>
void backward(const PairLossBackward<T>& call, int threads) {
    void* workspace = call.scratch;
    T* grad_distance = call.grad_distance;
    const T *grad_loss = call.grad_loss, *distance = call.distance, *after = call.after,
            *log_discounts = call.log_discounts, *row_sums = call.row_sums, *column_sums = call.column_sums;
    const PairLossShape& shape = call.shape;
    const PairLossSettings& settings = call.settings;
    const Backward<T, kind, has_after, has_places> run{settings, PairWeights<T>(settings, shape, *grad_loss),
                                                       shape.columns};
    const BackwardMemory<T> memory(workspace, shape, kind);
    const int64_t all_rows = shape.batch * shape.rows;
    if constexpr (over_columns(kind))
        for (int64_t sample = 0; sample < shape.batch; ++sample) {
            const T* largest = column_sums + sample * shape.rows;
            memory.columns[sample] =
                prepare_columns(largest, largest + all_rows, memory.lines + sample * 3 * memory.line, memory.line,
                                shape.rows, settings, run.weights);
        }
    parallel_for(
        divide_up(all_rows, rows_per_task), threads_for(all_rows * shape.columns, pairs_per_thread, threads),
        [&](int64_t task) {
            const int64_t end = (task + 1) * rows_per_task < all_rows ? (task + 1) * rows_per_task : all_rows;
            for (int64_t row = task * rows_per_task; row < end; ++row) {
                const int64_t sample = row / shape.rows, at = row * shape.columns;
                run.run(distance + at, has_after ? after + at : nullptr,
                        log_discounts ? log_discounts[row] : T(settings.log_discount),
                        has_places ? call.places + sample * shape.columns : nullptr,
                        over_rows(kind) ? Softmax<T>(row_sums[row], row_sums[all_rows + row]) : Softmax<T>(T(0), T(0)),
                        over_columns(kind) ? memory.columns[sample] : Columns<T>{}, row % shape.rows + settings.offset,
                        grad_distance + at);
            }
        });
}

}  // namespace

}  // namespace qmk::QMK_TARGET
