// How component lengths become one distance, and the derivative of that by each length.
#pragma once

#include "../fields.h"
#include "target.h"

namespace qmk {

// spread = max - mean.
QMK_ENUM(Reduction, none, sum, mean, max, maxmean, spread)

}  // namespace qmk

namespace qmk::QMK_TARGET {

// The derivative by a component's length: `every`, and `largest` on top for the component of the greatest length.
template <class T>
struct ReductionWeights {
    T every;
    T largest;
};

QMK_INLINE bool needs_largest(Reduction reduction) {
    return reduction == Reduction::max || reduction == Reduction::maxmean || reduction == Reduction::spread;
}

// max_weight is read for maxmean alone and may be null otherwise.
template <class T>
QMK_INLINE ReductionWeights<T> reduction_weights(Reduction reduction, int64_t num_components, const T* max_weight) {
    const T share = T(1) / T(num_components);
    switch (reduction) {
        case Reduction::mean:
            return {share, T(0)};
        case Reduction::max:
            return {T(0), T(1)};
        case Reduction::maxmean:
            return {(T(1) - *max_weight) * share, *max_weight};
        case Reduction::spread:
            return {-share, T(1)};
        default:
            return {T(1), T(0)};
    }
}

// The distance from the sum and the maximum of the lengths. A NaN length is in the sum but not in a maximum taken by
// comparisons: `sum != sum` puts it back.
template <class T>
QMK_INLINE T reduced(Reduction reduction, T sum, T maximum, int64_t num_components, const T* max_weight) {
    const T mean = sum / T(num_components);
    maximum = sum != sum ? sum : maximum;
    switch (reduction) {
        case Reduction::mean:
            return mean;
        case Reduction::max:
            return maximum;
        case Reduction::maxmean:
            return mean + *max_weight * (maximum - mean);
        case Reduction::spread:
            return maximum - mean;
        default:
            return sum;
    }
}

}  // namespace qmk::QMK_TARGET
