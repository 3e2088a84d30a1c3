// The order of nearest neighbours: NaN after every number, and an empty place after everything.
#pragma once

#include "target.h"

namespace qmk::QMK_TARGET {

// A place among the k smallest. Index -1: empty.
template <class T>
struct Neighbour {
    T distance;
    int64_t index;
};

// Whether a distance comes before a place that holds an earlier row of the bank: equal ones stay in order.
template <class T>
QMK_INLINE bool goes_before(T distance, Neighbour<T> place) {
    if (place.index < 0 || distance < place.distance) return true;
    return place.distance != place.distance && distance == distance;
}

}  // namespace qmk::QMK_TARGET
