// How component lengths become one distance, and the derivative of that by each length.
#pragma once

#include <math.h>

#include "../fields.h"
#include "target.h"

namespace qmk {

// spread = max - mean.
QMK_ENUM(Reduction, none, sum, mean, max, maxmean, spread)

// What makes the weight of the maximum of a learned number.
QMK_ENUM(WeightLink, identity, sigmoid, one_minus_sigmoid)

// What weighs the maximum in maxmean: one number for all rows, or num_weights, each for as many neighbouring rows. In
// pairwise ops the rows are the matrices. max_weight is null for other reductions, num_weights then 1.
template <class T>
struct MaxWeight {
    const T* max_weight;
    int64_t num_weights;
    WeightLink weight_link;
    QMK_FIELDS(max_weight, num_weights, weight_link)
};

}  // namespace qmk

namespace qmk::QMK_TARGET {

// The weight of the maximum at a place among the numbers, and its derivative by the number there.
template <class T>
struct WeightAt {
    T value, slope;

    QMK_INLINE WeightAt(const MaxWeight<T>& max, int64_t place) : value(0), slope(1) {
        if (!max.max_weight) return;
        const T raw = max.max_weight[place];
        value = raw;
        if (max.weight_link == WeightLink::identity) return;
        const bool falls = max.weight_link == WeightLink::one_minus_sigmoid;
        value = T(1) / (T(1) + exp(falls ? raw : -raw));
        slope = value * (falls ? value - T(1) : T(1) - value);
    }
};

// The derivative by a component's length: `every`, and `largest` on top for the component of the greatest length.
template <class T>
struct ReductionWeights {
    T every;
    T largest;
};

// The derivative by a component's length from that by the distance. A component without weight gets 0 from an infinite
// one too, as those that are not the largest get from a maximum. V is a number or a vector of lanes.
template <class V>
QMK_INLINE V weighted(V upstream, V weight) {
    return weight == V{} ? V{} : upstream * weight;
}

QMK_INLINE bool needs_largest(Reduction reduction) {
    return reduction == Reduction::max || reduction == Reduction::maxmean || reduction == Reduction::spread;
}

// max_weight: of the maximum, for maxmean alone.
template <class T>
QMK_INLINE ReductionWeights<T> reduction_weights(Reduction reduction, int64_t num_components, T max_weight) {
    const T share = T(1) / T(num_components);
    switch (reduction) {
        case Reduction::mean:
            return {share, T(0)};
        case Reduction::max:
            return {T(0), T(1)};
        case Reduction::maxmean:
            return {(T(1) - max_weight) * share, max_weight};
        case Reduction::spread:
            return {-share, T(1)};
        default:
            return {T(1), T(0)};
    }
}

// The distance from the sum and the maximum of the lengths. A NaN length is in the sum but not in a maximum taken by
// comparisons: `sum != sum` puts it back.
template <class T>
QMK_INLINE T reduced(Reduction reduction, T sum, T maximum, int64_t num_components, T max_weight) {
    const T mean = sum / T(num_components);
    maximum = sum != sum ? sum : maximum;
    switch (reduction) {
        case Reduction::mean:
            return mean;
        case Reduction::max:
            return maximum;
        case Reduction::maxmean:
            return mean + max_weight * (maximum - mean);
        case Reduction::spread:
            return maximum - mean;
        default:
            return sum;
    }
}

}  // namespace qmk::QMK_TARGET
