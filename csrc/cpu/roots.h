// Roots and powers of lanes, for which the vector extension has no operators.
#pragma once

#include <cmath>

#include "lanes.h"

namespace qmk::QMK_TARGET {

template <class V>
struct Roots;

// Loops over the lanes; the compiler turns the square roots into one instruction.
template <class T>
struct RootsOfLanes {
    using V = Lanes<T>;
    QMK_INLINE static V square_root(V value) {
        T lanes[num_lanes<T>];
        store(lanes, value);
        for (T& lane : lanes) lane = std::sqrt(lane);
        return load<V>(lanes);
    }
    QMK_INLINE static V over_square_root(V numerator, V value) { return numerator / square_root(value); }
    QMK_INLINE static V power(V base, V exponent) {
        for (int lane = 0; lane < num_lanes<T>; ++lane) base[lane] = std::pow(base[lane], exponent[lane]);
        return base;
    }
};
template <>
struct Roots<Lanes<float>> : RootsOfLanes<float> {};
template <>
struct Roots<Lanes<double>> : RootsOfLanes<double> {};

}  // namespace qmk::QMK_TARGET
