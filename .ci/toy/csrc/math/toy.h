// The toy op's distance and slope at one coordinate, or at a vector of them.
#pragma once

#include "../fields.h"
#include "target.h"

namespace qmk {

struct ToySettings {
    double factor;
    QMK_SETTINGS(factor)
};

}  // namespace qmk

namespace qmk::QMK_TARGET {

template <class V>
QMK_INLINE V toy_distance(V x, V y) {
    const V difference = x - y;
    return difference < V{} ? -difference : difference;
}

template <class V>
QMK_INLINE V toy_slope(V x, V y, V grad) {
    const V of_less = x < y ? -grad : V{};
    return x > y ? grad : of_less;
}

}  // namespace qmk::QMK_TARGET
