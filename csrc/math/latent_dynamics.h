// QRL's latent dynamics: what one distance adds to the loss, and what both directions sort by. Source:
// qmkernels/losses/qrl.py.
#pragma once

#include "iqe.h"
#include "reduction.h"
#include "target.h"

namespace qmk {

struct LatentDynamicsForm {
    int64_t dim_per_component;
    Reduction reduction;
    int64_t power;  // 1 or 2
};

}  // namespace qmk

namespace qmk::QMK_TARGET {

// Where a coordinate's interval begins, whichever direction has it; NaN where either value is. From x to y it ends at y
// and from y to x at x: in the direction in which there is no interval that is where it begins, an empty interval,
// which adds nothing and disturbs none that begin later.
template <class V>
QMK_INLINE V begin_of_both(V x, V y) {
    const V lower = x < y ? x : y;
    return x == x ? lower : x;
}

// Half a power of a distance, and its derivative.
template <class T>
struct LatentDynamicsTerm {
    T value, slope;

    QMK_INLINE LatentDynamicsTerm(T distance, const LatentDynamicsForm& form)
        : value(T(0.5) * (form.power == 2 ? distance * distance : distance)),
          slope(form.power == 2 ? distance : T(0.5)) {}
};

}  // namespace qmk::QMK_TARGET
