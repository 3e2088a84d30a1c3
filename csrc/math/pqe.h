// The arithmetic of one PQE-LH component, 1 - exp(mean_j min(y_j - x_j, 0)), and of its gradient.
//
//     V exceeds(V x, V y);                                       min(y - x, 0), NaN for NaN
//     bool or mask is_flat(V x, V y);                            no gradient reaches x_j and y_j; false at ties and NaN
//     Exponential<T, V> pqe_exponential<T>(V sum, T share);
//
// for V's that are numbers or lanes; `sum` adds up exceeds over a component's values and `share` is 1 / K. The
// component is .one_minus(); its derivative by x_j, where not flat, is share * .value(), and that by y_j is its
// negative. Precision: all in V's own type; differences come first, so an offset common to x and y costs no accuracy.
#pragma once

#include "elementary.h"
#include "target.h"

namespace qmk::QMK_TARGET {

template <class V>
QMK_INLINE V exceeds(V x, V y) {
    const V difference = y - x;
    return difference > 0 ? V{} : difference;
}

template <class V>
QMK_INLINE auto is_flat(V x, V y) {
    return y - x > 0;
}

template <class T, class V>
QMK_INLINE Exponential<T, V> pqe_exponential(V sum, T share) {
    return exponential_of_nonpositive<T>(sum * share);
}

}  // namespace qmk::QMK_TARGET
