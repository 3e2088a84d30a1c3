// One step of the closure that gives shortest paths: a way between two nodes, and a shorter one via a third. Lengths
// are at least 0. Nodes are numbered in the lengths' type, so that both are chosen by one comparison. Source:
// qmkernels/definitions/shortest_paths.py.
#pragma once

#include "target.h"

namespace qmk::QMK_TARGET {

// V: a number, or a register of them. Equal ways stay: a way of length 0 and back never leads around in a circle.
template <class V>
QMK_INLINE void shorten(V& length, V to_via, V from_via) {
    const V via = to_via + from_via;
    length = via < length ? via : length;
}

// The same, and the node after the first one.
template <class V>
QMK_INLINE void shorten(V& length, V& next, V to_via, V next_to_via, V from_via) {
    const V via = to_via + from_via;
    next = via < length ? next_to_via : next;
    length = via < length ? via : length;
}

}  // namespace qmk::QMK_TARGET
