// Shared by the passes over a matrix of distances: tasks, vectors of its values, their exponentials and logarithms.
#pragma once

#include <cmath>
#include <cstdlib>

#include "../math/elementary.h"
#include "lanes.h"

namespace qmk::QMK_TARGET {

namespace {

constexpr int64_t rows_per_task = 32;
constexpr int64_t pairs_per_thread = 1 << 14;

inline int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

// The size of a line with one value per column, with room for a vector that begins at any of them.
inline int64_t padded(int64_t columns) {
    return (columns + 31) / 16 * 16;
}

template <class T>
QMK_INLINE Lanes<T> exp_of(Lanes<T> x) {
    return exponential_of_any<T>(x);
}

template <class T>
QMK_INLINE T exp_of(T x) {
    return std::exp(x);
}

// The lanes' own numbers: 0, 1, 2, ...
template <class T>
QMK_INLINE IndexLanes<T> lane_numbers() {
    IndexLanes<T> numbers{};
    for (int lane = 0; lane < num_lanes<T>; ++lane) numbers[lane] = lane;
    return numbers;
}

// Which columns the softmaxes of a row, and the row's part of the columns', leave out: those near its match.
template <class T>
struct LeftOut {
    const int32_t* places;  // of all columns
    int32_t place, window;  // place: of the match
    int64_t match;

    QMK_INLINE IndexLanes<T> of(IndexLanes<T> others, int64_t column) const {
        const IndexLanes<T> gap = others - place;
        return (gap <= window) & (gap >= -window) & (lane_numbers<T>() != int32_t(match - column));
    }
    // For the vector of columns that begins here.
    QMK_INLINE IndexLanes<T> at(int64_t column) const { return of(load_indices<T>(places + column), column); }
    // Of which only `count` exist.
    QMK_INLINE IndexLanes<T> at_some(int64_t column, int64_t count) const {
        IndexLanes<T> others{};
        for (int lane = 0; lane < count; ++lane) others[lane] = places[column + lane];
        return of(others, column);
    }
    QMK_INLINE bool alone(int64_t column) const {
        return std::abs(places[column] - place) <= window && column != match;
    }
};

// The exponential of numbers that are at most 0, up to rounding.
template <class T>
QMK_INLINE Lanes<T> share_of(Lanes<T> x) {
    return exponential_of_nonpositive<T>(x).value();
}

template <class T>
QMK_INLINE Lanes<T> larger(Lanes<T> a, Lanes<T> b) {
    return a > b ? a : b;
}

// The first `count` of a vector's values, followed by zeros.
template <class T>
QMK_INLINE Lanes<T> load_some(const T* from, int64_t count) {
    Lanes<T> values{};
    __builtin_memcpy(&values, from, count * sizeof(T));
    return values;
}

// The logarithm of positive numbers and infinity, otherwise NaN.
QMK_INLINE Lanes<double> logarithm_of_any(Lanes<double> x) {
    const auto is_normal = (x >= 0x1p-1022) & (x <= Limits<double>::highest);
    const Lanes<double> not_normal = x > 0 ? x : broadcast(double(NAN));
    return is_normal ? logarithm(is_normal ? x : broadcast(1.0)) : not_normal;
}

}  // namespace

}  // namespace qmk::QMK_TARGET
