// Nearest neighbours: the kernel's arguments. Their contents: qmkernels/backends/reference/nearest.py.
#pragma once

#include "../signature.h"

namespace qmk {

// Merges a tile of distances (rows, columns) into the k smallest so far, values and indices (rows, k), in place.
template <class T>
struct NearestMerge {
    const T* distances;
    T* values;
    int64_t* indices;
    int64_t rows, columns, k, first;
    QMK_FIELDS(distances, values, indices, rows, columns, k, first)
    static constexpr int num_updated = 2;  // of the results, the last ones, which the kernel also reads
    Sizes sizes() const { return {rows * columns, rows * k, rows * k}; }
};

QMK_KERNEL(nearest_merge, NearestMerge)
using nearest_kernels = Kernels<nearest_merge_kernel>;

}  // namespace qmk
