// Shortest paths between all nodes: the kernel's arguments. Their contents:
// qmkernels/backends/reference/shortest_paths.py.
#pragma once

#include "../signature.h"

namespace qmk {

template <class T>
struct ShortestPathsForward {
    const T* lengths;
    T* distances;
    T* next;  // null if it is not wanted; nodes are numbered in T
    int64_t batch, size;
    QMK_FIELDS(lengths, distances, next, batch, size)
    Sizes sizes() const {
        const int64_t pairs = batch * size * size;
        return {pairs, pairs, or_absent(pairs)};
    }
};

QMK_KERNEL(shortest_paths_forward, ShortestPathsForward)
using shortest_paths_kernels = Kernels<shortest_paths_forward_kernel>;

}  // namespace qmk
