// Nearest neighbours on CUDA: the launcher. T is float or double; tensors are contiguous. What the arguments hold is
// written down in qmkernels/backends/reference/nearest.py. Errors are std::runtime_error.
#pragma once

#include <cstdint>

#include "context.h"

namespace qmk::cuda {

// Merges a tile of distances (rows, columns) into the k smallest so far, in place.
template <class T>
void nearest_merge(const T* distances, T* values, int64_t* indices, int64_t rows, int64_t columns, int64_t k,
                   int64_t first, Context context);

}  // namespace qmk::cuda
