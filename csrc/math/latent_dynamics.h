// QRL's latent dynamics loss: distances in both directions at once, and the term of one in the loss. Source:
// qmkernels/losses/latent_dynamics.py.
#pragma once

#include "iqe.h"
#include "reduction.h"
#include "target.h"

namespace qmk {

struct LatentDynamicsSettings {
    int64_t dim_per_component;
    Reduction reduction;
    WeightLink weight_link;
    int64_t power;  // 1 or 2
    QMK_SETTINGS(dim_per_component, reduction, weight_link, power)
};

}  // namespace qmk

namespace qmk::QMK_TARGET {

// Both directions between x and y in one sort and one scan. A coordinate is an interval in only one direction, from
// `begin` to `end`, in ascending order of `begin`. In the other it is the empty interval at `begin`, which adds nothing
// and affects no interval that begins there or later. `forward` is the set of marks whose interval is from x to y.
template <class V, class Mark>
struct EndsBothWays {
    IqeEnds<V, Mark> there, back;

    QMK_INLINE explicit EndsBothWays(V lowest)
        : there{lowest, V{}, Mark{}, Mark{}, Mark{}}, back{lowest, V{}, Mark{}, Mark{}, Mark{}} {}

    QMK_INLINE void add(V begin, V end, Mark mark, Mark forward) {
        const auto is_there = (mark & forward) != 0;
        there.add(begin, is_there ? end : begin, mark);
        back.add(begin, is_there ? begin : end, mark);
    }
};

// Turns x and y into begin and end, and adds the mark to `forward` where x comes first; begin is NaN if either is.
template <class V, class Mark>
QMK_INLINE void order_ends(V& x, V& y, Mark mark, Mark& forward) {
    const auto ascends = x < y;
    const V greater = ascends ? y : x;
    x = x == x ? (ascends ? x : y) : x;
    y = greater;
    forward |= ascends ? mark : Mark{};
}

// Half a power of a distance, and its derivative.
template <class T>
struct LatentDynamicsTerm {
    T value, slope;

    QMK_INLINE LatentDynamicsTerm(T distance, const LatentDynamicsSettings& settings)
        : value(T(0.5) * (settings.power == 2 ? distance * distance : distance)),
          slope(settings.power == 2 ? distance : T(0.5)) {}
};

}  // namespace qmk::QMK_TARGET
