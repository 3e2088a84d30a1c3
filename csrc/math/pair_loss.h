// The terms of the pairwise losses for one pair, and their factors in the gradient. V is a number or a vector of lanes.
// Source: qmkernels/definitions/pair_loss.py.
#pragma once

#include <math.h>

#include "../fields.h"
#include "target.h"

namespace qmk {

QMK_ENUM(PairKind, none, backward, forward, symmetric, sigmoid, repulsion, coulomb)

constexpr bool over_rows(PairKind kind) {
    return kind == PairKind::forward || kind == PairKind::symmetric;
}
constexpr bool over_columns(PairKind kind) {
    return kind == PairKind::backward || kind == PairKind::symmetric;
}
constexpr bool is_softmax(PairKind kind) {
    return over_rows(kind) || over_columns(kind);
}

struct PairLossSettings {
    PairKind kind;
    double scale, logsumexp_weight, linex_weight, clip, diagonal_weight, log_discount, step, repulsion_weight;
    int64_t offset;
    double eps;
    int64_t window;
    QMK_SETTINGS(kind, scale, logsumexp_weight, linex_weight, clip, diagonal_weight, log_discount, step,
                 repulsion_weight, offset, eps, window)
};

struct PairLossShape {
    int64_t batch, rows, columns;
    QMK_FIELDS(batch, rows, columns)
    int64_t pairs() const { return batch * rows * columns; }
};

constexpr double pair_eps = 1e-6;  // added to distances before their logarithm
constexpr int num_pair_stats = 13;

// Sums over all pairs, over matches, over rows (index 0) and over matching columns (1).
template <class T>
struct PairSums {
    T distance, outside;           // of pairs that are not left out (`coulomb`: but matches); of columns without one
    T left_out, left_out_outside;  // how many pairs are left out
    T terms, divergence, difference;
    T match_distance, match_steps, match_terms, match_divergence;
    T logsumexp[2], squares[2], hits[2];
    T excess[2];  // of a log-sum-exp over its match's logit
};

// The terms are sums of softplus, for `repulsion` of logarithms, for `coulomb` of 1 / (distance + eps), without
// matches.
template <class T>
constexpr int num_pair_sums = int(sizeof(PairSums<T>) / sizeof(T));

}  // namespace qmk

namespace qmk::QMK_TARGET {

// A softmax: its largest logit, and the log of the sum of exponentials relative to it. The two stay separate: next to
// 1e9 a float keeps no digit of the logarithm.
template <class T>
struct Softmax {
    T largest, log_sum;

    // A maximum may have ignored NaN; a sum has not.
    QMK_INLINE Softmax(T most, T log_sum) : largest(log_sum == log_sum ? most : log_sum), log_sum(log_sum) {}
    QMK_INLINE T logsumexp() const { return largest + log_sum; }
    QMK_INLINE T excess(T logit) const { return (largest - logit) + log_sum; }
};

// The divergence of one pair and its derivative by the distance; `grown` is discount * exp(min(delta, clip)).
template <class V>
struct Linex {
    V value, slope;

    QMK_INLINE Linex(V distance, V delta, V grown, V clip) {
        const V one = V{} + 1;
        value = delta > clip ? delta : grown - distance;
        slope = delta > clip ? one : grown - one;
    }
};

// Loss and diagnostics, in the order of PairLossStats, from the sums.
template <class S, class T>
QMK_INLINE void finish_pair_loss(const PairSums<S>& sums, const PairLossSettings& settings, const PairLossShape& shape,
                                 bool has_after, T* loss, T* stats) {
    const S rows = S(shape.batch) * S(shape.rows), columns = S(shape.columns), pairs = rows * columns;
    const S scale = S(settings.scale), length = sums.match_distance / rows, positive = -scale * length;
    S total = S(0), contrastive = S(0), logsumexp = S(0), negative = S(0), accuracy = S(0);
    S steps = S(0), repulsion = S(0), apart = S(0);
    const auto at_least_one = [](S count) { return count > S(0) ? count : S(1); };
    const S others = at_least_one(columns - 1 - sums.left_out / rows);
    const S all = -scale * sums.distance / rows;
    for (int side = 0; side < 2; ++side) {
        if (side == 0 ? !over_rows(settings.kind) : !over_columns(settings.kind)) continue;
        const S share = settings.kind == PairKind::symmetric ? S(0.5) : S(1);
        contrastive += share * (sums.excess[side] / rows);
        if (settings.logsumexp_weight != 0)
            contrastive += share * S(settings.logsumexp_weight) * (sums.squares[side] / rows);
        logsumexp += share * (sums.logsumexp[side] / rows);
        accuracy += share * (sums.hits[side] / rows);
        const S inside = shape.rows == shape.columns ? all : -scale * (sums.distance - sums.outside) / rows;
        const S others_inside = S(shape.rows) - 1 - (sums.left_out - sums.left_out_outside) / rows;
        negative += share * (side == 0 ? (all - positive) / others : (inside - positive) / at_least_one(others_inside));
    }
    if (settings.kind == PairKind::sigmoid) {
        contrastive = (sums.terms / rows - positive) / columns;
        negative = (all - positive) / others;
        accuracy = sums.hits[0] / rows;
    }
    total = contrastive;
    if (settings.kind == PairKind::repulsion) {
        steps = sums.match_steps / rows;
        repulsion = -(sums.terms - sums.match_terms) / rows / others;
        total = steps + S(settings.repulsion_weight) * repulsion;
    }
    if (settings.kind == PairKind::coulomb) {
        total = repulsion = sums.terms / rows / others;
        apart = sums.distance / rows / others;
    }
    const bool is_contrast = is_softmax(settings.kind) || settings.kind == PairKind::sigmoid;
    const S everywhere = sums.divergence / pairs, diagonal = sums.match_divergence / rows;
    const S linex = everywhere + S(settings.diagonal_weight) * (diagonal - everywhere);
    if (has_after) total += S(settings.linex_weight) * linex;
    *loss = T(total);
    stats[0] = T(contrastive);
    stats[1] = T(is_contrast ? positive : S(0));
    stats[2] = T(negative);
    stats[3] = T(logsumexp);
    stats[4] = T(accuracy);
    stats[5] = T(has_after ? linex : S(0));
    stats[6] = T(has_after ? everywhere : S(0));
    stats[7] = T(has_after ? diagonal : S(0));
    stats[8] = T(has_after ? sums.difference / pairs : S(0));
    stats[9] = T(steps);
    stats[10] = T(repulsion);
    stats[11] = T(length);
    stats[12] = T(apart);
}

// The factors of the terms' derivatives by a distance.
template <class T>
struct PairWeights {
    T softmax;     // of a probability; times (1 + squares * log-sum-exp)
    T squares;     //
    T sigmoid;     // of a sigmoid
    T match;       // of matches, a constant
    T everywhere;  // of a divergence's slope
    T diagonal;    // of a match's, in addition
    T steps;       // of a match's distance - step
    T repulsion;   // of 1 / (distance + eps); for `coulomb` of its square

    QMK_INLINE PairWeights(const PairLossSettings& settings, const PairLossShape& shape, T grad) {
        const T rows = T(shape.batch) * T(shape.rows), pairs = rows * T(shape.columns);
        const T others = shape.columns > 1 ? T(shape.columns - 1) : T(1);
        softmax = -grad * T(settings.scale) / rows * (settings.kind == PairKind::symmetric ? T(0.5) : T(1));
        squares = T(2 * settings.logsumexp_weight);
        sigmoid = -grad * T(settings.scale) / pairs;
        match = is_softmax(settings.kind)            ? grad * T(settings.scale) / rows
                : settings.kind == PairKind::sigmoid ? -sigmoid
                                                     : T(0);
        everywhere = grad * T(settings.linex_weight * (1 - settings.diagonal_weight)) / pairs;
        diagonal = grad * T(settings.linex_weight * settings.diagonal_weight) / rows;
        steps = 2 * grad / rows;
        repulsion = -grad * T(settings.kind == PairKind::coulomb ? 1 : settings.repulsion_weight) / (rows * others);
    }
};

}  // namespace qmk::QMK_TARGET
