// The reduction of component lengths to one distance, and its derivative by each length.
#pragma once

#include <math.h>

#include "../fields.h"
#include "target.h"

namespace qmk {

// spread = max - mean.
QMK_ENUM(Reduction, none, sum, mean, max, maxmean, spread)

// The functions from a learned number to the weight of the maximum.
QMK_ENUM(WeightLink, identity, sigmoid, one_minus_sigmoid)

// The weight of the maximum in maxmean: one number for all rows, or num_weights, each for equally many neighbouring
// rows. In pairwise ops the rows are matrices. For other reductions max_weight is null and num_weights is 1.
template <class T>
struct MaxWeight {
    const T* max_weight;
    int64_t num_weights;
    WeightLink weight_link;
    QMK_FIELDS(max_weight, num_weights, weight_link)

    // Whether this many rows, or matrices, are num_weights equal runs.
    bool fits(Reduction reduction, int64_t rows) const {
        return reduction == Reduction::maxmean ? num_weights > 0 && rows % num_weights == 0 : num_weights == 1;
    }
    int64_t count(Reduction reduction) const { return reduction == Reduction::maxmean ? num_weights : 0; }
};

// What forward keeps for backward: an index if the reduction has a maximum, and max - mean for maxmean.
constexpr int64_t count_of_largest(Reduction reduction, int64_t distances) {
    const bool has_maximum =
        reduction == Reduction::max || reduction == Reduction::maxmean || reduction == Reduction::spread;
    return has_maximum ? distances : 0;
}
constexpr int64_t count_of_spread(Reduction reduction, int64_t distances) {
    return reduction == Reduction::maxmean ? distances : 0;
}
// Two bits for every value.
constexpr int64_t bytes_of_ends(int64_t components, int64_t dim_per_component) {
    return components * ((2 * dim_per_component + 7) / 8);
}

}  // namespace qmk

namespace qmk::QMK_TARGET {

// The weight of the maximum for the number at an index, and its derivative by that number.
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

// The derivative by a component's length: `every`, plus `largest` for the longest component.
template <class T>
struct ReductionWeights {
    T every;
    T largest;
};

// The derivative by a component's length, given that by the distance. A component without weight gets 0 even from an
// infinite one, as components that are not the largest do from a maximum. V is a number or a vector of lanes.
template <class V>
QMK_INLINE V weighted(V upstream, V weight) {
    return weight == V{} ? V{} : upstream * weight;
}

QMK_INLINE bool needs_largest(Reduction reduction) {
    return reduction == Reduction::max || reduction == Reduction::maxmean || reduction == Reduction::spread;
}

// max_weight: that of the maximum, only for maxmean.
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

// The distance, from the sum and the maximum of the lengths. A NaN length is in the sum but not in a maximum taken by
// comparisons; `sum != sum` restores it.
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
