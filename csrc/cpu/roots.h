// Elementary functions of lanes that the vector extension has no operator for.
#pragma once

#include <cmath>

#include "lanes.h"

namespace qmk::QMK_TARGET {

template <class V>
struct Elementary;

// Loops over the lanes; the compiler makes one instruction of the square roots.
template <class T>
struct ElementaryOfLanes {
    using V = Lanes<T>;
    QMK_INLINE static V square_root(V value) {
        T lanes[num_lanes<T>];
        store(lanes, value);
        for (T& lane : lanes) lane = std::sqrt(lane);
        return load<V>(lanes);
    }
    QMK_INLINE static V power(V base, V exponent) {
        for (int lane = 0; lane < num_lanes<T>; ++lane) base[lane] = std::pow(base[lane], exponent[lane]);
        return base;
    }
};
template <>
struct Elementary<Lanes<float>> : ElementaryOfLanes<float> {};
template <>
struct Elementary<Lanes<double>> : ElementaryOfLanes<double> {};

}  // namespace qmk::QMK_TARGET
